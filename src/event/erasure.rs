//! The request to forget a user: a record of an input topic, so that a replay forgets again.
//!
//! Each view is fed by its own topic only (DET-1), so a request is three records, one in each topic, under the user's key. A
//! record drops what its view knows of the user, and is remembered for a while: events of the topic that come later and are
//! older than the request do not bring the user back.

use std::borrow::Cow;

use serde_json::json;

use super::{CleaningCounts, Decoder, Event, RawRecord, Reject, View};

/// The name in the field `event` of a request to forget a user. It cannot be mapped to a kind.
pub const ERASE_EVENT: &str = "erase_user";

/// A request to forget a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure<'a> {
    /// Whom. Equals the record's key.
    pub user: Cow<'a, str>,
    /// When it was asked for, milliseconds since the Unix epoch: events from then on are of a new user.
    pub time_ms: i64,
}

/// What a record of an input topic says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// The user did something.
    Event(Event<'a>),
    /// The user is to be forgotten.
    Erasure(Erasure<'a>),
}

impl Decoder {
    /// The payload of a request to forget `user`, as each input topic takes it; refused where this decoder would refuse it
    /// in the stream.
    pub fn erasure_request(&self, user: &str, time_ms: i64) -> Result<Vec<u8>, Reject> {
        let payload = json!({ "event": ERASE_EVENT, "user_id": user, "timestamp": time_ms }).to_string().into_bytes();
        let record = RawRecord { key: Some(user.as_bytes()), payload: Some(&payload), timestamp_ms: time_ms };
        self.decode_record(View::Click, &record, &mut CleaningCounts::default())?;
        Ok(payload)
    }
}
