//! Reading a snapshot back: the newest whole one for a restore, any one for training.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    FileContent, FileEntry, Listed, Manifest, NameEntry, SnapshotError, SnapshotId, Snapshots, StorageError,
    StoredParams, UserEntry,
    catalog::check_rows,
    table::{decode_names, decode_users},
};
use crate::{
    event::{PartitionId, Positions, UserId},
    graph::{GraphStore, NameTable, PartitionState, Progress},
    metrics as names,
};

/// A snapshot in memory.
#[derive(Debug)]
pub struct Restored {
    /// What it says of itself: positions, newest event times, watermark.
    pub manifest: Manifest,
    /// Every user, once.
    pub users: Vec<UserEntry>,
    /// The names their graphs mention, each once.
    pub names: Vec<NameEntry>,
}

impl Restored {
    /// The partition's state as it was. Fills the map of users with as many threads as the machine has cores.
    pub fn into_state(self) -> PartitionState {
        let Self { manifest, users, names } = self;
        let graphs = GraphStore::with_capacity(users.len());
        let threads = thread::available_parallelism().map_or(1, usize::from).min(users.len() / INSERTED_AT_ONCE + 1);
        // Locked to take the next few thousand users; the map itself takes inserts from many threads.
        let rest = Mutex::new(users.into_iter());
        let insert = || {
            loop {
                let some: Vec<UserEntry> = {
                    let mut rest = rest.lock().unwrap_or_else(PoisonError::into_inner);
                    rest.by_ref().take(INSERTED_AT_ONCE).collect()
                };
                if some.is_empty() {
                    return;
                }
                for (user, graph) in some {
                    graphs.insert(user, graph);
                }
            }
        };
        thread::scope(|scope| {
            for number in 1..threads {
                let builder = thread::Builder::new().name(format!("snapshot-insert-{number}"));
                // One that cannot be started is not missed: this thread goes on until nothing is left.
                if let Err(error) = builder.spawn_scoped(scope, insert) {
                    tracing::debug!(%error, "fewer threads fill the map");
                }
            }
            insert();
        });
        let table = NameTable::default();
        for name in names {
            table.insert(name.hash, name.text);
        }
        let progress = Progress { next_offsets: manifest.next_offsets(), newest_ms: manifest.max_event_ms() };
        PartitionState::restored(manifest.partition(), graphs, table, progress).with_erasures(manifest.erasures())
    }
}

/// Users that one thread takes at once.
const INSERTED_AT_ONCE: usize = 4_096;

/// A snapshot that was passed over.
#[derive(Debug)]
pub struct Rejected {
    /// Where its manifest lies.
    pub path: String,
    /// Why it cannot be used.
    pub error: SnapshotError,
}

/// What a restore found.
#[derive(Debug)]
pub struct RestoreOutcome {
    /// The newest usable snapshot; without one the log must be read from its start.
    pub restored: Option<Restored>,
    /// Newer ones that could not be used, newest first. Each is worth a warning and a count.
    pub rejected: Vec<Rejected>,
}

impl Snapshots {
    /// Loads the newest snapshot of `partition` at or below `committed` that is whole and was folded with our
    /// parameters. One that is not is passed over and reported; only a failing storage is an error.
    pub fn restore_blocking(
        &self,
        partition: PartitionId,
        committed: &Positions,
    ) -> Result<RestoreOutcome, SnapshotError> {
        let mut rejected = Vec::new();
        let mut manifests = HashMap::new();
        for Listed { path, manifest } in self.list_blocking(Some(partition))? {
            match manifest {
                Ok(manifest) => {
                    manifests.insert(manifest.id.clone(), manifest);
                }
                Err(error) => rejected.push(Rejected { path, error }),
            }
        }
        let mut candidates: Vec<&Manifest> = manifests.values().collect();
        candidates.sort_unstable_by_key(|manifest| std::cmp::Reverse((reach(manifest), &manifest.id)));
        let mut damaged = HashSet::new();
        let mut restored = None;
        for manifest in candidates {
            match self.try_restore_blocking(manifest, committed, &manifests, &mut damaged) {
                Ok(found) => {
                    restored = Some(found);
                    break;
                }
                Err(error) => rejected.push(Rejected { path: manifest.path(), error }),
            }
        }
        rejected.sort_by(|left, right| right.path.cmp(&left.path));
        metrics::counter!(names::SNAPSHOT_REJECTED).increment(rejected.len() as u64);
        Ok(RestoreOutcome { restored, rejected })
    }

    fn try_restore_blocking(
        &self,
        manifest: &Manifest,
        committed: &Positions,
        manifests: &HashMap<SnapshotId, Manifest>,
        damaged: &mut HashSet<SnapshotId>,
    ) -> Result<Restored, SnapshotError> {
        if !manifest.next_offsets().at_or_before(committed) {
            return Err(SnapshotError::SnapshotAhead {
                partition: manifest.partition().0,
                snapshot: manifest.next_offsets(),
                committed: *committed,
            });
        }
        let differences = manifest.graph_params.differences(&StoredParams::from(&self.options.graph_params));
        if !differences.is_empty() {
            return Err(SnapshotError::GraphParams { id: manifest.id.clone(), differences });
        }
        let chain = chain_of(manifest, manifests)?;
        if let Some(bad) = chain.iter().find(|link| damaged.contains(&link.id)) {
            return Err(SnapshotError::BrokenChain { id: manifest.id.clone(), needed: bad.id.clone() });
        }
        self.load_chain_blocking(&chain).map_err(|(link, error)| {
            damaged.insert(link);
            error
        })
    }

    /// Loads `chain` (newest first): a user's newest version wins.
    fn load_chain_blocking(&self, chain: &[&Manifest]) -> Result<Restored, (SnapshotId, SnapshotError)> {
        let newest = chain[0];
        let (mut users, mut names) = (Vec::new(), Vec::new());
        let mut seen_users: HashSet<UserId> = HashSet::new();
        let mut seen_names = HashSet::new();
        for link in chain {
            let failed = |error| (link.id.clone(), error);
            names.extend(
                self.link_names_blocking(link).map_err(failed)?.into_iter().filter(|name| seen_names.insert(name.hash)),
            );
            for part in self.link_users_blocking(link).map_err(failed)? {
                if chain.len() == 1 {
                    users.extend(part);
                } else if link.previous.is_none() {
                    // The base comes last: nothing after it needs to know its users.
                    users.extend(part.into_iter().filter(|(user, _)| !seen_users.contains(user)));
                } else {
                    users.extend(part.into_iter().filter(|(user, _)| seen_users.insert(user.clone())));
                }
            }
        }
        // Those who are gone have hidden their older versions.
        users.retain(|(_, graph)| !graph.is_empty());
        Ok(Restored { manifest: newest.clone(), users, names })
    }

    fn link_names_blocking(&self, link: &Manifest) -> Result<Vec<NameEntry>, SnapshotError> {
        let mut names = Vec::new();
        for file in link.files.iter().filter(|file| file.content == FileContent::Names) {
            let bytes = self.fetch_blocking(link, file)?;
            let path = link.file_path(file);
            let rows = decode_names(&path, &bytes, &mut |name| names.push(name))?;
            check_rows(path, file, rows)?;
        }
        Ok(names)
    }

    fn part_blocking(&self, link: &Manifest, file: &FileEntry) -> Result<Vec<UserEntry>, SnapshotError> {
        let bytes = self.fetch_blocking(link, file)?;
        let path = link.file_path(file);
        let mut users = Vec::with_capacity(usize::try_from(file.rows).unwrap_or(0).min(self.options.part_users));
        let rows = decode_users(&path, &bytes, &mut |user| users.push(user))?;
        check_rows(path, file, rows)?;
        Ok(users)
    }

    /// Decodes the users files of one snapshot, several side by side, in the order of the manifest.
    fn link_users_blocking(&self, link: &Manifest) -> Result<Vec<Vec<UserEntry>>, SnapshotError> {
        let files: Vec<&FileEntry> = link.files.iter().filter(|file| file.content == FileContent::Users).collect();
        let threads = self.options.read_threads.clamp(1, files.len().max(1));
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<(usize, Vec<UserEntry>)>, SnapshotError> {
            let mut parts = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(file) = files.get(index) else { return Ok(parts) };
                parts.push((index, self.part_blocking(link, file)?));
            }
        };
        // Short-lived readers that end with this call; this thread is one of them.
        let mut parts = thread::scope(|scope| {
            let started: Vec<io::Result<_>> = (1..threads)
                .map(|number| thread::Builder::new().name(format!("snapshot-read-{number}")).spawn_scoped(scope, work))
                .collect();
            let mut parts = work()?;
            // A reader that could not be started is not missed: the others take its files.
            for reader in started.into_iter().flatten() {
                match reader.join() {
                    Ok(read) => parts.extend(read?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok::<_, SnapshotError>(parts)
        })?;
        parts.sort_unstable_by_key(|(index, _)| *index);
        Ok(parts.into_iter().map(|(_, part)| part).collect())
    }

    /// Iterates over the users of `manifest`, deltas resolved, one file in memory at a time. Stops after an error.
    pub fn users_blocking(&self, manifest: &Manifest) -> Result<SnapshotUsers, SnapshotError> {
        let chain = self.chain_blocking(manifest)?;
        let single = chain.len() == 1;
        let files = chain.iter().flat_map(|link| {
            let users = link.files.iter().filter(|file| file.content == FileContent::Users);
            users.map(|file| (link.clone(), file.clone())).collect::<Vec<_>>()
        });
        let mut files: Vec<_> = files.collect();
        files.reverse();
        Ok(SnapshotUsers {
            snapshots: self.clone(),
            files,
            part: Vec::new().into_iter(),
            seen: (!single).then(HashSet::new),
        })
    }

    /// Reads the names that the graphs of `manifest` mention, each once.
    pub fn names_blocking(&self, manifest: &Manifest) -> Result<Vec<NameEntry>, SnapshotError> {
        let (mut names, mut seen) = (Vec::new(), HashSet::new());
        for link in self.chain_blocking(manifest)? {
            names.extend(self.link_names_blocking(&link)?.into_iter().filter(|name| seen.insert(name.hash)));
        }
        Ok(names)
    }

    /// `manifest` and all it builds on, newest first.
    fn chain_blocking(&self, manifest: &Manifest) -> Result<Vec<Manifest>, SnapshotError> {
        let mut chain = vec![manifest.clone()];
        let mut needed = manifest.previous.clone();
        while let Some(id) = needed {
            let path = Manifest::path_of(manifest.partition(), &id);
            let bytes = self.storage.get_blocking(&path).map_err(|error| match error {
                StorageError::NotFound { .. } => {
                    SnapshotError::BrokenChain { id: manifest.id.clone(), needed: id.clone() }
                }
                other => other.into(),
            })?;
            let link = Manifest::parse(&path, &bytes)?;
            // Ids fall along a chain, so this ends.
            needed = link.previous.clone().filter(|earlier| *earlier < link.id);
            chain.push(link);
        }
        Ok(chain)
    }
}

/// The users of a snapshot, file by file.
#[derive(Debug)]
pub struct SnapshotUsers {
    snapshots: Snapshots,
    /// Files still to read, the next one last.
    files: Vec<(Manifest, FileEntry)>,
    part: std::vec::IntoIter<UserEntry>,
    /// Users given so far; `None` when there is one base only.
    seen: Option<HashSet<UserId>>,
}

impl Iterator for SnapshotUsers {
    type Item = Result<UserEntry, SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            for entry in self.part.by_ref() {
                let is_newest = self.seen.as_mut().is_none_or(|seen| seen.insert(entry.0.clone()));
                if is_newest && !entry.1.is_empty() {
                    return Some(Ok(entry));
                }
            }
            let (link, file) = self.files.pop()?;
            match self.snapshots.part_blocking(&link, &file) {
                Ok(part) => self.part = part.into_iter(),
                Err(error) => {
                    self.files.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}

/// How far into the log a snapshot reaches: of two snapshots of one partition the later one has read more.
fn reach(manifest: &Manifest) -> i64 {
    manifest.next_offsets().0.iter().map(|offset| offset.0).sum()
}

/// `manifest` and all it builds on, newest first.
fn chain_of<'a>(
    manifest: &'a Manifest,
    manifests: &'a HashMap<SnapshotId, Manifest>,
) -> Result<Vec<&'a Manifest>, SnapshotError> {
    let mut chain = vec![manifest];
    let mut link = manifest;
    while let Some(needed) = &link.previous {
        let broken = || SnapshotError::BrokenChain { id: manifest.id.clone(), needed: needed.clone() };
        link = manifests.get(needed).filter(|found| found.id < link.id).ok_or_else(broken)?;
        chain.push(link);
    }
    Ok(chain)
}
