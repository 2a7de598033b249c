//! `undercurrent demo`: a real year of shopping through the real loop, and at the end how right it was.

mod feeder;
mod history;
mod report;
mod settle;
mod watch;

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, ensure};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinSet;

use self::{
    feeder::{Feeder, Pace, Progress},
    history::History,
    report::Figures,
    settle::Settlement,
    watch::Watch,
};
use super::{GlobalArgs, output, start_logging};
use crate::{
    clock::{Clock, SystemClock},
    config::Config,
    daemon::{
        engine::{Engine, EngineParts},
        params, pool, signals,
        threads::totals,
    },
    event::format_time_ms,
    model::Bundle,
    stream::{Commit, Sink, TimeMode, embedded::EmbeddedLog},
};

/// Milliseconds between two looks at what was committed.
const LOOK_MS: u64 = 100;
/// Alerts printed a second at most; the others are counted.
const ALERTS_A_SECOND: u64 = 4;
/// Seconds between two status lines where there is no terminal.
const STATUS_S: i64 = 5;
/// For how long nothing may happen before the stream counts as done.
const QUIET_MS: i64 = 500;

/// What to play and how.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "What you see: users of the first months are folded without a word (the model was trained on these months and on nothing
later). Then every day of the rest streams through: alerts are printed as they are committed, with the strongest reason.
At the end they are held against what really happened. Ctrl-C stops at any moment and settles what was played so far."
)]
pub(super) struct DemoArgs {
    /// Folder with events.csv.zst
    #[arg(long, value_name = "DIR", default_value = "data/completejourney")]
    data: PathBuf,
    /// Model bundle, trained on the warm-up only
    #[arg(long, value_name = "DIR", default_value = "models/demo")]
    bundle: PathBuf,
    /// Days of history a second at most [default: as fast as scoring goes]
    #[arg(long, value_name = "DAYS")]
    days_per_second: Option<f64>,
    /// Events the stream may be behind: smaller scores users more often
    #[arg(long, value_name = "N", default_value_t = 4_000)]
    max_lag: u64,
    /// Print every alert
    #[arg(long)]
    all_alerts: bool,
}

/// Runs the demo and prints its table.
pub(super) fn run(global: &GlobalArgs, args: &DemoArgs) -> anyhow::Result<()> {
    let events = args.data.join("events.csv.zst");
    for (path, what) in [(&events, "the events"), (&args.bundle, "the model bundle")] {
        ensure!(
            path.exists(),
            "cannot find {what} at `{}`; run this in the repository's folder, or name the place (see --help)",
            path.display()
        );
    }
    let folder = tempfolder()?;
    let config = config(global, &folder.0)?;
    start_logging(&config.logging)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let demo = Demo { start_ms: SystemClock.now_ms(), args, config, events };
    runtime.block_on(demo.run())
}

/// A folder that goes away with the demo.
struct TempFolder(PathBuf);

impl Drop for TempFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "cannot remove the demo's folder");
        }
    }
}

fn tempfolder() -> anyhow::Result<TempFolder> {
    let folder = std::env::temp_dir().join(format!("undercurrent-demo-{}", std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    Ok(TempFolder(folder))
}

/// The configuration in force, on a log of its own that is thrown away, with the names this shop uses.
fn config(global: &GlobalArgs, folder: &Path) -> anyhow::Result<Config> {
    let mut sources = global.sources();
    // First, so that whoever wants the log lines can say so: the demo's own lines tell what happens.
    sources.settings.insert(0, ("logging.filter".to_owned(), "warn".to_owned()));
    let place = |name: &str| folder.join(name).display().to_string();
    for (key, value) in [
        ("input.log", "embedded".to_owned()),
        ("embedded.path", place("log")),
        ("snapshot.location", place("snapshots")),
        ("events.mapping.coupon_redemption", "other".to_owned()),
    ] {
        sources.settings.push((key.to_owned(), value));
    }
    Ok(Config::load(&sources)?)
}

struct Demo<'a> {
    start_ms: i64,
    args: &'a DemoArgs,
    config: Config,
    events: PathBuf,
}

/// What the demo must know of the bundle.
struct Card {
    version: Arc<str>,
    churn_days: u32,
    /// Nothing at or after this moment was seen in training.
    trained_until_ms: i64,
}

impl Card {
    fn of(bundle: &Bundle) -> anyhow::Result<Self> {
        let info = bundle.info();
        let trained_until_ms = bundle.metrics["trained_until_ms"].as_i64().with_context(|| {
            format!(
                "the bundle `{}` does not say until when it was trained, so no moment can be called unseen",
                info.version
            )
        })?;
        Ok(Self { version: info.version, churn_days: info.churn_days, trained_until_ms })
    }
}

impl Demo<'_> {
    async fn run(&self) -> anyhow::Result<()> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let progress = Arc::new(Progress::default());
        // From the first moment on: what is interrupted while it loads must leave nothing behind either.
        let mut listeners = JoinSet::new();
        let mut interrupt = signals::Shutdown::listen()?;
        let stop = progress.stop.clone();
        listeners.spawn(async move {
            interrupt.received().await;
            stop.cancel();
        });
        let bundle = pool::load(&self.args.bundle)?;
        let card = Card::of(&bundle)?;
        let scoring = pool::start(&self.config, bundle)?;
        let log = EmbeddedLog::open(params::embedded(&self.config), Arc::clone(&clock))?;
        let mut feeder =
            Feeder::open(&self.events, Arc::clone(&log), params::edge(&self.config)?, Arc::clone(&progress))?;
        output::line(&format!(
            "model {} was trained on events before {} and saw nothing later",
            card.version,
            format_time_ms(card.trained_until_ms)
        ))?;
        let warm_up = feeder.warm_up_blocking(card.trained_until_ms)?;
        if progress.stop.is_cancelled() {
            return output::line("stopped early, before anyone was scored: there is nothing to settle");
        }
        commit_warm_up_blocking(&log)?;
        output::line(&format!(
            "warm-up: {warm_up} events of {} users in {:.1} s; from here on every user is scored",
            feeder.history.users.len(),
            self.seconds()
        ))?;
        let settlement = Settlement { start_ms: card.trained_until_ms, horizon_ms: params::days_ms(card.churn_days) };
        let mut engine = Engine::start_blocking(
            &self.config,
            EngineParts {
                scorer: Arc::clone(&scoring.scorer),
                decision: params::decision(&self.config, TimeMode::Replay)?,
                catalogue: Arc::clone(&scoring.catalogue),
                time: TimeMode::Replay,
                clock,
                embedded: Some(Arc::clone(&log)),
            },
        )?;
        let stream_start_ms = SystemClock.now_ms();
        let pace = Pace { max_lag_events: self.args.max_lag, days_per_second: self.args.days_per_second };
        let player =
            std::thread::Builder::new().name("demo-feeder".to_owned()).spawn(move || feeder.play_blocking(pace))?;
        let mut watcher = Watcher {
            watch: Watch::new(log, settlement.start_ms),
            progress,
            warm_up,
            start_ms: self.start_ms,
            first_alert_ms: None,
            all_alerts: self.args.all_alerts,
            bar: bar(),
            last_status_ms: 0,
        };
        let interrupted = watcher.run(&mut engine, &player).await?;
        let streamed = totals(&engine.statuses());
        let stream_seconds = seconds(SystemClock.now_ms() - stream_start_ms);
        engine.stop(Duration::from_millis(self.config.shutdown.deadline_ms)).await?;
        let history: History =
            player.join().map_err(|_| anyhow::anyhow!("the thread that plays the file panicked"))??;
        watcher.finish()?;
        output::text(&report::table(&Figures {
            settlement,
            history: &history,
            said: &watcher.watch.said,
            transitions: watcher.watch.transitions,
            streamed,
            stream_seconds,
            first_alert_seconds: watcher.first_alert_ms.map(|at_ms| seconds(at_ms - self.start_ms)),
            total_seconds: self.seconds(),
            interrupted,
        }))
    }

    fn seconds(&self) -> f64 {
        seconds(SystemClock.now_ms() - self.start_ms)
    }
}

/// Marks all that is in the log as handled: the stream threads then restore it by replay, without scoring, exactly as
/// after a restart.
fn commit_warm_up_blocking(log: &Arc<EmbeddedLog>) -> anyhow::Result<()> {
    let partitions: Vec<_> = log.partitions().collect();
    let mut consumer = log.consumer(&partitions)?;
    let positions = partitions.iter().map(|partition| (*partition, log.ends(*partition))).collect();
    consumer.commit_blocking(&Commit { outputs: Vec::new(), positions })?;
    Ok(())
}

/// Prints while the stream runs.
struct Watcher {
    watch: Watch,
    progress: Arc<Progress>,
    warm_up: u64,
    start_ms: i64,
    first_alert_ms: Option<i64>,
    all_alerts: bool,
    bar: ProgressBar,
    last_status_ms: i64,
}

impl Watcher {
    /// Watches until the file is played and the stream is quiet, or Ctrl-C. Says whether it was interrupted.
    async fn run(&mut self, engine: &mut Engine, player: &JoinHandle<anyhow::Result<History>>) -> anyhow::Result<bool> {
        let stop = self.progress.stop.clone();
        let statuses = engine.statuses();
        let (mut last_batches, mut quiet_since_ms) = (0, SystemClock.now_ms());
        loop {
            tokio::select! {
                // Biased: a signal must not wait behind the ticks.
                biased;
                () = stop.cancelled() => return Ok(true),
                end = engine.next_end() => {
                    stop.cancel();
                    anyhow::bail!("a stream thread ended: {}", end.map_or_else(String::new, |end| end.describe()));
                }
                () = tokio::time::sleep(Duration::from_millis(LOOK_MS)) => {}
            }
            let sum = totals(&statuses);
            self.progress.committed.store(sum.record_count, Ordering::Relaxed);
            let now_ms = SystemClock.now_ms();
            self.show(now_ms)?;
            self.status(now_ms, &sum)?;
            if sum.batch_count != last_batches {
                (last_batches, quiet_since_ms) = (sum.batch_count, now_ms);
            }
            let fed = self.progress.fed.load(Ordering::Relaxed) - self.warm_up;
            if player.is_finished() && sum.record_count >= fed && now_ms - quiet_since_ms >= QUIET_MS {
                return Ok(false);
            }
        }
    }

    fn show(&mut self, now_ms: i64) -> anyhow::Result<()> {
        let lines = self.watch.take()?;
        if !lines.is_empty() {
            self.first_alert_ms.get_or_insert(now_ms);
        }
        let elapsed_s = u64::try_from((now_ms - self.start_ms) / 1_000).unwrap_or(0);
        for line in lines {
            if self.all_alerts || self.watch.printed < (elapsed_s + 1) * ALERTS_A_SECOND {
                self.watch.printed += 1;
                self.print(&line)?;
            }
        }
        Ok(())
    }

    /// Prints a line above the status line, where there is one.
    fn print(&self, line: &str) -> anyhow::Result<()> {
        if self.bar.is_hidden() { output::line(line) } else { self.bar.suspend(|| output::line(line)) }
    }

    fn status(&mut self, now_ms: i64, sum: &crate::daemon::threads::Totals) -> anyhow::Result<()> {
        let streaming_s = seconds(now_ms - self.start_ms).max(0.001);
        #[expect(clippy::cast_precision_loss, reason = "rates for people")]
        let line = format!(
            "{} | {} events, {:.0}/s | {} scores, {:.0}/s | {} alerts",
            &format_time_ms(self.progress.event_ms.load(Ordering::Relaxed))[..10],
            sum.record_count,
            sum.record_count as f64 / streaming_s,
            sum.score_count,
            sum.score_count as f64 / streaming_s,
            sum.alert_count
        );
        if !self.bar.is_hidden() {
            self.bar.set_message(line);
        } else if now_ms - self.last_status_ms >= STATUS_S * 1_000 {
            self.last_status_ms = now_ms;
            output::line(&format!("status  {line}"))?;
        }
        Ok(())
    }

    /// Takes in what was committed last.
    fn finish(&mut self) -> anyhow::Result<()> {
        let now_ms = SystemClock.now_ms();
        self.show(now_ms)?;
        self.bar.finish_and_clear();
        let unprinted = self.watch.transitions.iter().sum::<u64>() - self.watch.printed;
        if unprinted > 0 {
            output::line(&format!("… and {unprinted} more alerts (--all-alerts prints them)"))?;
        }
        Ok(())
    }
}

/// The status line; hidden where standard error is no terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    bar.set_draw_target(if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    });
    bar.set_style(ProgressStyle::default_spinner());
    bar
}

#[expect(clippy::cast_precision_loss, reason = "seconds for people")]
fn seconds(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1_000.0
}
