//! Writes the wire form back as a record of our own schema.

use std::io::Write as _;

use super::{
    codec::trimmed,
    time::parse_time_ms,
    wire::{Scalar, Wire, WireLine},
};

/// Appends `wire` to `out` as one JSON object of our schema, whatever it was read from. Texts that are numbers become
/// numbers; what is no number stays as it was written, so that decoding refuses it for the same reason.
pub(super) fn write_json(wire: &Wire<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    let mut separator = "";
    let mut field = |name: &str, value: &Scalar<'_>, write: fn(&Scalar<'_>, &mut Vec<u8>), out: &mut Vec<u8>| {
        if *value != Scalar::Absent {
            push(out, separator);
            push_name(out, name);
            write(value, out);
            separator = ",";
        }
    };
    field("event_id", &wire.event_id, text, out);
    field("event", &wire.event, text, out);
    field("user_id", &wire.user, text, out);
    field("anonymous_id", &wire.anonymous, text, out);
    field("session_id", &wire.session, text, out);
    field("timestamp", &wire.time, time, out);
    field("query", &wire.query, text, out);
    field("order_id", &wire.order, text, out);
    field("revenue", &wire.revenue, number, out);
    if wire.products.is_empty() {
        field("product_id", &wire.flat.item, text, out);
        field("category", &wire.flat.category, text, out);
        field("price", &wire.flat.price, number, out);
        field("quantity", &wire.flat.quantity, number, out);
    } else {
        push(out, separator);
        push(out, "\"products\":[");
        for (index, line) in wire.products.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            product(line, out);
        }
        out.push(b']');
    }
    out.push(b'}');
}

fn product(line: &WireLine<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    let mut separator = "";
    for (name, value, is_number) in [
        ("product_id", &line.item, false),
        ("category", &line.category, false),
        ("price", &line.price, true),
        ("quantity", &line.quantity, true),
    ] {
        if *value != Scalar::Absent {
            push(out, separator);
            push_name(out, name);
            if is_number {
                number(value, out);
            } else {
                text(value, out);
            }
            separator = ",";
        }
    }
    out.push(b'}');
}

fn push(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn push_name(out: &mut Vec<u8>, name: &str) {
    out.push(b'"');
    push(out, name);
    push(out, "\":");
}

#[expect(clippy::expect_used, reason = "writing to a vector cannot fail")]
fn text(value: &Scalar<'_>, out: &mut Vec<u8>) {
    match value {
        Scalar::Absent => push(out, "null"),
        Scalar::Text(text) => serde_json::to_writer(out, &**text).expect("a text is always written"),
        Scalar::Signed(number) => write!(out, "{number}").expect("a number is always written"),
        Scalar::Unsigned(number) => write!(out, "{number}").expect("a number is always written"),
        Scalar::Float(number) => serde_json::to_writer(out, number).expect("a number is always written"),
        // Only its type is known, and decoding refuses the type: any list will do.
        Scalar::Other(_) => push(out, "[]"),
    }
}

fn number(value: &Scalar<'_>, out: &mut Vec<u8>) {
    let Scalar::Text(written) = value else { return text(value, out) };
    let written = trimmed(written);
    if let Ok(whole) = written.parse::<i64>() {
        text(&Scalar::Signed(whole), out);
    } else if let Some(decimal) = written.parse::<f64>().ok().filter(|decimal| decimal.is_finite()) {
        text(&Scalar::Float(decimal), out);
    } else {
        text(value, out);
    }
}

fn time(value: &Scalar<'_>, out: &mut Vec<u8>) {
    match value {
        Scalar::Text(written) if written.bytes().all(|byte| byte.is_ascii_digit()) => match parse_time_ms(written) {
            Some(time_ms) => text(&Scalar::Signed(time_ms), out),
            None => text(value, out),
        },
        _ => text(value, out),
    }
}
