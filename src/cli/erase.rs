//! `undercurrent erase`: asks the stream to forget users, by a record in each input topic.

use std::sync::Arc;

use anyhow::Context;

use super::{GlobalArgs, output, prepare};
use crate::{
    clock::{Clock, SystemClock},
    config::{Config, LogKind},
    daemon::params,
    event::View,
    stream::{
        embedded::{EmbeddedLog, NewRecord},
        kafka::KafkaProducer,
    },
};

/// Whom to forget.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  undercurrent erase u17 u18

The request is a record in each of the three input topics. What the daemon knows of the user up to now is dropped when it
reads them, and the score and the lists are taken back; events older than now that come later are refused. What lies in the
input topics, in dead letters, in alerts and in older snapshots goes with their retention.")]
pub(super) struct EraseArgs {
    /// Users, as events name them
    #[arg(required = true, value_name = "USER")]
    users: Vec<String>,
}

/// Sends the requests.
pub(super) fn run(global: &GlobalArgs, args: &EraseArgs) -> anyhow::Result<()> {
    let config = prepare(global)?;
    let now_ms = SystemClock.now_ms();
    let decoder = params::decoder(&config)?;
    let mut requests = Vec::with_capacity(args.users.len());
    for user in &args.users {
        let payload = decoder.erasure_request(user, now_ms).with_context(|| format!("`{user}` cannot be erased"))?;
        requests.push((user.as_bytes(), payload));
    }
    send(&config, &requests)?;
    output::line(&format!("asked to erase {} users", requests.len()))
}

fn send(config: &Config, requests: &[(&[u8], Vec<u8>)]) -> anyhow::Result<()> {
    let each = || requests.iter().flat_map(|(user, payload)| View::ALL.map(|view| (view, *user, payload.as_slice())));
    match config.input.log {
        LogKind::Embedded => {
            let log = EmbeddedLog::open(params::embedded(config), Arc::new(SystemClock)).with_context(|| {
                format!(
                    "cannot open the embedded log; while the daemon runs, ask it over HTTP instead: \
                     curl -X DELETE http://{}/v1/users/USER",
                    config.http.listen
                )
            })?;
            let records: Vec<_> =
                each().map(|(view, key, payload)| NewRecord { view, key, payload, event_id: None }).collect();
            log.append_blocking(&records)?;
        }
        LogKind::Kafka => {
            KafkaProducer::open(&params::kafka(config)?)?.send_batch(each())?;
        }
    }
    Ok(())
}
