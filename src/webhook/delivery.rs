//! The loop: reads alerts, keeps one of each partition on its way, and remembers which have arrived.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::{AbortHandle, Id, JoinError, JoinSet, spawn_blocking},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{backoff::Retries, message::Message, parked::Parked, post::Poster, signature::Signer};
use crate::{
    clock::Clock,
    event::{Offset, PartitionId},
    metrics as names,
    stream::{Disposition, LogError, OutputReader},
};

/// Alerts of a partition held in memory at most, besides what one read brings (LIM-1).
const QUEUE_CAPACITY: usize = 100;
/// Between two looks at the log while nothing comes.
const IDLE: Duration = Duration::from_millis(100);
/// Before the log is asked again after an error.
const PAUSE: Duration = Duration::from_secs(1);

/// What the webhook is given.
pub struct WebhookParts {
    /// Reads `churn-alerts` and stores how far it got.
    pub reader: Box<dyn OutputReader>,
    /// The partitions whose alerts this process sends: those whose states it owns.
    pub owned: Arc<dyn Fn() -> BTreeSet<PartitionId> + Send + Sync>,
    /// Sends.
    pub poster: Poster,
    /// Signs.
    pub signer: Signer,
    /// How often.
    pub retries: Retries,
    /// Where alerts go that could not be sent.
    pub parked: Parked,
    /// Wall clock, for the time in the signature.
    pub clock: Arc<dyn Clock>,
}

/// What the tasks of single deliveries share.
struct Shared {
    poster: Poster,
    signer: Signer,
    retries: Retries,
    clock: Arc<dyn Clock>,
}

/// One partition.
#[derive(Default)]
struct Line {
    waiting: VecDeque<Message>,
    under_way: Option<AbortHandle>,
}

/// A delivery that ended.
struct Ended {
    message: Message,
    /// Attempts and the last reason, of one that was given up.
    given_up: Option<(u32, String)>,
}

/// Posts alerts until it is stopped.
pub struct Webhook {
    reader: Option<Box<dyn OutputReader>>,
    owned: Arc<dyn Fn() -> BTreeSet<PartitionId> + Send + Sync>,
    parked: Parked,
    shared: Arc<Shared>,
    lines: BTreeMap<PartitionId, Line>,
    deliveries: JoinSet<Ended>,
}

impl Webhook {
    /// Takes the parts; nothing is read or sent yet.
    pub fn new(parts: WebhookParts) -> Self {
        let WebhookParts { reader, owned, poster, signer, retries, parked, clock } = parts;
        Self {
            reader: Some(reader),
            owned,
            parked,
            shared: Arc::new(Shared { poster, signer, retries, clock }),
            lines: BTreeMap::new(),
            deliveries: JoinSet::new(),
        }
    }

    /// Runs until `stop`. What is on its way then is broken off, and sent again by the next start. Errors of the log are told and
    /// waited out: the stream does not depend on this.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let turn = tokio::select! {
                () = stop.cancelled() => break,
                turn = self.turn() => turn,
            };
            if let Err(error) = turn {
                warn!(%error, "alerts cannot be read or remembered for the webhook; trying again");
                self.forget_all();
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = sleep(PAUSE) => {}
                }
            }
        }
        self.deliveries.shutdown().await;
    }

    /// Reads what there is room for, starts what can start, and settles what has ended.
    async fn turn(&mut self) -> Result<(), LogError> {
        let owned = (self.owned)();
        self.lines.retain(|partition, line| {
            let stays = owned.contains(partition);
            if !stays && let Some(delivery) = &line.under_way {
                delivery.abort();
            }
            stays
        });
        for partition in &owned {
            self.lines.entry(*partition).or_default();
        }
        let has_room =
            |(partition, line): (&PartitionId, &Line)| (line.waiting.len() < QUEUE_CAPACITY).then_some(*partition);
        let wanted: BTreeSet<PartitionId> = self.lines.iter().filter_map(has_room).collect();
        let records = self.with_reader(move |reader| {
            reader.follow_blocking(&owned)?;
            reader.read_blocking(&wanted)
        });
        let records = records.await?;
        let is_idle = records.is_empty();
        for record in records {
            let Some(line) = self.lines.get_mut(&record.partition) else { continue };
            let Some(message) = Message::of(&record) else {
                warn!(partition = %record.partition, offset = record.offset.0, "no alert; passed over");
                continue;
            };
            line.waiting.push_back(message);
        }
        self.start_deliveries();
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        metrics::gauge!(names::WEBHOOK_WAITING)
            .set(self.lines.values().map(|line| line.waiting.len()).sum::<usize>() as f64);
        let wait = if is_idle { IDLE } else { Duration::ZERO };
        let first = tokio::select! {
            biased;
            // First, so that what has ended is settled before more is read.
            Some(ended) = self.deliveries.join_next_with_id() => Some(ended),
            () = sleep(wait) => None,
        };
        let mut next = first;
        while let Some(ended) = next {
            self.settle(ended).await?;
            next = self.deliveries.try_join_next_with_id();
        }
        Ok(())
    }

    /// Starts the first alert of every partition that has none on its way.
    fn start_deliveries(&mut self) {
        for line in self.lines.values_mut().filter(|line| line.under_way.is_none()) {
            if let Some(message) = line.waiting.pop_front() {
                line.under_way = Some(self.deliveries.spawn(deliver(message, Arc::clone(&self.shared))));
            }
        }
    }

    /// Parks what was given up, and remembers that the alert is done with.
    async fn settle(&mut self, ended: Result<(Id, Ended), JoinError>) -> Result<(), LogError> {
        let (id, Ended { message, given_up }) = match ended {
            Ok(ended) => ended,
            // Its partition went away.
            Err(error) if error.is_cancelled() => return Ok(()),
            Err(error) => return Err(failed("posting an alert", error.to_string())),
        };
        let (partition, next) = (message.partition, Offset(message.offset.0 + 1));
        // One that ended while its partition went away, and perhaps came back: it is sent again from the stored position.
        let is_current = |line: &Line| line.under_way.as_ref().is_some_and(|delivery| delivery.id() == id);
        if !self.lines.get(&partition).is_some_and(is_current) {
            return Ok(());
        }
        let parked = given_up.is_some();
        if let Some((attempts, reason)) = given_up {
            warn!(alert_id = message.id, attempts, reason, "an alert could not be posted and is parked");
            let (parked, now_ms) = (self.parked.clone(), self.shared.clock.now_ms());
            // When that fails nothing is stored, and the alert is tried again from its first attempt.
            spawn_blocking(move || parked.add_blocking(&message, (attempts, &reason), now_ms))
                .await
                .map_err(|error| failed("parking an alert", error.to_string()))?
                .map_err(|error| failed("parking an alert", error.to_string()))?;
        }
        self.with_reader(move |reader| reader.store_blocking(partition, next)).await?;
        metrics::counter!(if parked { names::WEBHOOK_PARKED } else { names::WEBHOOK_DELIVERED }).increment(1);
        if let Some(line) = self.lines.get_mut(&partition) {
            line.under_way = None;
        }
        Ok(())
    }

    /// Drops everything in memory: every partition begins again at its stored position.
    fn forget_all(&mut self) {
        self.deliveries.abort_all();
        self.lines.clear();
        if let Some(reader) = &mut self.reader {
            reader.forget();
        }
    }

    /// Calls the reader where blocking is allowed.
    async fn with_reader<T: Send + 'static>(
        &mut self,
        call: impl FnOnce(&mut dyn OutputReader) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        const ACTION: &str = "reading alerts for the webhook";
        let Some(mut reader) = self.reader.take() else {
            return Err(failed(ACTION, "the reader is gone".to_owned()));
        };
        let done = spawn_blocking(move || {
            let answer = call(reader.as_mut());
            (reader, answer)
        });
        let (reader, answer) = done.await.map_err(|error| failed(ACTION, error.to_string()))?;
        self.reader = Some(reader);
        answer
    }
}

fn failed(action: &str, message: String) -> LogError {
    LogError { action: action.to_owned(), message, disposition: Disposition::Retry }
}

/// Tries until it arrives or is given up.
async fn deliver(message: Message, shared: Arc<Shared>) -> Ended {
    let mut attempt = 1;
    loop {
        let failure = match shared.poster.post(&message, &shared.signer, shared.clock.now_ms()).await {
            Ok(()) => return Ended { message, given_up: None },
            Err(failure) => failure,
        };
        metrics::counter!(names::WEBHOOK_FAILURES, "reason" => failure.kind).increment(1);
        if attempt >= shared.retries.max_attempts {
            return Ended { message, given_up: Some((attempt, failure.text)) };
        }
        let wait = shared.retries.wait(attempt, rand::random());
        info!(
            alert_id = message.id,
            attempt,
            wait_ms = wait.as_millis(),
            reason = failure.text,
            "an alert is posted again"
        );
        sleep(wait).await;
        attempt += 1;
    }
}
