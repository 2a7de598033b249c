//! `undercurrent topics create`: the topics the daemon needs, with the settings it needs.

use super::{GlobalArgs, output, prepare};
use crate::{
    daemon::params,
    stream::kafka::{TopicPlan, create_topics},
};

/// How the topics are to be made.
#[derive(Debug, clap::Args)]
pub(super) struct CreateArgs {
    /// Partitions of every topic; also the most stream threads that can share the work
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    partitions: i32,
    /// Copies of every partition [default: the cluster's own]
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=100))]
    replication: Option<i32>,
    /// Days the input topics are kept [default: the cluster's own]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    input_retention_days: Option<u32>,
}

/// Makes the topics that do not exist yet.
pub(super) fn create(global: &GlobalArgs, args: &CreateArgs) -> anyhow::Result<()> {
    let config = prepare(global)?;
    let plan = TopicPlan {
        partition_count: args.partitions,
        replication: args.replication,
        input_retention_ms: args.input_retention_days.map(|days| u64::from(days) * 86_400_000),
    };
    for topic in create_topics(&params::kafka(&config)?, &plan)? {
        let what = if topic.is_new { "made" } else { "was there" };
        output::line(&format!("{}: {what}", topic.name))?;
    }
    Ok(())
}
