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
    fn unbought_share(self) -> f64 {
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
                (NameHashBuilder::default().hash_one(candidate.item.0 ^ seed) >> 11) as f64 / (1_u64 << 53) as f64;
            if hit || candidate.bought || candidate.seen || draw < kind.unbought_share() {
                self.features.extend_from_slice(set.features(place));
                self.bought.push(u8::from(hit));
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
        let mut sums = [0.0; 2];
        let mut scored: Vec<(f64, u8)> = Vec::new();
        let discount = |place: usize| 1.0 / ((place + 2) as f64).log2();
        for (list, truth_count) in self.lists.iter().zip(&self.truth_count) {
            scored.clear();
            scored.extend(list.clone().map(|place| (score(place), self.bought[place])));
            scored.sort_by(|left, right| right.0.total_cmp(&left.0));
            let truth = *truth_count as usize;
            let hits = scored.iter().take(20).filter(|(_, bought)| *bought == 1).count();
            sums[0] += hits as f64 / truth.min(20) as f64;
            let gain = scored.iter().take(10).enumerate().filter(|(_, (_, bought))| *bought == 1);
            let ideal: f64 = (0..truth.min(10)).map(discount).sum();
            sums[1] += gain.map(|(place, _)| discount(place)).sum::<f64>() / ideal;
        }
        sums.map(|sum| sum / self.lists.len().max(1) as f64)
    }
}
