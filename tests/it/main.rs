//! All integration tests: one binary, because each further one links candle, Arrow and rdkafka again.

mod cli;
