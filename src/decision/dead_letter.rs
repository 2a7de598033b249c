//! Records that could not be folded, with their original bytes, their origin and the reason.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::{
    Message, RestoreError,
    message::{Kind, cloud_event, to_json},
    text::{base64, from_base64},
};
use crate::event::{Offset, Origin, PartitionId, format_time_ms};

/// The header of an input record that was sent again out of the dead letters; its value is a [`FirstOrigin`].
pub const FIRST_ORIGIN_HEADER: &str = "undercurrent.first.origin";

/// Where a record that was sent again stood when it was refused first. It goes with the record, so that a second refusal is
/// one of the same dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstOrigin {
    /// The name of the input topic.
    pub topic: String,
    /// The partition.
    pub partition: PartitionId,
    /// The offset.
    pub offset: Offset,
}

impl FirstOrigin {
    /// The header's value: `topic/partition/offset`. Topic names hold no slash.
    pub fn to_header(&self) -> String {
        format!("{}/{}/{}", self.topic, self.partition, self.offset)
    }

    /// Reads the header's value; `None` when it is none.
    pub fn parse(header: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(header).ok()?.split('/');
        let (topic, partition, offset) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let is_whole = !topic.is_empty() && partition >= 0 && offset >= 0 && parts.next().is_none();
        is_whole.then(|| Self { topic: topic.to_owned(), partition: PartitionId(partition), offset: Offset(offset) })
    }

    /// The id of the dead letter of this record: 32 hexadecimal digits, equal however often it is refused.
    fn id(&self) -> String {
        let Self { topic, partition, offset } = self;
        format!("{:032x}", xxh3_128(format!("dead letter\0{topic}\0{partition}\0{offset}").as_bytes()))
    }
}

/// What is known of a record that could not be folded.
#[derive(Debug, Clone, Copy)]
pub struct DeadLetter<'a> {
    /// The name of the topic it came from.
    pub topic: &'a str,
    /// Where it stood.
    pub origin: Origin,
    /// Where it stood when it was refused first, if it was sent again since.
    pub first: Option<&'a FirstOrigin>,
    /// When the log took it, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its bytes.
    pub payload: Option<&'a [u8]>,
    /// The name of the rule that refused it.
    pub reason: &'a str,
    /// The field at fault.
    pub field: &'a str,
    /// What was found there.
    pub message: &'a str,
}

#[derive(Serialize)]
struct DeadLetterWire<'a> {
    dead_letter_id: &'a str,
    reason: &'a str,
    field: &'a str,
    message: &'a str,
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    redriven_as: Option<PlaceWire<'a>>,
    #[serde(flatten)]
    key: Bytes<'a, true>,
    #[serde(flatten)]
    payload: Bytes<'a, false>,
}

#[derive(Serialize)]
struct PlaceWire<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
}

/// Bytes as text where they are UTF-8, else in base64 under another name.
struct Bytes<'a, const IS_KEY: bool>(Option<&'a [u8]>);

impl<const IS_KEY: bool> Serialize for Bytes<'_, IS_KEY> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let (plain, encoded) = if IS_KEY { ("key", "key_base64") } else { ("payload", "payload_base64") };
        let mut map = serializer.serialize_map(Some(1))?;
        match self.0.map(|bytes| std::str::from_utf8(bytes).map_err(|_| bytes)) {
            None => map.serialize_entry(plain, &None::<&str>)?,
            Some(Ok(text)) => map.serialize_entry(plain, text)?,
            Some(Err(bytes)) => map.serialize_entry(encoded, &base64(bytes))?,
        }
        map.end()
    }
}

/// The record of topic `dead-letters`. Beside the CloudEvents headers it has those of Kafka Connect's dead letter queues.
/// Origin and id are those of the first refusal, so a record refused again, after a restart or after it was sent again,
/// has the same ones.
pub fn dead_letter_message(letter: &DeadLetter<'_>) -> Message {
    let here = FirstOrigin {
        topic: letter.topic.to_owned(),
        partition: letter.origin.partition,
        offset: letter.origin.offset,
    };
    let first = letter.first.unwrap_or(&here);
    let id = first.id();
    let timestamp = format_time_ms(letter.timestamp_ms);
    let wire = DeadLetterWire {
        dead_letter_id: &id,
        reason: letter.reason,
        field: letter.field,
        message: letter.message,
        topic: &first.topic,
        partition: first.partition.0,
        offset: first.offset.0,
        timestamp: &timestamp,
        redriven_as: letter.first.map(|_| PlaceWire {
            topic: letter.topic,
            partition: here.partition.0,
            offset: here.offset.0,
        }),
        key: Bytes(letter.key),
        payload: Bytes(letter.payload),
    };
    let payload = to_json(&wire);
    let mut headers = cloud_event(id, Kind::DeadLetter, letter.origin.partition, timestamp);
    headers.extend([
        ("__connect.errors.topic", first.topic.clone()),
        ("__connect.errors.partition", first.partition.to_string()),
        ("__connect.errors.offset", first.offset.to_string()),
        ("__connect.errors.stage", "VALUE_CONVERTER".to_owned()),
        ("__connect.errors.exception.class.name", letter.reason.to_owned()),
        ("__connect.errors.exception.message", format!("{}: {}", letter.field, letter.message)),
    ]);
    Message { payload, headers }
}

/// A record of topic `dead-letters` read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDeadLetter {
    /// Its id; the same for every refusal of one record.
    pub id: String,
    /// The name of the rule that refused the record.
    pub reason: String,
    /// The field at fault.
    pub field: String,
    /// What was found there.
    pub message: String,
    /// Where the record stood when it was refused first.
    pub first: FirstOrigin,
    /// When the log took the record, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its bytes.
    pub payload: Option<Vec<u8>>,
}

#[derive(Deserialize)]
struct StoredWire {
    dead_letter_id: String,
    reason: String,
    field: String,
    message: String,
    topic: String,
    partition: i32,
    offset: i64,
    timestamp: String,
    key: Option<String>,
    key_base64: Option<String>,
    payload: Option<String>,
    payload_base64: Option<String>,
}

/// Reads the payload of a `dead-letters` record. The inverse of [`dead_letter_message`].
pub fn restore_dead_letter(payload: &[u8]) -> Result<StoredDeadLetter, RestoreError> {
    let read: StoredWire = serde_json::from_slice(payload)?;
    let time = chrono::DateTime::parse_from_rfc3339(&read.timestamp)
        .map_err(|_| RestoreError::Field { field: "timestamp", value: read.timestamp.clone() })?;
    Ok(StoredDeadLetter {
        id: read.dead_letter_id,
        reason: read.reason,
        field: read.field,
        message: read.message,
        first: FirstOrigin { topic: read.topic, partition: PartitionId(read.partition), offset: Offset(read.offset) },
        timestamp_ms: time.timestamp_millis(),
        key: bytes_of("key_base64", read.key, read.key_base64)?,
        payload: bytes_of("payload_base64", read.payload, read.payload_base64)?,
    })
}

fn bytes_of(
    field: &'static str,
    plain: Option<String>,
    encoded: Option<String>,
) -> Result<Option<Vec<u8>>, RestoreError> {
    match (plain, encoded) {
        (None, None) => Ok(None),
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, Some(text)) => match from_base64(&text) {
            Some(bytes) => Ok(Some(bytes)),
            None => Err(RestoreError::Field { field, value: text }),
        },
        (Some(_), Some(text)) => Err(RestoreError::Field { field, value: text }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::View;

    #[test]
    fn a_letter_is_read_back_and_keeps_its_first_origin() {
        let origin = Origin { view: View::Click, partition: PartitionId(3), offset: Offset(17) };
        let letter = DeadLetter {
            topic: "clicks",
            origin,
            first: None,
            timestamp_ms: 1_700_000_000_123,
            key: Some(b"u1"),
            payload: Some(&[0xff, 0x00, b'x']),
            reason: "invalid_utf8",
            field: "record",
            message: "byte 0",
        };
        let first = restore_dead_letter(&dead_letter_message(&letter).payload).unwrap();
        assert_eq!((first.key.as_deref(), first.payload.as_deref()), (letter.key, letter.payload));
        assert_eq!((first.timestamp_ms, first.first.to_header().as_str()), (1_700_000_000_123, "clicks/3/17"));

        let later = Origin { offset: Offset(99), ..origin };
        let header = FirstOrigin::parse(first.first.to_header().as_bytes());
        let again = dead_letter_message(&DeadLetter { origin: later, first: header.as_ref(), payload: None, ..letter });
        let shown: serde_json::Value = serde_json::from_slice(&again.payload).unwrap();
        assert_eq!(shown["redriven_as"]["offset"], 99);
        let again = restore_dead_letter(&again.payload).unwrap();
        assert_eq!((again.id, again.first, again.payload), (first.id, first.first, None));
    }

    #[test]
    fn a_header_that_is_no_origin_is_none() {
        for header in [&b"clicks/1"[..], b"clicks/1/2/3", b"/1/2", b"clicks/-1/2", b"clicks/x/2", b"\xff/1/2", b""] {
            assert_eq!(FirstOrigin::parse(header), None, "{header:?}");
        }
    }
}
