//! A durable log on the local disk: topics, committed positions and outputs in one `fjall` database.
//!
//! It gives the guarantees of a Kafka transaction without a broker: the outputs and the positions of a micro-batch are one
//! atomic, durable batch (TXN-1), and a batch of events is durable when [`append_blocking`](EmbeddedLog::append_blocking)
//! returns. A batch sent again after a lost answer is recognised by event id among the newest
//! [`recent_id_capacity`](EmbeddedParams::recent_id_capacity) events, also after a restart, because ids lie in the log.
//!
//! [`EmbeddedLog`] is shared by everyone in the process; [`EmbeddedConsumer`] is the `Source` and `Sink` of one stream
//! thread. A second process on the same folder is refused.

mod append;
mod chunk;
mod compact;
mod consumer;
mod outputs;
mod reader;
mod recent;
mod store;

pub use append::{Appended, NewRecord};
pub use consumer::EmbeddedConsumer;
pub use outputs::ReadOutput;
pub use reader::EmbeddedOutputReader;
pub use recent::RecentIds;
pub use store::{EmbeddedLog, EmbeddedParams};

use std::path::PathBuf;

use crate::event::PartitionId;

/// What can go wrong with the embedded log.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// Another process has the folder open.
    #[error("the log in `{path}` is in use by another process; stop it, or give this one another folder")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The folder was made with other settings.
    #[error(
        "the log in `{path}` has {found} partitions and {wanted} are configured; the number is fixed when the log is made"
    )]
    PartitionCount {
        /// The folder.
        path: PathBuf,
        /// Partitions of the log.
        found: u32,
        /// Partitions asked for.
        wanted: u32,
    },
    /// The folder was written by a newer or unknown version.
    #[error("the log in `{path}` has format {found}, this program reads format {known}")]
    Format {
        /// The folder.
        path: PathBuf,
        /// Format of the log.
        found: u32,
        /// Format of this program.
        known: u32,
    },
    /// Two consumers would read one partition.
    #[error("partition {partition} of the embedded log already has a consumer")]
    Taken {
        /// The partition.
        partition: PartitionId,
    },
    /// There is no such partition.
    #[error("partition {partition} does not exist, the embedded log has {partition_count}")]
    NoPartition {
        /// The partition.
        partition: PartitionId,
        /// Partitions of the log.
        partition_count: u32,
    },
    /// Stored bytes make no sense.
    #[error("the embedded log is corrupt: {what}")]
    Corrupt {
        /// What was found.
        what: String,
    },
    /// The storage engine failed. After a failed write it takes no further ones.
    #[error("the embedded log failed: {0}")]
    Storage(#[from] fjall::Error),
    /// The folder cannot be used.
    #[error("cannot use `{path}` for the embedded log: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

#[cfg(test)]
mod tests;
