//! Cleaning: what happens to a record that is not as it should be. Every rule has a name, and every use is counted.
//!
//! A record is folded, repaired by a named rule ([`Repair`]) or rejected for a named reason ([`Reason`]). `docs/events.md`
//! is the table of all names; a test holds it against these enums.

use std::fmt;

use super::DAY_MS;

/// Why a record is not folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// The record has no payload.
    Tombstone,
    /// The payload is longer than `max_record_bytes`.
    OversizeRecord,
    /// The payload (or a field of a file row) is not UTF-8.
    InvalidUtf8,
    /// The payload is not JSON.
    InvalidJson,
    /// The payload is JSON, but no object.
    NotAnObject,
    /// A row of a file has another number of columns than its header.
    WrongColumns,
    /// A Segment call other than `track` (`identify`, `page` …).
    NotATrackCall,
    /// There is no event name.
    MissingEvent,
    /// The event's name is neither built in nor mapped by the configuration.
    UnknownEvent,
    /// The event's kind belongs to another topic.
    WrongTopic,
    /// The record has no key, so its partition is not its user's.
    MissingKey,
    /// The record's key is not its user's id.
    KeyMismatch,
    /// Neither the record nor its key names a user.
    MissingUser,
    /// There is no time.
    MissingTime,
    /// The time is neither epoch milliseconds nor RFC 3339.
    InvalidTime,
    /// The time is before `earliest_ms` (1990) or after 2099. Epoch seconds end here too.
    AbsurdTime,
    /// The time is further past the record's own timestamp than `max_future_ms`.
    FutureTime,
    /// The event is older than the user's newest of this view by more than the fold's limit.
    Late,
    /// The event's id was folded already, within the view's recent events.
    Duplicate,
    /// A field has the wrong JSON type.
    WrongType,
    /// A number is no number.
    InvalidNumber,
    /// A number is infinite or not a number.
    NonFiniteNumber,
    /// A price or quantity is below zero.
    NegativeNumber,
    /// A user or item id is longer than `max_text_bytes`.
    OversizeText,
    /// The event is older than the erasure of its user.
    Erased,
}

impl Reason {
    /// Number of reasons.
    pub const COUNT: usize = Self::ALL.len();
    /// All reasons, in the order of their numeric value.
    pub const ALL: [Self; 25] = [
        Self::Tombstone,
        Self::OversizeRecord,
        Self::InvalidUtf8,
        Self::InvalidJson,
        Self::NotAnObject,
        Self::WrongColumns,
        Self::NotATrackCall,
        Self::MissingEvent,
        Self::UnknownEvent,
        Self::WrongTopic,
        Self::MissingKey,
        Self::KeyMismatch,
        Self::MissingUser,
        Self::MissingTime,
        Self::InvalidTime,
        Self::AbsurdTime,
        Self::FutureTime,
        Self::Late,
        Self::Duplicate,
        Self::WrongType,
        Self::InvalidNumber,
        Self::NonFiniteNumber,
        Self::NegativeNumber,
        Self::OversizeText,
        Self::Erased,
    ];

    /// The name in dead letters, answers and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tombstone => "tombstone",
            Self::OversizeRecord => "oversize_record",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::InvalidJson => "invalid_json",
            Self::NotAnObject => "not_an_object",
            Self::WrongColumns => "wrong_columns",
            Self::NotATrackCall => "not_a_track_call",
            Self::MissingEvent => "missing_event",
            Self::UnknownEvent => "unknown_event",
            Self::WrongTopic => "wrong_topic",
            Self::MissingKey => "missing_key",
            Self::KeyMismatch => "key_mismatch",
            Self::MissingUser => "missing_user",
            Self::MissingTime => "missing_time",
            Self::InvalidTime => "invalid_time",
            Self::AbsurdTime => "absurd_time",
            Self::FutureTime => "future_time",
            Self::Late => "late",
            Self::Duplicate => "duplicate",
            Self::WrongType => "wrong_type",
            Self::InvalidNumber => "invalid_number",
            Self::NonFiniteNumber => "non_finite_number",
            Self::NegativeNumber => "negative_number",
            Self::OversizeText => "oversize_text",
            Self::Erased => "erased",
        }
    }

    /// Whether such a record goes to the dead letters. A duplicate does not: it was folded once. Nor does an event of a user who
    /// was erased: nothing of it is to be kept. Both are only counted.
    pub fn is_dead_letter(self) -> bool {
        !matches!(self, Self::Duplicate | Self::Erased)
    }
}

/// A rule that repaired a record, which was then folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Repair {
    /// The record named no user; its key did.
    UserFromKey,
    /// The record had no time; its own timestamp was taken ([`MissingTime::RecordTime`]).
    TimeFromRecord,
    /// The record had no event id; a hash of the whole record stands for it.
    IdFromRecord,
    /// The event's name is unknown; the configured default kind was taken.
    UnknownEventAsDefault,
    /// No price was given, and none was put in its place: the line has no value.
    PriceAbsent,
    /// The item's median recent price was put in place of a missing one.
    PriceFromMedian,
    /// The item's newest price was put in place of a missing one.
    PriceFromLastSeen,
    /// The order's revenue became the price of its only line.
    PriceFromRevenue,
    /// No quantity was given: 1.
    QuantityAbsent,
    /// The item's median recent quantity was put in place of a missing one.
    QuantityFromMedian,
    /// The item's newest quantity was put in place of a missing one.
    QuantityFromLastSeen,
    /// A search came without its text and was folded without it.
    QueryAbsent,
    /// A query or category was cut to `max_text_bytes`.
    TextTruncated,
    /// A price, quantity or value was cut to the largest number that is kept.
    NumberSaturated,
    /// A product without a category got the one of its item in the item file.
    CategoryFromItems,
}

impl Repair {
    /// Number of rules.
    pub const COUNT: usize = Self::ALL.len();
    /// All rules, in the order of their numeric value.
    pub const ALL: [Self; 15] = [
        Self::UserFromKey,
        Self::TimeFromRecord,
        Self::IdFromRecord,
        Self::UnknownEventAsDefault,
        Self::PriceAbsent,
        Self::PriceFromMedian,
        Self::PriceFromLastSeen,
        Self::PriceFromRevenue,
        Self::QuantityAbsent,
        Self::QuantityFromMedian,
        Self::QuantityFromLastSeen,
        Self::QueryAbsent,
        Self::TextTruncated,
        Self::NumberSaturated,
        Self::CategoryFromItems,
    ];

    /// The name in metrics and documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::UserFromKey => "user_from_key",
            Self::TimeFromRecord => "time_from_record",
            Self::IdFromRecord => "id_from_record",
            Self::UnknownEventAsDefault => "unknown_event_as_default",
            Self::PriceAbsent => "price_absent",
            Self::PriceFromMedian => "price_from_median",
            Self::PriceFromLastSeen => "price_from_last_seen",
            Self::PriceFromRevenue => "price_from_revenue",
            Self::QuantityAbsent => "quantity_absent",
            Self::QuantityFromMedian => "quantity_from_median",
            Self::QuantityFromLastSeen => "quantity_from_last_seen",
            Self::QueryAbsent => "query_absent",
            Self::TextTruncated => "text_truncated",
            Self::NumberSaturated => "number_saturated",
            Self::CategoryFromItems => "category_from_items",
        }
    }
}

/// Why one record was not folded, with what a person needs to repair it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {field}: {message}")]
pub struct Reject {
    /// The rule.
    pub reason: Reason,
    /// The field at fault, or `record`.
    pub field: &'static str,
    /// What was found there.
    pub message: String,
}

impl Reject {
    /// A rejection of `field` for `reason`.
    pub fn new(reason: Reason, field: &'static str, message: impl Into<String>) -> Self {
        Self { reason, field, message: message.into() }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What becomes of a record without a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MissingTime {
    /// It is rejected.
    #[default]
    Reject,
    /// It takes the record's own timestamp, which the log keeps: a replay takes the same one.
    RecordTime,
}

/// What stands in for a missing price or quantity of a known item.
///
/// Medians and last values are a memory of what went by, so they are applied where events enter (`send`, HTTP, files; see
/// [`Edge`](super::Edge)) and written into the record. Decoding a record of a log has no memory: DET-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MissingNumber {
    /// Nothing: no price, quantity 1.
    #[default]
    Absent,
    /// The median of the item's last nine.
    Median,
    /// The item's newest.
    LastSeen,
}

/// Bounds and choices of the cleaning rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleaningParams {
    /// Longest payload in bytes.
    pub max_record_bytes: usize,
    /// Longest user id, item id, category or query in bytes.
    pub max_text_bytes: usize,
    /// Furthest an event's time may be past its record's timestamp, milliseconds.
    pub max_future_ms: i64,
    /// Earliest event time, milliseconds since the Unix epoch.
    pub earliest_ms: i64,
    /// What becomes of a record without a time.
    pub missing_time: MissingTime,
    /// What stands in for a missing price.
    pub missing_price: MissingNumber,
    /// What stands in for a missing quantity.
    pub missing_quantity: MissingNumber,
}

/// 1990-01-01T00:00:00Z.
pub const EARLIEST_MS: i64 = 631_152_000_000;
/// 2100-01-01T00:00:00Z, the end of all times that are kept (graphs keep seconds in 32 bits).
pub const END_MS: i64 = 4_102_444_800_000;

impl Default for CleaningParams {
    fn default() -> Self {
        Self {
            max_record_bytes: 64 * 1024,
            max_text_bytes: 512,
            max_future_ms: DAY_MS,
            earliest_ms: EARLIEST_MS,
            missing_time: MissingTime::default(),
            missing_price: MissingNumber::default(),
            missing_quantity: MissingNumber::default(),
        }
    }
}

/// How often each rule was used. Plain numbers: the caller records them once a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CleaningCounts {
    /// Records decoded to an event.
    pub decoded: u64,
    rejects: [u64; Reason::COUNT],
    repairs: [u64; Repair::COUNT],
}

impl CleaningCounts {
    /// Counts one rejection.
    pub fn add_reject(&mut self, reason: Reason) {
        self.rejects[reason as usize] += 1;
    }

    /// Counts one use of a repair.
    pub fn add_repair(&mut self, repair: Repair) {
        self.repairs[repair as usize] += 1;
    }

    /// Adds all counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.decoded += other.decoded;
        for (mine, theirs) in self.rejects.iter_mut().zip(&other.rejects) {
            *mine += theirs;
        }
        for (mine, theirs) in self.repairs.iter_mut().zip(&other.repairs) {
            *mine += theirs;
        }
    }

    /// Records rejected for `reason`.
    pub fn reject_count(&self, reason: Reason) -> u64 {
        self.rejects[reason as usize]
    }

    /// Uses of `repair`.
    pub fn repair_count(&self, repair: Repair) -> u64 {
        self.repairs[repair as usize]
    }

    /// Records rejected for any reason.
    pub fn rejected(&self) -> u64 {
        self.rejects.iter().sum()
    }

    /// Every reason with its count, zeros included.
    pub fn rejects(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.into_iter().zip(self.rejects)
    }

    /// Every repair with its count, zeros included.
    pub fn repairs(&self) -> impl Iterator<Item = (Repair, u64)> + '_ {
        Repair::ALL.into_iter().zip(self.repairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_in_the_order_of_their_values() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
        for (index, repair) in Repair::ALL.into_iter().enumerate() {
            assert_eq!(repair as usize, index);
        }
    }

    #[test]
    fn counts_add_up() {
        let mut sum = CleaningCounts::default();
        let mut one = CleaningCounts { decoded: 3, ..CleaningCounts::default() };
        one.add_reject(Reason::Late);
        one.add_repair(Repair::UserFromKey);
        sum.merge(&one);
        sum.merge(&one);
        assert_eq!((sum.decoded, sum.rejected()), (6, 2));
        assert_eq!((sum.reject_count(Reason::Late), sum.repair_count(Repair::UserFromKey)), (2, 2));
    }
}
