//! Snapshots in an object store. Its client is asynchronous; here it runs on one runtime thread of its own, and callers
//! wait on a channel, so that blocking calls work from any thread, one inside another runtime included.

use std::{
    fmt,
    future::Future,
    sync::{Arc, mpsc},
    time::Duration,
};

use object_store::{ObjectStore, ObjectStoreExt, PutPayload, path::Path};
use tokio::runtime::{Builder, Runtime};
use url::Url;

use super::{Storage, StorageError};

/// What is done to an object; see [`StorageError::Failed`].
const READING: &str = "reading";
const DELETING: &str = "deleting";

/// Requests made for one answer at most.
const ATTEMPTS: u32 = 5;

/// Before the second request; the next pauses are twice, three times … as long.
const PAUSE: Duration = Duration::from_millis(50);

/// An object store below a prefix. Puts are atomic by the store's own promise.
pub struct RemoteStorage {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// Drives requests; shut down without waiting when the storage is dropped.
    runtime: Option<Runtime>,
}

impl RemoteStorage {
    /// Opens `url`; see [`open_storage`](super::open_storage) for `options`.
    pub fn open(url: &Url, options: &[(String, String)]) -> Result<Self, StorageError> {
        let refused = |message: String| StorageError::Location { location: url.to_string(), message };
        let environment = std::env::vars().map(|(key, value)| (key.to_ascii_lowercase(), value));
        let all = environment.chain(options.iter().cloned());
        let (store, prefix) = object_store::parse_url_opts(url, all).map_err(|error| refused(error.to_string()))?;
        Self::new(Arc::from(store), prefix).map_err(|error| refused(error.to_string()))
    }

    /// Wraps `store`; everything lies below `prefix`.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: Path) -> std::io::Result<Self> {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("snapshot-store").enable_all().build()?;
        Ok(Self { store, prefix, runtime: Some(runtime) })
    }

    fn wait<T: Send + 'static>(
        &self,
        action: &'static str,
        path: &str,
        work: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Result<T, StorageError> {
        let failed = |message: String| StorageError::Failed { action, path: path.to_owned(), message };
        let runtime = self.runtime.as_ref().ok_or_else(|| failed("the store is closed".to_owned()))?;
        // Carries the one answer; closed by the task's end, whatever it is.
        let (sender, receiver) = mpsc::sync_channel(1);
        let task = runtime.spawn(async move {
            if sender.send(work.await).is_err() {
                tracing::debug!("the caller of an object store request is gone");
            }
        });
        let answer = receiver.recv().map_err(|_| failed("the request was dropped".to_owned()))?;
        drop(task);
        answer.map_err(|error| match error {
            // A bucket that is not there is no missing object: its message says so.
            object_store::Error::NotFound { .. } if matches!(action, READING | DELETING) => {
                StorageError::NotFound { path: path.to_owned() }
            }
            other => failed(other.to_string()),
        })
    }

    fn location(&self, path: &str) -> Path {
        self.prefix.parts().chain(Path::from(path).parts()).collect()
    }
}

impl Drop for RemoteStorage {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for RemoteStorage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RemoteStorage").field("store", &self.store.to_string()).finish_non_exhaustive()
    }
}

/// Makes a request again when its answer broke off. The store's client asks again by itself when there is no answer at all;
/// one that ends in the middle it hands on. Safe because every request here may be made twice.
async fn asked_again<T, R>(request: impl Fn() -> R) -> object_store::Result<T>
where
    R: Future<Output = object_store::Result<T>>,
{
    for attempt in 1..ATTEMPTS {
        match request().await {
            Err(object_store::Error::Generic { .. }) => tokio::time::sleep(PAUSE * attempt).await,
            answer => return answer,
        }
    }
    request().await
}

impl Storage for RemoteStorage {
    fn put_blocking(&self, path: &str, bytes: Vec<u8>) -> Result<(), StorageError> {
        let (store, location, payload) = (Arc::clone(&self.store), self.location(path), PutPayload::from(bytes));
        self.wait(
            "writing",
            path,
            async move { asked_again(|| store.put(&location, payload.clone())).await.map(|_| ()) },
        )
    }

    fn get_blocking(&self, path: &str) -> Result<Vec<u8>, StorageError> {
        let (store, location) = (Arc::clone(&self.store), self.location(path));
        self.wait(READING, path, async move {
            Ok(asked_again(|| async { store.get(&location).await?.bytes().await }).await?.into())
        })
    }

    fn list_blocking(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let (store, root, start) = (Arc::clone(&self.store), self.prefix.clone(), self.location(prefix));
        self.wait("listing", prefix, async move {
            let mut found = Vec::new();
            let mut folders = vec![start];
            while let Some(folder) = folders.pop() {
                let listed = asked_again(|| store.list_with_delimiter(Some(&folder))).await?;
                folders.extend(listed.common_prefixes);
                found.extend(listed.objects.iter().filter_map(|object| {
                    let parts = object.location.prefix_match(&root)?;
                    Some(parts.collect::<Path>().to_string())
                }));
            }
            Ok(found)
        })
    }

    fn delete_blocking(&self, path: &str) -> Result<(), StorageError> {
        let (store, location) = (Arc::clone(&self.store), self.location(path));
        match self.wait(DELETING, path, async move { asked_again(|| store.delete(&location)).await }) {
            Err(StorageError::NotFound { .. }) => Ok(()),
            other => other,
        }
    }
}
