//! Seeded mutations of inputs.

/// Pieces that decoders stumble over.
const PIECES: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b",",
    b":",
    b"\n",
    b"\r\n",
    b"\0",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"null",
    b"true",
    b"-",
    b"NaN",
    b"Infinity",
    b"1e309",
    b"-1e309",
    b"1e-400",
    b"-0",
    b"0.1e1",
    b"99999999999999999999",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"18446744073709551616",
    b"253402300800000",
    b"1700000000",
    b"1970-01-01T00:00:00Z",
    b"2016-12-31T23:59:60Z",
    b"9999-12-31T23:59:59.999+23:59",
    b"0000-00-00",
    b"\"event\"",
    b"\"type\":\"track\"",
    b"\"properties\"",
    b"\"products\":[",
    b"\"user_id\":",
    b"\"price\":",
    b"\"quantity\":",
    b"\"timestamp\":",
    b"user_id,event_type,timestamp",
    b"item_id",
    b"\"\"",
    b"=",
    b"#",
    b"[[",
    b"'''",
];

/// The longest run of one piece.
const LONG_BYTES: usize = 20_000;

/// Makes inputs out of others.
pub(crate) struct Mutator {
    state: u64,
    is_text: bool,
}

impl Mutator {
    pub(crate) fn new(seed: u64, is_text: bool) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), is_text }
    }

    /// `SplitMix64` (Steele, Lea, Flood 2014).
    fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.bits() % (bound.max(1) as u64)).unwrap_or(0)
    }

    /// A mutated copy of one of `inputs`.
    pub(crate) fn next(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = inputs[self.below(inputs.len())].clone();
        // Mostly a few changes: many at once never get past the first check.
        let most = if self.below(8) == 0 { 16 } else { 3 };
        let changes = 1 + self.below(most);
        for _ in 0..changes {
            self.change(&mut bytes, inputs);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        let at = self.below(bytes.len() + 1);
        let length = 1 + self.below(16.min(bytes.len() - at + 1));
        let end = (at + length).min(bytes.len());
        match self.below(if self.is_text { 10 } else { 8 }) {
            0 if !bytes.is_empty() => {
                let place = self.below(bytes.len());
                bytes[place] ^= 1 << self.below(8);
            }
            1 if !bytes.is_empty() => {
                let place = self.below(bytes.len());
                bytes[place] = [0, 1, 0x7f, 0x80, 0xff, b'0', b'9', b'-'][self.below(8)];
            }
            2 => drop(bytes.drain(at..end)),
            3 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            4 => bytes.truncate(at),
            // A part of another input.
            5 => {
                let other = &inputs[self.below(inputs.len())];
                let from = self.below(other.len() + 1);
                let to = from + self.below((other.len() - from).min(4_096) + 1);
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            // A number of eight bytes, as lengths and offsets are.
            6 if at + 8 <= bytes.len() => {
                let value = [0, 1, u64::MAX, u64::MAX >> 1, 1 << 32, 1 << 40, self.bits()][self.below(7)];
                bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            // Far too much of something.
            7 if self.below(16) == 0 => {
                let piece = PIECES[self.below(PIECES.len())];
                let times = 1 + self.below(LONG_BYTES / piece.len());
                bytes.splice(at..at, piece.repeat(times));
            }
            _ => {
                let piece = PIECES[self.below(PIECES.len())];
                let end = if self.below(2) == 0 { at } else { end };
                bytes.splice(at..end, piece.iter().copied());
            }
        }
    }
}
