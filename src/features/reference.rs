//! How a number was distributed when a model was trained, and how far it has moved since.
//!
//! The distance is the population stability index over about ten bins, `Σ (q − p) · ln(q / p)`, with `p` the share of a bin in
//! training and `q` its share now; both are at least 0.0001. It is the symmetrised Kullback-Leibler divergence. Below 0.1
//! little has moved, above 0.25 much has (Siddiqi, Credit Risk Scorecards, 2006, ch. 7). With no change at all it is about
//! `(bins − 1) · (1/n + 1/N)` for `n` users now and `N` in training (Yurdakul, Statistical Properties of Population Stability
//! Index, 2018): 200 users are the fewest that say something.

use serde::{Deserialize, Serialize};

use super::{Knots, transform::normal_share};

/// Bins of present values at most; ends fall on the deciles of training.
const BINS: usize = 10;
/// Least share of a bin, so that an empty one counts as rare and not as impossible.
const FLOOR: f64 = 1e-4;

/// The distribution of one number in training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Upper ends of all bins but the last, strictly ascending.
    edges: Vec<f32>,
    /// Share of every bin, and, where it is known, of missing values.
    shares: Vec<f64>,
    /// Whether a value on an edge counts half below and half above it: so the mean ranks of [`Knots`] say its share exactly,
    /// however many values are equal. Else it counts below.
    #[serde(default, skip_serializing_if = "is_false")]
    splits_edges: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Reference {
    /// The distribution of `values`; those that are not finite are missing. `None` when none is present.
    pub fn fit(values: impl Iterator<Item = f32>) -> Option<Self> {
        let (mut present, mut missing) = (Vec::new(), 0_u64);
        for value in values {
            if value.is_finite() { present.push(value) } else { missing += 1 }
        }
        present.sort_unstable_by(f32::total_cmp);
        let last = *present.last()?;
        let mut edges: Vec<f32> = (1..BINS).map(|bin| present[(present.len() - 1) * bin / BINS]).collect();
        edges.dedup();
        // A bin above the largest value would be empty.
        edges.retain(|edge| *edge < last);
        let mut found = Self { edges, shares: Vec::new(), splits_edges: false };
        let total = present.len() as u64 + missing;
        let mut counts = found.halves(present.into_iter());
        counts.push(2 * missing);
        found.shares = counts.into_iter().map(|halves| share(halves, 2 * total)).collect();
        Some(found)
    }

    /// What the quantiles of a feature say, for bundles that hold no more; `None` when it was never present. Nothing is known
    /// of missing values then.
    pub fn of_knots(knots: &Knots) -> Option<Self> {
        // A tenth, or a little more; the last bin half of that at least.
        const WIDTH: f64 = 0.1 - 1e-9;
        let (mut edges, mut shares, mut reached) = (Vec::new(), Vec::new(), 0.0);
        for (value, score) in knots.pairs() {
            let below = normal_share(f64::from(score));
            if below - reached >= WIDTH && 1.0 - below >= WIDTH / 2.0 {
                edges.push(value);
                shares.push(below - reached);
                reached = below;
            }
        }
        if edges.is_empty() {
            let (value, score) = knots.pairs().next()?;
            edges.push(value);
            reached = normal_share(f64::from(score));
            shares.push(reached);
        }
        shares.push(1.0 - reached);
        Some(Self { edges, shares, splits_edges: true })
    }

    /// The stability index of `values` against training; `None` without values.
    pub fn psi(&self, values: impl Iterator<Item = f32>) -> Option<f64> {
        let (mut present, mut missing) = (Vec::new(), 0_u64);
        for value in values {
            if value.is_finite() { present.push(value) } else { missing += 1 }
        }
        let knows_missing = self.shares.len() > self.edges.len() + 1;
        let total = present.len() as u64 + if knows_missing { missing } else { 0 };
        if total == 0 {
            return None;
        }
        let mut counts = self.halves(present.into_iter());
        if knows_missing {
            counts.push(2 * missing);
        }
        let moved = |(halves, before): (u64, &f64)| {
            let (now, before) = (share(halves, 2 * total).max(FLOOR), before.max(FLOOR));
            (now - before) * (now / before).ln()
        };
        Some(counts.into_iter().zip(&self.shares).map(moved).sum())
    }

    /// What is wrong with a reference that was read, if anything.
    pub fn problem(&self) -> Option<String> {
        let bins = self.edges.len() + 1;
        let sum: f64 = self.shares.iter().sum();
        if self.edges.len() >= BINS || !(bins..=bins + 1).contains(&self.shares.len()) {
            return Some(format!("`{}` edges and `{}` shares", self.edges.len(), self.shares.len()));
        }
        let ascends = self.edges.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascends || !self.edges.iter().all(|edge| edge.is_finite()) {
            return Some("the edges are not ascending finite numbers".to_owned());
        }
        let are_shares = self.shares.iter().all(|share| (0.0..=1.0).contains(share));
        (!are_shares || (sum - 1.0).abs() > 1e-3).then(|| format!("the shares sum to `{sum}`"))
    }

    /// Twice the number of values of each bin.
    fn halves(&self, values: impl Iterator<Item = f32>) -> Vec<u64> {
        let mut counts = vec![0; self.edges.len() + 1];
        for value in values {
            let bin = self.edges.partition_point(|edge| *edge < value);
            if self.splits_edges && self.edges.get(bin) == Some(&value) {
                counts[bin] += 1;
                counts[bin + 1] += 1;
            } else {
                counts[bin] += 2;
            }
        }
        counts
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of users")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_xoshiro::Xoshiro256PlusPlus;

    use super::*;

    /// Two draws of one distribution, and one of a shifted one.
    fn draws(draw: impl Fn(&mut Xoshiro256PlusPlus, f32) -> f32) -> [Vec<f32>; 3] {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(5);
        [(4_000, 0.0), (1_000, 0.0), (1_000, 1.0)]
            .map(|(count, shift)| (0..count).map(|_| draw(&mut random, shift)).collect())
    }

    #[track_caller]
    fn check([training, same, shifted]: &[Vec<f32>; 3]) {
        let fitted = Reference::fit(training.iter().copied()).unwrap();
        let of_knots = Reference::of_knots(&Knots::fit(training.iter().copied())).unwrap();
        for reference in [fitted, of_knots] {
            assert_eq!(reference.problem(), None, "{reference:?}");
            let json = serde_json::to_string(&reference).unwrap();
            assert_eq!(serde_json::from_str::<Reference>(&json).unwrap().edges, reference.edges);
            let [same, shifted] = [same, shifted].map(|values| reference.psi(values.iter().copied()).unwrap());
            assert!(same < 0.1 && shifted > 0.25, "{same} {shifted} {reference:?}");
        }
    }

    #[test]
    fn a_shifted_number_is_told_from_one_that_stayed() {
        check(&draws(|random, shift| random.random::<f32>() + 0.5 * shift));
        check(&draws(|random, shift| (random.random::<f32>() * 3.0 + shift).exp()));
    }

    #[test]
    fn equal_values_fall_where_training_had_them() {
        // Most users have none, some have a few: bins by value, not by rank.
        check(&draws(|random, shift| f32::from(random.random_range(0..10_u8).saturating_sub(6)) + 2.0 * shift));
        let constant = Reference::fit([7.0; 50].into_iter()).unwrap();
        assert!(constant.psi([7.0; 50].into_iter()).unwrap() < 1e-9);
        let of_knots = Reference::of_knots(&Knots::fit([7.0; 50].into_iter())).unwrap();
        assert!(of_knots.psi([7.0; 50].into_iter()).unwrap() < 1e-6);
        assert!(of_knots.psi([9.0; 50].into_iter()).unwrap() > 1.0);
    }

    #[test]
    fn the_index_is_that_of_the_formula() {
        let training = (0..100).map(|number| if number < 40 { 0.0 } else { 1.0 });
        let reference = Reference::fit(training).unwrap();
        let now = (0..100).map(|number| if number < 70 { 0.0 } else { 1.0 });
        let expected = (0.7_f64 - 0.4) * (0.7_f64 / 0.4).ln() + (0.3_f64 - 0.6) * (0.3_f64 / 0.6).ln();
        assert!((reference.psi(now).unwrap() - expected).abs() < 1e-9);
    }

    #[test]
    fn values_that_go_missing_are_a_change_where_training_says_how_many_were() {
        let reference = Reference::fit((0..1_000_u16).map(f32::from)).unwrap();
        let now =
            |missing: u16| (0..1_000_u16).map(move |value| if value < missing { f32::NAN } else { f32::from(value) });
        assert!(reference.psi(now(0)).unwrap() < 0.01);
        assert!(
            reference
                .psi((0..1_000_u16).map(|value| if value % 4 == 0 { f32::NAN } else { f32::from(value) }))
                .unwrap()
                > 0.25
        );
        assert_eq!(Reference::fit([f32::NAN].into_iter()), None);
        assert_eq!(reference.psi(std::iter::empty()), None);
    }

    #[test]
    fn a_damaged_reference_is_refused() {
        let good = Reference::fit((0..100_u8).map(f32::from)).unwrap();
        for bad in [
            Reference { shares: vec![1.0], ..good.clone() },
            Reference { edges: vec![2.0, 1.0], shares: vec![0.5, 0.25, 0.25], ..good.clone() },
            Reference { edges: vec![f32::NAN], shares: vec![0.5, 0.5], ..good.clone() },
            Reference { shares: good.shares.iter().map(|share| share * 2.0).collect(), ..good.clone() },
        ] {
            assert!(bad.problem().is_some(), "{bad:?}");
        }
    }
}
