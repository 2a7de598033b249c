//! Writes JSON piece by piece, for the records of which there are many.
//!
//! Names and punctuation come as literal text, so that nothing looks for characters to escape where there can be none.

use serde::Serialize;

/// JSON under construction. Every method appends `before` first: the punctuation and the name of what follows.
pub(super) struct Json(Vec<u8>);

impl Json {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// Appends JSON as it is.
    pub(super) fn raw(&mut self, json: &str) {
        self.0.extend_from_slice(json.as_bytes());
    }

    /// Appends a text that holds nothing to escape: an id, a time, a name of ours.
    pub(super) fn plain(&mut self, before: &str, text: &str) {
        debug_assert!(!needs_escape(text), "`{text}` must be escaped");
        self.raw(before);
        self.0.push(b'"');
        self.raw(text);
        self.0.push(b'"');
    }

    /// Appends any text.
    pub(super) fn text(&mut self, before: &str, text: &str) {
        if needs_escape(text) {
            self.raw(before);
            self.value(text);
        } else {
            self.plain(before, text);
        }
    }

    /// Appends a number; none, or one that is not finite, is `null`.
    pub(super) fn number(&mut self, before: &str, number: impl Serialize) {
        self.raw(before);
        self.value(&number);
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn value(&mut self, value: &(impl Serialize + ?Sized)) {
        #[expect(clippy::expect_used, reason = "texts and numbers: nothing that JSON cannot hold, and no I/O")]
        serde_json::to_writer(&mut self.0, value).expect("plain data serialises");
    }
}

fn needs_escape(text: &str) -> bool {
    // Counting has no early end, so the compiler looks at many bytes at once.
    text.bytes().filter(|byte| matches!(byte, ..b' ' | b'"' | b'\\')).count() > 0
}

/// Bytes as hexadecimal digits, two each.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}
