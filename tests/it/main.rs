//! All integration tests: one binary, because each further one links candle, Arrow and rdkafka again.

mod architecture;
mod cli;
mod events;
mod generate;
mod kafka;
mod reference;
mod simulation;
mod snapshot;
