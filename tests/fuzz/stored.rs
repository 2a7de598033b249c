//! Snapshots and model bundles. Their checksums stop every accident at the door, so half of the inputs get right checksums
//! for their wrong bytes: what lies behind the door must hold by itself.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use serde_json::Value;
use sha2::{Digest, Sha256};
use undercurrent::{
    clock::ManualClock,
    event::{Offset, PartitionId, Positions},
    graph::GraphParams,
    model::Bundle,
    snapshot::{SnapshotOptions, Snapshots, Storage, StorageError},
};
use xxhash_rust::xxh3::xxh3_128;

use super::{Take, Target};

pub(crate) fn targets() -> Vec<Target> {
    vec![
        // Batches of the columns as they are read.
        Target {
            name: "snapshot",
            seeds: snapshot_seeds,
            start: snapshot,
            limit_bytes: (64 << 20, 512),
            is_text: false,
        },
        // The tensors, in both forms of the network.
        Target { name: "bundle", seeds: bundle_seeds, start: bundle, limit_bytes: (256 << 20, 64), is_text: false },
    ]
}

fn root(place: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(place)
}

/// All files below `folder`, by their path in it.
fn files_below(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut found, mut pending) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(here) = pending.pop() {
        for entry in std::fs::read_dir(here).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// An input is `a byte that says whether checksums are made right, a file's number, its bytes`.
fn packed(files: &BTreeMap<String, Vec<u8>>) -> Vec<Vec<u8>> {
    let mut packed = Vec::new();
    for (number, bytes) in files.values().enumerate() {
        for restamp in [0, 1] {
            packed.push([&[restamp, u8::try_from(number).unwrap()], &bytes[..]].concat());
        }
    }
    packed
}

/// The files with one replaced as the input says; `None` where it names none.
fn unpacked(files: &BTreeMap<String, Vec<u8>>, input: &[u8]) -> Option<(bool, String, BTreeMap<String, Vec<u8>>)> {
    let [restamp, number, bytes @ ..] = input else { return None };
    let name = files.keys().nth(usize::from(*number) % files.len())?.clone();
    let mut changed = files.clone();
    changed.insert(name.clone(), bytes.to_vec());
    Some((restamp % 2 == 1, name, changed))
}

#[derive(Debug, Default)]
struct MemoryStorage(Mutex<BTreeMap<String, Vec<u8>>>);

impl Storage for MemoryStorage {
    fn put_blocking(&self, path: &str, bytes: Vec<u8>) -> Result<(), StorageError> {
        self.0.lock().unwrap().insert(path.to_owned(), bytes);
        Ok(())
    }

    fn get_blocking(&self, path: &str) -> Result<Vec<u8>, StorageError> {
        let found = self.0.lock().unwrap().get(path).cloned();
        found.ok_or_else(|| StorageError::NotFound { path: path.to_owned() })
    }

    fn list_blocking(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        Ok(self.0.lock().unwrap().keys().filter(|path| path.starts_with(prefix)).cloned().collect())
    }

    fn delete_blocking(&self, path: &str) -> Result<(), StorageError> {
        self.0.lock().unwrap().remove(path);
        Ok(())
    }
}

fn snapshot_files() -> BTreeMap<String, Vec<u8>> {
    files_below(&root("tests/fixtures/snapshot_v1"))
        .into_iter()
        .filter(|(name, _)| name.starts_with("partition="))
        .collect()
}

fn snapshot_seeds() -> Vec<Vec<u8>> {
    packed(&snapshot_files())
}

fn snapshot() -> Take {
    let files = snapshot_files();
    let storage = Arc::new(MemoryStorage::default());
    // The parameters the fixture was folded with.
    let graph_params = GraphParams { ring_capacity: 8, ..GraphParams::default() };
    let options = SnapshotOptions { graph_params, read_threads: 1, ..SnapshotOptions::default() };
    let snapshots = Snapshots::new(Arc::clone(&storage) as _, options, Arc::new(ManualClock::at(0)));
    Box::new(move |input| {
        let Some((restamp, name, mut changed)) = unpacked(&files, input) else { return };
        if restamp {
            restamp_snapshot(&mut changed, &name);
        }
        *storage.0.lock().unwrap() = changed;
        _ = snapshots.verify_blocking(None);
        let committed = Positions([Offset(i64::MAX); 3]);
        if let Ok(outcome) = snapshots.restore_blocking(PartitionId(2), &committed)
            && let Some(restored) = outcome.restored
        {
            _ = restored.into_state().state_hash();
        }
    })
}

/// Puts size and checksum of the file `name` into the manifest beside it.
fn restamp_snapshot(files: &mut BTreeMap<String, Vec<u8>>, name: &str) {
    let Some((folder, file)) = name.rsplit_once('/') else { return };
    let (size, sum) = (files[name].len(), format!("{:032x}", xxh3_128(&files[name])));
    let Some(manifest) = files.get_mut(&format!("{folder}/manifest.json")) else { return };
    let Ok(mut fields) = serde_json::from_slice::<Value>(manifest) else { return };
    for entry in fields["files"].as_array_mut().into_iter().flatten().filter(|entry| entry["name"] == file) {
        entry["bytes"] = size.into();
        entry["xxh3_128"] = sum.clone().into();
    }
    *manifest = fields.to_string().into_bytes();
}

fn bundle_files() -> BTreeMap<String, Vec<u8>> {
    files_below(&root("models/default"))
}

fn bundle_seeds() -> Vec<Vec<u8>> {
    packed(&bundle_files())
}

fn bundle() -> Take {
    let files = bundle_files();
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    for (name, bytes) in &files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    Box::new(move |input| {
        let Some((restamp, name, mut changed)) = unpacked(&files, input) else { return };
        if restamp {
            restamp_bundle(&mut changed);
        }
        for name in [name.as_str(), "MANIFEST.json"] {
            std::fs::write(folder.path().join(name), &changed[name]).unwrap();
        }
        _ = Bundle::load(folder.path());
        for name in [name.as_str(), "MANIFEST.json"] {
            std::fs::write(folder.path().join(name), &files[name]).unwrap();
        }
    })
}

/// Makes the manifest right for the other files: sizes, hashes, and the version that is made of them.
fn restamp_bundle(files: &mut BTreeMap<String, Vec<u8>>) {
    let Ok(mut manifest) = serde_json::from_slice::<Value>(&files["MANIFEST.json"]) else { return };
    let Some(listed) = manifest["files"].as_object().cloned() else { return };
    let mut all = String::new();
    for name in listed.keys() {
        let Some(bytes) = files.get(name) else { continue };
        let sum = hash(bytes);
        all.push_str(name);
        all.push_str(&sum);
        manifest["files"][name] = serde_json::json!({ "bytes": bytes.len(), "sha256": sum });
    }
    let version = manifest["version"].as_str().unwrap_or_default().to_owned();
    let name = version.rsplit_once('-').map_or("", |(name, _)| name);
    manifest["version"] = format!("{name}-{}", &hash(all.as_bytes())[..12]).into();
    files.insert("MANIFEST.json".to_owned(), manifest.to_string().into_bytes());
}

/// SHA-256 in hexadecimal.
fn hash(bytes: &[u8]) -> String {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    let halves = digest.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    halves.filter_map(|half| char::from_digit(u32::from(half), 16)).collect()
}
