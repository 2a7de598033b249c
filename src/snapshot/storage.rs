//! Where snapshots lie: a local folder, or anything `object_store` reaches. Blocking, for threads of their own.

use std::{
    fmt::Debug,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{StorageError, remote::RemoteStorage};

/// A flat store of named bytes. A write is seen whole or not at all; paths use `/` and are relative to the root.
pub trait Storage: Debug + Send + Sync {
    /// Writes `bytes` at `path`, replacing what was there, and returns when they are durable.
    fn put_blocking(&self, path: &str, bytes: Vec<u8>) -> Result<(), StorageError>;

    /// Reads all of `path`.
    fn get_blocking(&self, path: &str) -> Result<Vec<u8>, StorageError>;

    /// Lists every object below the folder `prefix` (all of them for an empty one), in no order.
    /// A folder that does not exist is empty.
    fn list_blocking(&self, prefix: &str) -> Result<Vec<String>, StorageError>;

    /// Lists what interrupted writes left below the folder `prefix` and [`list_blocking`](Self::list_blocking) does not
    /// show. A store whose puts leave nothing has none.
    fn list_leftovers_blocking(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let _ = prefix;
        Ok(Vec::new())
    }

    /// Deletes `path`; one that is already gone is no error.
    fn delete_blocking(&self, path: &str) -> Result<(), StorageError>;
}

/// Opens `location`: a folder (created when absent), `file://…`, `s3://…`, `gs://…` or `az://…`.
///
/// `options` are `object_store`'s own keys (`aws_access_key_id`, `endpoint`, …); variables of the environment with such
/// names serve where a key is not given.
pub fn open_storage(location: &str, options: &[(String, String)]) -> Result<Arc<dyn Storage>, StorageError> {
    if !location.contains("://") {
        return Ok(Arc::new(LocalStorage::open(Path::new(location))?));
    }
    let url = url::Url::parse(location)
        .map_err(|error| StorageError::Location { location: location.to_owned(), message: error.to_string() })?;
    if url.scheme() == "file" {
        let folder = url.to_file_path().map_err(|()| StorageError::Location {
            location: location.to_owned(),
            message: "a file URL needs an absolute path, as in `file:///var/lib/undercurrent`".to_owned(),
        })?;
        return Ok(Arc::new(LocalStorage::open(&folder)?));
    }
    Ok(Arc::new(RemoteStorage::open(&url, options)?))
}

/// A folder of this machine. `object_store`'s own local store does not sync, so this one is ours.
#[derive(Debug)]
pub struct LocalStorage {
    root: PathBuf,
}

/// Ends the name of a file being written; such files are never listed as snapshots.
const TEMPORARY_SUFFIX: &str = ".tmp";

impl LocalStorage {
    /// Opens (and creates) `root`.
    pub fn open(root: &Path) -> Result<Self, StorageError> {
        fs::create_dir_all(root).map_err(|error| StorageError::Location {
            location: root.display().to_string(),
            message: error.to_string(),
        })?;
        Ok(Self { root: root.to_owned() })
    }

    /// Temporary file, sync, rename, sync of the folder: after a power cut there is the old file or the new one.
    fn put(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let target = self.root.join(path);
        let folder = target.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder)?;
        let mut temporary = target.clone().into_os_string();
        temporary.push(TEMPORARY_SUFFIX);
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, &target)?;
        for above in folder.ancestors().take_while(|above| above.starts_with(&self.root)) {
            File::open(above)?.sync_all()?;
        }
        Ok(())
    }

    /// Adds all files below `folder`: the whole ones, or those that an interrupted write left.
    fn list(&self, folder: &Path, leftovers: bool, found: &mut Vec<String>) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                self.list(&path, leftovers, found)?;
            } else if let Some(relative) = path.strip_prefix(&self.root).ok().and_then(Path::to_str)
                && relative.ends_with(TEMPORARY_SUFFIX) == leftovers
            {
                found.push(relative.to_owned());
            }
        }
        Ok(())
    }
}

impl LocalStorage {
    fn list_all(&self, prefix: &str, leftovers: bool) -> Result<Vec<String>, StorageError> {
        let mut found = Vec::new();
        match self.list(&self.root.join(prefix), leftovers, &mut found) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("listing", prefix, &error)),
            _ => Ok(found),
        }
    }
}

impl Storage for LocalStorage {
    fn put_blocking(&self, path: &str, bytes: Vec<u8>) -> Result<(), StorageError> {
        self.put(path, &bytes).map_err(|error| failed("writing", path, &error))
    }

    fn get_blocking(&self, path: &str) -> Result<Vec<u8>, StorageError> {
        fs::read(self.root.join(path)).map_err(|error| failed("reading", path, &error))
    }

    fn list_blocking(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.list_all(prefix, false)
    }

    fn list_leftovers_blocking(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.list_all(prefix, true)
    }

    fn delete_blocking(&self, path: &str) -> Result<(), StorageError> {
        match fs::remove_file(self.root.join(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("deleting", path, &error)),
            _ => {}
        }
        // The folder of a snapshot goes with its last file; while it is not empty this fails, and that is meant.
        if let Some(folder) = self.root.join(path).parent()
            && folder != self.root
            && let Err(error) = fs::remove_dir(folder)
        {
            tracing::trace!(%error, "snapshot folder kept");
        }
        Ok(())
    }
}

fn failed(action: &'static str, path: &str, error: &io::Error) -> StorageError {
    match error.kind() {
        io::ErrorKind::NotFound => StorageError::NotFound { path: path.to_owned() },
        _ => StorageError::Failed { action, path: path.to_owned(), message: error.to_string() },
    }
}
