//! The index of a write set: from a user's id to a place in a list, by a hash that is kept beside the place.

/// Finds places by hash. Growing needs the hashes only, so the keys (each behind a pointer) are read only when they may
/// be the wanted one.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Place plus one, 0 where empty; a power of two long, at most half full.
    slots: Vec<u32>,
    /// The hash of every place.
    hashes: Vec<u64>,
}

/// Slots of the first table.
const FIRST_SLOTS: usize = 64;

impl Places {
    /// The place with this hash that `is_wanted`.
    pub(super) fn find(&self, hash: u64, is_wanted: impl Fn(usize) -> bool) -> Option<usize> {
        let mut slot = self.start(hash)?;
        loop {
            let place = (*self.slots.get(slot)? as usize).checked_sub(1)?;
            if self.hashes[place] == hash && is_wanted(place) {
                return Some(place);
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    /// Adds the next place and returns it. The caller knows that its key is not there yet.
    pub(super) fn push(&mut self, hash: u64) -> usize {
        if self.slots.len() <= 2 * self.hashes.len() {
            self.slots = vec![0; (4 * self.hashes.len()).next_power_of_two().max(FIRST_SLOTS)];
            for place in 0..self.hashes.len() {
                self.fill(self.hashes[place], place);
            }
        }
        let place = self.hashes.len();
        self.hashes.push(hash);
        self.fill(hash, place);
        place
    }

    fn fill(&mut self, hash: u64, place: usize) {
        let Some(mut slot) = self.start(hash) else { return };
        while self.slots[slot] != 0 {
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        #[expect(clippy::expect_used, reason = "a batch is bounded far below four thousand million users (LIM-1)")]
        let filled = u32::try_from(place + 1).expect("a write set has fewer than 2^32 users");
        self.slots[slot] = filled;
    }

    /// Where to look first; `None` while there is nothing.
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are wanted")]
    fn start(&self, hash: u64) -> Option<usize> {
        Some(hash as usize & self.slots.len().checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_whatever_their_hashes() {
        for spread in [0, 1, 64, 0x9E37_79B9_7F4A_7C15_u64] {
            let mut places = Places::default();
            let keys: Vec<u64> = (0..1_000).map(|key| key * 7).collect();
            let hash = |key: u64| key.wrapping_mul(spread);
            for (expected, key) in keys.iter().enumerate() {
                assert_eq!(places.find(hash(*key), |place| keys[place] == *key), None);
                assert_eq!(places.push(hash(*key)), expected);
            }
            for (expected, key) in keys.iter().enumerate() {
                assert_eq!(places.find(hash(*key), |place| keys[place] == *key), Some(expected));
            }
            assert_eq!(places.find(hash(3), |place| keys[place] == 3), None);
        }
    }
}
