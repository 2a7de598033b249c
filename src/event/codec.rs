//! Decodes a record to an [`Event`], or says by which rule it is refused.
//!
//! Decoding is a pure function of the record: it has no memory and reads no clock, so a replay decides every record the
//! same way again.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "amounts become whole minor units in one place, with saturation"
)]

use std::{borrow::Cow, sync::Arc};

use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    CleaningCounts, CleaningParams, Decoded, ERASE_EVENT, Erasure, Event, EventKind, EventMapping, Name, NameKind,
    ProductLine, Reason, Reject, Repair, UnknownName, View,
    clean::{END_MS, MissingTime},
    time::parse_time_ms,
    wire::{Scalar, Wire, WireLine},
};

/// Minor units in one major unit of money.
const MINOR_UNITS: f64 = 100.0;

/// One record of an input topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawRecord<'a> {
    /// The key: the user's id.
    pub key: Option<&'a [u8]>,
    /// The payload; `None` is a tombstone.
    pub payload: Option<&'a [u8]>,
    /// When the log took it, milliseconds since the Unix epoch; zero or less when the log does not say.
    pub timestamp_ms: i64,
}

/// Decodes records. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub struct Decoder {
    mapping: Arc<EventMapping>,
    params: CleaningParams,
}

/// What a record must agree with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// The topic's view and the record's key. Where events enter there is neither yet.
    pub(super) topic: Option<(View, Option<&'a [u8]>)>,
    /// The record's timestamp; zero or less when unknown.
    pub(super) timestamp_ms: i64,
    /// The bytes of the whole record: an event without an id is known by their hash. Empty where files are read, whose
    /// rows are given ids before.
    pub(super) record: &'a [u8],
}

impl Decoder {
    /// A decoder with these names and rules.
    pub fn new(mapping: EventMapping, params: CleaningParams) -> Self {
        Self { mapping: Arc::new(mapping), params }
    }

    /// The mapping of event names.
    pub fn mapping(&self) -> &EventMapping {
        &self.mapping
    }

    /// The cleaning rules.
    pub fn params(&self) -> &CleaningParams {
        &self.params
    }

    /// Reads one record of the topic of `view`, and counts what was done.
    pub fn decode_record<'a>(
        &self,
        view: View,
        record: &RawRecord<'a>,
        counts: &mut CleaningCounts,
    ) -> Result<Decoded<'a>, Reject> {
        let decoded = self.decode_uncounted(view, record, counts);
        if let Err(reject) = &decoded {
            counts.add_reject(reject.reason);
        }
        decoded
    }

    /// [`decode_record`](Self::decode_record) for readers of events alone: a request to erase a user is refused.
    pub fn decode<'a>(
        &self,
        view: View,
        record: &RawRecord<'a>,
        counts: &mut CleaningCounts,
    ) -> Result<Event<'a>, Reject> {
        match self.decode_record(view, record, counts)? {
            Decoded::Event(event) => Ok(event),
            Decoded::Erasure(_) => {
                let reject = erasure_is_no_event();
                counts.add_reject(reject.reason);
                Err(reject)
            }
        }
    }

    #[inline]
    fn decode_uncounted<'a>(
        &self,
        view: View,
        record: &RawRecord<'a>,
        counts: &mut CleaningCounts,
    ) -> Result<Decoded<'a>, Reject> {
        let payload = record.payload.ok_or_else(|| Reject::new(Reason::Tombstone, "record", "the payload is null"))?;
        let mut wire = Wire::default();
        wire.read(self.text(payload)?)?;
        let surroundings =
            Surroundings { topic: Some((view, record.key)), timestamp_ms: record.timestamp_ms, record: payload };
        if asks_for_erasure(&wire) {
            let mut repairs = Repairs::default();
            let user = self.user_of(&wire, surroundings, &mut repairs)?;
            let time_ms = self.time_of(&wire, surroundings.timestamp_ms, &mut repairs)?;
            repairs.count_into(counts);
            return Ok(Decoded::Erasure(Erasure { user, time_ms }));
        }
        self.event_of(&wire, surroundings, Repairs::default(), counts).map(Decoded::Event)
    }

    /// Reads the wire form of one payload.
    pub(super) fn parse<'a>(&self, payload: &'a [u8]) -> Result<Wire<'a>, Reject> {
        Wire::parse(self.text(payload)?)
    }

    /// The payload as text, if it is short enough and UTF-8.
    fn text<'a>(&self, payload: &'a [u8]) -> Result<&'a str, Reject> {
        let limit = self.params.max_record_bytes;
        if payload.len() > limit {
            let message = format!("`{}` bytes, at most `{limit}` are read", payload.len());
            return Err(Reject::new(Reason::OversizeRecord, "record", message));
        }
        std::str::from_utf8(payload).map_err(|error| {
            Reject::new(Reason::InvalidUtf8, "record", format!("no UTF-8 at byte `{}`", error.valid_up_to()))
        })
    }

    /// The kind of a wire event. An unknown name may have a configured kind.
    pub(super) fn kind_of(&self, wire: &Wire<'_>, repairs: &mut Repairs) -> Result<EventKind, Reject> {
        if let Scalar::Text(call) = &wire.call
            && matches!(&**call, "identify" | "page" | "screen" | "group" | "alias")
        {
            let message = format!("a `{call}` call is no event; send `track` calls");
            return Err(Reject::new(Reason::NotATrackCall, "type", message));
        }
        let Some(name) = text_of(&wire.event, "event")? else {
            return Err(Reject::new(Reason::MissingEvent, "event", "there is no event name"));
        };
        if &*name == ERASE_EVENT {
            return Err(erasure_is_no_event());
        }
        if let Some(kind) = self.mapping.known(&name) {
            return Ok(kind);
        }
        match self.mapping.unknown() {
            UnknownName::Kind(kind) => {
                repairs.add(Repair::UnknownEventAsDefault);
                Ok(kind)
            }
            UnknownName::Reject => {
                let message = format!("`{}` is not a known event name; map it to a kind", shown(&name));
                Err(Reject::new(Reason::UnknownEvent, "event", message))
            }
        }
    }

    /// The meaning of a wire event. `repairs` holds what was done to it before; all repairs are counted once the
    /// record is certain to be an event.
    pub(super) fn event_of<'a>(
        &self,
        wire: &Wire<'a>,
        surroundings: Surroundings<'_>,
        mut repairs: Repairs,
        counts: &mut CleaningCounts,
    ) -> Result<Event<'a>, Reject> {
        let kind = self.kind_of(wire, &mut repairs)?;
        if let Some((view, _)) = surroundings.topic
            && view != kind.view()
        {
            let message = format!("`{}` belongs to the {} topic", kind.name(), kind.view().name());
            return Err(Reject::new(Reason::WrongTopic, "event", message));
        }
        let user = self.user_of(wire, surroundings, &mut repairs)?;
        let time_ms = self.time_of(wire, surroundings.timestamp_ms, &mut repairs)?;
        let event_id = if let Some(hash) = hash_of(&wire.event_id, "event_id")? {
            hash
        } else {
            repairs.add(Repair::IdFromRecord);
            xxh3_64(surroundings.record)
        };
        let session = match hash_of(&wire.session, "session_id")? {
            Some(hash) => Some(hash),
            None => hash_of(&wire.order, "order_id")?,
        };
        let query = if kind == EventKind::Search { self.query_of(wire, &mut repairs)? } else { None };
        let lines = self.lines_of(wire, kind, &mut repairs)?;
        counts.decoded += 1;
        repairs.count_into(counts);
        Ok(Event { user, kind, time_ms, event_id, session, query, lines })
    }

    fn user_of<'a>(
        &self,
        wire: &Wire<'a>,
        surroundings: Surroundings<'_>,
        repairs: &mut Repairs,
    ) -> Result<Cow<'a, str>, Reject> {
        let named = match text_of(&wire.user, "user_id")? {
            Some(user) => Some(user),
            None => text_of(&wire.anonymous, "anonymous_id")?,
        };
        let user = match (named, surroundings.topic) {
            (Some(user), None) => user,
            (Some(user), Some((_, Some(key)))) if !key.is_empty() => {
                if key != user.as_bytes() {
                    let message = format!("the key is `{}`, the user `{}`", shown_bytes(key), shown(&user));
                    return Err(Reject::new(Reason::KeyMismatch, "user_id", message));
                }
                user
            }
            (None, Some((_, Some(key)))) if !key.is_empty() => {
                let key = std::str::from_utf8(key)
                    .map_err(|_| Reject::new(Reason::InvalidUtf8, "key", "the key is no UTF-8"))?;
                if key.trim().is_empty() {
                    return Err(Reject::new(Reason::MissingUser, "user_id", "the record and its key name no user"));
                }
                repairs.add(Repair::UserFromKey);
                Cow::Owned(key.to_owned())
            }
            (Some(_), Some(_)) => {
                return Err(Reject::new(Reason::MissingKey, "key", "records must be keyed by user id"));
            }
            (None, _) => return Err(Reject::new(Reason::MissingUser, "user_id", "the record names no user")),
        };
        self.bounded(&user, "user_id")?;
        Ok(user)
    }

    fn time_of(&self, wire: &Wire<'_>, record_ms: i64, repairs: &mut Repairs) -> Result<i64, Reject> {
        let time_ms = match &wire.time {
            Scalar::Signed(number) => *number,
            Scalar::Float(number) if number.is_finite() => *number as i64,
            Scalar::Text(text) if !trimmed(text).is_empty() => parse_time_ms(trimmed(text)).ok_or_else(|| {
                let message = format!("`{}` is neither epoch milliseconds nor RFC 3339", shown(text));
                Reject::new(Reason::InvalidTime, "timestamp", message)
            })?,
            Scalar::Absent | Scalar::Text(_) => match self.params.missing_time {
                MissingTime::RecordTime if record_ms > 0 => {
                    repairs.add(Repair::TimeFromRecord);
                    record_ms
                }
                _ => return Err(Reject::new(Reason::MissingTime, "timestamp", "there is no time")),
            },
            Scalar::Float(_) | Scalar::Unsigned(_) => i64::MAX,
            Scalar::Other(what) => return Err(wrong_type("timestamp", what)),
        };
        if time_ms < self.params.earliest_ms || time_ms >= END_MS {
            let hint = if (0..100_000_000_000).contains(&time_ms) { " (epoch seconds? send milliseconds)" } else { "" };
            let message = format!("`{time_ms}` ms is outside of what can be{hint}");
            return Err(Reject::new(Reason::AbsurdTime, "timestamp", message));
        }
        if record_ms > 0 && time_ms > record_ms.saturating_add(self.params.max_future_ms) {
            let message = format!(
                "`{time_ms}` ms is more than `{}` ms past the record's own `{record_ms}`",
                self.params.max_future_ms
            );
            return Err(Reject::new(Reason::FutureTime, "timestamp", message));
        }
        Ok(time_ms)
    }

    fn query_of<'a>(&self, wire: &Wire<'a>, repairs: &mut Repairs) -> Result<Option<Name<'a>>, Reject> {
        let Some(text) = text_of(&wire.query, "query")? else {
            repairs.add(Repair::QueryAbsent);
            return Ok(None);
        };
        let text = if text.bytes().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii()) {
            Cow::Owned(text.to_lowercase())
        } else {
            text
        };
        Ok(Some(Name::new(NameKind::Query, self.cut(text, repairs))))
    }

    fn lines_of<'a>(
        &self,
        wire: &Wire<'a>,
        kind: EventKind,
        repairs: &mut Repairs,
    ) -> Result<SmallVec<[ProductLine<'a>; 1]>, Reject> {
        let lines = wire.lines();
        // An order without a product is still worth its revenue, and counts as one line.
        if kind == EventKind::Purchase && lines.len() <= 1 {
            let empty = WireLine::default();
            let line = self.line_of(lines.first().unwrap_or(&empty), kind, &wire.revenue, repairs)?;
            return Ok(smallvec::smallvec![line]);
        }
        let mut out = SmallVec::with_capacity(lines.len());
        for line in lines {
            out.push(self.line_of(line, kind, &Scalar::Absent, repairs)?);
        }
        Ok(out)
    }

    fn line_of<'a>(
        &self,
        line: &WireLine<'a>,
        kind: EventKind,
        revenue: &Scalar<'_>,
        repairs: &mut Repairs,
    ) -> Result<ProductLine<'a>, Reject> {
        let item = match text_of(&line.item, "product_id")? {
            Some(text) => {
                self.bounded(&text, "product_id")?;
                Some(Name::new(NameKind::Item, text))
            }
            None => None,
        };
        let category =
            text_of(&line.category, "category")?.map(|text| Name::new(NameKind::Category, self.cut(text, repairs)));
        let given_quantity = amount_of(&line.quantity, "quantity")?;
        let given_price = amount_of(&line.price, "price")?;
        let quantity = given_quantity.unwrap_or(1.0);
        let price = match given_price {
            Some(price) => Some(price),
            None => amount_of(revenue, "revenue")?.filter(|_| quantity > 0.0).map(|value| {
                repairs.add(Repair::PriceFromRevenue);
                value / quantity
            }),
        };
        if needs_numbers(kind) {
            if given_quantity.is_none() {
                repairs.add(Repair::QuantityAbsent);
            }
            if price.is_none() {
                repairs.add(Repair::PriceAbsent);
            }
        }
        // A weighed half pound is one unit, and worth half its price.
        let units = if quantity > 0.0 { quantity.max(1.0) } else { 0.0 };
        Ok(ProductLine {
            item,
            category,
            price_minor: price.map(|price| whole(price * MINOR_UNITS, repairs)),
            quantity: whole(units, repairs),
            value_minor: price.map_or(0, |price| whole(price * quantity * MINOR_UNITS, repairs)),
        })
    }

    fn bounded(&self, text: &str, field: &'static str) -> Result<(), Reject> {
        let limit = self.params.max_text_bytes;
        if text.len() > limit {
            let message = format!("`{}` bytes, at most `{limit}` are kept", text.len());
            return Err(Reject::new(Reason::OversizeText, field, message));
        }
        Ok(())
    }

    fn cut<'a>(&self, text: Cow<'a, str>, repairs: &mut Repairs) -> Cow<'a, str> {
        let limit = self.params.max_text_bytes;
        if text.len() <= limit {
            return text;
        }
        repairs.add(Repair::TextTruncated);
        let end = text.floor_char_boundary(limit);
        match text {
            Cow::Borrowed(text) => Cow::Borrowed(&text[..end]),
            Cow::Owned(mut text) => {
                text.truncate(end);
                Cow::Owned(text)
            }
        }
    }
}

fn erasure_is_no_event() -> Reject {
    let message = "a user is erased by `DELETE /v1/users/{id}` or `undercurrent erase`, not by an event";
    Reject::new(Reason::UnknownEvent, "event", message)
}

/// Whether a record is a request to forget its user.
fn asks_for_erasure(wire: &Wire<'_>) -> bool {
    matches!(&wire.event, Scalar::Text(name) if trimmed(name) == ERASE_EVENT)
}

/// Rules used on one record, one bit each: they are counted only when the record becomes an event.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Repairs(u32);

impl Repairs {
    pub(super) fn add(&mut self, repair: Repair) {
        self.0 |= 1 << repair as u32;
    }

    fn count_into(self, counts: &mut CleaningCounts) {
        let mut rest = self.0;
        while rest != 0 {
            counts.add_repair(Repair::ALL[rest.trailing_zeros() as usize]);
            rest &= rest - 1;
        }
    }
}

/// Whether a missing price or quantity matters for events of `kind`.
pub(super) fn needs_numbers(kind: EventKind) -> bool {
    matches!(kind, EventKind::Purchase | EventKind::CartAdd)
}

/// The text of a field, trimmed; `None` when there is nothing. Whole numbers count as their digits.
#[inline]
pub(super) fn text_of<'a>(scalar: &Scalar<'a>, field: &'static str) -> Result<Option<Cow<'a, str>>, Reject> {
    Ok(match scalar {
        Scalar::Absent => None,
        Scalar::Text(Cow::Borrowed(text)) => Some(trimmed(text)).filter(|text| !text.is_empty()).map(Cow::Borrowed),
        Scalar::Text(Cow::Owned(text)) => {
            Some(trimmed(text)).filter(|text| !text.is_empty()).map(|text| Cow::Owned(text.to_owned()))
        }
        Scalar::Signed(number) => Some(Cow::Owned(number.to_string())),
        Scalar::Unsigned(number) => Some(Cow::Owned(number.to_string())),
        Scalar::Float(_) => return Err(wrong_type(field, "a number that is not whole or has too many digits")),
        Scalar::Other(what) => return Err(wrong_type(field, what)),
    })
}

/// A stable hash of an id.
#[inline]
fn hash_of(scalar: &Scalar<'_>, field: &'static str) -> Result<Option<u64>, Reject> {
    if let Scalar::Text(text) = scalar {
        let text = trimmed(text);
        return Ok((!text.is_empty()).then(|| xxh3_64(text.as_bytes())));
    }
    Ok(text_of(scalar, field)?.map(|text| xxh3_64(text.as_bytes())))
}

/// A finite number of zero or more; `None` when there is nothing.
#[inline]
pub(super) fn amount_of(scalar: &Scalar<'_>, field: &'static str) -> Result<Option<f64>, Reject> {
    let number = match scalar {
        Scalar::Absent => return Ok(None),
        Scalar::Signed(number) => *number as f64,
        Scalar::Unsigned(number) => *number as f64,
        Scalar::Float(number) => *number,
        Scalar::Text(text) => {
            let text = trimmed(text);
            if text.is_empty() {
                return Ok(None);
            }
            text.parse()
                .map_err(|_| Reject::new(Reason::InvalidNumber, field, format!("`{}` is no number", shown(text))))?
        }
        Scalar::Other(what) => return Err(wrong_type(field, what)),
    };
    if !number.is_finite() {
        return Err(Reject::new(Reason::NonFiniteNumber, field, format!("`{number}` is not finite")));
    }
    if number < 0.0 {
        return Err(Reject::new(Reason::NegativeNumber, field, format!("`{number}` is below zero")));
    }
    Ok(Some(number))
}

/// Rounds to a whole number, saturating.
fn whole(number: f64, repairs: &mut Repairs) -> u32 {
    if number > f64::from(u32::MAX) {
        repairs.add(Repair::NumberSaturated);
    }
    number.round() as u32
}

/// `text` without white space at its ends; the usual text has none.
#[inline]
pub(super) fn trimmed(text: &str) -> &str {
    match (text.as_bytes().first(), text.as_bytes().last()) {
        (Some(b'!'..=b'~'), Some(b'!'..=b'~')) => text,
        _ => text.trim(),
    }
}

fn wrong_type(field: &'static str, what: &str) -> Reject {
    Reject::new(Reason::WrongType, field, format!("is {what}"))
}

/// The head of a text, for messages.
fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(64)]
}

fn shown_bytes(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(&bytes[..bytes.len().min(64)])
}
