//! Where the in-memory log can be made to fail, and how.

use crate::stream::Disposition;

/// A named step of the in-memory log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Collecting records.
    Poll,
    /// Reading the group's committed positions.
    Committed,
    /// Reading the first offsets.
    Earliest,
    /// Reading the end offsets.
    End,
    /// Reading a range for a restore; asked before every batch of it.
    Replay,
    /// Moving the read position.
    StartAt,
    /// Opening a transaction.
    CommitBegin,
    /// Writing one output record of a transaction.
    CommitSend,
    /// Adding the positions to the transaction.
    CommitOffsets,
    /// Ending the transaction.
    CommitEnd,
    /// Reading the newest scores for a restore.
    ReadScores,
}

/// What happens at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The step has no effect and the call answers with this disposition.
    Fail(Disposition),
    /// The step takes effect, and then the call answers with this disposition: a lost answer.
    FailAfter(Disposition),
    /// The process dies before the step.
    Crash,
    /// The process dies right after the step.
    CrashAfter,
    /// The process dies after it asked for the end of a transaction, and the broker gets that late: at
    /// [`deliver_late`](super::MemoryBroker::deliver_late). At any other step the same as [`Crash`](Self::Crash).
    CrashLate,
}

/// Decides about faults and about how records are cut into batches. One plan belongs to one [`MemoryLog`](super::MemoryLog).
pub trait FaultPlan: Send {
    /// What happens at `step`.
    fn at(&mut self, step: Step) -> Fault {
        let _ = step;
        Fault::None
    }

    /// Which of `log_count` logs with records waiting a poll reads next; `None` reads in the order of arrival.
    fn next_log(&mut self, log_count: usize) -> Option<usize> {
        let _ = log_count;
        None
    }

    /// How many records at most a poll takes, `max_records` or fewer.
    fn batch_records(&mut self, max_records: usize) -> usize {
        max_records
    }
}

/// No fault ever, records in the order of arrival.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFaults;

impl FaultPlan for NoFaults {}
