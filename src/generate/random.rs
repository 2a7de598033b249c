//! Chance in whole numbers, so that equal seeds make equal bytes on every machine.

#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "fixed-point arithmetic on random bits")]

use std::sync::LazyLock;

use rand_xoshiro::{
    SplitMix64,
    rand_core::{RngCore, SeedableRng},
};

/// One stream of random numbers, eight bytes.
#[derive(Debug, Clone)]
pub(super) struct Chance(SplitMix64);

/// Chances are given in parts of this.
pub(super) const ONE: u32 = 1 << 16;

impl Chance {
    /// The stream number `index` of `seed`.
    pub(super) fn new(seed: u64, index: u64) -> Self {
        // Two neighbouring streams of a counter-based generator must not be shifted copies of one another: the start is
        // mixed first.
        let mut start = SplitMix64::seed_from_u64(seed ^ index.wrapping_mul(0xd134_2543_de82_ef95));
        Self(SplitMix64::seed_from_u64(start.next_u64()))
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        below(self.bits(), bound)
    }

    /// A number in `[low, high]`.
    pub(super) fn between(&mut self, low: u32, high: u32) -> u32 {
        low + self.below(high - low + 1)
    }

    /// True with a probability of `share` / [`ONE`].
    pub(super) fn happens(&mut self, share: u32) -> bool {
        self.below(ONE) < share
    }

    /// A number below `bound`, small ones likelier: the density falls as the inverse of `rank^(2/3)`.
    pub(super) fn skewed(&mut self, bound: u32) -> u32 {
        skewed(self.bits(), bound)
    }

    /// A waiting time with the given mean: the sum of `shape` exponential ones, so the larger the shape, the more regular.
    pub(super) fn waiting(&mut self, mean: u64, shape: u32) -> u64 {
        let sum: u64 = (0..shape).map(|_| u64::from(EXPONENTIAL[(self.bits() >> 52) as usize])).sum();
        (mean * sum / u64::from(shape)) >> 16
    }
}

/// Scales random bits to a number below `bound`.
pub(super) fn below(bits: u64, bound: u32) -> u32 {
    (((bits >> 32) * u64::from(bound)) >> 32) as u32
}

/// Scales random bits to a number below `bound`, cubed, so that small ones are likelier.
pub(super) fn skewed(bits: u64, bound: u32) -> u32 {
    let part = bits >> 43;
    let square = (part * part) >> 21;
    let cube = (square * part) >> 21;
    ((cube * u64::from(bound)) >> 21) as u32
}

/// Mixes two numbers to random bits, for what is looked up again and again and kept nowhere.
pub(super) fn mixed(seed: u64, index: u64) -> u64 {
    SplitMix64::seed_from_u64(seed ^ index.wrapping_mul(0x9fb2_1c65_1e98_df25)).next_u64()
}

/// 4096 quantiles of the exponential distribution with mean 1, in parts of 2^16. Rounded to whole numbers, so that the
/// last bit of one machine's logarithm does not matter.
static EXPONENTIAL: LazyLock<Vec<u32>> = LazyLock::new(|| {
    (0..4096).map(|index| (-((f64::from(index) + 0.5) / 4096.0).ln() * f64::from(ONE)).round() as u32).collect()
});

/// The probability that a waiting time of [`Chance::waiting`] is longer than `time`.
pub(super) fn longer_than(time: f64, mean: f64, shape: u32) -> f64 {
    let scaled = (time / mean).max(0.0) * f64::from(shape);
    let mut term = 1.0;
    let mut sum = 1.0;
    for step in 1..shape {
        term *= scaled / f64::from(step);
        sum += term;
    }
    (-scaled).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_times_have_their_mean_and_their_tail() {
        let mut chance = Chance::new(1, 2);
        for shape in 1..=4 {
            let times: Vec<u32> = (0..40_000).map(|_| chance.waiting(1_000_000, shape) as u32).collect();
            let mean = times.iter().map(|time| f64::from(*time)).sum::<f64>() / 40_000.0;
            assert!((mean / 1e6 - 1.0).abs() < 0.03, "shape {shape}: {mean}");
            let long = times.iter().map(|time| f64::from(u8::from(*time > 1_500_000))).sum::<f64>() / 40_000.0;
            assert!((long - longer_than(1.5, 1.0, shape)).abs() < 0.015, "shape {shape}: {long}");
        }
    }

    #[test]
    fn bounds_hold() {
        let mut chance = Chance::new(3, 4);
        assert!(
            (0..10_000).all(|_| chance.below(7) < 7 && chance.skewed(7) < 7 && (2..=5).contains(&chance.between(2, 5)))
        );
        assert_eq!((chance.below(0), chance.skewed(0), skewed(u64::MAX, 9)), (0, 0, 8));
        let low = (0..10_000).filter(|_| chance.skewed(1000) < 125).count();
        assert!((4_500..5_500).contains(&low), "half of all are in the first eighth: {low}");
    }
}
