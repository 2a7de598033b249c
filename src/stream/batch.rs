//! One micro-batch: fold, take the users that are due, score, decide, commit, publish.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use tracing::debug;

use super::{
    Commit, LogError, OutputRecord, Sink, Source, Step, StreamError, StreamThread, TimeMode,
    fold::{FoldContext, Folded},
    guard::{self, Guard},
    outputs::{DeadLetters, Decided, DecisionContext, OutputNames, Refusal, shadow_record, take_back},
    report::{BatchReport, Stopwatch},
    score::score_all_blocking,
    thread::Owned,
};
use crate::{
    decision::Standing,
    event::{DAY_MS, Offset, PartitionId, Positions, TextHashBuilder, UserId, View},
    graph::{Progress, UserGraph, WriteSet, due},
    score::{ScoreRequest, Scored},
};

/// What a batch does to one partition; private until it is published.
struct Work {
    write_set: WriteSet,
    /// The partition's event time after this batch.
    watermark_ms: Option<i64>,
    record_count: usize,
    /// Users who are gone or were erased, and of whom outputs speak: those are taken back.
    forgotten: BTreeSet<UserId>,
    /// Users taken from the timers, with the instants they were taken at.
    due: Vec<(UserId, i64)>,
    /// Users of whom an alert is to be settled, with the instants they were taken at.
    deadlines: Vec<(UserId, i64)>,
    /// Event time up to which alerts are settled; see [`Standing::settle_ms`].
    settle_ms: i64,
}

/// A user to score.
struct Target {
    partition: PartitionId,
    user: UserId,
    /// When it is due again if it stays silent after the moment it is scored for.
    next_due_ms: Option<i64>,
}

impl<L: Source + Sink> StreamThread<L> {
    /// Handles what was collected, and the users who are due. Nothing is changed before the commit returned success.
    pub(super) fn batch_blocking(&mut self) -> Result<Step, StreamError> {
        let mut report = BatchReport::default();
        let mut letters = DeadLetters::default();
        let mut watch = Stopwatch::start();
        let mut work = self.fold_batch(&mut letters, &mut report);
        self.take_due(&mut work);
        let (targets, requests) = self.targets_of(&work, &mut report);
        work.retain(|_, work| work.record_count > 0 || !work.due.is_empty() || !work.deadlines.is_empty());
        if work.is_empty() {
            return Ok(Step::Idle);
        }
        watch.lap("fold");
        let scores = score_all_blocking(self.parts.scorer.as_ref(), &requests, self.parts.params.scoring_attempts)?;
        watch.lap("score");
        let users: Vec<&UserId> = targets.iter().map(|target| &target.user).collect();
        let shadows = self.parts.scorer.challenge_blocking(&users, &requests, &scores);
        if !shadows.is_empty() {
            watch.lap("shadow");
        }
        let mut outputs = Vec::with_capacity(targets.len());
        for (&partition, work) in &work {
            report.evicted_user_count += work.write_set.evicted_count();
            report.forgotten_user_count += work.forgotten.len() as u64;
            // Before what is said anew: the newest record of a user counts.
            work.forgotten.iter().for_each(|user| take_back(partition, user, &mut outputs));
        }
        let mut decided = Vec::with_capacity(targets.len());
        for ((target, request), scored) in targets.iter().zip(&requests).zip(&scores) {
            let Some(scored) = scored else {
                self.dead_letter_user(target, &mut letters, &mut report);
                decided.push(None);
                continue;
            };
            decided.push(Some(self.decide_blocking(&work, target, request, scored, &mut outputs)?));
        }
        for decided in decided.iter().flatten() {
            report.note_decision(decided);
        }
        let list_length = self.parts.decision.list_length;
        for (place, shadow) in &shadows {
            if let (Some(scored), Some(decided)) = (&scores[*place], &decided[*place]) {
                let Target { partition, user, .. } = &targets[*place];
                outputs.push(shadow_record((*partition, user), &decided.score, scored, shadow, list_length));
                report.shadow_count += 1;
            }
        }
        report.dead_letter_count = letters.records.len() as u64;
        outputs.append(&mut letters.records);
        watch.lap("decide");
        let positions =
            work.iter().map(|(&partition, work)| (partition, work.write_set.progress().next_offsets)).collect();
        let commit = Commit { outputs, positions };
        if guard::holds(Guard::PublishAfterCommit)
            && let Err(error) = self.commit_batch_blocking(&commit)?
        {
            self.drop_batch(work);
            return self.go_on_after(error);
        }
        watch.lap("commit");
        self.publish(work, &commit, &targets, decided);
        if !guard::holds(Guard::PublishAfterCommit)
            && let Err(error) = self.commit_batch_blocking(&commit)?
        {
            return self.go_on_after(error);
        }
        watch.lap("publish");
        self.report(&report);
        Ok(Step::Committed)
    }

    /// Commits, and shows meanwhile since when it does.
    fn commit_batch_blocking(&mut self, commit: &Commit) -> Result<Result<(), LogError>, StreamError> {
        let now_ms = self.parts.clock.now_ms();
        self.status.send_modify(|status| status.committing_since_ms = Some(now_ms));
        let outcome = self.with_retries(|log| log.commit_blocking(commit));
        self.status.send_modify(|status| status.committing_since_ms = None);
        outcome
    }

    fn fold_batch(&self, letters: &mut DeadLetters, report: &mut BatchReport) -> BTreeMap<PartitionId, Work> {
        let mut work: BTreeMap<PartitionId, Work> = self
            .owned
            .iter()
            .map(|(&partition, owned)| {
                let write_set = WriteSet::on(&owned.handle.state);
                (
                    partition,
                    Work {
                        write_set,
                        watermark_ms: None,
                        record_count: 0,
                        forgotten: BTreeSet::new(),
                        due: Vec::new(),
                        deadlines: Vec::new(),
                        settle_ms: i64::MIN,
                    },
                )
            })
            .collect();
        let fold = FoldContext { decoder: &self.parts.decoder, params: &self.parts.params.graph };
        for record in self.batch.iter() {
            let partition = record.origin.partition;
            let (Some(owned), Some(work)) = (self.owned.get(&partition), work.get_mut(&partition)) else {
                // After an abort the log still reads where it was; the restore moves it back and the record comes again.
                debug_assert!(
                    self.pending.contains(&partition),
                    "a record of partition {partition}, which is not ours"
                );
                continue;
            };
            match fold.fold(&mut work.write_set, &owned.handle.state, &record, &mut report.cleaning) {
                Folded::Before => {
                    debug!(origin = ?record.origin, "skipped: handled before");
                    continue;
                }
                Folded::Done => {}
                Folded::Rejected(reject) => {
                    let refusal =
                        Refusal { reason: reject.reason.name(), field: reject.field, message: &reject.message };
                    letters.add(self.topic_of(record.origin.view), &record, &refusal);
                }
            }
            work.record_count += 1;
            report.record_count[record.origin.view.index()] += 1;
            report.oldest_ms = Some(report.oldest_ms.unwrap_or(i64::MAX).min(record.timestamp_ms));
        }
        for (partition, work) in &mut work {
            if let Some(owned) = self.owned.get(partition)
                && guard::holds(Guard::ForgottenTakenBack)
            {
                work.forgotten = forgotten(&work.write_set, owned);
            }
        }
        work
    }

    /// Moves event time on and takes the users whose instants have come: those who are due, and those with an alert to settle.
    fn take_due(&mut self, work: &mut BTreeMap<PartitionId, Work>) {
        let params = &self.parts.params;
        let now_ms = self.parts.clock.now_ms();
        self.has_backlog = false;
        for (partition, work) in work {
            let Some(owned) = self.owned.get_mut(partition) else { continue };
            let progress = *work.write_set.progress();
            let folded_ms = progress.watermark_ms(params.topic_skew_ms);
            if let Some(settle_ms) = settle_ms(&mut self.parts.log, owned, &progress, params.topic_skew_ms) {
                work.settle_ms = settle_ms;
                work.deadlines = take_deadlines(owned, settle_ms, &progress.next_offsets, params.max_due_users);
                self.has_backlog |= work.deadlines.len() >= params.max_due_users;
            }
            let watermark_ms = match params.time {
                TimeMode::Replay => folded_ms,
                TimeMode::Live { grace_ms } => folded_ms.max(folded_ms.map(|_| now_ms.saturating_sub(grace_ms))),
            };
            work.watermark_ms = watermark_ms.max(owned.handle.watermark_ms());
            if let Some(watermark_ms) = work.watermark_ms {
                work.due = owned.timers.due.take_due(watermark_ms, params.max_due_users);
                self.has_backlog |= owned.timers.due.is_due(watermark_ms);
            }
        }
    }

    /// Who is scored: every user whose graph changed, every due one whose moment has moved on, and every one with an alert to
    /// settle: the record of `scores` that no longer holds the alert says that it is told.
    fn targets_of(
        &self,
        work: &BTreeMap<PartitionId, Work>,
        report: &mut BatchReport,
    ) -> (Vec<Target>, Vec<ScoreRequest<UserGraph>>) {
        let (mut targets, mut requests) = (Vec::new(), Vec::new());
        let mut push = |partition, user: &UserId, graph: Arc<UserGraph>, moment: due::Moment| {
            targets.push(Target { partition, user: user.clone(), next_due_ms: moment.next_due_ms });
            requests.push(ScoreRequest { graph, as_of_ms: moment.as_of_ms });
        };
        for (&partition, work) in work {
            let (Some(owned), Some(watermark_ms)) = (self.owned.get(&partition), work.watermark_ms) else { continue };
            for (user, graph) in work.write_set.users() {
                if let Some(moment) = due::moment(graph, watermark_ms) {
                    push(partition, user, Arc::clone(graph), moment);
                }
            }
            let mut pushed: HashSet<&UserId, TextHashBuilder> = HashSet::default();
            for (user, _) in &work.due {
                if work.write_set.has_changed(user.as_str()) {
                    continue;
                }
                let Some(graph) = owned.handle.state.graphs.get(user.as_str()) else { continue };
                let Some(moment) = due::moment(&graph, watermark_ms) else { continue };
                let scored_ms = owned.handle.scores.get(user.as_str()).map(|score| score.as_of_ms);
                if scored_ms.is_none_or(|scored_ms| scored_ms < moment.as_of_ms) {
                    report.due_user_count += 1;
                    pushed.insert(user);
                    push(partition, user, graph, moment);
                }
            }
            for (user, _) in &work.deadlines {
                if work.write_set.has_changed(user.as_str()) || pushed.contains(user) {
                    continue;
                }
                let Some(graph) = owned.handle.state.graphs.get(user.as_str()) else { continue };
                // Not before the last score, should the wall clock have been set back.
                let scored_ms = owned.handle.scores.get(user.as_str()).map_or(watermark_ms, |score| score.as_of_ms);
                if let Some(moment) = due::moment(&graph, watermark_ms.max(scored_ms)) {
                    push(partition, user, graph, moment);
                }
            }
        }
        (targets, requests)
    }

    fn decide_blocking(
        &self,
        work: &BTreeMap<PartitionId, Work>,
        target: &Target,
        request: &ScoreRequest<UserGraph>,
        scored: &Scored,
        outputs: &mut Vec<OutputRecord>,
    ) -> Result<Decided, StreamError> {
        // Targets come from these two maps, see `targets_of`.
        let (owned, work) = (&self.owned[&target.partition], &work[&target.partition]);
        let context = DecisionContext {
            scorer: self.parts.scorer.as_ref(),
            params: &self.parts.decision,
            reason_limit: self.parts.params.reason_limit,
            partition: target.partition,
            standing: Standing {
                positions: work.write_set.progress().next_offsets,
                watermark_ms: work.watermark_ms.unwrap_or(request.as_of_ms),
                settle_ms: work.settle_ms,
            },
            names: OutputNames {
                batch: work.write_set.names(&owned.handle.state),
                catalogue: self.parts.catalogue.as_ref(),
            },
        };
        // One who was erased begins anew, whatever view is left.
        let known = owned.handle.scores.get(target.user.as_str());
        let previous = known.filter(|_| !work.forgotten.contains(&target.user));
        let erased_ms = work.write_set.erased_ms(target.user.as_str());
        context.decide_blocking((&target.user, erased_ms), request, scored, previous.as_deref(), outputs)
    }

    /// Undoes a batch that was not committed: the timers are the only thing it took out of the thread's state.
    ///
    /// The scores of a partition whose batch had no records are read again: should its outputs be there against all
    /// promises, nothing in its positions would show it, and they would be written twice.
    fn drop_batch(&mut self, work: BTreeMap<PartitionId, Work>) {
        for (partition, work) in work {
            let Some(owned) = self.owned.get_mut(&partition) else { continue };
            for (user, due_ms) in work.due {
                if guard::holds(Guard::TimersGivenBack) {
                    owned.timers.due.schedule(&user, due_ms);
                }
            }
            for (user, end_ms) in work.deadlines {
                if guard::holds(Guard::TimersGivenBack) {
                    owned.timers.deadlines.schedule(&user, end_ms);
                }
            }
            owned.are_scores_stale |= work.record_count == 0;
        }
    }

    /// Makes the batch visible. The commit returned success (TXN-2).
    fn publish(
        &mut self,
        work: BTreeMap<PartitionId, Work>,
        commit: &Commit,
        targets: &[Target],
        decided: Vec<Option<Decided>>,
    ) {
        let mut published = Vec::with_capacity(work.len());
        for (partition, Work { write_set, watermark_ms, forgotten, due, deadlines, settle_ms, .. }) in work {
            let Some(owned) = self.owned.get_mut(&partition) else { continue };
            for user in forgotten {
                owned.handle.scores.remove(user.as_str());
                owned.timers.forget(user.as_str());
            }
            let changed = write_set.users().to_vec();
            write_set.publish(&owned.handle.state);
            debug_assert_eq!(
                Some(&owned.handle.state.progress().next_offsets),
                commit.positions.get(&partition),
                "POS-2: the state stands at the committed positions"
            );
            owned.handle.set_watermark_ms(watermark_ms);
            // Users who were not due after all; the others are scheduled with their scores below.
            for (user, _) in due {
                reschedule(owned, &user, watermark_ms);
            }
            // Users whose score failed are tried again later; the others are scheduled with their scores below.
            for (user, _) in deadlines {
                owned.timers.deadlines.schedule(&user, settle_ms.saturating_add(DEADLINE_RETRY_MS));
            }
            published.push((partition, changed));
        }
        for (target, decided) in targets.iter().zip(decided) {
            let Some(owned) = self.owned.get_mut(&target.partition) else { continue };
            if let Some(decided) = decided {
                if let Some(end_ms) = decided.score.settles_ms() {
                    owned.timers.deadlines.schedule(&target.user, end_ms);
                }
                owned.handle.scores.insert(target.user.clone(), decided.score);
            }
            if let Some(due_ms) = target.next_due_ms {
                owned.timers.due.schedule(&target.user, due_ms);
            }
        }
        for (partition, changed) in published {
            let Some(owned) = self.owned.get_mut(&partition) else { continue };
            self.parts.snapshots.published(&owned.handle, &changed);
            if !self.parts.snapshots.is_writing(partition) {
                sweep_names(owned);
            }
        }
    }

    /// The user could not be scored: its records of this batch go to the dead letters too. They stay folded, because the
    /// state is a fold of the whole input; sent again they are known by their ids.
    fn dead_letter_user(&self, target: &Target, letters: &mut DeadLetters, report: &mut BatchReport) {
        let Some(owned) = self.owned.get(&target.partition) else { return };
        let committed = owned.handle.state.progress();
        for record in self.batch.iter() {
            let is_users = record.origin.partition == target.partition
                && record.key == Some(target.user.as_str().as_bytes())
                && !committed.has_folded(record.origin.view, record.origin.offset);
            let refusal = Refusal {
                reason: super::SCORING_FAILED,
                field: "record",
                message: "the user cannot be scored; the event is folded",
            };
            if is_users && letters.add(self.topic_of(record.origin.view), &record, &refusal) {
                report.scoring_failed_count += 1;
            }
        }
    }

    fn topic_of(&self, view: View) -> &str {
        &self.parts.params.input_topics[view.index()]
    }

    fn report(&self, report: &BatchReport) {
        let now_ms = self.parts.clock.now_ms();
        report.record(now_ms);
        self.show_partitions();
        self.status.send_modify(|status| {
            status.batch_count += 1;
            status.record_count += report.all_records();
            status.score_count += report.score_count;
            status.alert_count += report.alerts.len() as u64;
            status.dead_letter_count += report.dead_letter_count;
            status.last_commit_ms = Some(now_ms);
        });
    }
}

/// No topic is read to its end.
const ALL_UNREAD: Positions = Positions([Offset(i64::MAX); View::COUNT]);

/// Event time until a user whose score failed is tried again, when an alert of theirs is to be settled.
const DEADLINE_RETRY_MS: i64 = DAY_MS;

/// Event time up to which alerts of a partition may be settled; `None` where no deadline has come, and so nothing is to be
/// settled: every open alert has one.
fn settle_ms(log: &mut impl Source, owned: &Owned, progress: &Progress, topic_skew_ms: i64) -> Option<i64> {
    let deadlines = &owned.timers.deadlines;
    let is_due = |settled_ms: &i64| deadlines.is_due(*settled_ms);
    // An end that cannot be told counts as far away: then every topic is read only in part.
    let settled_by = |ends: Option<Positions>| progress.settled_ms(topic_skew_ms, &ends.unwrap_or(ALL_UNREAD));
    let partition = owned.handle.state.partition();
    progress.watermark_ms(topic_skew_ms).filter(is_due)?;
    // What is known without waiting is never past the end, so it holds nothing back that the end would let pass.
    settled_by(log.known_end_blocking(partition).ok()).filter(is_due)?;
    settled_by(log.end_blocking(partition).ok()).filter(is_due)
}

/// Takes at most `limit` users with an alert whose horizon passed at or before `settle_ms`. One who was scored at these very
/// positions waits for the next record: two scores of a user never say the same positions and the same moment.
fn take_deadlines(owned: &mut Owned, settle_ms: i64, positions: &Positions, limit: usize) -> Vec<(UserId, i64)> {
    let deadlines = &mut owned.timers.deadlines;
    let (mut taken, mut later) = (Vec::new(), Vec::new());
    while taken.len() < limit {
        let due = deadlines.take_due(settle_ms, limit - taken.len());
        if due.is_empty() {
            break;
        }
        for (user, at_ms) in due {
            let score = owned.handle.scores.get(user.as_str());
            match score.and_then(|score| Some((score.settles_ms()?, score.positions))) {
                None => {}
                Some((end_ms, _)) if end_ms > settle_ms => later.push((user, end_ms)),
                Some((_, scored_at)) if scored_at == *positions => later.push((user, at_ms)),
                Some(_) => taken.push((user, at_ms)),
            }
        }
    }
    for (user, at_ms) in later {
        deadlines.schedule(&user, at_ms);
    }
    taken
}

fn reschedule(owned: &mut Owned, user: &UserId, watermark_ms: Option<i64>) {
    let Some(graph) = owned.handle.state.graphs.get(user.as_str()) else { return };
    let moment = watermark_ms.and_then(|watermark_ms| due::moment(&graph, watermark_ms));
    if let Some(due_ms) = moment.and_then(|moment| moment.next_due_ms) {
        owned.timers.due.schedule(user, due_ms);
    }
}

/// Users of whom nothing is left, and those who were asked to be erased, as far as outputs speak of them.
fn forgotten(write_set: &WriteSet, owned: &Owned) -> BTreeSet<UserId> {
    let gone = write_set.users().iter().filter(|(_, graph)| graph.is_empty()).map(|(user, _)| user);
    let known = gone.chain(write_set.erased()).filter(|user| owned.handle.scores.get(user.as_str()).is_some());
    known.cloned().collect()
}

/// Names are swept when the table has doubled; small tables are left alone.
fn sweep_names(owned: &mut Owned) {
    const SMALL_TABLE_NAMES: usize = 50_000;
    let names = &owned.handle.state.names;
    if names.len() > SMALL_TABLE_NAMES.max(2 * owned.swept_name_count) {
        owned.handle.state.sweep_names();
        owned.swept_name_count = owned.handle.state.names.len();
    }
}
