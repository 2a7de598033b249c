//! `MANIFEST.json`: every file of a bundle with its size and hash, and the version made of them.

use std::{collections::BTreeMap, fmt::Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Number of the bundle's form: 2 since there are trees beside the network. Form 1, without any, is still read.
pub(super) const FORMAT: u32 = 2;

/// What a bundle consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) format: u32,
    /// Given name and content hash: two bundles with one version hold the same bytes.
    pub(super) version: String,
    pub(super) files: BTreeMap<String, FileEntry>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileEntry {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

impl Manifest {
    /// Describes `files` as the bundle `name` of a form.
    pub(super) fn of(name: &str, format: u32, files: &BTreeMap<&'static str, Vec<u8>>) -> Self {
        let files: BTreeMap<String, FileEntry> = files
            .iter()
            .map(|(file, bytes)| ((*file).to_owned(), FileEntry { bytes: bytes.len() as u64, sha256: hash(bytes) }))
            .collect();
        let mut all = String::new();
        for (file, entry) in &files {
            all.push_str(file);
            all.push_str(&entry.sha256);
        }
        let version = format!("{name}-{}", &hash(all.as_bytes())[..12]);
        Self { format, version, files }
    }
}

/// SHA-256 in hexadecimal.
pub(super) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").ok();
        text
    })
}
