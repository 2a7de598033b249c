//! `undercurrent webhook`: alerts that the receiver never took, and posting them again.

use std::collections::HashSet;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::{GlobalArgs, output, prepare};
use crate::{
    clock::SystemClock,
    config::Config,
    daemon::params,
    webhook::{ParkedAlert, ParkedAlerts, resend},
};

/// What to do with parked alerts.
#[derive(Debug, clap::Subcommand)]
pub(super) enum WebhookCommand {
    /// List the alerts that were given up, oldest first
    List {
        /// Print each body as it is posted
        #[arg(long)]
        raw: bool,
    },
    /// Post them again, once each and with the same id; those that are taken are no longer parked
    #[command(
        after_help = "The daemon may run meanwhile. A receiver that fails three times in a row is left alone. An alert whose answer got lost, and up to \
a hundred when the command itself is killed, come twice, with the same `webhook-id`."
    )]
    Resend {
        /// Only these, by id
        #[arg(value_name = "ID")]
        ids: Vec<String>,
        /// Only say what would be sent
        #[arg(long)]
        dry_run: bool,
    },
}

pub(super) fn run(global: &GlobalArgs, command: WebhookCommand) -> anyhow::Result<()> {
    let config = prepare(global)?;
    match command {
        WebhookCommand::List { raw } => list(&config, raw),
        WebhookCommand::Resend { ids, dry_run } => send_again(&config, &ids, dry_run),
    }
}

fn read(config: &Config) -> anyhow::Result<ParkedAlerts> {
    let file = &config.webhook.parked_file;
    let parked = params::parked(config).read_blocking();
    let parked = parked.with_context(|| format!("cannot read `webhook.parked_file` (`{}`)", file.display()))?;
    if parked.unreadable_count > 0 {
        output::note(&format!(
            "{} lines of `{}` are no parked alerts; they stay",
            parked.unreadable_count,
            file.display()
        ));
    }
    Ok(parked)
}

fn list(config: &Config, raw: bool) -> anyhow::Result<()> {
    for alert in read(config)?.alerts {
        if raw {
            output::line(&String::from_utf8_lossy(&alert.message.body))?;
        } else {
            output::line(&line_of(&alert))?;
        }
    }
    Ok(())
}

fn line_of(alert: &ParkedAlert) -> String {
    let body: Value = serde_json::from_slice(&alert.message.body).unwrap_or_default();
    let said = |field: &str| body["data"][field].as_str().unwrap_or("?").to_owned();
    format!(
        "{}  parked {} after {} attempts  user {} {} {}: {}",
        alert.message.id,
        alert.parked_at,
        alert.attempts,
        said("user_id"),
        said("transition"),
        said("raised_at"),
        alert.reason
    )
}

fn send_again(config: &Config, ids: &[String], dry_run: bool) -> anyhow::Result<()> {
    let mut alerts = read(config)?.alerts;
    if !ids.is_empty() {
        let known: HashSet<&str> = alerts.iter().map(|alert| alert.message.id.as_str()).collect();
        for id in ids {
            ensure!(known.contains(id.as_str()), "no alert `{id}` is parked; `undercurrent webhook list` shows them");
        }
        alerts.retain(|alert| ids.contains(&alert.message.id));
    }
    if dry_run {
        for alert in &alerts {
            output::line(&line_of(alert))?;
        }
        return output::line(&format!("{} alerts would be sent", alerts.len()));
    }
    let webhook = params::webhook(config)?.context("there is no `webhook.url` to send them to")?;
    let parked = params::parked(config);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let resent = runtime.block_on(resend(&parked, &alerts, &webhook.poster, &webhook.signer, &SystemClock));
    let resent = resent.context("the file of parked alerts cannot be rewritten; sending again is safe")?;
    for (id, reason) in &resent.failed {
        output::line(&format!("{id}  {reason}"))?;
    }
    output::line(&format!("sent {} alerts", resent.delivered_count))?;
    if !resent.failed.is_empty() || resent.left_count > 0 {
        bail!(
            "{} alerts stay parked, {} of them not tried",
            resent.failed.len() + resent.left_count,
            resent.left_count
        );
    }
    Ok(())
}
