//! From scores to alerts, recommendations and output records.
//!
//! Everything here is pure: equal inputs give equal bytes in every run, so a consumer can drop repeats by id whatever
//! happens to the process that writes them. Hence no wall clock either: `scored_at` is the event-time moment a score
//! stands for.

mod alert;
mod book;
mod dead_letter;
mod decide;
mod json;
mod message;
mod reason;
mod restore;
mod text;

pub use alert::{AlertState, DecisionParams, RiskLevel, Thresholds, Transition, UnknownRiskLevel, alert_id};
pub use book::{ScoreBook, UserScore};
pub use dead_letter::{DeadLetter, dead_letter_message};
pub use decide::{AlertDraft, Decision, decide};
pub use message::{Message, Subject, alert_message, recommendation_message, score_id, score_message};
pub use reason::{name_text, reason_json};
pub use restore::{RestoreError, restore_score};
