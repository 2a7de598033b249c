//! `undercurrent tail`: outputs as they are committed, one line each.

use std::{sync::Arc, time::Duration};

use anyhow::Context;

use super::{GlobalArgs, output, prepare};
use crate::{
    clock::SystemClock,
    config::{Config, LogKind},
    daemon::params,
    event::Offset,
    stream::{
        OutputTopic,
        embedded::EmbeddedLog,
        kafka::{OutputTail, TailStart},
    },
};

/// Milliseconds between two looks for new records.
const WAIT_MS: u64 = 200;
/// Records taken from the embedded log at once.
const PAGE_RECORDS: usize = 1_000;

/// What to show.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  undercurrent tail                                 alerts from the beginning, then stop at the end
  undercurrent tail --topic alert-outcomes          which of them were right
  undercurrent tail --topic scores --follow         every new score until Ctrl-C
  undercurrent tail --topic dead-letters --raw      whole JSON records, for jq")]
pub(super) struct TailArgs {
    /// Output to show; may be repeated
    #[arg(long, value_enum, default_value = "churn-alerts")]
    topic: Vec<Topic>,
    /// Wait for more at the end
    #[arg(long, short)]
    follow: bool,
    /// Start with what comes from now on (implies --follow)
    #[arg(long)]
    new: bool,
    /// Print each record's JSON as it is
    #[arg(long)]
    raw: bool,
    /// Stop after this many records
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<u64>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Topic {
    Scores,
    ChurnAlerts,
    AlertOutcomes,
    Recommendations,
    DeadLetters,
    ShadowScores,
}

impl Topic {
    fn output(self) -> OutputTopic {
        match self {
            Self::Scores => OutputTopic::Scores,
            Self::ChurnAlerts => OutputTopic::ChurnAlerts,
            Self::AlertOutcomes => OutputTopic::AlertOutcomes,
            Self::Recommendations => OutputTopic::Recommendations,
            Self::DeadLetters => OutputTopic::DeadLetters,
            Self::ShadowScores => OutputTopic::ShadowScores,
        }
    }
}

struct Printer {
    raw: bool,
    left: u64,
}

impl Printer {
    /// Prints one record; false when the limit is reached.
    fn print(&mut self, topic: OutputTopic, key: &[u8], payload: Option<&[u8]>) -> anyhow::Result<bool> {
        if self.left == 0 {
            return Ok(false);
        }
        self.left -= 1;
        let text = payload.map(String::from_utf8_lossy);
        let line = match (&text, self.raw) {
            (Some(text), true) => text.clone().into_owned(),
            (Some(text), false) => output::record(topic, text),
            (None, _) => format!("{} {} deleted", topic.default_name(), String::from_utf8_lossy(key)),
        };
        output::line(&line)?;
        Ok(self.left > 0)
    }
}

/// Prints outputs until the end, the limit or Ctrl-C.
pub(super) fn run(global: &GlobalArgs, args: &TailArgs) -> anyhow::Result<()> {
    let config = prepare(global)?;
    let topics: Vec<OutputTopic> = args.topic.iter().map(|topic| topic.output()).collect();
    let mut printer = Printer { raw: args.raw, left: args.limit.unwrap_or(u64::MAX) };
    let follow = args.follow || args.new;
    match config.input.log {
        LogKind::Embedded => embedded(&config, &topics, args.new, follow, &mut printer),
        LogKind::Kafka => kafka(&config, &topics, args.new, follow, &mut printer),
    }
}

fn embedded(
    config: &Config,
    topics: &[OutputTopic],
    new: bool,
    follow: bool,
    printer: &mut Printer,
) -> anyhow::Result<()> {
    let log = EmbeddedLog::open(params::embedded(config), Arc::new(SystemClock)).with_context(|| {
        format!(
            "cannot open the embedded log; while the daemon runs, ask it instead: http://{}/v1/users/{{id}}",
            config.http.listen
        )
    })?;
    let mut places = Vec::new();
    for topic in topics {
        for partition in log.partitions() {
            let (first, end) = log.output_range(*topic, partition);
            places.push((*topic, partition, if new { end } else { first }));
        }
    }
    loop {
        let mut found = false;
        for (topic, partition, next) in &mut places {
            for record in log.read_outputs(*topic, *partition, *next, PAGE_RECORDS)? {
                found = true;
                *next = Offset(record.offset.0 + 1);
                if !printer.print(*topic, &record.key, record.payload.as_deref())? {
                    return Ok(());
                }
            }
        }
        if !found {
            if !follow {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(WAIT_MS));
        }
    }
}

fn kafka(
    config: &Config,
    topics: &[OutputTopic],
    new: bool,
    follow: bool,
    printer: &mut Printer,
) -> anyhow::Result<()> {
    let start = if new { TailStart::End } else { TailStart::Beginning };
    let tail = OutputTail::open(&params::kafka(config)?, topics, start)?;
    // Where each topic partition ended when the tail began: without --follow it stops there.
    let mut missing = Vec::new();
    for topic in topics {
        for (partition, end) in (0..).zip(tail.ends_blocking(*topic)?) {
            missing.push((*topic, partition, end));
        }
    }
    let mut quiet = 0;
    loop {
        let Some(record) = tail.next_blocking(WAIT_MS)? else {
            quiet += 1;
            // Transaction markers take offsets too, so an end may never be "seen": some silence means the same.
            if !follow && (missing.is_empty() || quiet > 10) {
                return Ok(());
            }
            continue;
        };
        quiet = 0;
        missing.retain(|(topic, partition, end)| {
            *topic != record.topic || *partition != record.partition.0 || end.0 > record.offset.0 + 2
        });
        if !printer.print(record.topic, &record.key, record.payload.as_deref())? {
            return Ok(());
        }
    }
}
