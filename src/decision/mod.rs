//! From scores to alerts, recommendations and output records.
//!
//! Everything here is pure: equal inputs give equal bytes in every run, so a consumer can drop repeats by id whatever
//! happens to the process that writes them. Hence no wall clock either: `scored_at` is the event-time moment a score
//! stands for.

mod alert;
mod book;
mod dead_letter;
mod decide;
mod factor;
mod json;
mod message;
mod outcome;
mod reason;
mod restore;
mod shadow;
mod text;

pub use alert::{AlertState, DecisionParams, RiskLevel, Thresholds, Transition, UnknownRiskLevel, alert_id};
pub use book::{ScoreBook, UserScore};
pub use dead_letter::{
    DeadLetter, FIRST_ORIGIN_HEADER, FirstOrigin, StoredDeadLetter, dead_letter_message, restore_dead_letter,
};
pub use decide::{AlertDraft, Decision, Standing, decide};
pub use factor::factor_text;
pub use message::{Message, Subject, alert_message, outcome_message, recommendation_message, score_id, score_message};
pub use outcome::{MAX_OPEN_ALERTS, OpenAlert, Outcome, Outcomes, Verdict};
pub use reason::{name_text, reason_json};
pub use restore::{RestoreError, restore_score};
pub use shadow::shadow_message;
