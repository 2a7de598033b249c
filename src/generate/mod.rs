//! Made-up shoppers, for load and for tests; never for claims of quality.
//!
//! Each shopper has a hidden rhythm, a hidden taste and a hidden moment of leaving: after every visit he may leave for
//! good, the likelier the more of his searches failed lately, the less likely the more he bought. In a visit searches lead
//! to views, views to carts, carts to purchases. Days and weeks have seasons, and new items come.
//!
//! [`Shoppers`] makes the events one by one in time order; the memory is a few bytes a user, whatever the number of days.
//! Equal parameters make equal events: a user's events depend on the seed and on nothing that other users do.
//! [`write_files`] writes them to files, and the truth into a file apart ([`truth`](crate::generate::truth_columns)).

mod catalogue;
mod files;
mod random;
mod session;
mod shopper;
mod stream;
mod truth;
mod write;

pub use catalogue::Catalogue;
pub use files::{EventFormat, GenerateError, Summary, write_files};
pub use stream::{MadeEvent, MadeLine, MadeQuery, Shoppers};
pub use truth::truth_columns;
pub use write::{MadeRecord, MadeRecords, csv_header, json_records, user_id, write_csv, write_json};

use crate::event::DAY_MS;

/// What is made.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateParams {
    /// Number of shoppers. Two in five join later than the first day.
    pub users: u32,
    /// Days from the first event to the last.
    pub days: u32,
    /// Equal seeds make equal events.
    pub seed: u64,
    /// Number of items. One in five is launched later than the first day.
    pub items: u32,
    /// The first day, milliseconds since the Unix epoch.
    pub start_ms: i64,
    /// The day, counted from the first, for which the truth says what is going to happen.
    pub cutoff_day: u32,
    /// Days after the cutoff in which a visit disproves that a shopper left.
    pub churn_days: u32,
    /// Days after the cutoff in which a purchase counts.
    pub purchase_days: u32,
}

impl GenerateParams {
    /// Shoppers from 2024 on, with a cutoff four weeks before the end (or in the middle of less than eight weeks).
    pub fn new(users: u32, days: u32, seed: u64) -> Self {
        Self {
            users,
            days,
            seed,
            items: 5_000,
            // 2024-01-01T00:00:00Z, a Monday.
            start_ms: 1_704_067_200_000,
            cutoff_day: if days >= 56 { days - 28 } else { days / 2 },
            churn_days: 28,
            purchase_days: 14,
        }
    }

    /// The end of all events, milliseconds since the Unix epoch.
    pub fn end_ms(&self) -> i64 {
        self.start_ms + i64::from(self.days) * DAY_MS
    }

    /// The moment for which the truth says what is going to happen.
    pub fn cutoff_ms(&self) -> i64 {
        self.start_ms + i64::from(self.cutoff_day) * DAY_MS
    }
}
