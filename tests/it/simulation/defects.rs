//! What can be broken on purpose: each is a bug that a log, a scorer, a store or the loop could have.

use undercurrent::stream::Guard;

/// One mutant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Defect {
    /// Nothing is broken.
    None,
    /// A guard of the loop itself is off.
    Loop(Guard),
    /// Every tenth commit answers success and does nothing: the state is published without a commit.
    CommitsNothing,
    /// Outputs are committed first and positions after them, in a second transaction.
    PositionsApart,
    /// Every tenth commit writes its outputs and forgets its positions.
    PositionsLost,
    /// Every tenth commit succeeds, and is then made once more as if nobody knew how it ended.
    CommitsTwice,
    /// Every tenth commit leaves its dead letters out.
    LosesDeadLetters,
    /// Reading begins one record too late after every restore.
    LosesRecord,
    /// A restore reads the scores without the alerts that are open.
    ForgetsOpenAlerts,
    /// The ids of some events that are sent again are not recognised.
    DuplicateWindowOff,
    /// The scores that a restore reads are missing.
    ForgetsScores,
    /// A member goes on committing after a newer one took its name or its partitions.
    IgnoresFences,
    /// Records of aborted transactions are read.
    ReadsAborted,
    /// A restore does not wait for the transaction of a member that died.
    ReadsUnstable,
    /// The end of a transaction counts although it was aborted meanwhile.
    LateEndCounts,
    /// A snapshot is taken to stand further than its graphs do.
    RestoresPastItsPosition,
    /// A snapshot that lacks a user is taken for whole.
    TakesTornSnapshot,
    /// Users that only a replay changed are missing in the next delta.
    ForgetsReplayedUsers,
    /// A restore from a snapshot knows nothing of erasures.
    ForgetsErasures,
    /// A delta does not say who is gone.
    LeavesGoneUsersOut,
    /// A score depends on who else is in the batch.
    CompanyChangesScore,
}

/// Every mutant, with the invariants of which one must catch it.
pub(super) const ALL: &[(Defect, &[&str])] = &[
    (Defect::Loop(Guard::FoldOnce), &["POS-1"]),
    (Defect::Loop(Guard::PublishAfterCommit), &["TXN-2", "POS-2"]),
    (Defect::Loop(Guard::ParkedAtCommitted), &["POS-2"]),
    (Defect::Loop(Guard::ParkedScoresReadAgain), &["ALR-1", "TXN-1"]),
    (Defect::Loop(Guard::TimersRestored), &["DET-1"]),
    (Defect::Loop(Guard::DeadlinesRestored), &["ALR-2"]),
    (Defect::Loop(Guard::TimersGivenBack), &["DET-1"]),
    (Defect::CommitsNothing, &["TXN-2"]),
    (Defect::PositionsApart, &["TXN-1"]),
    (Defect::PositionsLost, &["TXN-1", "TXN-2"]),
    (Defect::CommitsTwice, &["TXN-1"]),
    (Defect::LosesDeadLetters, &["TXN-1"]),
    (Defect::LosesRecord, &["DET-1"]),
    (Defect::DuplicateWindowOff, &["DET-1"]),
    (Defect::ForgetsScores, &["ALR-1"]),
    (Defect::ForgetsOpenAlerts, &["ALR-2"]),
    (Defect::IgnoresFences, &["OWN-1", "TXN-1", "TXN-2"]),
    (Defect::ReadsAborted, &["DET-1"]),
    (Defect::ReadsUnstable, &["TXN-1", "TXN-2"]),
    (Defect::LateEndCounts, &["TXN-1"]),
    (Defect::RestoresPastItsPosition, &["DET-1"]),
    (Defect::TakesTornSnapshot, &["DET-1"]),
    (Defect::ForgetsReplayedUsers, &["DET-1"]),
    (Defect::Loop(Guard::ForgottenTakenBack), &["ERA-1"]),
    (Defect::ForgetsErasures, &["ERA-1", "DET-1"]),
    (Defect::LeavesGoneUsersOut, &["ERA-1", "DET-1"]),
    (Defect::CompanyChangesScore, &["SCO-1"]),
];
