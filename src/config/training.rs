//! Keys of retraining: when the daemon trains again, and what a candidate must do to be promoted.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What decides between candidate and champion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainingMetric {
    /// Ranking by churn probability.
    #[default]
    ChurnRocAuc,
    /// Churn probabilities themselves.
    ChurnLogLoss,
    /// Ranking by purchase probability.
    PurchaseRocAuc,
    /// Purchase probabilities themselves.
    PurchaseLogLoss,
}

/// Which time moves a schedule on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainingClock {
    /// The machine's.
    #[default]
    Wall,
    /// The newest event time that any partition has reached.
    Event,
}

/// What becomes of a candidate that beats the champion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainingPromotion {
    /// It is the champion at once.
    #[default]
    Direct,
    /// It scores in shadow until somebody promotes it.
    Shadow,
}

/// What stands for values that a user does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainingMissing {
    /// Nothing: what it means that they are missing is learned.
    #[default]
    Learned,
    /// The median of those who have them.
    Median,
    /// Their mean.
    Mean,
    /// Inside regular series what lies between the neighbours.
    Interpolated,
}

/// What the network's sequence encoder learns before the labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainingPretrain {
    /// Nothing.
    #[default]
    None,
    /// To tell a hidden event.
    Masked,
    /// To tell users apart by slices of their events.
    Contrastive,
}

/// Retraining: a child process of low priority reads the snapshots, trains a candidate, and promotes it if it beats the
/// champion on the newest users whose labels are known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    /// Whether the daemon retrains by itself. Off at first: a new shop has no history to train on yet. `undercurrent retrain` does
    /// the same once, at any time.
    pub enabled: bool,
    /// What `training.interval_h` is measured by: `wall`, or `event` for time as the events have it (a replay of history).
    pub clock: TrainingClock,
    /// Hours between two trainings.
    pub interval_h: f64,
    /// Minutes of wall-clock time after which a training that has not ended is stopped.
    pub timeout_min: u64,
    /// Resident memory of the child process in MiB; one that takes more is stopped.
    pub max_memory_mib: u64,
    /// Niceness of the child process, 0 to 19. High: serving comes first.
    pub niceness: u8,
    /// Threads of the child process.
    pub threads: usize,
    /// CSV of items (`item_id,title,category`) for titles and categories that events do not carry.
    pub items: Option<PathBuf>,
    /// Folder of a text model (`scripts/text-model` fetches one) by which titles are compared; by their words where absent. A file of
    /// the vectors that were made is kept in it.
    pub text_model: Option<PathBuf>,
    /// What the network's sequence encoder learns before the labels: `none`, `masked` (to tell a hidden event) or `contrastive` (to tell
    /// users apart by slices of their events). Off: `undercurrent ablate --pretrain` beside one without says what it is worth on your data.
    pub pretrain: TrainingPretrain,
    /// A user is scored and trained on when active within this many days.
    pub history_days: u32,
    /// Days without activity after which a user counts as gone. Must be the champion's: other models answer other questions.
    pub churn_days: u32,
    /// Days in which a purchase counts. Must be the champion's.
    pub purchase_days: u32,
    /// Seed of everything random in training.
    pub seed: u64,
    /// What stands for values that a user does not have: nothing, what it means is `learned`; the `median` or the `mean` of the users who
    /// have them; or, inside regular series, `interpolated` ones.
    pub missing: TrainingMissing,
    /// What decides between candidate and champion: `churn_roc_auc`, `churn_log_loss`, `purchase_roc_auc` or `purchase_log_loss`,
    /// on the newest users whose labels are known and whom the candidate has not seen.
    pub metric: TrainingMetric,
    /// The candidate's gain in it must be above this with `training.confidence`. 0: better beyond chance. A negative value lets in
    /// a fresh model that is not worse by more than that.
    pub min_gain: f64,
    /// What becomes of a candidate that wins: `direct`, it is the champion at once, or `shadow`, it scores beside the champion (topic
    /// `shadow-scores`) in place of whatever was in shadow, until `undercurrent models promote` makes it the champion.
    pub promotion: TrainingPromotion,
    /// How sure the gate must be: the share of paired bootstrap rounds inside the interval whose lower end must be above
    /// `training.min_gain`.
    pub confidence: f64,
    /// ROC-AUC of either head may fall, and its log-loss rise, by at most this.
    pub max_loss: f64,
    /// Retrained bundles kept that were not promoted, newest first.
    pub keep_candidates: usize,
    /// Users drawn for each look at drift (a population stability index of features and scores against the champion's training);
    /// 0 switches it off. Scoring them, lists included, is the cost: with the shipped bundle 2,000 take a little more than a second of one core.
    pub drift_users: usize,
    /// Hours between two looks at drift.
    pub drift_interval_h: f64,
    /// Stability index from which a feature or a score has drifted: below 0.1 little has moved, above 0.25 much has. Where
    /// `training.enabled` is set, drift begins one training between two scheduled ones.
    pub drift_psi: f64,
    /// Share of the features that must have drifted to call it drift; a head's scores that did are enough alone.
    pub drift_share: f64,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            clock: TrainingClock::Wall,
            interval_h: 24.0,
            timeout_min: 120,
            max_memory_mib: 4_096,
            niceness: 15,
            threads: 1,
            items: None,
            text_model: None,
            pretrain: TrainingPretrain::None,
            history_days: 90,
            churn_days: 30,
            purchase_days: 7,
            seed: 1,
            missing: TrainingMissing::Learned,
            metric: TrainingMetric::ChurnRocAuc,
            min_gain: 0.0,
            promotion: TrainingPromotion::Direct,
            confidence: 0.95,
            max_loss: 0.01,
            keep_candidates: 5,
            drift_users: 2_000,
            drift_interval_h: 1.0,
            drift_psi: 0.25,
            drift_share: 0.1,
        }
    }
}
