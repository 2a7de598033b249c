//! Rolling-origin folds for tuning the trees: each holds two moments of the past back, and learns from what was over before.

use std::collections::HashSet;

use super::{
    super::{
        history::History,
        metrics::log_loss,
        parallel,
        schedule::Schedule,
        trees::{Bins, LogLoss, Sample, Watch, boost},
    },
    Head, HeadOptions, HeadsError,
    forests::{MAX_BINS, TreeSettings},
    training::Training,
};
use crate::train::logistic::sigmoid;

/// Moments of one history to learn from and to judge by, newest first.
pub struct TreeFolds {
    bins: Bins,
    users: Vec<u32>,
    folds: Vec<[HeadFold; 2]>,
    seed: u64,
    threads: usize,
}

/// Rows of one head.
struct HeadFold {
    past: (Vec<u32>, Vec<bool>),
    held: (Vec<u32>, Vec<bool>),
}

/// Moments a fold holds back.
const HELD_CUTOFFS: usize = 2;

impl TreeFolds {
    /// Reads examples as training does and lays out at most `count` folds, spread over the newer half of the moments.
    pub fn new(
        history: &impl History,
        schedule: &Schedule,
        options: &HeadOptions,
        count: usize,
        report: &mut dyn FnMut(&str),
    ) -> Result<Self, HeadsError> {
        let training = Training::new(history, schedule, options, report)?;
        let mut complete: Vec<u32> = (0..)
            .zip(&schedule.cutoffs)
            .filter(|(_, cutoff)| cutoff.knows_churn && cutoff.knows_purchase)
            .map(|(number, _)| number)
            .collect();
        complete.reverse();
        let stride = (complete.len() / 2 / count.max(1)).max(HELD_CUTOFFS);
        let mut folds = Vec::new();
        for number in 0..count {
            let held: HashSet<u32> = complete.iter().skip(number * stride).take(HELD_CUTOFFS).copied().collect();
            let Some(oldest) = held.iter().min() else { break };
            let before_ms = schedule.cutoffs[*oldest as usize].at_ms;
            let fold = Head::ALL.map(|head| {
                let horizon_ms = head.horizon_ms(&schedule.horizons);
                let (mut past, mut judged) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
                for (row, example) in (0..).zip(&training.set.examples) {
                    let Some(label) = head.label(example) else { continue };
                    let is_over = schedule.cutoffs[example.cutoff as usize].at_ms + horizon_ms <= before_ms;
                    let rows = match (held.contains(&example.cutoff), is_over) {
                        (true, _) => &mut judged,
                        (false, true) => &mut past,
                        (false, false) => continue,
                    };
                    rows.0.push(row);
                    rows.1.push(label);
                }
                HeadFold { past, held: judged }
            });
            if !fold.iter().all(|head| has_both(&head.past.1) && has_both(&head.held.1)) {
                break;
            }
            folds.push(fold);
        }
        if folds.is_empty() {
            let message = "no moment of the past has enough before it and after it to tune on";
            return Err(HeadsError::TooLittle(message.to_owned()));
        }
        Ok(Self {
            bins: Bins::of(&training.set.raw, training.set.width, MAX_BINS, options.threads.get()),
            users: training.set.examples.iter().map(|example| example.user).collect(),
            folds,
            seed: options.seed,
            threads: options.threads.get(),
        })
    }

    /// Folds there are.
    pub fn count(&self) -> usize {
        self.folds.len()
    }

    /// Loss of churn and of purchase on a fold: log-loss as a share of that of the held-back users' own rate.
    ///
    /// # Panics
    /// When there is no such fold.
    pub fn losses(&self, fold: usize, settings: &TreeSettings) -> [f64; 2] {
        let losses = parallel::map(self.threads.min(2), 2, |head| self.loss(&self.folds[fold][head], settings));
        [losses[0], losses[1]]
    }

    fn loss(&self, fold: &HeadFold, settings: &TreeSettings) -> f64 {
        let (past, past_labels) = &fold.past;
        let (held, held_labels) = &fold.held;
        let loss = |scores: &[f64]| {
            let probabilities: Vec<f64> = scores.iter().map(|score| sigmoid(*score)).collect();
            log_loss(held_labels, &probabilities)
        };
        let watch = Watch { rows: held, loss: &loss };
        let groups: Vec<u32> = past.iter().map(|row| self.users[*row as usize]).collect();
        let objective = LogLoss { labels: past_labels, weights: &[] };
        let sample = Sample { rows: past, groups: &groups };
        let boosted =
            boost(&self.bins, sample, &objective, Some(&watch), &settings.boost(past.len(), false, self.seed));
        boosted.loss.unwrap_or(f64::MAX) / entropy(held_labels)
    }
}

fn has_both(labels: &[bool]) -> bool {
    const ENOUGH: usize = 10;
    let happened = labels.iter().filter(|label| **label).count();
    happened >= ENOUGH && labels.len() - happened >= ENOUGH
}

/// Log-loss of saying the rate of everyone.
fn entropy(labels: &[bool]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of users")]
    let rate = labels.iter().filter(|label| **label).count() as f64 / labels.len() as f64;
    -rate * rate.ln() - (1.0 - rate) * (1.0 - rate).ln()
}
