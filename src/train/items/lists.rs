//! What rankers learn from: candidate lists with what was bought of them.

#![expect(clippy::cast_precision_loss, reason = "counts of candidates")]

use std::{collections::HashSet, hash::BuildHasher, ops::Range};

use crate::{
    event::NameHash,
    graph::NameHashBuilder,
    model::items::{CandidateSet, FEATURE_WIDTH},
};

/// Which of the two lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListKind {
    /// All candidates, repeats allowed.
    Items,
    /// Candidates the user never bought.
    Discoveries,
}

impl ListKind {
    /// Share of the candidates that were not bought, neither then nor before, that are learned from: most of them are
    /// easily told apart, and all of them would take gigabytes.
    fn unbought_share(self) -> f32 {
        match self {
            Self::Items => 0.25,
            Self::Discoveries => 0.5,
        }
    }
}

/// Candidate lists with what was bought of them.
#[derive(Debug, Clone, Default)]
pub struct RankExamples {
    /// `candidates × FEATURE_WIDTH`.
    features: Vec<f32>,
    bought: Vec<u8>,
    /// Candidates each one stands for: more than 1 where others like it were left out.
    weights: Vec<f32>,
    lists: Vec<Range<usize>>,
    /// Items each user bought in all, also those that were no candidates.
    truth_count: Vec<u32>,
}

impl RankExamples {
    /// Adds the list of one user who bought something; `seed` draws the candidates that are left out.
    pub fn push(
        &mut self,
        set: &CandidateSet,
        bought: &HashSet<NameHash>,
        truth_count: u32,
        kind: ListKind,
        seed: u64,
    ) {
        if truth_count == 0 {
            return;
        }
        let start = self.bought.len();
        for (place, candidate) in set.candidates().iter().enumerate() {
            if kind == ListKind::Discoveries && candidate.bought {
                continue;
            }
            let hit = bought.contains(&candidate.item);
            let draw =
                (NameHashBuilder::default().hash_one(candidate.item.0 ^ seed) >> 11) as f32 / (1_u64 << 53) as f32;
            let is_certain = hit || candidate.bought || candidate.seen;
            if is_certain || draw < kind.unbought_share() {
                self.features.extend_from_slice(set.features(place));
                self.bought.push(u8::from(hit));
                self.weights.push(if is_certain { 1.0 } else { kind.unbought_share().recip() });
            }
        }
        self.lists.push(start..self.bought.len());
        self.truth_count.push(truth_count);
    }

    /// Appends the lists of `other`.
    pub fn append(&mut self, other: &Self) {
        let start = self.bought.len();
        self.features.extend_from_slice(&other.features);
        self.bought.extend_from_slice(&other.bought);
        self.weights.extend_from_slice(&other.weights);
        self.lists.extend(other.lists.iter().map(|list| list.start + start..list.end + start));
        self.truth_count.extend_from_slice(&other.truth_count);
    }

    /// The first `count` lists.
    #[must_use]
    pub fn head(&self, count: usize) -> Self {
        let end = self.lists[..count].last().map_or(0, |list| list.end);
        Self {
            features: self.features[..end * FEATURE_WIDTH].to_vec(),
            bought: self.bought[..end].to_vec(),
            weights: self.weights[..end].to_vec(),
            lists: self.lists[..count].to_vec(),
            truth_count: self.truth_count[..count].to_vec(),
        }
    }

    /// Lists.
    pub fn list_count(&self) -> usize {
        self.lists.len()
    }

    /// Lists with something bought among the candidates.
    pub fn useful_count(&self) -> usize {
        self.lists.iter().filter(|list| self.bought[(*list).clone()].contains(&1)).count()
    }

    /// Candidates of each list: ranges in order, without gaps.
    pub fn lists(&self) -> &[Range<usize>] {
        &self.lists
    }

    /// 1 for each candidate that was bought, else 0.
    pub fn bought(&self) -> &[u8] {
        &self.bought
    }

    /// Candidates each one stands for.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// Features of all candidates, row by row.
    pub fn features(&self) -> &[f32] {
        &self.features
    }

    /// Features of one candidate.
    pub fn row(&self, place: usize) -> &[f32] {
        &self.features[place * FEATURE_WIDTH..(place + 1) * FEATURE_WIDTH]
    }

    /// Mean recall@20 and NDCG@10 over all lists, by the score of each candidate.
    pub fn quality(&self, score: impl Fn(usize) -> f64) -> [f64; 2] {
        let [recall, _, _, gain] = self.depths(score, [20, 10]);
        [recall, gain]
    }

    /// Recall and NDCG at 20 and at 100, added up: the deeper two say the same of more items, so that an early stop follows
    /// less noise.
    pub fn smooth_quality(&self, score: impl Fn(usize) -> f64) -> f64 {
        self.depths(score, [20, 100]).iter().sum()
    }

    /// Mean recall, NDCG at the first depth, then at the second. A place is the sum of what stands above it, with weights.
    fn depths(&self, score: impl Fn(usize) -> f64, depths: [usize; 2]) -> [f64; 4] {
        let mut sums = [0.0; 4];
        let mut scored: Vec<(f64, usize)> = Vec::new();
        for (list, truth_count) in self.lists.iter().zip(&self.truth_count) {
            scored.clear();
            scored.extend(list.clone().map(|place| (score(place), place)));
            // Equal scores in no order of meaning: candidates come best source first, and what cannot tell them apart must not
            // look as if it could.
            scored.sort_by(|left, right| right.0.total_cmp(&left.0).then(mixed(left.1).cmp(&mixed(right.1))));
            let mut above = 0.0;
            let mut found = [0.0; 4];
            for (_, place) in &scored {
                for (depth, found) in depths.iter().zip(found.as_chunks_mut::<2>().0) {
                    if self.bought[*place] == 1 && above < *depth as f64 {
                        found[0] += 1.0;
                        found[1] += discount(above);
                    }
                }
                above += f64::from(self.weights[*place]);
            }
            for (depth, (found, sums)) in
                depths.iter().zip(found.as_chunks::<2>().0.iter().zip(sums.as_chunks_mut::<2>().0))
            {
                let possible = (*truth_count as usize).min(*depth);
                sums[0] += found[0] / possible as f64;
                sums[1] += found[1] / (0..possible).map(|place| discount(place as f64)).sum::<f64>();
            }
        }
        sums.map(|sum| sum / self.lists.len().max(1) as f64)
    }
}

/// Spreads neighbouring numbers (Fibonacci hashing; Knuth, *The Art of Computer Programming*, volume 3, section 6.4).
fn mixed(place: usize) -> u64 {
    (place as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// What a hit counts in NDCG, by what stands above it.
fn discount(above: f64) -> f64 {
    (above + 2.0).log2().recip()
}

#[cfg(test)]
impl RankExamples {
    /// Lists of `length` candidates each.
    pub(super) fn made(features: Vec<f32>, bought: Vec<u8>, length: usize) -> Self {
        let lists: Vec<Range<usize>> = (0..bought.len()).step_by(length).map(|start| start..start + length).collect();
        let count = |list: &Range<usize>| bought[list.clone()].iter().map(|bought| u32::from(*bought)).sum();
        let truth_count = lists.iter().map(count).collect();
        Self { features, weights: vec![1.0; bought.len()], bought, lists, truth_count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_that_tells_nothing_apart_is_worth_nothing_wherever_the_bought_stand() {
        for bought_from in [0, 195] {
            let bought = (0..200).map(|place| u8::from((bought_from..bought_from + 5).contains(&place))).collect();
            let made = RankExamples::made(vec![0.0; 200 * FEATURE_WIDTH], bought, 200);
            assert!(made.quality(|_| 1.0)[0] < 0.5, "{bought_from}: {:?}", made.quality(|_| 1.0));
            let knows = |place: usize| f64::from(made.bought()[place]);
            assert!(made.quality(knows).iter().all(|share| (share - 1.0).abs() < 1e-9));
        }
    }
}
