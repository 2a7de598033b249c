//! Where training sees users from: graphs at moments, whatever holds them.

mod rewind;
mod snapshots;

pub use rewind::{Rewound, rewound};
pub use snapshots::SnapshotHistory;

use super::{corpus::Corpus, parallel};
use crate::{
    event::UserId,
    graph::{GraphParams, UserGraph},
};

/// Graphs of users at moments of the past.
pub trait History: Sync {
    /// All users, by number.
    fn users(&self) -> &[UserId];

    /// What the graphs were folded with.
    fn params(&self) -> &GraphParams;

    /// The first event, milliseconds since the Unix epoch.
    fn first_ms(&self) -> i64;

    /// The newest moment at or before `moment_ms` at which graphs are whole, and so may give features; `None` when there
    /// is none. At any later moment a graph may be asked for what came of a user, and nothing else.
    fn shown_at(&self, moment_ms: i64) -> Option<i64>;

    /// Shows the graph of every user that `wanted` selects at each of the ascending moments (milliseconds since the Unix
    /// epoch), once each, in any order and on several threads. A user without any event by then is left out. `look` gets
    /// the user's number, the moment's place and the graph; its answers are returned in order of user, then moment.
    fn observe<R: Send>(
        &self,
        moments_ms: &[i64],
        wanted: &(dyn Fn(usize) -> bool + Sync),
        look: &(dyn Fn(usize, usize, &UserGraph) -> Option<R> + Sync),
    ) -> Result<Vec<R>, HistoryError>;
}

/// Why a history cannot show its graphs.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// A snapshot cannot be read.
    #[error("cannot read the snapshot of {moment}: {message}")]
    Snapshot {
        /// Its moment.
        moment: String,
        /// What happened.
        message: String,
    },
    /// There is no snapshot that training could use.
    #[error("`{location}` has no snapshot to train on: {message}")]
    Nothing {
        /// Where was looked.
        location: String,
        /// What is missing.
        message: String,
    },
    /// A snapshot does not say exactly how users stood at an earlier moment.
    #[error(
        "of {asked} users, the snapshot of {source_moment} no longer says of {unknown} what they did before {moment}: their \
         recent events do not reach back that far. Keep snapshots closer together (`replay --labels` writes them where horizons \
         end; `snapshot.spacing_days` for the daemon), or raise `graph.ring_capacity`"
    )]
    Unreachable {
        /// The moment.
        moment: String,
        /// The moment of the snapshot that was read instead.
        source_moment: String,
        /// Users of whom it does not say it.
        unknown: u64,
        /// Users asked about.
        asked: u64,
    },
    /// Graphs of different snapshots were folded differently.
    #[error("the snapshots were folded with different parameters: {message}")]
    Mixed {
        /// What differs.
        message: String,
    },
    /// A product or inverse of matrices failed.
    #[error("a tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// A corpus with the parameters to fold it by.
#[derive(Debug)]
pub struct FileHistory {
    /// The events.
    pub corpus: Corpus,
    /// How they are folded.
    pub params: GraphParams,
    /// Threads to fold on.
    pub threads: usize,
}

impl History for FileHistory {
    fn users(&self) -> &[UserId] {
        self.corpus.users()
    }

    fn params(&self) -> &GraphParams {
        &self.params
    }

    fn first_ms(&self) -> i64 {
        self.corpus.first_ms()
    }

    fn shown_at(&self, moment_ms: i64) -> Option<i64> {
        Some(moment_ms)
    }

    fn observe<R: Send>(
        &self,
        moments_ms: &[i64],
        wanted: &(dyn Fn(usize) -> bool + Sync),
        look: &(dyn Fn(usize, usize, &UserGraph) -> Option<R> + Sync),
    ) -> Result<Vec<R>, HistoryError> {
        const USERS_A_PIECE: usize = 64;
        let count = self.corpus.users().len();
        let pieces = parallel::map(self.threads, count.div_ceil(USERS_A_PIECE), |piece| {
            let start = piece * USERS_A_PIECE;
            let mut answers = Vec::new();
            for user in (start..(start + USERS_A_PIECE).min(count)).filter(|user| wanted(*user)) {
                self.corpus.replay(user, moments_ms, &self.params, |place, graph| {
                    answers.extend(look(user, place, graph));
                });
            }
            answers
        });
        Ok(pieces.into_iter().flatten().collect())
    }
}
