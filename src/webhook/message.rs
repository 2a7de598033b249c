//! What is posted: the alert as it was committed, in an envelope.

use serde::Deserialize;

use crate::{
    event::{Offset, PartitionId},
    stream::CommittedOutput,
};

/// One alert on its way to the receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The partition of `churn-alerts` it stands in.
    pub partition: PartitionId,
    /// Its offset there.
    pub offset: Offset,
    /// The alert's id, the same at every attempt.
    pub id: String,
    /// `{"type":"churn_alert.entered","timestamp":…,"data":…}`, data being the record of `churn-alerts` byte for byte.
    pub body: Vec<u8>,
}

/// The fields of an alert that the envelope repeats.
#[derive(Deserialize)]
struct Fields<'a> {
    alert_id: &'a str,
    transition: &'a str,
    raised_at: &'a str,
}

impl Message {
    /// Wraps a record of `churn-alerts`; `None` for one that is no alert, as a tombstone is.
    pub fn of(record: &CommittedOutput) -> Option<Self> {
        let payload = record.payload.as_deref()?;
        let fields: Fields<'_> = serde_json::from_slice(payload).ok()?;
        let head = format!(
            "{{\"type\":\"churn_alert.{}\",\"timestamp\":\"{}\",\"data\":",
            fields.transition, fields.raised_at
        );
        let mut body = Vec::with_capacity(head.len() + payload.len() + 1);
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(payload);
        body.push(b'}');
        Some(Self { partition: record.partition, offset: record.offset, id: fields.alert_id.to_owned(), body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alert_is_wrapped_as_it_is() {
        let payload = br#"{"alert_id":"a1","user_id":"u","transition":"entered","raised_at":"2024-01-01T00:00:00.000Z","churn_probability":0.10}"#;
        let record = CommittedOutput { partition: PartitionId(2), offset: Offset(7), payload: Some(payload.to_vec()) };
        let message = Message::of(&record).unwrap();
        let text = String::from_utf8(message.body).unwrap();
        let expected = r#"{"type":"churn_alert.entered","timestamp":"2024-01-01T00:00:00.000Z","data":"#;
        assert_eq!(text, format!("{expected}{}}}", String::from_utf8_lossy(payload)));
        assert_eq!((message.id.as_str(), message.partition, message.offset), ("a1", PartitionId(2), Offset(7)));
        assert!(Message::of(&CommittedOutput { payload: None, ..record }).is_none());
    }
}
