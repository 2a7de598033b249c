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

    /// Waits for `request`. The store's client asks again by itself when there is no answer; an answer that breaks off in
    /// the middle is asked for again here, which is safe because every request may be made twice.
    fn wait<T: Send + 'static, R>(
        &self,
        action: &'static str,
        path: &str,
        request: impl Fn() -> R + Send + Sync + 'static,
    ) -> Result<T, StorageError>
    where
        R: Future<Output = object_store::Result<T>> + Send + 'static,
    {
        let failed = |message: String| StorageError::Failed { action, path: path.to_owned(), message };
        let runtime = self.runtime.as_ref().ok_or_else(|| failed("the store is closed".to_owned()))?;
        // Carries the one answer; closed by the task's end, whatever it is.
        let (sender, receiver) = mpsc::sync_channel(1);
        let task = runtime.spawn(async move {
            let mut answer = request().await;
            for attempt in 1..ATTEMPTS {
                if !matches!(answer, Err(object_store::Error::Generic { .. })) {
                    break;
                }
                tokio::time::sleep(PAUSE * attempt).await;
                answer = request().await;
            }
            if sender.send(answer).is_err() {
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

impl Storage for RemoteStorage {
    fn put_blocking(&self, path: &str, bytes: Vec<u8>) -> Result<(), StorageError> {
        let (store, location, payload) = (Arc::clone(&self.store), self.location(path), PutPayload::from(bytes));
        self.wait("writing", path, move || {
            let (store, location, payload) = (Arc::clone(&store), location.clone(), payload.clone());
            async move { store.put(&location, payload).await.map(|_| ()) }
        })
    }

    fn get_blocking(&self, path: &str) -> Result<Vec<u8>, StorageError> {
        let (store, location) = (Arc::clone(&self.store), self.location(path));
        self.wait(READING, path, move || {
            let (store, location) = (Arc::clone(&store), location.clone());
            async move { Ok(store.get(&location).await?.bytes().await?.into()) }
        })
    }

    fn list_blocking(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let (store, root, start) = (Arc::clone(&self.store), self.prefix.clone(), self.location(prefix));
        self.wait("listing", prefix, move || list(Arc::clone(&store), root.clone(), start.clone()))
    }

    fn delete_blocking(&self, path: &str) -> Result<(), StorageError> {
        let (store, location) = (Arc::clone(&self.store), self.location(path));
        let deleted = self.wait(DELETING, path, move || {
            let (store, location) = (Arc::clone(&store), location.clone());
            async move { store.delete(&location).await }
        });
        match deleted {
            Err(StorageError::NotFound { .. }) => Ok(()),
            other => other,
        }
    }
}

/// Every object below the folder `start`, relative to `root`.
async fn list(store: Arc<dyn ObjectStore>, root: Path, start: Path) -> object_store::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![start];
    while let Some(folder) = folders.pop() {
        let listed = store.list_with_delimiter(Some(&folder)).await?;
        folders.extend(listed.common_prefixes);
        found.extend(listed.objects.iter().filter_map(|object| {
            let parts = object.location.prefix_match(&root)?;
            Some(parts.collect::<Path>().to_string())
        }));
    }
    Ok(found)
}
