//! Was this score right? Folds the input log again up to the positions stamped on a score, scores the user with the stamped
//! model, and holds the record that comes out against the one that was written, byte for byte.

use std::{collections::HashMap, sync::Arc};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::{engine, models::ModelStore, output_log::OutputLog, params, pool};
use crate::{
    clock::SystemClock,
    config::Config,
    decision::{DecisionParams, Standing, Subject, UserScore, decide, restore_score, score_message},
    event::{Decoder, PartitionId, UserId},
    graph::{GraphParams, PartitionState, due},
    score::{ScoreRequest, Scored},
    scoring::{RECENCY_VERSION, RecencyScorer, Scorer},
    snapshot::{Restored, Snapshots},
    stream::{InputLog, advance_blocking},
};

/// A record of topic `scores` that is to be audited.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The record's JSON, as it was written.
    pub json: Vec<u8>,
    /// The record's `score_id`.
    pub score_id: String,
    /// The user.
    pub user: UserId,
    /// The partition.
    pub partition: PartitionId,
    /// What it says.
    pub score: UserScore,
}

impl Claim {
    /// Reads a record of `scores`.
    pub fn parse(json: &[u8]) -> anyhow::Result<Self> {
        let score = restore_score(json).context("this is no record of the topic `scores`")?;
        let fields: Value = serde_json::from_slice(json)?;
        let text = |name: &str| fields[name].as_str().with_context(|| format!("the score has no `{name}`"));
        let partition = fields["input_positions"]["partition"].as_i64().and_then(|number| i32::try_from(number).ok());
        Ok(Self {
            json: json.trim_ascii().to_vec(),
            score_id: text("score_id")?.to_owned(),
            user: UserId::new(text("user_id")?),
            partition: PartitionId(partition.context("the score does not say its partition")?),
            score,
        })
    }
}

/// What an audit found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The same bytes came out.
    Reproduced,
    /// Something else came out.
    Differs(Difference),
}

/// The first difference between a score that was written and the one that comes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The field, or the feature where a top factor differs.
    pub what: String,
    /// What was written.
    pub written: String,
    /// What comes out.
    pub found: String,
}

/// An audited score.
#[derive(Debug)]
pub struct Audited {
    /// The score.
    pub claim: Claim,
    /// What was found.
    pub verdict: Verdict,
    /// Records folded for it, after a snapshot or after the score audited before it.
    pub replayed_records: u64,
}

/// Audits scores of one configuration.
pub struct Auditor {
    decoder: Decoder,
    graph: GraphParams,
    decision: DecisionParams,
    inputs: Box<dyn InputLog>,
    snapshots: Option<Snapshots>,
    models: Models,
}

impl Auditor {
    /// Opens what an audit reads: the inputs of `log`, snapshots and models.
    pub fn open(config: &Config, log: &OutputLog) -> anyhow::Result<Self> {
        let snapshots = if config.snapshot.enabled {
            Some(engine::snapshots(config, &(Arc::new(SystemClock) as Arc<_>))?)
        } else {
            None
        };
        Ok(Self {
            decoder: params::decoder(config)?,
            graph: params::graph(config)?,
            decision: params::decision(config, crate::stream::TimeMode::Replay)?,
            inputs: log.inputs()?,
            snapshots,
            models: Models { config: config.clone(), scorers: HashMap::new() },
        })
    }

    /// Audits `claims`. Those of one partition are taken in the order of their positions, so that its log is read once.
    /// `report` sees each as it is done.
    pub fn audit_blocking(
        &mut self,
        mut claims: Vec<Claim>,
        report: &mut dyn FnMut(Audited) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        // Positions of one partition grow together, so their sum orders them.
        let reach = |claim: &Claim| claim.score.positions.0.iter().map(|offset| offset.0).sum::<i64>();
        claims.sort_by_key(|claim| (claim.partition, reach(claim), claim.score.as_of_ms));
        let mut state: Option<PartitionState> = None;
        for claim in claims {
            let to = claim.score.positions;
            let goes_on = |state: &PartitionState| {
                state.partition() == claim.partition && state.progress().next_offsets.at_or_before(&to)
            };
            let here = match state.take().filter(goes_on) {
                Some(state) => state,
                None => self.nearest_blocking(&claim)?,
            };
            let replayed_records = advance_blocking(self.inputs.as_mut(), &self.decoder, &self.graph, &here, to)
                .with_context(|| {
                    format!("cannot read partition {} again up to {to} for score `{}`", claim.partition, claim.score_id)
                })?;
            let verdict = self.judge_blocking(&claim, &here)?;
            state = Some(here);
            report(Audited { claim, verdict, replayed_records })?;
        }
        Ok(())
    }

    /// The newest snapshot at or below the claim's positions, or the empty state.
    fn nearest_blocking(&self, claim: &Claim) -> anyhow::Result<PartitionState> {
        let loaded = match &self.snapshots {
            Some(snapshots) => {
                snapshots
                    .restore_blocking(claim.partition, &claim.score.positions)
                    .context("cannot read the snapshots")?
                    .restored
            }
            None => None,
        };
        Ok(loaded.map_or_else(|| PartitionState::new(claim.partition), Restored::into_state))
    }

    fn judge_blocking(&mut self, claim: &Claim, state: &PartitionState) -> anyhow::Result<Verdict> {
        let Claim { user, score, .. } = claim;
        let differs = |what: &str, written: &dyn ToString, found: &dyn ToString| {
            let (written, found) = (written.to_string(), found.to_string());
            Ok(Verdict::Differs(Difference { what: what.to_owned(), written, found }))
        };
        let Some(graph) = state.graphs.get(user.as_str()) else {
            return differs("user_id", &user.as_str(), &"no event of this user up to these positions");
        };
        // The moment is the newest event, or a due moment of a silent user.
        let moment_ms = due::as_of_ms(&graph, score.as_of_ms).unwrap_or(i64::MIN);
        if moment_ms != score.as_of_ms {
            return differs("scored_at (milliseconds)", &score.as_of_ms, &moment_ms);
        }
        let request = ScoreRequest { graph: Arc::clone(&graph), as_of_ms: score.as_of_ms };
        let scorer = self.models.scorer(score)?;
        let mut scored: Vec<Scored> = scorer.score_blocking(std::slice::from_ref(&request)).context("cannot score")?;
        ensure!(scored.len() == 1, "one request was answered with {} scores", scored.len());
        let scored = scored.remove(0);
        let standing = Standing { positions: score.positions, watermark_ms: score.as_of_ms, settle_ms: score.as_of_ms };
        let subject = Subject { user, partition: claim.partition, erased_ms: None };
        let mut again = decide(subject, None, &scored, &graph, score.as_of_ms, standing, &self.decision).score;
        // What the alerts have said depends on the scores before this one; it is taken as it is.
        again.alert = score.alert;
        again.open_alerts.clone_from(&score.open_alerts);
        let found = score_message(subject, &again, &scored).payload;
        if found == claim.json {
            return Ok(Verdict::Reproduced);
        }
        let difference = first_difference(&serde_json::from_slice(&claim.json)?, &serde_json::from_slice(&found)?);
        match difference {
            Some(difference) => Ok(Verdict::Differs(difference)),
            None => differs("the bytes, not the values", &claim.json.len(), &found.len()),
        }
    }
}

/// Scorers by the version stamped on scores.
struct Models {
    config: Config,
    scorers: HashMap<String, Arc<dyn Scorer>>,
}

impl Models {
    fn scorer(&mut self, score: &UserScore) -> anyhow::Result<Arc<dyn Scorer>> {
        let version = score.model_version.as_ref();
        let key = format!("{version} {} {}", score.churn_days, score.purchase_days);
        if let Some(known) = self.scorers.get(&key) {
            return Ok(Arc::clone(known));
        }
        let scorer: Arc<dyn Scorer> = if version == RECENCY_VERSION {
            Arc::new(RecencyScorer::new(score.churn_days, score.purchase_days))
        } else {
            self.bundle(version)?
        };
        self.scorers.insert(key, Arc::clone(&scorer));
        Ok(scorer)
    }

    /// The bundle of this version, wherever in the folder of models it lies.
    fn bundle(&self, version: &str) -> anyhow::Result<Arc<dyn Scorer>> {
        let store = ModelStore::at(&self.config.scoring.models);
        for name in store.names()? {
            // One that cannot be read is not the one that scored.
            let Ok(bundle) = store.folder_of(&name).and_then(|folder| pool::load(&folder)) else { continue };
            if bundle.version.as_ref() == version {
                return Ok(pool::start(&self.config, bundle)?.scorer);
            }
        }
        bail!(
            "the model `{version}` that scored is not in `{}` any more; put its folder back there",
            self.config.scoring.models.display()
        )
    }
}

/// The first field that differs, in the order in which it was written; of the top factors the first feature.
fn first_difference(written: &Value, found: &Value) -> Option<Difference> {
    let (Some(fields), Some(others)) = (written.as_object(), found.as_object()) else { return None };
    for name in ["top_factors", "churn_probability", "purchase_probability"]
        .into_iter()
        .map(str::to_owned)
        .chain(fields.keys().chain(others.keys()).cloned())
    {
        let (left, right) = (&written[&name], &found[&name]);
        if left == right {
            continue;
        }
        let what = if name == "top_factors" {
            let factors = |value: &Value| value.as_array().cloned().unwrap_or_default();
            let (left, right) = (factors(left), factors(right));
            let place = (0..left.len().max(right.len())).find(|place| left.get(*place) != right.get(*place))?;
            let feature = left.get(place).or(right.get(place)).and_then(|it| it["name"].as_str()).unwrap_or("?");
            let shown = |factors: &[Value]| factors.get(place).map_or_else(|| "none".to_owned(), Value::to_string);
            return Some(Difference {
                what: format!("feature `{feature}`"),
                written: shown(&left),
                found: shown(&right),
            });
        } else {
            name
        };
        return Some(Difference { what, written: left.to_string(), found: right.to_string() });
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(written: &Value, found: &Value, expected: Option<&str>) {
        assert_eq!(first_difference(written, found).map(|it| it.what).as_deref(), expected);
    }

    #[test]
    fn the_first_differing_feature_is_named() {
        let score = |value: f32, churn: f32| json!({"churn_probability": churn, "top_factors": [{"name": "a", "value": 1}, {"name": "b", "value": value}]});
        check(&score(1.0, 0.5), &score(1.0, 0.5), None);
        check(&score(1.0, 0.5), &score(2.0, 0.6), Some("feature `b`"));
        check(&score(1.0, 0.5), &score(1.0, 0.6), Some("churn_probability"));
        check(&json!({"x": 1}), &json!({"x": 1, "y": 2}), Some("y"));
    }
}
