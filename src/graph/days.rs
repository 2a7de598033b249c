//! Which of the last 512 days a user was active, as bits: exact, small, and the source of most rhythm features.

#![expect(
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "ages and places of at most 512 days"
)]

use smallvec::SmallVec;

/// Active days, relative to the newest one. Grows by words of 64 days up to [`DayBits::CAPACITY_DAYS`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DayBits {
    /// Day number (days since the epoch, UTC) of bit 0; meaningless while `words` is empty.
    newest_day: i32,
    /// Bit `i` of word `w`: active on day `newest_day - (64 w + i)`. No trailing zero words.
    words: SmallVec<[u64; 1]>,
}

impl DayBits {
    /// Days kept; older ones fall off.
    pub const CAPACITY_DAYS: i32 = 512;

    /// Rebuilds from stored parts.
    pub fn from_parts(newest_day: i32, words: &[u64]) -> Self {
        Self { newest_day, words: SmallVec::from_slice(words) }
    }

    /// The newest active day, if any.
    pub fn newest_day(&self) -> Option<i32> {
        (!self.words.is_empty()).then_some(self.newest_day)
    }

    /// The raw words (see [`from_parts`](Self::from_parts)).
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Marks `day` active. Returns whether it was not marked before; a day older than the capacity is ignored.
    pub fn set(&mut self, day: i32) -> bool {
        if self.words.is_empty() {
            self.newest_day = day;
            self.words.push(1);
            return true;
        }
        if day > self.newest_day {
            self.shift(day.saturating_sub(self.newest_day));
            self.newest_day = day;
            self.words[0] |= 1;
            return true;
        }
        let age = self.newest_day.saturating_sub(day);
        if age >= Self::CAPACITY_DAYS {
            return false;
        }
        let (word, bit) = (age as usize / 64, age % 64);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let fresh = self.words[word] & (1 << bit) == 0;
        self.words[word] |= 1 << bit;
        fresh
    }

    /// Active days, newest first.
    pub fn iter(&self) -> impl Iterator<Item = i32> + '_ {
        self.words.iter().enumerate().flat_map(move |(index, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros();
                    rest &= rest - 1;
                    self.newest_day - (index * 64) as i32 - bit as i32
                })
            })
        })
    }

    /// The days of either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let (mut newer, older) =
            if self.newest_day() >= other.newest_day() { (self.clone(), other) } else { (other.clone(), self) };
        let Some(older_newest) = older.newest_day() else { return newer };
        let mut shifted = older.clone();
        shifted.shift(newer.newest_day.saturating_sub(older_newest));
        if newer.words.len() < shifted.words.len() {
            newer.words.resize(shifted.words.len(), 0);
        }
        for (mine, theirs) in newer.words.iter_mut().zip(&shifted.words) {
            *mine |= theirs;
        }
        newer.trim();
        newer
    }

    /// Whether `day` is active.
    pub fn contains(&self, day: i32) -> bool {
        let age = self.newest_day.saturating_sub(day);
        usize::try_from(age).is_ok_and(|age| self.words.get(age / 64).is_some_and(|word| word >> (age % 64) & 1 == 1))
    }

    /// Number of active days.
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// Bytes on the heap.
    pub(super) fn heap_byte_count(&self) -> usize {
        if self.words.spilled() { self.words.capacity() * size_of::<u64>() } else { 0 }
    }

    fn trim(&mut self) {
        while self.words.len() > 1 && self.words.last() == Some(&0) {
            self.words.pop();
        }
    }

    fn shift(&mut self, by_days: i32) {
        if by_days >= Self::CAPACITY_DAYS {
            self.words.clear();
            self.words.push(0);
            return;
        }
        let (words, bits) = (by_days as usize / 64, by_days % 64);
        let old = std::mem::take(&mut self.words);
        let length = (old.len() + words + 1).min(Self::CAPACITY_DAYS as usize / 64);
        self.words.resize(length, 0);
        for (index, word) in old.iter().enumerate() {
            if index + words < length {
                self.words[index + words] |= word << bits;
            }
            if bits > 0 && index + words + 1 < length {
                self.words[index + words + 1] |= word >> (64 - bits);
            }
        }
        self.trim();
    }
}
