//! Folds event files into partition states, as the daemon folds its log, and writes them as snapshots at moments of
//! event time.
//!
//! Every admitted row takes the place in its topic that `send` would give it in a new log, so a daemon that has read a log filled
//! from the same files in the same order can restart from these snapshots.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, bail, ensure};

use super::{engine, params};
use crate::{
    clock::SystemClock,
    config::{Config, LogKind},
    event::{CleaningCounts, Event, Offset, PartitionId, RowReader, View, format_time_ms},
    graph::{FoldOutcome, GraphParams, PartitionState, WriteSet},
    snapshot::{SnapshotRequest, Snapshots},
    stream::{embedded::RecentIds, partitioner::partition_of},
    train::kinds::Survey,
};

/// Events folded before their graphs are published: bounds the copies a write set holds.
const BATCH_EVENTS: usize = 10_000;
/// Snapshots of a partition that one replay writes at most.
const MAX_MOMENTS: usize = 2_000;

/// At which moments of event time snapshots are written, milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moments {
    /// At these.
    At(Vec<i64>),
    /// At `until_ms` (by default just after the last event) and every `every_ms` before it, but after `from_ms` (by
    /// default the first event).
    Every {
        /// Distance.
        every_ms: i64,
        /// Nothing at or before it.
        from_ms: Option<i64>,
        /// The newest moment.
        until_ms: Option<i64>,
    },
}

/// What to replay.
#[derive(Debug, Clone)]
pub struct ReplayOptions {
    /// Event files, in order of time.
    pub files: Vec<PathBuf>,
    /// When snapshots are written.
    pub moments: Moments,
    /// Lengths of time before each moment at which a further snapshot is written: horizons, whose labels are then read
    /// exactly at a snapshot.
    pub horizons_ms: Vec<i64>,
    /// Folder or object store URL of the snapshots.
    pub location: String,
    /// Partitions; users are spread over them as the log would.
    pub partition_count: u32,
}

/// What a replay did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Events folded.
    pub event_count: u64,
    /// Users in the states.
    pub user_count: u64,
    /// Moments at which snapshots were written.
    pub moments_ms: Vec<i64>,
    /// Snapshots written.
    pub snapshot_count: usize,
    /// Bytes of their files.
    pub byte_count: u64,
    /// Events that stood in the files after a snapshot they belong into by their time: that snapshot lacks them.
    pub out_of_order_count: u64,
    /// Events whose id had just been seen.
    pub repeated_count: u64,
    /// Rows refused and repaired, by rule.
    pub counts: CleaningCounts,
}

/// Replays. `progress` hears the events read so far and the time of the newest. Blocks.
pub fn run_blocking(
    config: &Config,
    options: &ReplayOptions,
    progress: &mut dyn FnMut(u64, i64),
) -> anyhow::Result<Replayed> {
    let moments_ms = planned(options)?;
    let snapshots =
        Snapshots::new(engine::storage(config, &options.location)?, params::snapshots(config)?, Arc::new(SystemClock));
    let there = snapshots.list_blocking(None).context("cannot look for snapshots")?;
    ensure!(
        there.is_empty(),
        "`{}` holds {} snapshots already; a replay needs a place of its own",
        options.location,
        there.len()
    );
    let partitions = (0..options.partition_count)
        .map(|partition| Arc::new(PartitionState::new(PartitionId(i32::try_from(partition).unwrap_or(i32::MAX)))));
    let mut replay = Replay {
        partitions: partitions.map(Partition::on).collect(),
        params: params::graph(config)?,
        snapshots,
        // The embedded log takes an event once; Kafka takes whatever is sent.
        recent: (config.input.log == LogKind::Embedded).then(|| RecentIds::new(config.embedded.recent_id_capacity)),
        pending_ms: moments_ms.into_iter().rev().collect(),
        pending_events: 0,
        done: Replayed::default(),
    };
    let mut edge = params::edge(config)?;
    for file in &options.files {
        let mut reader = RowReader::open(file)?;
        while let Some(row) = reader.next_row()? {
            let Ok(event) = edge.decode_row(&row, &mut replay.done.counts) else { continue };
            replay.event_blocking(&event)?;
            if replay.done.event_count.is_multiple_of(BATCH_EVENTS as u64) {
                progress(replay.done.event_count, event.time_ms);
            }
        }
    }
    replay.finish_blocking()
}

/// The moments, ascending, each once.
fn planned(options: &ReplayOptions) -> anyhow::Result<Vec<i64>> {
    let mut moments_ms = match &options.moments {
        Moments::At(moments_ms) => moments_ms.clone(),
        Moments::Every { every_ms, from_ms, until_ms } => {
            ensure!(*every_ms > 0, "the distance of two snapshots must be above 0");
            let (mut from_ms, mut until_ms) = (*from_ms, *until_ms);
            if from_ms.is_none() || until_ms.is_none() {
                let mut survey = Survey::default();
                for file in &options.files {
                    survey.add(Survey::of(file)?);
                }
                let Some((first_ms, last_ms)) = survey.range_ms else { bail!("the files hold no event with a time") };
                from_ms = from_ms.or(Some(first_ms));
                until_ms = until_ms.or(Some(last_ms + 1));
            }
            let (from_ms, until_ms) = (from_ms.unwrap_or_default(), until_ms.unwrap_or_default());
            ensure!(
                from_ms < until_ms,
                "there is no time between {} and {}",
                format_time_ms(from_ms),
                format_time_ms(until_ms)
            );
            let mut moments_ms = Vec::new();
            let mut at_ms = until_ms;
            while at_ms > from_ms && moments_ms.len() <= MAX_MOMENTS {
                let before = options.horizons_ms.iter().map(|horizon_ms| at_ms - horizon_ms);
                moments_ms.extend(before.filter(|before_ms| *before_ms > from_ms));
                moments_ms.push(at_ms);
                at_ms -= every_ms;
            }
            moments_ms
        }
    };
    if let Moments::At(given_ms) = &options.moments {
        moments_ms.extend(
            given_ms.iter().flat_map(|at_ms| options.horizons_ms.iter().map(move |horizon_ms| at_ms - horizon_ms)),
        );
    }
    moments_ms.sort_unstable();
    moments_ms.dedup();
    ensure!(!moments_ms.is_empty(), "no moment to write a snapshot at was given");
    ensure!(
        moments_ms.len() <= MAX_MOMENTS,
        "these are {} moments; at most {MAX_MOMENTS} snapshots of a partition are written at once",
        moments_ms.len()
    );
    Ok(moments_ms)
}

/// One partition while it is folded.
struct Partition {
    state: Arc<PartitionState>,
    write_set: WriteSet,
}

impl Partition {
    fn on(state: Arc<PartitionState>) -> Self {
        Self { write_set: WriteSet::on(&state), state }
    }

    fn publish(&mut self) {
        std::mem::replace(&mut self.write_set, WriteSet::on(&self.state)).publish(&self.state);
        self.write_set = WriteSet::on(&self.state);
    }
}

struct Replay {
    partitions: Vec<Partition>,
    params: GraphParams,
    snapshots: Snapshots,
    recent: Option<RecentIds>,
    /// Moments still to come, the next one last.
    pending_ms: Vec<i64>,
    /// Events folded since the last publish.
    pending_events: usize,
    done: Replayed,
}

impl Replay {
    fn event_blocking(&mut self, event: &Event<'_>) -> anyhow::Result<()> {
        while let Some(moment_ms) = self.pending_ms.pop_if(|moment_ms| *moment_ms <= event.time_ms) {
            self.write_blocking(moment_ms)?;
        }
        if self.done.moments_ms.last().is_some_and(|written_ms| event.time_ms < *written_ms) {
            self.done.out_of_order_count += 1;
        }
        if let Some(recent) = &mut self.recent {
            if recent.contains(event.event_id) {
                self.done.repeated_count += 1;
                return Ok(());
            }
            recent.insert(event.event_id);
        }
        let count = u32::try_from(self.partitions.len()).unwrap_or(u32::MAX);
        let place = usize::try_from(partition_of(event.user.as_bytes(), count).0).unwrap_or_default();
        let Partition { state, write_set } = &mut self.partitions[place];
        let view: View = event.kind.view();
        let offset: Offset = write_set.progress().next_offsets.get(view);
        match write_set.fold(&*state, view, offset, event, &self.params) {
            FoldOutcome::Folded => self.done.event_count += 1,
            FoldOutcome::Duplicate => self.done.repeated_count += 1,
            FoldOutcome::Late => self.done.counts.add_reject(crate::event::Reason::Late),
            FoldOutcome::Erased => self.done.counts.add_reject(crate::event::Reason::Erased),
        }
        self.pending_events += 1;
        if self.pending_events >= BATCH_EVENTS {
            self.publish();
        }
        Ok(())
    }

    fn publish(&mut self) {
        self.partitions.iter_mut().for_each(Partition::publish);
        self.pending_events = 0;
    }

    /// Writes what is known of the time before `moment_ms`, one base a partition.
    fn write_blocking(&mut self, moment_ms: i64) -> anyhow::Result<()> {
        self.publish();
        for partition in &self.partitions {
            let request = SnapshotRequest::base(&partition.state, Some(moment_ms - 1));
            let manifest = self
                .snapshots
                .write_blocking(request, None)
                .with_context(|| format!("cannot write the snapshot of {}", format_time_ms(moment_ms)))?;
            self.done.snapshot_count += 1;
            self.done.byte_count += manifest.counts.bytes;
        }
        self.done.moments_ms.push(moment_ms);
        Ok(())
    }

    fn finish_blocking(mut self) -> anyhow::Result<Replayed> {
        while let Some(moment_ms) = self.pending_ms.pop() {
            self.write_blocking(moment_ms)?;
        }
        self.publish();
        self.done.user_count = self.partitions.iter().map(|partition| partition.state.graphs.len() as u64).sum();
        Ok(self.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(moments: Moments, horizons_ms: &[i64], expected: &[i64]) {
        let options = ReplayOptions {
            files: Vec::new(),
            moments,
            horizons_ms: horizons_ms.to_vec(),
            location: String::new(),
            partition_count: 1,
        };
        assert_eq!(planned(&options).unwrap(), expected);
    }

    #[test]
    fn moments_are_counted_back_from_the_end() {
        let every = |every_ms| Moments::Every { every_ms, from_ms: Some(0), until_ms: Some(100) };
        check(every(30), &[], &[10, 40, 70, 100]);
        check(every(50), &[], &[50, 100]);
        check(every(50), &[20, 60], &[30, 40, 50, 80, 100]);
        check(Moments::At(vec![9, 3, 9]), &[1], &[2, 3, 8, 9]);
    }
}
