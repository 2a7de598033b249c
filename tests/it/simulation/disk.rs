//! The disk that snapshots lie on: full now and then, torn by a death, damaged while nobody looks.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use undercurrent::{
    event::{Offset, PartitionId, Positions, View},
    snapshot::{Storage, StorageError},
    stream::memory::MemoryBroker,
};

/// Ends the name of a file that is not whole yet, as in the local folder.
const TEMPORARY_SUFFIX: &str = "~tmp";

/// What all members share.
#[derive(Debug, Default)]
pub(super) struct Disk {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    /// A broken invariant that a write showed.
    violation: Mutex<Option<String>>,
    pub(super) full_count: AtomicU64,
    pub(super) torn_count: AtomicU64,
    pub(super) damage_count: AtomicU64,
}

impl Disk {
    /// Spoils a file as a bad sector, a lost write or a careless hand does.
    pub(super) fn damage(&self, rng: &mut Xoshiro256PlusPlus) {
        let mut files = self.files.lock().unwrap();
        if files.is_empty() {
            return;
        }
        let path = files.keys().nth(rng.random_range(0..files.len())).cloned().unwrap();
        self.damage_count.fetch_add(1, Ordering::Relaxed);
        let bytes = files.get_mut(&path).unwrap();
        match rng.random_range(0..4) {
            0 if !bytes.is_empty() => {
                let at = rng.random_range(0..bytes.len());
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
            1 => bytes.truncate(rng.random_range(0..=bytes.len())),
            2 if path.ends_with("manifest.json") => *bytes = br#"{"format_version": 99}"#.to_vec(),
            _ => _ = files.remove(&path),
        }
    }

    pub(super) fn violation(&self) -> Option<String> {
        self.violation.lock().unwrap().take()
    }

    /// A manifest makes a snapshot: it must not stand past what is committed.
    fn check_manifest(&self, broker: &MemoryBroker, path: &str, bytes: &[u8]) {
        let manifest: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        let partition = PartitionId(i32::try_from(manifest["partition"].as_i64().unwrap()).unwrap());
        let next = Positions(View::ALL.map(|view| Offset(manifest["next_offsets"][view.name()].as_i64().unwrap())));
        let committed = broker.committed(partition);
        if !next.at_or_before(&committed) {
            let found = format!("POS-2: snapshot {path} stands at {next}, committed is {committed}");
            self.violation.lock().unwrap().get_or_insert(found);
        }
    }
}

/// The disk as one process sees it.
pub(super) struct MemberDisk {
    disk: Arc<Disk>,
    broker: Arc<MemoryBroker>,
    rng: Mutex<Xoshiro256PlusPlus>,
    quiet: Arc<AtomicBool>,
    /// Whether the process died in the middle of a call; nothing it does afterwards takes effect.
    died: Arc<AtomicBool>,
    can_die: bool,
}

impl MemberDisk {
    pub(super) fn new(
        disk: &Arc<Disk>,
        broker: &Arc<MemoryBroker>,
        seed: u64,
        quiet: &Arc<AtomicBool>,
        died: &Arc<AtomicBool>,
        can_die: bool,
    ) -> Self {
        Self {
            disk: Arc::clone(disk),
            broker: Arc::clone(broker),
            rng: Mutex::new(Xoshiro256PlusPlus::seed_from_u64(seed)),
            quiet: Arc::clone(quiet),
            died: Arc::clone(died),
            can_die,
        }
    }

    fn draws(&self, one_in: u32) -> bool {
        !self.quiet.load(Ordering::Relaxed) && self.rng.lock().unwrap().random_ratio(1, one_in)
    }

    fn dies(&self) -> bool {
        self.can_die && self.draws(60)
    }

    fn die(&self, path: &str) -> StorageError {
        self.died.store(true, Ordering::Relaxed);
        failed("writing", path, "the process died")
    }

    fn check_alive(&self, path: &str) -> Result<(), StorageError> {
        if self.died.load(Ordering::Relaxed) { Err(failed("reaching", path, "the process died")) } else { Ok(()) }
    }
}

impl std::fmt::Debug for MemberDisk {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("MemberDisk").finish_non_exhaustive()
    }
}

fn failed(action: &'static str, path: &str, message: &str) -> StorageError {
    StorageError::Failed { action, path: path.to_owned(), message: message.to_owned() }
}

impl Storage for MemberDisk {
    /// Temporary file, then rename, as the local folder does it; a death in between leaves the temporary file.
    fn put_blocking(&self, path: &str, bytes: Vec<u8>) -> Result<(), StorageError> {
        self.check_alive(path)?;
        if self.draws(25) {
            self.disk.full_count.fetch_add(1, Ordering::Relaxed);
            return Err(failed("writing", path, "no space left on device"));
        }
        if self.dies() {
            self.disk.torn_count.fetch_add(1, Ordering::Relaxed);
            let written = self.rng.lock().unwrap().random_range(0..=bytes.len());
            self.disk.files.lock().unwrap().insert(format!("{path}{TEMPORARY_SUFFIX}"), bytes[..written].to_vec());
            return Err(self.die(path));
        }
        if path.ends_with("manifest.json") {
            self.disk.check_manifest(&self.broker, path, &bytes);
        }
        self.disk.files.lock().unwrap().insert(path.to_owned(), bytes);
        if self.dies() { Err(self.die(path)) } else { Ok(()) }
    }

    fn get_blocking(&self, path: &str) -> Result<Vec<u8>, StorageError> {
        self.check_alive(path)?;
        let found = self.disk.files.lock().unwrap().get(path).cloned();
        found.ok_or_else(|| StorageError::NotFound { path: path.to_owned() })
    }

    fn list_blocking(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.check_alive(prefix)?;
        let files = self.disk.files.lock().unwrap();
        Ok(files.keys().filter(|path| path.starts_with(prefix) && !path.ends_with(TEMPORARY_SUFFIX)).cloned().collect())
    }

    fn list_leftovers_blocking(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.check_alive(prefix)?;
        let files = self.disk.files.lock().unwrap();
        Ok(files.keys().filter(|path| path.starts_with(prefix) && path.ends_with(TEMPORARY_SUFFIX)).cloned().collect())
    }

    fn delete_blocking(&self, path: &str) -> Result<(), StorageError> {
        self.check_alive(path)?;
        if self.dies() {
            return Err(self.die(path));
        }
        self.disk.files.lock().unwrap().remove(path);
        Ok(())
    }
}
