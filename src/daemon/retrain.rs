//! Retraining. In the daemon: a schedule that starts a child process of low priority, bounded in time and memory. In the
//! child: a candidate trained on what was known before the newest labelled window, held against the champion on that window,
//! and promoted (or put into shadow, as the configuration asks) when it wins. The daemon sees that and swaps the bundle in.
//!
//! What is promoted is what was measured: the candidate is not fitted again on the window that it won.

use std::{fs, num::NonZeroUsize, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
    sync::watch,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{engine, models::ModelStore, pool};
use crate::{
    clock::{Clock, SystemClock},
    config::{
        Config, ENV_PREFIX, TrainingClock, TrainingConfig, TrainingMetric, TrainingMissing, TrainingPretrain,
        TrainingPromotion,
    },
    event::format_time_ms,
    features::Missing,
    metrics as names,
    model::Bundle,
    scoring::{Pool, PoolSettings},
    stream::Partitions,
    train::{
        Pretraining,
        bundle::SnapshotTraining,
        gate::{GateMetric, GateParams, Scores, Verdict, Window, judge},
        history::History,
        schedule::{Horizons, Schedule},
    },
};

/// Name of every bundle made here begins with it, followed by the moment.
const PREFIX: &str = "retrained-";
/// Between two looks at schedule, child and its memory.
const LOOK: Duration = Duration::from_secs(1);

/// When to train: on a schedule, and once between two times of it when the users have drifted away from the model.
#[derive(Debug)]
struct Plan {
    every_ms: i64,
    due_ms: Option<i64>,
    /// Whether the drift since the last scheduled training was answered.
    has_answered_drift: bool,
}

impl Plan {
    /// Whether to train now.
    fn is_due(&mut self, now_ms: i64, has_drifted: bool) -> bool {
        let due_ms = *self.due_ms.get_or_insert(now_ms.saturating_add(self.every_ms));
        if now_ms >= due_ms {
            self.due_ms = Some(now_ms.saturating_add(self.every_ms));
            self.has_answered_drift = false;
            return true;
        }
        let answers = has_drifted && !self.has_answered_drift;
        self.has_answered_drift |= answers;
        answers
    }
}

/// Trains every `training.interval_h` hours until `stop`, and in between when `drift` says why. A training that fails is counted
/// and tried again at the next one.
pub(super) async fn schedule(
    config: Config,
    partitions: Arc<Partitions>,
    clock: Arc<dyn Clock>,
    drift: watch::Receiver<Option<String>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let now_ms = || match config.training.clock {
        TrainingClock::Wall => Some(clock.now_ms()),
        TrainingClock::Event => partitions.all().iter().filter_map(|partition| partition.watermark_ms()).max(),
    };
    let every_ms = interval_ms(&config.training);
    // An interval after the one before, also over a restart; without one, an interval after the start (or the first event).
    let due_ms = match config.training.clock {
        TrainingClock::Wall => newest_verdict_ms(&config).map(|judged_ms| judged_ms.saturating_add(every_ms)),
        TrainingClock::Event => None,
    };
    let mut plan = Plan { every_ms, due_ms, has_answered_drift: false };
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK) => {}
        }
        let Some(time_ms) = now_ms() else { continue };
        let drifted = drift.borrow().clone();
        if !plan.is_due(time_ms, drifted.is_some()) {
            continue;
        }
        info!(drift = drifted.as_deref().unwrap_or("none"), "training begins");
        let started = Instant::now();
        let outcome = tokio::select! {
            // The child dies with this future: what it had written is no bundle without its manifest.
            () = stop.cancelled() => return Ok(()),
            outcome = train_in_child(&config) => outcome,
        };
        let name = outcome.unwrap_or_else(|error| {
            warn!(error = format!("{error:#}"), "the training failed; the champion scores on");
            "failed"
        });
        metrics::histogram!(names::TRAINING_RUN_SECONDS, "outcome" => name).record(started.elapsed().as_secs_f64());
        info!(outcome = name, seconds = started.elapsed().as_secs(), "training ended");
    }
}

#[expect(clippy::cast_possible_truncation, reason = "validated to be far below 2^53 ms")]
fn interval_ms(training: &TrainingConfig) -> i64 {
    (training.interval_h * 3_600_000.0) as i64
}

/// Runs one training and says how it ended.
async fn train_in_child(config: &Config) -> anyhow::Result<&'static str> {
    let store = ModelStore::at(&config.scoring.models);
    let now = || anyhow::Ok((store.champion(&config.scoring.bundle)?, store.shadow()?));
    let before = now()?;
    let mut child = start(config).await?;
    let deadline = Instant::now() + Duration::from_secs(config.training.timeout_min.saturating_mul(60));
    let status = loop {
        if let Ok(ended) = tokio::time::timeout(LOOK, child.wait()).await {
            break ended.context("cannot wait for the training")?;
        }
        let too_large = resident_mib(&child).is_some_and(|mib| mib > config.training.max_memory_mib);
        if too_large || Instant::now() >= deadline {
            child.kill().await.context("cannot stop a training beyond its bounds")?;
            warn!(too_large, "a training was stopped: it took more memory or time than it may");
            return Ok(if too_large { "memory" } else { "timeout" });
        }
    };
    ensure!(status.success(), "it ended with {status}; its lines are above");
    let after = now()?;
    Ok(if after.0 != before.0 {
        "promoted"
    } else if after.1 != before.1 {
        "shadowed"
    } else {
        "kept"
    })
}

/// Starts `undercurrent retrain` with the configuration in force, whatever flags and variables it came from.
async fn start(config: &Config) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new("nice");
    command.arg("-n").arg(config.training.niceness.to_string()).arg(program);
    // Over a pipe: it may hold options of the object store that belong into no file.
    command.args(["retrain", "--config", "/dev/stdin", "--parent"]).arg(std::process::id().to_string());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with(ENV_PREFIX) {
            command.env_remove(name);
        }
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the training; it needs the program `nice`")?;
    let mut pipe = child.stdin.take().context("the training has no standard input")?;
    pipe.write_all(config.to_toml()?.as_bytes()).await.context("cannot hand the configuration to the training")?;
    Ok(child)
}

/// Resident memory of the child; `None` where the system does not say, or it has ended.
fn resident_mib(child: &Child) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id()?)).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib / 1_024)
}

/// What one retraining came to.
#[derive(Debug)]
pub struct Retrained {
    /// Name of the candidate.
    pub name: String,
    /// What the gate said.
    pub verdict: Verdict,
    /// Whether it is in shadow now: it won, and waits for somebody to promote it.
    pub is_in_shadow: bool,
}

/// Trains a candidate on the snapshots, holds it against the champion, and promotes it or puts it into shadow when it wins. Blocks.
pub fn run_once_blocking(config: &Config, report: &mut dyn FnMut(&str)) -> anyhow::Result<Retrained> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let training = &config.training;
    let store = ModelStore::at(&config.scoring.models);
    let champion_name = store.champion(&config.scoring.bundle)?;
    let champion = pool::load(&store.folder_of(&champion_name)?)?;
    let horizons = Horizons {
        history_days: training.history_days,
        churn_days: training.churn_days,
        purchase_days: training.purchase_days,
    };
    let info = champion.info();
    if (info.churn_days, info.purchase_days) != (horizons.churn_days, horizons.purchase_days) {
        bail!(
            "the champion `{champion_name}` predicts {} and {} days, `training.churn_days` and `training.purchase_days` ask for {} \
             and {}: they cannot be compared",
            info.churn_days,
            info.purchase_days,
            horizons.churn_days,
            horizons.purchase_days
        );
    }
    let name = free_name(&store, clock.now_ms());
    let folder = config.scoring.models.join(&name);
    let snapshot_training = SnapshotTraining {
        snapshots: engine::snapshots(config, &clock)?,
        location: config.snapshot.location.clone(),
        items: training.items.clone(),
        text_model: training.text_model.clone(),
        pretraining: pretraining(training.pretrain),
        until_ms: i64::MAX,
        horizons,
        seed: training.seed,
        missing: missing(training.missing),
        out: folder.clone(),
        threads: NonZeroUsize::new(training.threads).unwrap_or(NonZeroUsize::MIN),
        parent: Some(champion.version.to_string()),
    };
    let history = snapshot_training.open(report)?;
    let window_ms = newest_window(&history, &horizons)?;
    ensure!(
        !Schedule::new(history.first_ms(), window_ms, horizons).shortened,
        "the snapshots before {} cover too little time to learn {} days of silence and {} to a purchase; a longer history is needed",
        format_time_ms(window_ms),
        horizons.churn_days,
        horizons.purchase_days
    );
    let candidate = Arc::new(snapshot_training.train(&history, window_ms, report)?);
    report("comparing with the champion");
    let params = gate(training);
    let window = Window::read(&history, window_ms, &horizons, &params)?;
    let [new, old] = [&candidate, &champion].map(|bundle| score(&window, bundle, training.threads));
    let mut verdict = judge(&window, &new?, &old?, &params, clock.now_ms());
    verdict.champion_saw_window =
        champion.metrics["trained_until_ms"].as_i64().is_none_or(|trained_ms| trained_ms > window_ms);
    if store.champion(&config.scoring.bundle)? != champion_name {
        verdict.passed = false;
        verdict.reasons.push(format!("another bundle was promoted meanwhile; compared was `{champion_name}`"));
    }
    candidate.save(&folder)?;
    write_verdict(&folder, &verdict)?;
    let is_in_shadow = verdict.passed && training.promotion == TrainingPromotion::Shadow;
    if verdict.passed {
        follow_victory(&store, &name, training.promotion)?;
    }
    prune(&store, training.keep_candidates)?;
    Ok(Retrained { name, verdict, is_in_shadow })
}

/// What becomes of a candidate that won.
fn follow_victory(store: &ModelStore, name: &str, promotion: TrainingPromotion) -> anyhow::Result<()> {
    match promotion {
        TrainingPromotion::Direct => store.promote(name),
        TrainingPromotion::Shadow => store.set_shadow(Some(name)),
    }
}

fn missing(missing: TrainingMissing) -> Missing {
    match missing {
        TrainingMissing::Learned => Missing::Learned,
        TrainingMissing::Median => Missing::Median,
        TrainingMissing::Mean => Missing::Mean,
        TrainingMissing::Interpolated => Missing::Interpolated,
    }
}

fn pretraining(pretrain: TrainingPretrain) -> Pretraining {
    match pretrain {
        TrainingPretrain::None => Pretraining::None,
        TrainingPretrain::Masked => Pretraining::Masked,
        TrainingPretrain::Contrastive => Pretraining::Contrastive,
    }
}

/// What the configuration asks of a candidate.
pub fn gate(training: &TrainingConfig) -> GateParams {
    GateParams {
        metric: match training.metric {
            TrainingMetric::ChurnRocAuc => GateMetric::ChurnRocAuc,
            TrainingMetric::ChurnLogLoss => GateMetric::ChurnLogLoss,
            TrainingMetric::PurchaseRocAuc => GateMetric::PurchaseRocAuc,
            TrainingMetric::PurchaseLogLoss => GateMetric::PurchaseLogLoss,
        },
        min_gain: training.min_gain,
        confidence: training.confidence,
        max_loss: training.max_loss,
        seed: training.seed,
        ..GateParams::default()
    }
}

/// The newest moment whose labels are all known.
fn newest_window<H: History>(history: &H, horizons: &Horizons) -> anyhow::Result<i64> {
    let end_ms = history.shown_at(i64::MAX).context("there is no moment at which all partitions have a snapshot")?;
    let longest_ms = horizons.churn_ms().max(horizons.purchase_ms());
    history.shown_at(end_ms - longest_ms).with_context(|| {
        format!(
            "no snapshot is {} days older than the newest one ({}), so no labels are known yet; `undercurrent replay` can make \
             older ones from files",
            horizons.churn_days.max(horizons.purchase_days),
            format_time_ms(end_ms)
        )
    })
}

/// Scores the window exactly as the daemon would.
fn score(window: &Window, bundle: &Arc<Bundle>, threads: usize) -> anyhow::Result<Scores> {
    let workers = NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN);
    let pool =
        Pool::start(Arc::clone(bundle), PoolSettings { workers, timeout_ms: 600_000, ..PoolSettings::default() })?;
    let scores = window.score_blocking(&pool)?;
    pool.close();
    Ok(scores)
}

/// A name that no bundle has, by the moment.
fn free_name(store: &ModelStore, now_ms: i64) -> String {
    let digits: String = format_time_ms(now_ms).chars().filter(char::is_ascii_alphanumeric).take(15).collect();
    let name = format!("{PREFIX}{digits}");
    let is_free = |name: &String| store.folder_of(name).is_err();
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    std::iter::once(name.clone()).chain(numbered).find(is_free).unwrap_or(name)
}

/// The gate's verdict lies beside the bundle it is of.
const VERDICT_FILE: &str = "gate.json";

fn write_verdict(folder: &std::path::Path, verdict: &Verdict) -> anyhow::Result<()> {
    let path = folder.join(VERDICT_FILE);
    let json = serde_json::to_vec_pretty(verdict).context("cannot write the verdict as JSON")?;
    fs::write(&path, json).with_context(|| format!("cannot write `{}`", path.display()))
}

/// What the gate said of a bundle; `None` for one that no gate has seen.
pub fn verdict_of(folder: &std::path::Path) -> Option<Verdict> {
    serde_json::from_slice(&fs::read(folder.join(VERDICT_FILE)).ok()?).ok()
}

/// When the gate judged last, wall clock, milliseconds since the Unix epoch.
fn newest_verdict_ms(config: &Config) -> Option<i64> {
    let store = ModelStore::at(&config.scoring.models);
    let names = store.names().ok()?.into_iter().filter(|name| name.starts_with(PREFIX));
    names.filter_map(|name| Some(verdict_of(&store.folder_of(&name).ok()?)?.judged_ms)).max()
}

/// Deletes the oldest retrained bundles that were never promoted and are not in shadow, beyond `keep` (LIM-1).
fn prune(store: &ModelStore, keep: usize) -> anyhow::Result<()> {
    let mut used = store.promoted()?;
    used.extend(store.shadow()?);
    let mut candidates: Vec<String> =
        store.names()?.into_iter().filter(|name| name.starts_with(PREFIX) && !used.contains(name)).collect();
    // Names begin with the moment, so the newest are the last.
    candidates.truncate(candidates.len().saturating_sub(keep));
    for name in candidates {
        let folder: PathBuf = store.folder_of(&name)?;
        fs::remove_dir_all(&folder).with_context(|| format!("cannot delete `{}`", folder.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_begins_one_training_between_two_scheduled_ones() {
        let mut plan = Plan { every_ms: 100, due_ms: None, has_answered_drift: false };
        let mut asked = Vec::new();
        for now_ms in (0..=250).step_by(10) {
            if plan.is_due(now_ms, (30..=60).contains(&now_ms) || now_ms >= 130) {
                asked.push(now_ms);
            }
        }
        assert_eq!(asked, [30, 100, 130, 200, 210]);
    }

    #[test]
    fn names_sort_by_moment_and_are_never_taken() {
        let folder = tempfile::tempdir().unwrap();
        let store = ModelStore::at(folder.path());
        let name = free_name(&store, 1_764_000_000_000);
        assert_eq!(name, "retrained-20251124T160000");
        fs::create_dir(folder.path().join(&name)).unwrap();
        fs::write(folder.path().join(&name).join("MANIFEST.json"), "{}").unwrap();
        assert_eq!(free_name(&store, 1_764_000_000_000), format!("{name}-2"));
    }

    #[test]
    fn old_candidates_go_and_promoted_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let store = ModelStore::at(folder.path());
        for name in ["default", "retrained-1", "retrained-2", "retrained-3", "retrained-4"] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("MANIFEST.json"), "{}").unwrap();
        }
        store.promote("retrained-1").unwrap();
        store.set_shadow(Some("retrained-2")).unwrap();
        prune(&store, 1).unwrap();
        assert_eq!(store.names().unwrap(), ["default", "retrained-1", "retrained-2", "retrained-4"]);
    }

    #[test]
    fn a_winner_is_promoted_or_waits_in_shadow() {
        let folder = tempfile::tempdir().unwrap();
        let store = ModelStore::at(folder.path());
        for name in ["default", "retrained-1"] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("MANIFEST.json"), "{}").unwrap();
        }
        let state = || (store.champion("default").unwrap(), store.shadow().unwrap());
        follow_victory(&store, "retrained-1", TrainingPromotion::Shadow).unwrap();
        assert_eq!(state(), ("default".to_owned(), Some("retrained-1".to_owned())));
        follow_victory(&store, "retrained-1", TrainingPromotion::Direct).unwrap();
        assert_eq!(state(), ("retrained-1".to_owned(), None));
    }
}
