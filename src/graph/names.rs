//! Texts of names. The graph holds hashes; outputs carry texts.

use std::{collections::HashSet, sync::Arc};

use dashmap::DashMap;

use super::{UserGraph, hash::NameHashBuilder};
use crate::event::NameHash;

/// Where a name's text can be looked up.
pub trait NameLookup {
    /// The text of `name`, if it is known here.
    fn text(&self, name: NameHash) -> Option<Arc<str>>;
}

/// Texts of all names that graphs of one partition mention. Written by the partition's stream thread, read by anyone.
///
/// Names are a cache of the input: a name that an aborted micro-batch left here does no harm, and equality of two
/// partition states looks only at names that graphs mention.
#[derive(Debug, Default)]
pub struct NameTable {
    texts: DashMap<NameHash, Arc<str>, NameHashBuilder>,
}

impl NameTable {
    /// Adds a name; the first text of a hash stays.
    pub fn insert(&self, name: NameHash, text: Arc<str>) {
        self.texts.entry(name).or_insert(text);
    }

    /// Whether the name is known.
    pub fn contains(&self, name: NameHash) -> bool {
        self.texts.contains_key(&name)
    }

    /// Number of names.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there is no name.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// A copy of all names (the texts are shared), sorted by hash.
    pub fn to_vec(&self) -> Vec<(NameHash, Arc<str>)> {
        let mut names: Vec<_> = self.texts.iter().map(|entry| (*entry.key(), Arc::clone(entry.value()))).collect();
        names.sort_unstable_by_key(|(name, _)| *name);
        names
    }

    /// Drops the names that are not in `mentioned`.
    pub(super) fn retain(&self, mentioned: &HashSet<NameHash, NameHashBuilder>) {
        self.texts.retain(|name, _| mentioned.contains(name));
        self.texts.shrink_to_fit();
    }

    /// Bytes of the texts and of the table's entries, without the allocator's own overhead.
    pub fn byte_count(&self) -> usize {
        const COUNTERS: usize = 2 * size_of::<usize>();
        self.texts.iter().map(|entry| entry.value().len() + COUNTERS).sum::<usize>()
            + self.texts.capacity() * (size_of::<(NameHash, Arc<str>)>() + 1)
    }
}

impl NameLookup for NameTable {
    fn text(&self, name: NameHash) -> Option<Arc<str>> {
        self.texts.get(&name).map(|text| Arc::clone(&text))
    }
}

/// Calls `visit` with every name a graph mentions, repeats included.
pub fn visit_names(graph: &UserGraph, mut visit: impl FnMut(NameHash)) {
    for (_, view) in graph.views() {
        for entry in view.ring() {
            entry.name.into_iter().chain(entry.category).for_each(&mut visit);
        }
        let Some(settled) = view.settled() else { continue };
        for node in &settled.nodes {
            visit(node.name);
            if node.category.0 != 0 {
                visit(node.category);
            }
        }
        for edge in &settled.edges {
            visit(edge.from);
            visit(edge.to);
        }
    }
}
