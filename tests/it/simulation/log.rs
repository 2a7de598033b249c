//! The in-memory log, honest or broken on purpose.

use std::collections::BTreeMap;

use undercurrent::{
    event::{Offset, PartitionId, Positions, View},
    stream::{
        BatchLimits, Commit, LogError, OutputTopic, Polled, RecordBatch, Sink, Source,
        memory::{MemoryLog, is_crash},
    },
};

use super::defects::Defect;
use crate::threads::reads_of_inner;

pub(super) struct SimLog {
    pub(super) inner: MemoryLog,
    pub(super) defect: Defect,
    pub(super) commit_count: u64,
    /// Records delivered again after a restore, as a log may do.
    pub(super) redelivered_count: i64,
}

impl Source for SimLog {
    fn poll_blocking(&mut self, limits: &BatchLimits, batch: &mut RecordBatch) -> Result<Polled, LogError> {
        let polled = self.inner.poll_blocking(limits, batch)?;
        if self.defect == Defect::DuplicateWindowOff {
            rename_repeated(batch);
        }
        Ok(polled)
    }

    reads_of_inner!();

    fn start_at(&mut self, partition: PartitionId, positions: Positions) -> Result<(), LogError> {
        let mut moved = positions;
        for view in View::ALL {
            let next = positions.get(view).0;
            let shift = if self.defect == Defect::LosesRecord && next > 0 { 1 } else { -self.redelivered_count };
            moved.set(view, Offset((next + shift).max(0)));
        }
        self.inner.start_at(partition, moved)
    }
}

/// Gives the ids of every other record in the batch another first letter: a record sent twice is then two events.
fn rename_repeated(batch: &mut RecordBatch) {
    let mut renamed = RecordBatch::default();
    for record in batch.iter() {
        let text = record.payload.and_then(|payload| std::str::from_utf8(payload).ok());
        let text = text.filter(|_| record.origin.offset.0 % 2 == 1);
        let payload = text.map(|text| text.replacen("\"event_id\":\"e", "\"event_id\":\"f", 1).into_bytes());
        renamed.push(record.origin, record.timestamp_ms, record.key, payload.as_deref().or(record.payload));
    }
    *batch = renamed;
}

impl Sink for SimLog {
    fn commit_blocking(&mut self, commit: &Commit) -> Result<(), LogError> {
        self.commit_count += 1;
        let tenth = self.commit_count.is_multiple_of(10);
        match self.defect {
            Defect::CommitsNothing if tenth => Ok(()),
            Defect::PositionsLost if tenth => {
                self.inner.commit_blocking(&Commit { outputs: commit.outputs.clone(), positions: BTreeMap::new() })
            }
            Defect::PositionsApart => {
                self.inner.commit_blocking(&Commit { outputs: commit.outputs.clone(), positions: BTreeMap::new() })?;
                self.inner.commit_blocking(&Commit { outputs: Vec::new(), positions: commit.positions.clone() })
            }
            Defect::CommitsTwice if tenth => {
                self.inner.commit_blocking(commit)?;
                self.inner.commit_blocking(commit)
            }
            Defect::LosesDeadLetters if tenth => {
                let mut outputs = commit.outputs.clone();
                outputs.retain(|output| output.topic != OutputTopic::DeadLetters);
                self.inner.commit_blocking(&Commit { outputs, positions: commit.positions.clone() })
            }
            _ => self.inner.commit_blocking(commit),
        }
    }

    fn read_scores_blocking(
        &mut self,
        partition: PartitionId,
        visit: &mut dyn FnMut(&[u8], Option<&[u8]>),
    ) -> Result<(), LogError> {
        if self.defect == Defect::ForgetsScores {
            return Ok(());
        }
        if self.defect == Defect::ForgetsOpenAlerts {
            return self.inner.read_scores_blocking(partition, &mut |key, payload| {
                visit(key, payload.map(without_open_alerts).as_deref());
            });
        }
        self.inner.read_scores_blocking(partition, visit)
    }
}

fn without_open_alerts(payload: &[u8]) -> Vec<u8> {
    let mut score: serde_json::Value = serde_json::from_slice(payload).expect("a score of ours");
    score["alert"].as_object_mut().expect("it has alert state").remove("open");
    score.to_string().into_bytes()
}

/// Whether an error ends this member as a death or a fencing does. Any other fatal error is a violation.
pub(super) fn is_expected_death(error: &LogError) -> bool {
    is_crash(error) || error.message.contains("fenced")
}
