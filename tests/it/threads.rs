//! Stream threads of tests: everything as plain as it can be, so that a test names what it is about.

use std::sync::Arc;

use undercurrent::{
    clock::ManualClock,
    decision::DecisionParams,
    event::Decoder,
    graph::NameTable,
    scoring::Scorer,
    stream::{BatchLimits, NoSnapshots, Partitions, StreamParams, StreamParts, TimeMode},
};

/// Parts of a thread on `log`: no snapshots, a clock that stands at `now_ms`, time as the events have it, nothing waited for.
pub(crate) fn plain_parts<L>(log: L, scorer: Arc<dyn Scorer>, now_ms: i64, max_records: usize) -> StreamParts<L> {
    StreamParts {
        log,
        scorer,
        clock: Arc::new(ManualClock::at(now_ms)),
        decoder: Decoder::default(),
        partitions: Arc::new(Partitions::default()),
        snapshots: Box::new(NoSnapshots),
        decision: DecisionParams::default(),
        catalogue: Arc::new(NameTable::default()),
        params: StreamParams {
            batch: BatchLimits { max_records, max_bytes: 1 << 20, linger_ms: 0, idle_wait_ms: 0 },
            time: TimeMode::Replay,
            ..StreamParams::default()
        },
    }
}

/// The reads of a `Source` that a log of a test leaves to its `inner` one.
macro_rules! reads_of_inner {
    () => {
        fn committed_blocking(&mut self, partition: PartitionId) -> Result<Positions, LogError> {
            self.inner.committed_blocking(partition)
        }

        fn earliest_blocking(&mut self, partition: PartitionId) -> Result<Positions, LogError> {
            self.inner.earliest_blocking(partition)
        }

        fn end_blocking(&mut self, partition: PartitionId) -> Result<Positions, LogError> {
            self.inner.end_blocking(partition)
        }

        fn replay_blocking(
            &mut self,
            partition: PartitionId,
            from: Positions,
            to: Positions,
            visit: &mut dyn FnMut(&RecordBatch),
        ) -> Result<(), LogError> {
            self.inner.replay_blocking(partition, from, to, visit)
        }
    };
}
pub(crate) use reads_of_inner;
