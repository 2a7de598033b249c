//! The log on Apache Kafka: the only user of rdkafka.
//!
//! - [`KafkaParams`] says how to connect, which topics to use and how long to wait.
//! - [`KafkaLog`] is the [`Source`](super::Source) and [`Sink`](super::Sink) of one stream thread: one consumer of the
//!   group, one transactional producer.
//! - [`KafkaOutputReader`] reads an output topic in order and remembers how far, for the webhook.
//! - [`create_topics`], [`KafkaProducer`] and [`OutputTail`] serve the commands `topics create`, `send` and `tail`.
//!
//! The classic group protocol with the `range` assignor is used on purpose: range puts partition *p* of all equally
//! partitioned topics on one member, which `cooperative-sticky` does not promise. Range is eager: a rebalance revokes
//! everything before it assigns anything.

mod client;
mod deadline;
mod error;
mod group;
mod inputs;
mod lag;
mod layout;
mod log;
mod output_reader;
mod params;
mod reader;
mod send;
mod tail;
mod topics;
mod writer;

pub use client::owner_of;
pub use inputs::KafkaInputs;
pub use lag::LagTable;
pub use log::KafkaLog;
pub use output_reader::KafkaOutputReader;
pub use params::{Delivery, KafkaParams, Sasl, Secret, Security, SecurityProtocol, Timeouts, TopicNames};
pub use send::KafkaProducer;
pub use tail::{OutputTail, TailRecord, TailStart};
pub use topics::{CreatedTopic, TopicPlan, check_output, check_topics, create_topics};
