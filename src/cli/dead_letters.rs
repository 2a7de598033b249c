//! `undercurrent dead-letters`: what was refused and why, and sending it again once the reason is gone.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::{GlobalArgs, history_args::cutoff, output, prepare};
use crate::{
    clock::{Clock, SystemClock},
    config::Config,
    daemon::{
        letters::{self, Letter, Redriven},
        output_log::OutputLog,
        params,
    },
    decision::StoredDeadLetter,
    event::{CleaningCounts, Edge, PartitionId, View, format_time_ms},
};

/// Records sent again together.
const REDRIVE_RECORDS: usize = 1_000;
/// Bytes of a payload shown in a line of the list.
const SHOWN_BYTES: usize = 100;

/// What to do with the dead letters.
#[derive(Debug, clap::Subcommand)]
pub(super) enum DeadLettersCommand {
    /// List them, oldest first within each partition
    List {
        #[command(flatten)]
        filter: Filter,
        /// Print each record's JSON as it is
        #[arg(long)]
        raw: bool,
        /// Stop after this many
        #[arg(long, short = 'n', value_name = "N")]
        limit: Option<usize>,
    },
    /// Show one with all of its bytes
    Show {
        /// Its place as `list` shows it (PARTITION/OFFSET), or its id
        #[arg(value_name = "PLACE|ID")]
        letter: String,
    },
    /// Send the records again that would be taken now
    #[command(after_help = "Examples:
  undercurrent dead-letters redrive --reason unknown_event --dry-run   what would be sent, after `events.mapping` was added to
  undercurrent dead-letters redrive --since 2024-03-01 --until 2024-03-02
  undercurrent dead-letters redrive --all

Only records that the configuration in force accepts are sent; --force sends the others too. A record that is refused again
keeps its first origin and its id. Sending twice folds once: events are known by their ids.")]
    Redrive {
        #[command(flatten)]
        filter: Filter,
        /// All of them, where no other filter is given
        #[arg(long)]
        all: bool,
        /// Also those that would be refused again
        #[arg(long)]
        force: bool,
        /// Only say what would be sent
        #[arg(long)]
        dry_run: bool,
    },
}

/// Which dead letters.
#[derive(Debug, clap::Args)]
pub(super) struct Filter {
    /// Only of this reason; may be repeated
    #[arg(long, value_name = "NAME")]
    reason: Vec<String>,
    /// Only records the log took at or after this moment (a date, RFC 3339 or epoch milliseconds)
    #[arg(long, value_name = "TIME", value_parser = cutoff)]
    since: Option<i64>,
    /// Only records the log took before this moment
    #[arg(long, value_name = "TIME", value_parser = cutoff)]
    until: Option<i64>,
    /// Only of this partition
    #[arg(long, value_name = "N")]
    partition: Option<i32>,
    /// Only dead letters at these offsets of their own topic, the end exclusive (`100..200`, `100..`, `..200`)
    #[arg(long, value_name = "FROM..TO", value_parser = offsets)]
    offsets: Option<(i64, i64)>,
}

fn offsets(text: &str) -> Result<(i64, i64), String> {
    let rule = "must be FROM..TO with numbers; either may be left out";
    let (from, to) = text.split_once("..").ok_or(rule)?;
    let number = |text: &str, otherwise| if text.is_empty() { Ok(otherwise) } else { text.parse().map_err(|_| rule) };
    Ok((number(from, 0)?, number(to, i64::MAX)?))
}

impl Filter {
    fn is_empty(&self) -> bool {
        let Self { reason, since, until, partition, offsets } = self;
        reason.is_empty() && since.is_none() && until.is_none() && partition.is_none() && offsets.is_none()
    }

    fn takes(&self, letter: &Letter) -> bool {
        let (from, to) = self.offsets.unwrap_or((0, i64::MAX));
        let is_there = self.partition.is_none_or(|partition| PartitionId(partition) == letter.written.partition)
            && (from..to).contains(&letter.written.offset.0);
        let Ok(said) = &letter.letter else { return is_there && self.reason.is_empty() };
        is_there
            && (self.reason.is_empty() || self.reason.contains(&said.reason))
            && self.since.is_none_or(|since| said.timestamp_ms >= since)
            && self.until.is_none_or(|until| said.timestamp_ms < until)
    }
}

/// Runs one of them.
pub(super) fn run(global: &GlobalArgs, command: DeadLettersCommand) -> anyhow::Result<()> {
    let config = prepare(global)?;
    match command {
        DeadLettersCommand::List { filter, raw, limit } => list(&config, &filter, raw, limit.unwrap_or(usize::MAX)),
        DeadLettersCommand::Show { letter } => show(&config, &letter),
        DeadLettersCommand::Redrive { filter, all, force, dry_run } => {
            ensure!(all || !filter.is_empty(), "say which: a filter (see --help), or --all");
            redrive(&config, &filter, force, dry_run)
        }
    }
}

fn list(config: &Config, filter: &Filter, raw: bool, limit: usize) -> anyhow::Result<()> {
    let mut by_reason: BTreeMap<String, usize> = BTreeMap::new();
    let mut shown = 0;
    letters::each_blocking(&OutputLog::open(config)?, &mut |letter| {
        if shown >= limit {
            return Ok(false);
        }
        if filter.takes(&letter) {
            shown += 1;
            let reason = letter.letter.as_ref().map_or("unreadable", |said| said.reason.as_str());
            *by_reason.entry(reason.to_owned()).or_default() += 1;
            if raw {
                output::line(&String::from_utf8_lossy(&letter.written.json))?;
            } else {
                output::line(&line_of(&letter))?;
            }
        }
        Ok(true)
    })?;
    let reasons: Vec<String> = by_reason.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let colon = if reasons.is_empty() { "" } else { ": " };
    output::note(&format!("{shown} dead letters{colon}{}", reasons.join(", ")));
    Ok(())
}

fn line_of(letter: &Letter) -> String {
    match &letter.letter {
        Err(error) => format!("{}  unreadable: {error}", letter.place()),
        Ok(said) => format!(
            "{}  {}  {}  of {}  key {}  {}: {}  {}",
            letter.place(),
            format_time_ms(said.timestamp_ms),
            said.reason,
            said.first.to_header(),
            said.key.as_deref().map_or_else(|| "none".to_owned(), printable),
            said.field,
            said.message,
            said.payload.as_deref().map_or_else(|| "no payload".to_owned(), printable)
        ),
    }
}

/// The beginning of `bytes` in one line.
fn printable(bytes: &[u8]) -> String {
    let mut text: String =
        String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES)]).escape_default().collect::<String>();
    text = text.replace("\\\"", "\"").replace("\\u{fffd}", "\u{fffd}");
    if bytes.len() > SHOWN_BYTES {
        text.push('…');
    }
    text
}

fn show(config: &Config, wanted: &str) -> anyhow::Result<()> {
    let mut found = None;
    letters::each_blocking(&OutputLog::open(config)?, &mut |letter| {
        let is_it = letter.place() == wanted || letter.letter.as_ref().is_ok_and(|said| said.id == wanted);
        if is_it {
            // The newest of an id: a record that was sent again may have been refused again.
            found = Some(letter);
        }
        Ok(true)
    })?;
    let letter =
        found.with_context(|| format!("there is no dead letter `{wanted}`; `dead-letters list` shows them"))?;
    let mut fields: Value = serde_json::from_slice(&letter.written.json).context("the dead letter is not JSON")?;
    if let Some(fields) = fields.as_object_mut() {
        for name in ["payload", "payload_base64"] {
            fields.remove(name);
        }
    }
    output::line(&format!("{}\n{}", letter.place(), serde_json::to_string_pretty(&fields)?))?;
    let said = letter.letter.context("the dead letter cannot be read")?;
    match said.payload.as_deref() {
        None => output::line("payload: none"),
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => output::line(&format!("payload, {} bytes:\n{text}", bytes.len())),
            Err(_) => output::text(&format!("payload, {} bytes:\n{}", bytes.len(), hex(bytes))),
        },
    }
}

/// Sixteen bytes a line, with their place and their letters.
fn hex(bytes: &[u8]) -> String {
    let line = |(number, line): (usize, &[u8])| {
        let digits: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let letters: String =
            line.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' }).collect();
        format!("{:08x}  {:<47}  {letters}\n", number * 16, digits.join(" "))
    };
    bytes.chunks(16).enumerate().map(line).collect()
}

/// The newest letter of each record: one that was sent again and refused again has several.
#[derive(Default)]
struct Selected {
    letters: Vec<(String, StoredDeadLetter)>,
    place_of: HashMap<String, usize>,
    unreadable: usize,
}

impl Selected {
    fn add(&mut self, letter: Letter) {
        let place = letter.place();
        let Ok(said) = letter.letter else {
            self.unreadable += 1;
            return;
        };
        if let Some(known) = self.place_of.get(&said.id) {
            self.letters[*known] = (place, said);
        } else {
            self.place_of.insert(said.id.clone(), self.letters.len());
            self.letters.push((place, said));
        }
    }
}

fn redrive(config: &Config, filter: &Filter, force: bool, dry_run: bool) -> anyhow::Result<()> {
    let log = OutputLog::open(config)?;
    let mut selected = Selected::default();
    letters::each_blocking(&log, &mut |letter| {
        if filter.takes(&letter) {
            selected.add(letter);
        }
        Ok(true)
    })?;
    let mut edge = params::edge(config)?;
    let mut records = Vec::new();
    let mut kept: BTreeMap<String, usize> = BTreeMap::new();
    for (place, said) in selected.letters {
        match again(config, &mut edge, place, said, force) {
            Ok(record) => records.push(record),
            Err(reason) => *kept.entry(reason).or_default() += 1,
        }
    }
    let count = records.len();
    if dry_run {
        for record in &records {
            let topic = record.view.name();
            output::line(&format!("{}  into {topic}: {}", record.letter_place, printable(&record.payload)))?;
        }
        output::line(&format!("{count} records would be sent"))?;
    } else {
        let mut repeated = 0;
        for chunk in records.chunks(REDRIVE_RECORDS) {
            repeated += letters::redrive_blocking(&log, chunk)?;
        }
        output::line(&format!("sent {} records again, {repeated} had been sent already", count - repeated))?;
    }
    for (reason, count) in kept {
        output::line(&format!("left {count}: {reason}"))?;
    }
    if selected.unreadable > 0 {
        bail!("{} dead letters cannot be read; `dead-letters list` shows which", selected.unreadable);
    }
    Ok(())
}

/// The record as it is to be sent, or why it is left.
fn again(
    config: &Config,
    edge: &mut Edge,
    place: String,
    said: StoredDeadLetter,
    force: bool,
) -> Result<Redriven, String> {
    let Some(payload) = said.payload else { return Err("it has no payload".to_owned()) };
    // As of now: what was too far in the future when it was refused may have come.
    let admitted = edge
        .admit(&payload, SystemClock.now_ms(), &mut CleaningCounts::default())
        .map(|admitted| (admitted.view(), admitted.event.user.as_bytes().to_vec(), admitted.payload.into_owned()));
    let (view, key, payload) = match admitted {
        Ok((view, user, payload)) => (view, Some(user), payload),
        Err(reject) if !force => {
            return Err(format!("would be refused again as {} ({})", reject.reason.name(), reject.field));
        }
        Err(_) => match view_of(config, &said.first.topic) {
            Some(view) => (view, said.key, payload),
            None => return Err(format!("its topic `{}` is not configured", said.first.topic)),
        },
    };
    Ok(Redriven { view, key, payload, first: said.first, letter_place: place })
}

fn view_of(config: &Config, topic: &str) -> Option<View> {
    let topics = &config.topics;
    let named = [(View::Click, &topics.clicks), (View::Search, &topics.searches), (View::Purchase, &topics.purchases)];
    named.into_iter().find(|(_, name)| *name == topic).map(|(view, _)| view)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_a_range_with_open_ends() {
        assert_eq!(offsets("3..7"), Ok((3, 7)));
        assert_eq!(offsets("3.."), Ok((3, i64::MAX)));
        assert_eq!(offsets("..7"), Ok((0, 7)));
        assert!(offsets("7").is_err() && offsets("a..b").is_err());
    }

    #[test]
    fn bytes_are_shown_in_one_line_or_in_hex() {
        assert_eq!(printable(b"{\"a\":1}\n"), "{\"a\":1}\\n");
        let dump = hex(&[0x41, 0x00, 0xff]);
        assert_eq!(dump.trim_end(), "00000000  41 00 ff                                         A..");
    }
}
