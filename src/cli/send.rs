//! `undercurrent send`: files into the topics, as fast as possible, at a rate, or as time went by.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use super::{GlobalArgs, output, prepare};
use crate::{
    clock::{Clock, SystemClock},
    config::{Config, LogKind},
    daemon::{
        feed::{EventBatch, append_blocking, produce_blocking},
        params,
    },
    event::{CleaningCounts, Edge, RowReader},
    stream::{embedded::EmbeddedLog, kafka::KafkaProducer},
};

/// Events written together: enough to hide the cost of one disk synchronisation or round trip.
const BATCH_EVENTS: usize = 2_000;
/// With a pace, a batch ends at the latest after this time, so that the events trickle instead of jumping.
const BATCH_MS: i64 = 50;

/// What to send and how fast.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  undercurrent send history.csv.zst                       as fast as the log takes it
  undercurrent send --rate 2000 events.jsonl              2,000 events a second
  undercurrent send --speed 86400 history.csv.zst         a day of history a second

Files are JSON lines or CSV with the columns user_id, event_type, timestamp and, where there are any, item_id, category,
query, price, quantity, session_id; `.gz` and `.zst` are unpacked. A row's id is its file's name and its number: sent
again, nothing is folded twice.")]
pub(super) struct SendArgs {
    /// Files in the order they are to be sent
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Events a second
    #[arg(long, value_name = "N", conflicts_with = "speed")]
    rate: Option<f64>,
    /// Follow the events' own times, this many times faster
    #[arg(long, value_name = "FACTOR")]
    speed: Option<f64>,
    /// Stop after this many events
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

enum Target {
    Embedded(Arc<EmbeddedLog>),
    Kafka(Box<KafkaProducer>),
}

impl Target {
    fn open(config: &Config) -> anyhow::Result<Self> {
        match config.input.log {
            LogKind::Embedded => {
                let log = EmbeddedLog::open(params::embedded(config), Arc::new(SystemClock)).with_context(|| {
                    format!(
                        "cannot open the embedded log; while the daemon runs, send over HTTP instead: \
                         curl --data-binary @events.jsonl http://{}/v1/events",
                        config.http.listen
                    )
                })?;
                Ok(Self::Embedded(log))
            }
            LogKind::Kafka => Ok(Self::Kafka(Box::new(KafkaProducer::open(&params::kafka(config)?)?))),
        }
    }

    /// Writes the batch and returns how many of its events were there already, where the log can tell.
    fn write(&self, batch: &EventBatch) -> anyhow::Result<usize> {
        match self {
            Self::Embedded(log) => append_blocking(log, batch),
            Self::Kafka(producer) => produce_blocking(producer, batch).map(|()| 0),
        }
    }
}

/// When each event is due.
struct Pace {
    start_ms: i64,
    rate: Option<f64>,
    speed: Option<f64>,
    first_event_ms: Option<i64>,
}

impl Pace {
    /// Wall-clock time at which event number `index` of time `event_ms` is due; `None` means at once.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "milliseconds of a run are far below 2^53"
    )]
    fn due_ms(&mut self, index: u64, event_ms: i64) -> Option<i64> {
        let elapsed_ms = match (self.rate, self.speed) {
            (Some(rate), _) => index as f64 / rate * 1_000.0,
            (None, Some(speed)) => {
                let first_ms = *self.first_event_ms.get_or_insert(event_ms);
                (event_ms - first_ms) as f64 / speed
            }
            (None, None) => return None,
        };
        Some(self.start_ms + elapsed_ms as i64)
    }
}

#[derive(Default)]
struct Sent {
    events: u64,
    repeated: usize,
    counts: CleaningCounts,
}

/// Sends the files.
pub(super) fn run(global: &GlobalArgs, args: &SendArgs) -> anyhow::Result<()> {
    for (name, value) in [("--rate", args.rate), ("--speed", args.speed)] {
        ensure!(value.is_none_or(|value| value.is_finite() && value > 0.0), "{name} must be above 0");
    }
    let config = prepare(global)?;
    let target = Target::open(&config)?;
    let clock = SystemClock;
    let start_ms = clock.now_ms();
    let mut pace = Pace { start_ms, rate: args.rate, speed: args.speed, first_event_ms: None };
    let mut edge = params::edge(&config)?;
    let mut sent = Sent::default();
    let progress = spinner();
    for file in &args.files {
        send_file(file, args.limit, &target, &mut edge, &mut pace, &mut sent, &progress)?;
    }
    progress.finish_and_clear();
    summary(&sent, clock.now_ms() - start_ms)
}

fn send_file(
    file: &Path,
    limit: Option<u64>,
    target: &Target,
    edge: &mut Edge,
    pace: &mut Pace,
    sent: &mut Sent,
    progress: &ProgressBar,
) -> anyhow::Result<()> {
    let clock = SystemClock;
    let mut reader = RowReader::open(file)?;
    let mut batch = EventBatch::default();
    let mut batch_end_ms = i64::MAX;
    while limit.is_none_or(|limit| sent.events < limit) {
        let Some(row) = reader.next_row()? else { break };
        // A refused row is counted by its rule; the others go on.
        let Ok(admitted) = edge.admit_row(&row, &mut sent.counts) else { continue };
        let due_ms = pace.due_ms(sent.events, admitted.event.time_ms);
        if batch.len() >= BATCH_EVENTS || due_ms.is_some_and(|due_ms| due_ms >= batch_end_ms) {
            sent.repeated += target.write(&batch)?;
            batch.clear();
            progress.set_message(format!("{} events", sent.events));
        }
        if batch.is_empty()
            && let Some(due_ms) = due_ms
        {
            wait_until(clock, due_ms);
            batch_end_ms = due_ms + BATCH_MS;
        }
        batch.push(&admitted);
        sent.events += 1;
    }
    if !batch.is_empty() {
        sent.repeated += target.write(&batch)?;
    }
    Ok(())
}

fn wait_until(clock: SystemClock, due_ms: i64) {
    if let Ok(wait_ms) = u64::try_from(due_ms - clock.now_ms()) {
        std::thread::sleep(Duration::from_millis(wait_ms));
    }
}

fn spinner() -> ProgressBar {
    // Draws on standard error, and only on a terminal.
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::default_spinner());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn summary(sent: &Sent, elapsed_ms: i64) -> anyhow::Result<()> {
    let seconds = (elapsed_ms.max(1) as f64) / 1_000.0;
    output::line(&format!(
        "sent {} events in {seconds:.1} s ({:.0}/s), {} of them were there already",
        sent.events,
        sent.events as f64 / seconds,
        sent.repeated
    ))?;
    for (reason, count) in sent.counts.rejects().filter(|(_, count)| *count > 0) {
        output::line(&format!("refused {count}: {reason}"))?;
    }
    for (repair, count) in sent.counts.repairs().filter(|(_, count)| *count > 0) {
        output::line(&format!("repaired {count}: {}", repair.name()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rate: Option<f64>, speed: Option<f64>, event_times_ms: &[i64], expected_ms: &[Option<i64>]) {
        let mut pace = Pace { start_ms: 1_000, rate, speed, first_event_ms: None };
        let found: Vec<_> = (0..).zip(event_times_ms).map(|(index, time_ms)| pace.due_ms(index, *time_ms)).collect();
        assert_eq!(found, expected_ms);
    }

    #[test]
    fn without_a_pace_everything_is_due_at_once() {
        check(None, None, &[0, 5, 10], &[None, None, None]);
    }

    #[test]
    fn a_rate_counts_events() {
        check(Some(100.0), None, &[0, 0, 0], &[Some(1_000), Some(1_010), Some(1_020)]);
    }

    #[test]
    fn a_speed_follows_the_events_own_times() {
        check(None, Some(10.0), &[500, 1_500, 1_500], &[Some(1_000), Some(1_100), Some(1_100)]);
    }
}
