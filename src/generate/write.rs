//! Made events as bytes: our JSON form, or rows of the CSV layout.

use super::{Catalogue, GenerateParams, MadeEvent, MadeLine, MadeQuery, Shoppers};
use crate::event::View;

/// The header of the CSV layout, with its line end.
pub fn csv_header() -> &'static str {
    "user_id,event_type,timestamp,item_id,category,query,price,quantity,session_id\n"
}

/// The id of a made shopper.
pub fn user_id(user: u32) -> String {
    let mut out = Vec::with_capacity(12);
    push_user(&mut out, user);
    String::from_utf8_lossy(&out).into_owned()
}

/// Appends one event as one JSON object, without a line end.
pub fn write_json(event: &MadeEvent, catalogue: &Catalogue, seed: u64, out: &mut Vec<u8>) {
    push(out, "{\"event_id\":\"g");
    push_number(out, seed);
    out.push(b'-');
    push_number(out, event.sequence);
    push(out, "\",\"event\":\"");
    push(out, event.kind.name());
    push(out, "\",\"user_id\":\"");
    push_user(out, event.user);
    push(out, "\",\"session_id\":\"");
    push_session(out, event);
    push(out, "\",\"timestamp\":");
    push_number(out, event.time_ms.unsigned_abs());
    if let Some(query) = event.query {
        push(out, ",\"query\":\"");
        push_query(out, query, catalogue);
        out.push(b'"');
    }
    match &event.lines[..] {
        [] => {}
        [line] => {
            out.push(b',');
            push_product(out, line, catalogue);
        }
        lines => {
            push(out, ",\"products\":[");
            for (index, line) in lines.iter().enumerate() {
                push(out, if index == 0 { "{" } else { ",{" });
                push_product(out, line, catalogue);
                out.push(b'}');
            }
            out.push(b']');
        }
    }
    out.push(b'}');
}

/// Appends one event as rows of the CSV layout, one a product; says how many rows.
pub fn write_csv(event: &MadeEvent, catalogue: &Catalogue, out: &mut Vec<u8>) -> u64 {
    if event.lines.is_empty() {
        push_row(out, event, None, catalogue);
        return 1;
    }
    let mut rows = 0;
    for line in &event.lines {
        push_row(out, event, Some(line), catalogue);
        rows += 1;
    }
    rows
}

/// A made record, ready for a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeRecord {
    /// The view whose topic takes it.
    pub view: View,
    /// The key: the shopper's id.
    pub key: String,
    /// The event's time, milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// The JSON payload, about 200 bytes.
    pub payload: Vec<u8>,
}

/// The events of these shoppers as JSON records, in time order, made one by one.
#[derive(Debug)]
pub struct MadeRecords(Shoppers);

impl MadeRecords {
    /// From the first event on.
    pub fn new(params: &GenerateParams) -> Self {
        Self(Shoppers::new(params))
    }
}

impl Iterator for MadeRecords {
    type Item = MadeRecord;

    fn next(&mut self) -> Option<MadeRecord> {
        let event = self.0.next()?;
        let mut payload = Vec::with_capacity(224);
        write_json(&event, self.0.catalogue(), self.0.params().seed, &mut payload);
        Some(MadeRecord { view: event.kind.view(), key: user_id(event.user), time_ms: event.time_ms, payload })
    }
}

/// The first `count` events of these shoppers as JSON records, in time order (fewer when there are fewer).
pub fn json_records(params: &GenerateParams, count: usize) -> Vec<MadeRecord> {
    MadeRecords::new(params).take(count).collect()
}

fn push_row(out: &mut Vec<u8>, event: &MadeEvent, line: Option<&MadeLine>, catalogue: &Catalogue) {
    push_user(out, event.user);
    out.push(b',');
    push(out, event.kind.name());
    out.push(b',');
    push_number(out, event.time_ms.unsigned_abs());
    out.push(b',');
    if let Some(line) = line {
        push_item(out, line.item);
        out.push(b',');
        push(out, catalogue.category_of(line.item));
    } else {
        out.push(b',');
    }
    out.push(b',');
    if let Some(query) = event.query {
        push_query(out, query, catalogue);
    }
    out.push(b',');
    if let Some(line) = line {
        push_money(out, line.price_minor);
        out.push(b',');
        push_number(out, u64::from(line.quantity));
    } else {
        out.push(b',');
    }
    out.push(b',');
    push_session(out, event);
    out.push(b'\n');
}

fn push_product(out: &mut Vec<u8>, line: &MadeLine, catalogue: &Catalogue) {
    push(out, "\"product_id\":\"");
    push_item(out, line.item);
    push(out, "\",\"category\":\"");
    push(out, catalogue.category_of(line.item));
    push(out, "\",\"price\":");
    push_money(out, line.price_minor);
    push(out, ",\"quantity\":");
    push_number(out, u64::from(line.quantity));
}

fn push_query(out: &mut Vec<u8>, query: MadeQuery, catalogue: &Catalogue) {
    let (before, after) = match query.form {
        0 => ("", ""),
        1 => ("cheap ", ""),
        2 => ("best ", ""),
        3 => ("", " offer"),
        _ => ("rare imported ", ""),
    };
    push(out, before);
    push(out, catalogue.word(u32::from(query.category)));
    push(out, after);
}

fn push(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn push_user(out: &mut Vec<u8>, user: u32) {
    out.push(b'u');
    push_padded(out, u64::from(user), 7);
}

pub(super) fn push_item(out: &mut Vec<u8>, item: u32) {
    out.push(b'i');
    push_padded(out, u64::from(item), 5);
}

fn push_session(out: &mut Vec<u8>, event: &MadeEvent) {
    out.push(b's');
    push_number(out, u64::from(event.user));
    out.push(b'-');
    push_number(out, u64::from(event.visit));
}

/// A number of minor units as a decimal of major units.
pub(super) fn push_money(out: &mut Vec<u8>, minor: u32) {
    push_number(out, u64::from(minor / 100));
    out.push(b'.');
    push_padded(out, u64::from(minor % 100), 2);
}

fn push_number(out: &mut Vec<u8>, number: u64) {
    push_padded(out, number, 1);
}

/// Appends a number with at least `width` digits.
fn push_padded(out: &mut Vec<u8>, number: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut start = digits.len();
    let mut rest = number;
    while rest > 0 {
        start -= 1;
        // The remainder is below ten.
        digits[start] = b'0' + (rest % 10).to_le_bytes()[0];
        rest /= 10;
    }
    out.extend_from_slice(&digits[start.min(digits.len() - width)..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_full() {
        let shown = |number, width| {
            let mut out = Vec::new();
            push_padded(&mut out, number, width);
            String::from_utf8(out).unwrap()
        };
        assert_eq!((shown(0, 1), shown(7, 2), shown(1_234_567, 3)), ("0".into(), "07".into(), "1234567".into()));
        assert_eq!(shown(u64::MAX, 1), u64::MAX.to_string());
        assert_eq!((user_id(17), user_id(123_456_789)), ("u0000017".into(), "u123456789".into()));
    }
}
