//! Chunks: many records of one topic partition in one value, so that an LSM entry is paid once a batch and not once a
//! record.
//!
//! A record is `offset delta, sequence, timestamp, event id, key length + 1, payload length + 1, header count` and then
//! the bytes; lengths of 0 mean 'none'. Numbers are LEB128, except the event id (8 bytes). Offsets may have gaps:
//! compaction removes records and keeps the offsets of the others.

use fjall::Slice;

use super::EmbeddedError;
use crate::event::Offset;

const FORMAT: u8 = 1;

/// One record as it lies in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChunkRecord<'a> {
    pub(super) offset: Offset,
    /// Order of arrival over all topics and partitions of the store.
    pub(super) sequence: u64,
    pub(super) timestamp_ms: i64,
    /// 0 means none.
    pub(super) event_id: u64,
    pub(super) key: Option<&'a [u8]>,
    pub(super) payload: Option<&'a [u8]>,
    /// Encoded headers; see [`headers`].
    pub(super) headers: &'a [u8],
}

/// Builds the value of one chunk.
#[derive(Debug, Default)]
pub(super) struct ChunkBuilder {
    bytes: Vec<u8>,
    base: Option<Offset>,
    newest: Option<Offset>,
    record_count: usize,
}

impl ChunkBuilder {
    pub(super) fn byte_count(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn record_count(&self) -> usize {
        self.record_count
    }

    /// Adds a record; offsets must increase.
    pub(super) fn push(&mut self, record: &ChunkRecord<'_>) {
        let base = *self.base.get_or_insert(record.offset);
        debug_assert!(self.newest.is_none_or(|newest| newest < record.offset), "offsets of a chunk increase");
        if self.bytes.is_empty() {
            self.bytes.push(FORMAT);
        }
        self.newest = Some(record.offset);
        self.record_count += 1;
        put(&mut self.bytes, record.offset.0.abs_diff(base.0));
        put(&mut self.bytes, record.sequence);
        put(&mut self.bytes, zigzag(record.timestamp_ms));
        self.bytes.extend_from_slice(&record.event_id.to_le_bytes());
        put_bytes(&mut self.bytes, record.key);
        put_bytes(&mut self.bytes, record.payload);
        put_bytes(&mut self.bytes, Some(record.headers));
    }

    /// The first offset and the value; the builder is empty again.
    pub(super) fn take(&mut self) -> Option<(Offset, Vec<u8>)> {
        let base = self.base.take()?;
        self.newest = None;
        self.record_count = 0;
        Some((base, std::mem::take(&mut self.bytes)))
    }
}

/// Reads the records of one chunk in order. Holds the value by reference count.
#[derive(Debug, Clone)]
pub(super) struct ChunkReader {
    bytes: Slice,
    base: Offset,
    at: usize,
}

impl ChunkReader {
    pub(super) fn new(base: Offset, bytes: Slice) -> Result<Self, EmbeddedError> {
        match bytes.first() {
            Some(&FORMAT) => Ok(Self { bytes, base, at: 1 }),
            found => Err(EmbeddedError::Corrupt { what: format!("chunk {base} starts with `{found:?}`") }),
        }
    }

    pub(super) fn base(&self) -> Offset {
        self.base
    }

    /// The record at the current place; does not move.
    pub(super) fn peek(&self) -> Result<Option<(ChunkRecord<'_>, usize)>, EmbeddedError> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let mut input = Input { bytes: &self.bytes, at: self.at };
        let record = input.record(self.base).ok_or_else(|| EmbeddedError::Corrupt {
            what: format!("chunk {} ends inside a record at byte {}", self.base, self.at),
        })?;
        Ok(Some((record, input.at)))
    }

    /// Moves to the record that starts at `at`, a place that [`peek`](Self::peek) answered.
    pub(super) fn move_to(&mut self, at: usize) {
        self.at = at;
    }

    /// Skips records below `offset`.
    pub(super) fn seek(&mut self, offset: Offset) -> Result<(), EmbeddedError> {
        while let Some((record, after)) = self.peek()? {
            if record.offset >= offset {
                break;
            }
            self.at = after;
        }
        Ok(())
    }

    /// Calls `visit` with every record from here to the end.
    pub(super) fn each(&mut self, mut visit: impl FnMut(&ChunkRecord<'_>)) -> Result<(), EmbeddedError> {
        while let Some((record, after)) = self.peek()? {
            visit(&record);
            self.at = after;
        }
        Ok(())
    }
}

/// Encodes headers as `name, value` pairs.
pub(super) fn encode_headers(headers: &[(&'static str, String)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in headers {
        put_bytes(&mut bytes, Some(name.as_bytes()));
        put_bytes(&mut bytes, Some(value.as_bytes()));
    }
    bytes
}

/// Decodes [`encode_headers`]; `None` when the bytes are no such thing.
pub(super) fn decode_headers(bytes: &[u8]) -> Option<Vec<(String, String)>> {
    let mut input = Input { bytes, at: 0 };
    let mut headers = Vec::new();
    while input.at < bytes.len() {
        let name = String::from_utf8(input.slice()??.to_vec()).ok()?;
        let value = String::from_utf8(input.slice()??.to_vec()).ok()?;
        headers.push((name, value));
    }
    Some(headers)
}

/// The value of the header `name` among encoded ones. Costs nothing for a record without headers, which almost all are.
pub(super) fn header_in<'a>(bytes: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut input = Input { bytes, at: 0 };
    while input.at < bytes.len() {
        let (found, value) = (input.slice()??, input.slice()??);
        if found == name.as_bytes() {
            return Some(value);
        }
    }
    None
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn record(&mut self, base: Offset) -> Option<ChunkRecord<'a>> {
        let delta = i64::try_from(self.number()?).ok()?;
        let sequence = self.number()?;
        let timestamp_ms = unzigzag(self.number()?);
        let event_id = u64::from_le_bytes(*self.take(8)?.first_chunk()?);
        let key = self.slice()?;
        let payload = self.slice()?;
        let headers = self.slice()?.unwrap_or_default();
        Some(ChunkRecord {
            offset: Offset(base.0.checked_add(delta)?),
            sequence,
            timestamp_ms,
            event_id,
            key,
            payload,
            headers,
        })
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    #[expect(
        clippy::option_option,
        reason = "the outer one says whether there are bytes to read, the inner one is what they say"
    )]
    fn slice(&mut self) -> Option<Option<&'a [u8]>> {
        match usize::try_from(self.number()?).ok()? {
            0 => Some(None),
            length => self.take(length - 1).map(Some),
        }
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push((value & 0x7f) as u8);
}

fn put_bytes(bytes: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => put(bytes, 0),
        Some(value) => {
            put(bytes, value.len() as u64 + 1);
            bytes.extend_from_slice(value);
        }
    }
}

fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<ChunkRecord<'static>> {
        let record = |offset, timestamp_ms, key, payload| ChunkRecord {
            offset: Offset(offset),
            sequence: 3 * offset.unsigned_abs(),
            timestamp_ms,
            event_id: u64::MAX - offset.unsigned_abs(),
            key,
            payload,
            headers: b"",
        };
        vec![
            record(7, 0, None, Some(b"".as_slice())),
            record(8, i64::MIN, Some(b"".as_slice()), None),
            record(1_000, i64::MAX, Some(b"key".as_slice()), Some(&[0xff; 300])),
        ]
    }

    #[test]
    fn records_come_back_as_they_were() {
        let mut builder = ChunkBuilder::default();
        for record in &records() {
            builder.push(record);
        }
        let (base, bytes) = builder.take().unwrap();
        assert!(builder.take().is_none());
        let mut reader = ChunkReader::new(base, bytes.into()).unwrap();
        let mut again = reader.clone();
        let mut index = 0;
        reader
            .each(|record| {
                assert_eq!(*record, records()[index]);
                index += 1;
            })
            .unwrap();
        assert_eq!(index, 3);
        again.seek(Offset(9)).unwrap();
        assert_eq!(again.peek().unwrap().unwrap().0.offset, Offset(1_000));
    }

    #[test]
    fn a_truncated_chunk_is_an_error_and_not_an_end() {
        let mut builder = ChunkBuilder::default();
        for record in &records() {
            builder.push(record);
        }
        let (base, bytes) = builder.take().unwrap();
        for length in [0, 5, bytes.len() - 1] {
            let cut = Slice::from(&bytes[..length]);
            let outcome = ChunkReader::new(base, cut).and_then(|mut reader| reader.each(|_| {}));
            assert!(outcome.is_err(), "{length} bytes");
        }
    }

    #[test]
    fn headers_come_back() {
        let headers = [("ce_id", "1".to_owned()), ("ce_type", String::new())];
        let decoded = decode_headers(&encode_headers(&headers)).unwrap();
        assert_eq!(decoded, [("ce_id".to_owned(), "1".to_owned()), ("ce_type".to_owned(), String::new())]);
    }
}
