//! Ids and positions. All are newtypes: a partition cannot be passed where an offset is meant.

use std::{borrow::Borrow, fmt, sync::Arc};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A user's id, as the sender spells it. Cloning is a reference count.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

impl UserId {
    /// Copies `id`.
    pub fn new(id: &str) -> Self {
        Self(Arc::from(id))
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for UserId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What a name names. The kind seeds the hash, so an item `tea` and a query `tea` differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum NameKind {
    /// An item of the catalogue.
    Item = 0,
    /// A category.
    Category = 1,
    /// A search text.
    Query = 2,
}

impl NameKind {
    /// All kinds, in the order of their numeric value.
    pub const ALL: [Self; 3] = [Self::Item, Self::Category, Self::Query];
}

/// A stable 48-bit hash of a name (XXH3, seeded by [`NameKind`], cut): equal on every machine and in every release, never
/// 0. With a million names the chance that any two collide is 1 in 560; the graph keeps millions of these, so 16 bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameHash(pub u64);

impl NameHash {
    /// The bits a hash may have.
    pub const MASK: u64 = (1 << 48) - 1;

    /// Hashes `text` as a name of `kind`.
    pub fn of(kind: NameKind, text: &str) -> Self {
        Self((xxh3_64_with_seed(text.as_bytes(), kind as u64) & Self::MASK).max(1))
    }
}

/// One relation of the user graph. Each view is fed by exactly one topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum View {
    /// Views, carts and other actions: topic `clicks`.
    Click = 0,
    /// Searches: topic `searches`.
    Search = 1,
    /// Purchases: topic `purchases`.
    Purchase = 2,
}

impl View {
    /// Number of views, and so of input topics.
    pub const COUNT: usize = 3;
    /// All views, in the order of their numeric value.
    pub const ALL: [Self; Self::COUNT] = [Self::Click, Self::Search, Self::Purchase];

    /// The index of this view in arrays of [`COUNT`](Self::COUNT) elements.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name used in files, metrics and outputs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Click => "click",
            Self::Search => "search",
            Self::Purchase => "purchase",
        }
    }
}

/// A partition number, the same in all input topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionId(pub i32);

impl fmt::Display for PartitionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A place in a log: the offset to read **next** (exclusive end of what was read).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Offset(pub i64);

impl fmt::Display for Offset {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Next offsets of one partition in the three input topics, indexed by [`View::index`]. Zero means 'from the start'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Positions(pub [Offset; View::COUNT]);

impl Positions {
    /// The next offset in the topic of `view`.
    pub fn get(&self, view: View) -> Offset {
        self.0[view.index()]
    }

    /// Sets the next offset in the topic of `view`.
    pub fn set(&mut self, view: View, next: Offset) {
        self.0[view.index()] = next;
    }

    /// Whether every topic's position is at or below `other`'s.
    pub fn at_or_before(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(mine, theirs)| mine <= theirs)
    }
}

impl fmt::Display for Positions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}/{}", self.0[0], self.0[1], self.0[2])
    }
}

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The view whose topic holds the record.
    pub view: View,
    /// The partition.
    pub partition: PartitionId,
    /// The record's own offset (not the next one).
    pub offset: Offset,
}
