//! `undercurrent audit`: whether scores that were written come out again from the input log, bit for bit.

use std::{collections::HashSet, path::PathBuf};

use anyhow::{Context, bail, ensure};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{GlobalArgs, output, prepare};
use crate::{
    config::Config,
    daemon::{
        audit::{Audited, Auditor, Claim, Verdict},
        output_log::OutputLog,
    },
    stream::OutputTopic,
};

/// Which scores.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  undercurrent audit 1f0c…                     one score, by its score_id
  undercurrent audit --record score.json       one that is no longer in `scores`, which keeps the newest of every user
  undercurrent audit --sample 1000             random ones of all that are there

Reads the nearest snapshot and the input log up to the positions stamped on a score, folds, and scores with the model whose
version is stamped on it. Prints 'reproduced bit for bit', or the first difference and exits 1. Use the configuration the
daemon ran with. The embedded log takes one process at a time: stop the daemon first.")]
pub(super) struct AuditArgs {
    /// `score_id` of a score; several may be given
    #[arg(value_name = "SCORE_ID", required_unless_present_any = ["sample", "record"])]
    scores: Vec<String>,
    /// File with records of topic `scores`, one JSON object a line
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// This many random ones of all that are in the topic
    #[arg(long, value_name = "N", conflicts_with_all = ["scores", "record"])]
    sample: Option<usize>,
    /// Seed of the choice
    #[arg(long, default_value_t = 1, requires = "sample")]
    seed: u64,
}

/// Audits, prints a line for each score, and fails when one differs.
pub(super) fn run(global: &GlobalArgs, args: &AuditArgs) -> anyhow::Result<()> {
    let config = prepare(global)?;
    let log = OutputLog::open(&config)?;
    let claims = claims(&log, args)?;
    let mut auditor = Auditor::open(&config, &log)?;
    let (mut count, mut differing) = (0, 0);
    auditor.audit_blocking(claims, &mut |audited| {
        count += 1;
        differing += usize::from(audited.verdict != Verdict::Reproduced);
        output::line(&line_of(&audited))
    })?;
    if count > 1 {
        output::line(&format!("{count} scores audited, {differing} differ"))?;
    }
    ensure!(differing == 0, advice(&config, differing));
    Ok(())
}

fn advice(config: &Config, differing: usize) -> String {
    let limit = config.graph.item_capacity_nodes;
    format!(
        "{differing} scores do not come out again; if the daemon ran with this configuration (sections events and graph, for \
         example `graph.item_capacity_nodes` = {limit}), this is a bug, please report it"
    )
}

fn claims(log: &OutputLog, args: &AuditArgs) -> anyhow::Result<Vec<Claim>> {
    if let Some(file) = &args.record {
        let text = std::fs::read(file).with_context(|| format!("cannot read `{}`", file.display()))?;
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
        return lines.map(Claim::parse).collect();
    }
    if let Some(count) = args.sample {
        return sample(log, count, args.seed);
    }
    let mut found = Vec::new();
    let wanted: HashSet<&str> = args.scores.iter().map(String::as_str).collect();
    log.each_blocking(OutputTopic::Scores, &mut |written| {
        let claim = Claim::parse(&written.json)?;
        if wanted.contains(claim.score_id.as_str()) {
            found.push(claim);
        }
        Ok(true)
    })?;
    for score in &args.scores {
        if !found.iter().any(|claim| claim.score_id == *score) {
            bail!(
                "there is no score `{score}` in the topic; it keeps the newest score of every user, so give an older one with \
                 --record"
            );
        }
    }
    Ok(found)
}

/// The scores with the `count` smallest seeded hashes: each has the same chance, and no more than twice as many are held.
fn sample(log: &OutputLog, count: usize, seed: u64) -> anyhow::Result<Vec<Claim>> {
    let mut drawn: Vec<(u64, Claim)> = Vec::new();
    let keep_smallest = |drawn: &mut Vec<(u64, Claim)>| {
        drawn.sort_unstable_by_key(|(hash, _)| *hash);
        drawn.truncate(count);
    };
    log.each_blocking(OutputTopic::Scores, &mut |written| {
        drawn.push((xxh3_64_with_seed(&written.json, seed), Claim::parse(&written.json)?));
        if drawn.len() > 2 * count {
            keep_smallest(&mut drawn);
        }
        Ok(true)
    })?;
    keep_smallest(&mut drawn);
    ensure!(!drawn.is_empty(), "there is no score in the topic yet");
    Ok(drawn.into_iter().map(|(_, claim)| claim).collect())
}

fn line_of(audited: &Audited) -> String {
    let Audited { claim, verdict, replayed_records } = audited;
    let score = format!(
        "{} of user {} in partition {} at {}, model {}, {replayed_records} records folded",
        claim.score_id,
        claim.user.as_str(),
        claim.partition,
        claim.score.positions,
        claim.score.model_version
    );
    match verdict {
        Verdict::Reproduced => format!("reproduced bit for bit: {score}"),
        Verdict::Differs(first) => {
            format!("differs in {}: written {}, found {}: {score}", first.what, first.written, first.found)
        }
    }
}
