//! The scoring pool: one named OS thread a device, each with a forward pass of its own.
//!
//! A request is cut into batches by padded cost; batches wait in one bounded queue. All batches of a request carry the
//! bundle that served when the request came, so a swap falls between two requests and never inside one.

use std::{
    num::NonZeroUsize,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use candle_core::Device;
use metrics::{counter, gauge, histogram};

use super::{
    ScoreError, Scorer, explain,
    served::{Forward, Served, failed},
};
use crate::{
    graph::UserGraph,
    metrics::{SCORING_BATCH_SECONDS, SCORING_FAILURES, SCORING_MODEL_INFO, SCORING_QUEUE_BATCHES, SCORING_USERS},
    model::Bundle,
    score::{ModelInfo, Reason, ScoreRequest, Scored},
};

/// What a pool scores for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PoolRole {
    /// Everything that is decided.
    #[default]
    Champion,
    /// Comparison: it is not counted with the champion's work.
    Challenger,
}

/// Bounds of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSettings {
    /// CPU workers; ignored when there are CUDA devices.
    pub workers: NonZeroUsize,
    /// CUDA devices, one worker each. Needs a binary with the feature `cuda`.
    pub cuda_devices: Vec<usize>,
    /// Users of a batch at most.
    pub max_batch_users: NonZeroUsize,
    /// Padded nodes and events of a batch at most (one user always fits).
    pub max_batch_nodes: NonZeroUsize,
    /// Batches waiting a worker.
    pub queue_capacity_batches: NonZeroUsize,
    /// Milliseconds a request waits for its scores at most.
    pub timeout_ms: u64,
    /// What it scores for.
    pub role: PoolRole,
}

impl Default for PoolSettings {
    fn default() -> Self {
        let number = |value: usize| NonZeroUsize::new(value).unwrap_or(NonZeroUsize::MIN);
        Self {
            workers: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            cuda_devices: Vec::new(),
            max_batch_users: number(64),
            max_batch_nodes: number(8_192),
            queue_capacity_batches: number(2),
            timeout_ms: 60_000,
            role: PoolRole::Champion,
        }
    }
}

/// Why a pool cannot start or take a bundle.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// A CUDA device is asked for that this binary or machine does not have.
    #[error("CUDA device `{device}` cannot be used: {message}")]
    Cuda {
        /// Its number.
        device: usize,
        /// Why.
        message: String,
    },
    /// The operating system refused a thread.
    #[error("cannot start thread `{name}`: {source}")]
    Thread {
        /// The thread's name.
        name: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The bundle cannot be served.
    #[error(transparent)]
    Bundle(#[from] ScoreError),
}

/// Scores with a bundle on worker threads.
#[derive(Debug)]
pub struct Pool {
    /// Read at the start of every request, written by a swap.
    served: RwLock<Arc<Served>>,
    /// Carries batches to the workers; bounded, so a caller waits when all workers are busy. Closed by taking it out.
    queue: Mutex<Option<SyncSender<Work>>>,
    workers: Mutex<Vec<JoinHandle<()>>>,
    worker_count: usize,
    settings: PoolSettings,
}

impl Pool {
    /// Starts the workers.
    pub fn start(bundle: Arc<Bundle>, settings: PoolSettings) -> Result<Self, PoolError> {
        // Candle would hand large products to a thread pool of its own; here a worker is one thread.
        gemm::set_threading_threshold(usize::MAX);
        let devices = devices(&settings)?;
        let served = Arc::new(Served::new(bundle)?);
        let (role, thread_name) = match settings.role {
            PoolRole::Champion => {
                gauge!(SCORING_MODEL_INFO, "model_version" => served.info.version.to_string()).set(1.0);
                (settings.role, "score")
            }
            PoolRole::Challenger => (settings.role, "challenge"),
        };
        let capacity = settings.queue_capacity_batches.get() * devices.len();
        let (sender, receiver) = sync_channel(capacity);
        let receiver = Arc::new(Mutex::new(receiver));
        let mut workers = Vec::with_capacity(devices.len());
        for (number, device) in devices.iter().enumerate() {
            let name = format!("{thread_name}-{number}");
            let (receiver, device) = (Arc::clone(&receiver), device.clone());
            let named = std::thread::Builder::new().name(name.clone());
            let handle = named.spawn(move || Worker { device, role, own: None }.run(&receiver));
            workers.push(handle.map_err(|source| PoolError::Thread { name, source })?);
        }
        Ok(Self {
            served: RwLock::new(served),
            queue: Mutex::new(Some(sender)),
            worker_count: workers.len(),
            workers: Mutex::new(workers),
            settings,
        })
    }

    /// Serves `bundle` from the next request on. Requests that run finish with the bundle they began with.
    pub fn swap(&self, bundle: Arc<Bundle>) -> Result<(), PoolError> {
        let next = Arc::new(Served::new(bundle)?);
        let version = next.info.version.to_string();
        let before = std::mem::replace(&mut *self.served.write().unwrap_or_else(PoisonError::into_inner), next);
        gauge!(SCORING_MODEL_INFO, "model_version" => before.info.version.to_string()).set(0.0);
        gauge!(SCORING_MODEL_INFO, "model_version" => version).set(1.0);
        Ok(())
    }

    /// The bundle that serves.
    pub fn bundle(&self) -> Arc<Bundle> {
        Arc::clone(&self.served().bundle)
    }

    /// What it says of itself.
    pub fn model(&self) -> Arc<ModelInfo> {
        Arc::clone(&self.served().info)
    }

    /// Lets the workers finish what is queued and joins them. Later requests are refused.
    pub fn close(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        for worker in workers {
            // A worker that panicked has already failed its batch; there is nothing left to do for it.
            drop(worker.join());
        }
    }

    /// Whether there is a worker that can answer.
    pub fn is_serving(&self) -> bool {
        let is_open = self.queue.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        is_open && workers.iter().any(|worker| !worker.is_finished())
    }

    fn served(&self) -> Arc<Served> {
        Arc::clone(&self.served.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Hands a batch to the workers; waits while the queue is full.
    fn send(&self, work: Work) -> Result<(), ScoreError> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let queue = queue.ok_or(ScoreError::Closed)?;
        if self.settings.role == PoolRole::Champion {
            gauge!(SCORING_QUEUE_BATCHES).increment(1.0);
        }
        queue.send(work).map_err(|_| ScoreError::Closed)
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(Duration::from_millis(self.settings.timeout_ms))
    }

    /// Cuts requests into batches: small enough for every worker to get one, large enough to fill tiles, and never above
    /// the bounds.
    fn batches(&self, requests: &[ScoreRequest<UserGraph>]) -> Vec<Range<usize>> {
        const FEWEST_USERS: usize = 8;
        let costs: Vec<usize> = requests.iter().map(|request| padded_cost(&request.graph)).collect();
        let fair = requests.len().div_ceil(self.worker_count).max(FEWEST_USERS);
        let most_users = fair.min(self.settings.max_batch_users.get());
        let (mut batches, mut start, mut cost) = (Vec::new(), 0, 0);
        for (place, next) in costs.into_iter().enumerate() {
            let full = place - start >= most_users || cost + next > self.settings.max_batch_nodes.get();
            if full && place > start {
                batches.push(start..place);
                (start, cost) = (place, 0);
            }
            cost += next;
        }
        if start < requests.len() {
            batches.push(start..requests.len());
        }
        batches
    }
}

impl Scorer for Pool {
    fn score_blocking(&self, requests: &[ScoreRequest<UserGraph>]) -> Result<Vec<Scored>, ScoreError> {
        let batches = self.batches(requests);
        let served = self.served();
        // Carries one answer a batch; as large as the number of batches, so a worker never waits on it.
        let (reply, answers) = sync_channel(batches.len().max(1));
        for (number, batch) in batches.iter().enumerate() {
            let task = Task::Score { requests: requests[batch.clone()].to_vec(), first: batch.start };
            self.send(Work { served: Arc::clone(&served), number, task, reply: reply.clone() })?;
        }
        drop(reply);
        let deadline = self.deadline();
        let mut parts: Vec<Option<Result<Vec<Scored>, ScoreError>>> = batches.iter().map(|_| None).collect();
        for _ in &batches {
            let (number, answer) = deadline.receive(&answers, &served)?;
            if let Answer::Scores(scores) = answer {
                parts[number] = Some(scores);
            }
        }
        let mut scores = Vec::with_capacity(requests.len());
        for part in parts {
            scores.extend(part.unwrap_or_else(|| Err(failed(&served.info.version, &"a batch got no scores")))?);
        }
        Ok(scores)
    }

    fn explain_blocking(&self, request: &ScoreRequest<UserGraph>, limit: usize) -> Result<Vec<Reason>, ScoreError> {
        let served = self.served();
        let (reply, answers) = sync_channel(1);
        let task = Task::Explain { request: request.clone(), limit };
        self.send(Work { served: Arc::clone(&served), number: 0, task, reply })?;
        match self.deadline().receive(&answers, &served)? {
            (_, Answer::Reasons(reasons)) => reasons,
            (_, Answer::Scores(_)) => Err(failed(&served.info.version, &"a question for reasons got scores")),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}

/// Places a user takes in padded tensors, told from the graph's counters alone.
fn padded_cost(graph: &UserGraph) -> usize {
    const NODES_AND_EVENTS: u64 = 56;
    usize::try_from(graph.event_count().saturating_mul(2).min(NODES_AND_EVENTS)).unwrap_or(1).max(1).next_multiple_of(8)
}

fn devices(settings: &PoolSettings) -> Result<Vec<Device>, PoolError> {
    if settings.cuda_devices.is_empty() {
        return Ok(vec![Device::Cpu; settings.workers.get()]);
    }
    let open = |device: &usize| {
        Device::new_cuda(*device).map_err(|error| PoolError::Cuda { device: *device, message: error.to_string() })
    };
    settings.cuda_devices.iter().map(open).collect()
}

/// One batch for one worker.
struct Work {
    served: Arc<Served>,
    number: usize,
    task: Task,
    reply: SyncSender<(usize, Answer)>,
}

enum Task {
    Score { requests: Vec<ScoreRequest<UserGraph>>, first: usize },
    Explain { request: ScoreRequest<UserGraph>, limit: usize },
}

enum Answer {
    Scores(Result<Vec<Scored>, ScoreError>),
    Reasons(Result<Vec<Reason>, ScoreError>),
}

/// A moment after which waiting ends.
struct Deadline(Instant);

impl Deadline {
    #[expect(clippy::disallowed_methods, reason = "waits are bounded by elapsed time, which no result depends on")]
    fn after(wait: Duration) -> Self {
        Self(Instant::now() + wait)
    }

    #[expect(clippy::disallowed_methods, reason = "waits are bounded by elapsed time, which no result depends on")]
    fn receive(&self, answers: &Receiver<(usize, Answer)>, served: &Served) -> Result<(usize, Answer), ScoreError> {
        answers.recv_timeout(self.0.saturating_duration_since(Instant::now())).map_err(|error| match error {
            RecvTimeoutError::Timeout => failed(&served.info.version, &"no score within `scoring.timeout_ms`"),
            RecvTimeoutError::Disconnected => failed(&served.info.version, &"a scoring worker ended"),
        })
    }
}

fn panicked(index: usize, panic: &str) -> ScoreError {
    ScoreError::User { index, message: format!("a worker panicked: {panic}") }
}

/// One thread's device and the forward pass it owns.
struct Worker {
    device: Device,
    role: PoolRole,
    own: Option<(Arc<Served>, Forward)>,
}

impl Worker {
    /// Works until the queue is closed and empty.
    fn run(mut self, queue: &Mutex<Receiver<Work>>) {
        loop {
            // The lock is held while waiting: the workers take turns, which is all a queue needs.
            let work = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(work) = work else { break };
            if self.role == PoolRole::Champion {
                gauge!(SCORING_QUEUE_BATCHES).decrement(1.0);
            }
            let answer = self.answer(&work);
            // A caller that gave up has closed its end; its answer is not missed.
            drop(work.reply.send((work.number, answer)));
        }
    }

    #[expect(clippy::disallowed_methods, reason = "measures the batch for a histogram")]
    fn answer(&mut self, work: &Work) -> Answer {
        let started = Instant::now();
        match &work.task {
            Task::Score { requests, first } => {
                let scores = self.score(&work.served, requests, *first);
                if self.role == PoolRole::Champion {
                    let counted = if scores.is_ok() { SCORING_USERS } else { SCORING_FAILURES };
                    counter!(counted).increment(requests.len() as u64);
                    histogram!(SCORING_BATCH_SECONDS).record(started.elapsed().as_secs_f64());
                }
                Answer::Scores(scores)
            }
            Task::Explain { request, limit } => {
                let served = &work.served;
                let reasons = self.guarded(|worker| {
                    let forward = worker.forward(served)?;
                    let user = served.encode(&served.expand(&request.graph), request.as_of_ms);
                    explain::reasons(served, forward, &user, *limit)
                });
                Answer::Reasons(reasons.unwrap_or_else(|panic| Err(panicked(0, &panic))))
            }
        }
    }

    /// Scores a batch. When that panics, the users are scored one by one to find the one at fault, so that only its records
    /// are given up.
    fn score(
        &mut self,
        served: &Arc<Served>,
        requests: &[ScoreRequest<UserGraph>],
        first: usize,
    ) -> Result<Vec<Scored>, ScoreError> {
        let mut part = |range: Range<usize>| {
            self.guarded(|worker| served.score(worker.forward(served)?, &requests[range.clone()], first + range.start))
        };
        let panic = match part(0..requests.len()) {
            Ok(outcome) => return outcome,
            Err(panic) => panic,
        };
        for place in 0..requests.len() {
            if let Err(panic) = part(place..place + 1) {
                return Err(panicked(first + place, &panic));
            }
        }
        Err(failed(
            &served.info.version,
            &format_args!("a worker panicked on a batch and on none of its users: {panic}"),
        ))
    }

    /// Does `work`; a panic is answered with its words. Nobody knows what it left of the forward pass, so the next work
    /// builds one anew.
    fn guarded<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, ScoreError>,
    ) -> Result<Result<T, ScoreError>, String> {
        catch_unwind(AssertUnwindSafe(|| work(self))).map_err(|panic| {
            self.own = None;
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            text.unwrap_or("without words").to_owned()
        })
    }

    /// The forward pass for `served`, built anew when the bundle was swapped.
    fn forward(&mut self, served: &Arc<Served>) -> Result<&mut Forward, ScoreError> {
        let known = self.own.take().filter(|(own, _)| Arc::ptr_eq(own, served));
        let forward = match known {
            Some((_, forward)) => forward,
            None => served.forward(&self.device)?,
        };
        Ok(&mut self.own.insert((Arc::clone(served), forward)).1)
    }
}
