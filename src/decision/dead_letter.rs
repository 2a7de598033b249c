//! Records that could not be folded, with their original bytes, their origin and the reason.

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_128;

use super::{
    Message,
    message::{Kind, cloud_event, to_json},
    text::base64,
};
use crate::event::{Origin, format_time_ms};

/// What is known of a record that could not be folded.
#[derive(Debug, Clone, Copy)]
pub struct DeadLetter<'a> {
    /// The name of the topic it came from.
    pub topic: &'a str,
    /// Where it stood.
    pub origin: Origin,
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
    #[serde(flatten)]
    key: Bytes<'a, true>,
    #[serde(flatten)]
    payload: Bytes<'a, false>,
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
/// The id is a hash of the origin, so a record refused again after a restart has the same one.
pub fn dead_letter_message(letter: &DeadLetter<'_>) -> Message {
    let Origin { partition, offset, .. } = letter.origin;
    let id = format!("{:032x}", xxh3_128(format!("dead letter\0{}\0{partition}\0{offset}", letter.topic).as_bytes()));
    let timestamp = format_time_ms(letter.timestamp_ms);
    let wire = DeadLetterWire {
        dead_letter_id: &id,
        reason: letter.reason,
        field: letter.field,
        message: letter.message,
        topic: letter.topic,
        partition: partition.0,
        offset: offset.0,
        timestamp: &timestamp,
        key: Bytes(letter.key),
        payload: Bytes(letter.payload),
    };
    let payload = to_json(&wire);
    let mut headers = cloud_event(id, Kind::DeadLetter, partition, timestamp);
    headers.extend([
        ("__connect.errors.topic", letter.topic.to_owned()),
        ("__connect.errors.partition", partition.to_string()),
        ("__connect.errors.offset", offset.to_string()),
        ("__connect.errors.stage", "VALUE_CONVERTER".to_owned()),
        ("__connect.errors.exception.class.name", letter.reason.to_owned()),
        ("__connect.errors.exception.message", format!("{}: {}", letter.field, letter.message)),
    ]);
    Message { payload, headers }
}
