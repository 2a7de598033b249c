//! The short way through a record: the usual JSON, read without a general parser's care for the unusual.
//!
//! It understands a subset of JSON (no escapes in texts, no exponents, no deep nesting) and gives up on everything else,
//! errors included: then serde reads the record from the start. So it can only be faster, never different; a test holds
//! the two against each other.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::wire::{Field, Scalar, Scope, Wire, WireLine};

/// Nesting of skipped values.
const MAX_DEPTH: u8 = 8;
/// Digits of a number that a double holds exactly; with as many after the point one division rounds as the general way
/// does.
const MAX_DIGITS: usize = 15;
const POWERS_OF_TEN: [f64; MAX_DIGITS + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// Reads one JSON object; `None` when the general parser must read it (what `wire` holds then is of no use).
pub(super) fn parse<'a>(text: &'a str, wire: &mut Wire<'a>) -> Option<()> {
    let mut scan = Scan { text, bytes: text.as_bytes(), at: 0 };
    scan.expect(b'{')?;
    scan.fields(Scope::Top, wire)?;
    scan.skip_space();
    (scan.at == scan.bytes.len()).then_some(())
}

struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    /// The next byte to read.
    at: usize,
}

impl<'a> Scan<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    /// The next byte that is no white space, consumed.
    fn next(&mut self) -> Option<u8> {
        let mut byte = self.peek()?;
        if byte <= b' ' {
            self.skip_space();
            byte = self.peek()?;
        }
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    /// Calls `member` with each name of an object whose brace is read already; it must read the value.
    fn members(&mut self, mut member: impl FnMut(&mut Self, &'a [u8]) -> Option<()>) -> Option<()> {
        let mut byte = self.next()?;
        if byte == b'}' {
            return Some(());
        }
        loop {
            if byte != b'"' {
                return None;
            }
            let name = self.quoted()?;
            self.expect(b':')?;
            member(self, name)?;
            match self.next()? {
                b',' => byte = self.next()?,
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    fn fields(&mut self, scope: Scope, wire: &mut Wire<'a>) -> Option<()> {
        self.members(|scan, name| {
            let field = Field::of(scope, name);
            if let Some(place) = wire.scalar_of(field) {
                *place = scan.scalar()?;
                return Some(());
            }
            match field {
                Field::Products => scan.products(&mut wire.products),
                Field::Properties => scan.object_or_null(Scope::Properties, wire),
                Field::Context => scan.object_or_null(Scope::Context, wire),
                _ => scan.skip(MAX_DEPTH),
            }
        })
    }

    fn object_or_null(&mut self, scope: Scope, wire: &mut Wire<'a>) -> Option<()> {
        match self.next()? {
            b'{' => self.fields(scope, wire),
            b'n' => self.word("ull"),
            _ => None,
        }
    }

    fn products(&mut self, products: &mut SmallVec<[WireLine<'a>; 1]>) -> Option<()> {
        products.clear();
        match self.next()? {
            b'[' => {}
            b'n' => return self.word("ull"),
            _ => return None,
        }
        let mut byte = self.next()?;
        if byte == b']' {
            return Some(());
        }
        loop {
            if byte != b'{' {
                return None;
            }
            let mut line = WireLine::default();
            self.members(|scan, name| {
                let place = match Field::of_product(name) {
                    Field::Item => &mut line.item,
                    Field::Category => &mut line.category,
                    Field::Price => &mut line.price,
                    Field::Quantity => &mut line.quantity,
                    _ => return scan.skip(MAX_DEPTH),
                };
                *place = scan.scalar()?;
                Some(())
            })?;
            if line.is_empty() {
                return None;
            }
            products.push(line);
            match self.next()? {
                b',' => byte = self.next()?,
                b']' => return Some(()),
                _ => return None,
            }
        }
    }

    fn scalar(&mut self) -> Option<Scalar<'a>> {
        match self.next()? {
            b'"' => {
                let start = self.at;
                let end = start + self.quoted()?.len();
                Some(Scalar::Text(Cow::Borrowed(self.text.get(start..end)?)))
            }
            b't' => self.word("rue").map(|()| Scalar::Other("a boolean")),
            b'f' => self.word("alse").map(|()| Scalar::Other("a boolean")),
            b'n' => self.word("ull").map(|()| Scalar::Absent),
            digit @ b'0'..=b'9' => self.number(digit),
            _ => None,
        }
    }

    /// A number of zero or more that begins with `digit`.
    fn number(&mut self, digit: u8) -> Option<Scalar<'a>> {
        let start = self.at - 1;
        let whole = self.digits(u64::from(digit - b'0'));
        let count = self.at - start;
        if count > MAX_DIGITS || (digit == b'0' && count > 1) {
            return None;
        }
        match self.peek() {
            Some(b'.') => {
                self.at += 1;
                let point = self.at;
                let all = self.digits(whole);
                let places = self.at - point;
                if places == 0 || count + places > MAX_DIGITS || matches!(self.peek(), Some(b'e' | b'E')) {
                    return None;
                }
                #[expect(clippy::cast_precision_loss, reason = "at most 15 digits")]
                let number = all as f64 / POWERS_OF_TEN[places];
                Some(Scalar::Float(number))
            }
            Some(b'e' | b'E') => None,
            _ => i64::try_from(whole).ok().map(Scalar::Signed),
        }
    }

    /// Appends the digits that follow to `number`. Wraps when there are too many: the caller counts them.
    fn digits(&mut self, mut number: u64) -> u64 {
        while let Some(eight) = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk).copied().and_then(eight_digits)
        {
            number = number.wrapping_mul(100_000_000).wrapping_add(eight);
            self.at += 8;
        }
        while let Some(byte @ b'0'..=b'9') = self.peek() {
            number = number.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
            self.at += 1;
        }
        number
    }

    /// Skips a value of any type.
    fn skip(&mut self, depth: u8) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match self.next()? {
            b'{' => self.members(|scan, _| scan.skip(depth)),
            b'[' => {
                self.skip_space();
                if self.peek()? == b']' {
                    self.at += 1;
                    return Some(());
                }
                loop {
                    self.skip(depth)?;
                    match self.next()? {
                        b',' => {}
                        b']' => return Some(()),
                        _ => return None,
                    }
                }
            }
            _ => {
                self.at -= 1;
                self.scalar().map(|_| ())
            }
        }
    }

    fn word(&mut self, rest: &str) -> Option<()> {
        let end = self.at + rest.len();
        (self.bytes.get(self.at..end)? == rest.as_bytes()).then(|| self.at = end)
    }

    /// The bytes up to the quote that ends a text; `None` for an escape or a control character.
    #[inline]
    fn quoted(&mut self) -> Option<&'a [u8]> {
        let rest = self.bytes.get(self.at..)?;
        let mut length = 0;
        loop {
            let Some(block) = rest.get(length..).and_then(<[u8]>::first_chunk) else {
                length += rest.get(length..)?.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..b' '))?;
                break;
            };
            match first_stop(*block) {
                Some(place) => {
                    length += place;
                    break;
                }
                None => length += BLOCK,
            }
        }
        self.at += length + 1;
        let (text, end) = rest.split_at_checked(length)?;
        (*end.first()? == b'"').then_some(text)
    }
}

/// The number that eight digits spell; `None` when one of them is no digit.
#[inline]
fn eight_digits(text: [u8; 8]) -> Option<u64> {
    const ZEROS: u64 = 0x3030_3030_3030_3030;
    let word = u64::from_le_bytes(text);
    let digits = word.wrapping_sub(ZEROS);
    // The high half of a digit is 3, and stays 3 when 6 is added.
    if (word & word.wrapping_add(0x0606_0606_0606_0606)) & 0xF0F0_F0F0_F0F0_F0F0 != ZEROS {
        return None;
    }
    // Pairs, then fours, then all eight, each in one multiplication.
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8) & 0x00FF_00FF_00FF_00FF;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_FFFF_0000_FFFF;
    Some(fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xFFFF_FFFF)
}

/// Bytes looked at together.
const BLOCK: usize = 8;

/// The place of the first quote, backslash or control character.
#[inline]
fn first_stop(block: [u8; BLOCK]) -> Option<usize> {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let word = u64::from_le_bytes(block);
    // Flipping the second bit moves the quote next to the control characters, so that one subtraction borrows for both.
    // A borrow may run into the bytes above the first stop, never into those below it.
    let low = (word ^ (EACH * 0x02)).wrapping_sub(EACH * 0x21);
    let backslash = (word ^ (EACH * 0x5C)).wrapping_sub(EACH);
    let stops = (low | backslash) & !word & (EACH * 0x80);
    (stops != 0).then(|| stops.trailing_zeros() as usize / 8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether the short way reads it; where it does, it must read what serde reads.
    fn reads(text: &str) -> bool {
        let mut wire = Wire::default();
        let is_read = parse(text, &mut wire).is_some();
        if is_read {
            assert_eq!(Ok(wire), Wire::parse_any(text), "{text}");
        }
        is_read
    }

    #[test]
    fn reads_the_usual() {
        for text in [
            "{}",
            " { } \n",
            r#"{"event_id":"e1","event":"view","user_id":"u","timestamp":1700000000000,"product_id":"tea"}"#,
            r#"{"event":"purchase","products":[{"product_id":"a","price":2.50,"quantity":2},{"category":"ü > b"}],"x":[]}"#,
            r#"{"type":"track","properties":{"query":"tea","nested":{"a":[1,2.5,"x",null,true]}},"context":{"page":{}}}"#,
            r#"{"products":[],"properties":null,"price":0,"quantity":0.000001,"event":null,"query":false}"#,
            r#"{"event":"a","event":"b","products":[{"price":1}],"products":null}"#,
            "{\"a text of more than eight bytes, before the quote\":\"and another one of that kind\"}",
        ] {
            assert!(reads(text), "{text}");
        }
    }

    /// Every text of a usual record is borrowed, and one line needs no heap: decoding allocates nothing.
    #[test]
    fn the_usual_record_keeps_its_texts_borrowed() {
        use crate::event::{CleaningCounts, Decoder, RawRecord, View};

        let payload = br#"{"event_id":"e1","event":"view","user_id":"u","timestamp":1700000000000,"session_id":"s",
            "products":[{"product_id":"tea","category":"DRINKS > TEA","price":2.50,"quantity":1}]}"#;
        assert!(reads(std::str::from_utf8(payload).unwrap()));
        let record = RawRecord { key: Some(b"u"), payload: Some(payload), timestamp_ms: 0 };
        let event = Decoder::default().decode(View::Click, &record, &mut CleaningCounts::default()).unwrap();
        assert!(matches!(event.user, Cow::Borrowed("u")));
        assert!(!event.lines.spilled());
        let line = &event.lines[0];
        for name in line.item.iter().chain(&line.category) {
            assert!(matches!(name.text, Cow::Borrowed(_)), "{name:?}");
        }
    }

    #[test]
    fn leaves_the_unusual() {
        for text in [
            "",
            "[]",
            "null",
            "{",
            "{} {}",
            r#"{"event":"a\"b"}"#,
            "{\"event\":\"a\u{1}b\"}",
            r#"{"price":1e3}"#,
            r#"{"price":1.}"#,
            r#"{"price":01}"#,
            r#"{"price":-1}"#,
            r#"{"price":NaN}"#,
            r#"{"timestamp":99999999999999999999}"#,
            r#"{"products":[{}]}"#,
            r#"{"products":{}}"#,
            r#"{"properties":[]}"#,
            r#"{"event":{}}"#,
            r#"{"event":"a",}"#,
            r#"{"event":"a" "b":1}"#,
            r#"{"event":tru}"#,
            r#"{"x":[[[[[[[[[[1]]]]]]]]]]}"#,
        ] {
            assert!(!reads(text), "{text}");
        }
    }

    #[test]
    fn eight_digits_at_once() {
        for number in [0, 7, 12_345_678, 90_000_001, 99_999_999] {
            let text = format!("{number:08}");
            assert_eq!(eight_digits(*text.as_bytes().first_chunk().unwrap()), Some(number));
        }
        for place in 0..8 {
            for other in 0..=u8::MAX {
                let mut text = *b"12345678";
                text[place] = other;
                assert_eq!(eight_digits(text).is_some(), other.is_ascii_digit(), "{other} at {place}");
            }
        }
    }

    #[test]
    fn stops_are_found_wherever_they_stand() {
        for place in 0..40 {
            for stop in ['"', '\\', '\u{1f}', '\0'] {
                let text = format!(
                    "{{\"event\":\"{}{stop}\"}}",
                    "ü~ !#[]\u{7f}".repeat(8).chars().take(place).collect::<String>()
                );
                assert!(!reads(&text), "{text:?}");
            }
        }
    }

    /// JSON of the names that mean something, and what stands between.
    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            4 => "[a-z >ü0-9]{0,20}".prop_map(|text| format!("\"{text}\"")),
            1 => prop::sample::select(vec!["null", "true", "false", "\"\\n\"", "1e5", "-3", "0", "00", "1.", "12345678901234567890"]).prop_map(str::to_owned),
            2 => any::<u64>().prop_map(|number| number.to_string()),
            3 => (0_u32..100_000, 0_u32..1_000_000).prop_map(|(whole, rest)| format!("{whole}.{rest}")),
        ];
        let name = prop::sample::select(vec![
            "event_id",
            "messageId",
            "event",
            "type",
            "user_id",
            "anonymousId",
            "session_id",
            "timestamp",
            "query",
            "order_id",
            "revenue",
            "product_id",
            "category",
            "price",
            "quantity",
            "products",
            "properties",
            "context",
            "x",
            "something longer",
        ]);
        leaf.prop_recursive(4, 24, 6, move |inner| {
            prop_oneof![
                3 => prop::collection::vec((name.clone(), inner.clone(), "[ \n]{0,1}"), 0..8).prop_map(|members| {
                    let members: Vec<String> =
                        members.iter().map(|(name, value, space)| format!("\"{name}\"{space}:{space}{value}{space}")).collect();
                    format!("{{{}}}", members.join(","))
                }),
                1 => prop::collection::vec(inner, 0..4).prop_map(|values| format!("[{}]", values.join(","))),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_the_general_parser(text in json()) {
            reads(&text);
        }

        #[test]
        fn agrees_on_broken_records(text in json(), place in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = text.into_bytes();
            let place = place.index(bytes.len());
            bytes[place] = byte;
            if let Ok(text) = std::str::from_utf8(&bytes) {
                reads(text);
            }
        }
    }
}
