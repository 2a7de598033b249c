//! All integration tests: one binary, because each further one links candle, Arrow and rdkafka again.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed, and says where")]

mod architecture;
mod audit;
mod cli;
mod dead_letters;
mod decision;
mod deploy;
mod drift;
mod embedded;
mod events;
mod faults;
mod generate;
mod items;
mod kafka;
mod lifecycle;
mod metrics;
mod model;
mod object_store;
mod overload;
mod process;
mod properties;
mod receiver;
mod reference;
mod replay;
mod shadow;
mod simulation;
mod snapshot;
mod snapshot_faults;
mod snapshots;
mod text;
mod threads;
mod train;
mod verify;
mod webhook;
