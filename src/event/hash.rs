//! A hasher for maps keyed by text.

use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// XXH3 over a text: fast for short ones, and equal everywhere.
#[derive(Debug, Default, Clone, Copy)]
pub struct TextHasher(u64);

/// Builds [`TextHasher`]s.
pub type TextHashBuilder = BuildHasherDefault<TextHasher>;

impl TextHasher {
    /// The hash of `text` alone: what a map with this hasher uses.
    pub fn of(text: &str) -> u64 {
        xxh3_64_with_seed(text.as_bytes(), 0)
    }
}

impl Hasher for TextHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    // `str` ends its hash with one byte 0xFF, so that tuples of texts cannot be confused; a lone text needs no end.
    fn write_u8(&mut self, _: u8) {}
}
