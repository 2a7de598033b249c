//! Churn alerts posted to a URL, from what was committed.
//!
//! Alerts are read back from the topic `churn-alerts`, like any reader of committed outputs does, so one that was never committed
//! is never posted. How far the receiver has got is stored in the log: an alert is posted at least once, with its id to
//! recognise a repetition. The alerts of a partition, and so of a user, go in order, one at a time; partitions go side by side.
//! One that fails [`Retries::max_attempts`] times is parked in a file, and the next one is sent; [`resend`] posts parked ones again.
//!
//! `reqwest` appears here and nowhere else.

mod backoff;
mod delivery;
mod message;
mod parked;
mod post;
mod resend;
mod signature;

pub use backoff::Retries;
pub use delivery::{Webhook, WebhookParts};
pub use message::Message;
pub use parked::{Parked, ParkedAlert, ParkedAlerts};
pub use post::{Poster, PosterError};
pub use resend::{Resent, resend};
pub use signature::{Signer, WrongSecret};
