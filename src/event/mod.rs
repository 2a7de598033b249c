//! Events, ids and positions: the vocabulary every other module speaks.
//!
//! An [`Event`] borrows its texts from the record it was decoded from: the fold needs hashes, and only a name that is
//! new to a user is ever copied. Core types derive no serde; the wire form lives in the codec.

mod clean;
mod codec;
mod edge;
mod encode;
mod erasure;
mod file;
mod hash;
mod ids;
mod items;
mod mapping;
mod scan;
mod time;
mod wire;

pub use clean::{
    CleaningCounts, CleaningParams, EARLIEST_MS, END_MS, MissingNumber, MissingTime, Reason, Reject, Repair,
};
pub use codec::{Decoder, RawRecord};
pub use edge::{Admitted, Edge};
pub use erasure::{Decoded, ERASE_EVENT, Erasure};
pub use file::{CSV_COLUMNS, FileError, FileRow, RowReader, for_each_row, open_input};
pub use hash::{TextHashBuilder, TextHasher};
pub use ids::{NameHash, NameKind, Offset, Origin, PartitionId, Positions, UserId, View};
pub use items::{ItemCategories, ItemsError, ListedItem, read_items};
pub use mapping::{EventMapping, UnknownName};
pub use time::format_time_ms;

use std::borrow::Cow;

use smallvec::SmallVec;

/// Milliseconds in one day.
pub const DAY_MS: i64 = 86_400_000;

/// What the user did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum EventKind {
    /// Looked at a product (or clicked on it).
    View = 0,
    /// Searched; the event carries a query.
    Search = 1,
    /// Put a product into the cart.
    CartAdd = 2,
    /// Took a product out of the cart.
    CartRemove = 3,
    /// Paid for one or more products.
    Purchase = 4,
    /// Anything else the configuration admits, for example a redeemed coupon.
    Other = 5,
}

impl EventKind {
    /// All kinds, in the order of their numeric value.
    pub const ALL: [Self; 6] = [Self::View, Self::Search, Self::CartAdd, Self::CartRemove, Self::Purchase, Self::Other];

    /// The name used on the wire and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Search => "search",
            Self::CartAdd => "cart_add",
            Self::CartRemove => "cart_remove",
            Self::Purchase => "purchase",
            Self::Other => "other",
        }
    }

    /// The kind with this [`name`](Self::name), if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The view (and so the topic) that events of this kind belong to.
    pub fn view(self) -> View {
        match self {
            Self::View | Self::CartAdd | Self::CartRemove | Self::Other => View::Click,
            Self::Search => View::Search,
            Self::Purchase => View::Purchase,
        }
    }
}

/// A text with its stable hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name<'a> {
    /// XXH3 of the text, seeded by its kind.
    pub hash: NameHash,
    /// The text as the sender wrote it (trimmed; queries are lower-cased).
    pub text: Cow<'a, str>,
}

impl<'a> Name<'a> {
    /// Hashes `text` as a name of `kind`.
    pub fn new(kind: NameKind, text: impl Into<Cow<'a, str>>) -> Self {
        let text = text.into();
        Self { hash: NameHash::of(kind, &text), text }
    }
}

/// One product of an event. An order with several products is one event with several lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProductLine<'a> {
    /// The item, absent for shops that send amounts only.
    pub item: Option<Name<'a>>,
    /// The item's category, most general part first (`GROCERY > BREAD`).
    pub category: Option<Name<'a>>,
    /// Unit price in minor currency units (cents); absent when the sender gave none and no rule repaired it.
    pub price_minor: Option<u32>,
    /// Units bought or put into the cart, rounded to whole units; 1 when the sender gave none.
    pub quantity: u32,
    /// Value of the whole line in minor units: price × quantity, rounded once, saturating; 0 without a price.
    pub value_minor: u32,
}

/// One decoded click, search or purchase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// Who did it. Equals the record's key.
    pub user: Cow<'a, str>,
    /// What was done.
    pub kind: EventKind,
    /// When it was done, by the sender: milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// XXH3 of the sender's event id; without one, of the whole record.
    pub event_id: u64,
    /// XXH3 of the sender's session (or order) id.
    pub session: Option<u64>,
    /// The search text.
    pub query: Option<Name<'a>>,
    /// The products concerned.
    pub lines: SmallVec<[ProductLine<'a>; 1]>,
}
