//! Cuts a request body into single events without decoding them: an object, an array of objects, or one object a line.

use std::fmt;

/// One event of a body, still as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row<'a> {
    /// Its place: the line number in JSON Lines, else the position in the array; from 1.
    pub(super) number: usize,
    pub(super) bytes: &'a [u8],
}

/// A body whose events cannot be told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SplitError {
    Empty,
    /// The body begins with something else than `{` or `[`.
    NotEvents,
    /// The array does not end, or goes on after its end.
    BrokenArray {
        byte: usize,
        problem: &'static str,
    },
    TooMany {
        limit: usize,
    },
}

impl fmt::Display for SplitError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => formatter.write_str("the body holds no event"),
            Self::NotEvents => formatter
                .write_str("the body must be one JSON object, an array of objects, or one object a line (JSON Lines)"),
            Self::BrokenArray { byte, problem } => write!(formatter, "the array {problem}, at byte {byte}"),
            Self::TooMany { limit } => write!(formatter, "the body holds more than {limit} events; send fewer at once"),
        }
    }
}

/// Cuts `body` into at most `limit` events. `is_lines` is what the content type says; without it a body that begins with
/// `{` is one event when it is one JSON value, and JSON Lines when another line follows it.
pub(super) fn split(body: &[u8], is_lines: bool, limit: usize) -> Result<Vec<Row<'_>>, SplitError> {
    let first = body.iter().position(|byte| !byte.is_ascii_whitespace()).ok_or(SplitError::Empty)?;
    let rows = match body[first] {
        b'[' if !is_lines => split_array(body, first, limit)?,
        b'{' if !is_lines && is_one_object(&body[first..]) => vec![Row { number: 1, bytes: body.trim_ascii() }],
        b'{' => split_lines(body, limit)?,
        _ if is_lines => split_lines(body, limit)?,
        _ => return Err(SplitError::NotEvents),
    };
    if rows.is_empty() { Err(SplitError::Empty) } else { Ok(rows) }
}

fn split_lines(body: &[u8], limit: usize) -> Result<Vec<Row<'_>>, SplitError> {
    let lines = body.split(|byte| *byte == b'\n').enumerate();
    let rows = lines.map(|(index, line)| Row { number: index + 1, bytes: line.trim_ascii() });
    let rows: Vec<Row<'_>> = rows.filter(|row| !row.bytes.is_empty()).take(limit + 1).collect();
    if rows.len() > limit { Err(SplitError::TooMany { limit }) } else { Ok(rows) }
}

/// Whether the object at the start of `body` is all there is. One that never ends counts: the decoder says what is wrong.
fn is_one_object(body: &[u8]) -> bool {
    let mut nesting = Nesting::default();
    let end = body.iter().position(|byte| nesting.step(*byte) == Step::Closed);
    end.is_none_or(|end| body[end + 1..].trim_ascii().is_empty())
}

fn split_array(body: &[u8], open: usize, limit: usize) -> Result<Vec<Row<'_>>, SplitError> {
    let mut nesting = Nesting::default();
    let mut rows = Vec::new();
    let mut start = open + 1;
    for (index, byte) in body.iter().enumerate().skip(open) {
        let closed = match nesting.step(*byte) {
            Step::Closed => true,
            Step::Comma if nesting.depth == 1 => false,
            _ => continue,
        };
        let element = body[start..index].trim_ascii();
        let is_end_of_empty = closed && rows.is_empty() && element.is_empty();
        if !is_end_of_empty {
            rows.push(Row { number: rows.len() + 1, bytes: element });
        }
        if rows.len() > limit {
            return Err(SplitError::TooMany { limit });
        }
        start = index + 1;
        if closed {
            return match body[start..].trim_ascii() {
                [] => Ok(rows),
                _ => Err(SplitError::BrokenArray { byte: start, problem: "is followed by something else" }),
            };
        }
    }
    Err(SplitError::BrokenArray { byte: body.len(), problem: "does not end" })
}

/// Follows brackets and strings of JSON text.
#[derive(Debug, Default)]
struct Nesting {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Inside,
    Comma,
    /// The outermost bracket was closed.
    Closed,
}

impl Nesting {
    fn step(&mut self, byte: u8) -> Step {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return Step::Inside;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    return Step::Closed;
                }
            }
            b',' => return Step::Comma,
            _ => {}
        }
        Step::Inside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, is_lines: bool, expected: &[(usize, &str)]) {
        let rows = split(body.as_bytes(), is_lines, 4).unwrap();
        let found: Vec<(usize, &str)> =
            rows.iter().map(|row| (row.number, std::str::from_utf8(row.bytes).unwrap())).collect();
        assert_eq!(found, expected, "{body}");
    }

    #[test]
    fn every_form_is_cut_into_its_events() {
        check(r#" {"a":1} "#, false, &[(1, r#"{"a":1}"#)]);
        check("{\n \"a\": {\"b\": 1}\n}\n", false, &[(1, "{\n \"a\": {\"b\": 1}\n}")]);
        check("{\"a\":1}\n\n{\"b\":2}\r\n", false, &[(1, r#"{"a":1}"#), (3, r#"{"b":2}"#)]);
        check("{\"a\":1}\nnonsense", true, &[(1, r#"{"a":1}"#), (2, "nonsense")]);
        check("[1]\n", true, &[(1, "[1]")]);
        check(r#"[{"a":[1,2]}, {"b":"],{\""} ]"#, false, &[(1, r#"{"a":[1,2]}"#), (2, r#"{"b":"],{\""}"#)]);
        check("[{},]", false, &[(1, "{}"), (2, "")]);
        check("[7]", false, &[(1, "7")]);
        check(r#"{"never": "ends"#, false, &[(1, r#"{"never": "ends"#)]);
    }

    #[test]
    fn what_cannot_be_cut_is_refused_as_a_whole() {
        let refused = |body: &str| split(body.as_bytes(), false, 2).unwrap_err();
        assert_eq!(refused(" \n"), SplitError::Empty);
        assert_eq!(refused("[ ]"), SplitError::Empty);
        assert_eq!(refused("user=1"), SplitError::NotEvents);
        assert_eq!(refused("[{},{},{}]"), SplitError::TooMany { limit: 2 });
        assert_eq!(refused("{}\n{}\n{}"), SplitError::TooMany { limit: 2 });
        assert!(matches!(refused("[{}"), SplitError::BrokenArray { byte: 3, .. }));
        assert!(matches!(refused("[{}] x"), SplitError::BrokenArray { byte: 4, .. }));
    }
}
