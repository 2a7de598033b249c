//! `run`: starts everything in order, watches it, and stops it in the reverse order within one deadline.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, bail};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    champion, drift,
    engine::{self, Engine, EngineParts},
    params, pool,
    pool::Scoring,
    readiness::Readiness,
    retrain, shadow,
    signals::Shutdown,
    upkeep::{self, Upkeep},
    webhook,
};
use crate::{
    api::{ApiLimits, ApiState, Ingest, serve},
    clock::{Clock, SystemClock},
    config::{Config, LogKind},
    metrics as names,
    scoring::Shadowed,
    stream::{Partitions, TimeMode, embedded::EmbeddedLog},
};

/// Threads of the main runtime: HTTP, signals, schedules. Everything heavy has threads of its own.
const RUNTIME_THREADS: usize = 2;
/// Between two looks at what changes slowly.
const TICK: Duration = Duration::from_secs(1);
/// Ticks between two measurements of the graphs' memory: it walks all users.
const MEMORY_TICKS: u64 = 60;
/// Ticks between two times at which the samples of histograms are counted into their buckets. Without that they are kept one by
/// one until somebody asks for `/metrics`, for ever where nobody does (LIM-1).
const METRICS_TICKS: u64 = 5;

/// Runs the daemon until SIGTERM or SIGINT, or until a part of it fails. Blocks.
pub fn run_blocking(config: Config) -> anyhow::Result<()> {
    let metrics = names::install().context("cannot install the metrics recorder")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .thread_name("main-runtime")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(run(config, metrics))
}

async fn run(config: Config, metrics: PrometheusHandle) -> anyhow::Result<()> {
    // Before anything else: a signal that comes while the log is opened must not be lost.
    let mut shutdown = Shutdown::listen()?;
    let listener = listen(&config).await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let scoring = tokio::task::block_in_place(|| pool::open(&config))?;
    let embedded = match config.input.log {
        LogKind::Embedded => Some(tokio::task::block_in_place(|| open_embedded(&config, &clock))?),
        LogKind::Kafka => None,
    };
    let shadow = shadow::start(&config)?;
    let alerts = tokio::task::block_in_place(|| webhook::reader_blocking(&config, embedded.as_ref()))?;
    let time = TimeMode::Live { grace_ms: config.stream.live_grace_ms };
    let mut engine = tokio::task::block_in_place(|| {
        Engine::start_blocking(
            &config,
            EngineParts {
                scorer: Arc::new(Shadowed { champion: Arc::clone(&scoring.scorer), shadow: Arc::clone(&shadow) }),
                decision: params::decision(&config, time)?,
                catalogue: Arc::clone(&scoring.catalogue),
                time,
                clock: Arc::clone(&clock),
                embedded: embedded.clone(),
            },
        )
    })?;
    let readiness = Readiness::new(engine.statuses(), scoring.pool.clone(), Arc::clone(&clock));
    let tasks_stop = CancellationToken::new();
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let recorder = metrics.clone();
    if let Some(listener) = listener {
        info!(address = %listener.local_addr()?, "listening");
        let state = api_state(&config, &engine, &scoring, embedded.clone(), &clock, &readiness, metrics)?;
        let stop = tasks_stop.clone().cancelled_owned();
        tasks.spawn(async move { serve(listener, state, stop).await.context("the HTTP server failed") });
    }
    if let Some(reader) = alerts {
        let webhook = webhook::open(&config, reader, Arc::clone(&engine.partitions), Arc::clone(&clock))?;
        let stop = tasks_stop.clone();
        tasks.spawn(async move {
            webhook.run(stop).await;
            Ok(())
        });
    }
    if let Some(log) = embedded {
        let snapshots = config.snapshot.enabled.then(|| engine::snapshots(&config, &clock)).transpose()?;
        tasks.spawn(upkeep::run(Upkeep::new(log, snapshots), tasks_stop.clone()));
    }
    if let Some(pool) = &scoring.pool {
        tasks.spawn(champion::follow(config.clone(), Arc::clone(pool), tasks_stop.clone()));
        let (drift, drifted) = watch::channel(None);
        if config.training.drift_users > 0 {
            let (pool, partitions) = (Arc::clone(pool), Arc::clone(&engine.partitions));
            tasks.spawn(drift::watch(config.clone(), pool, partitions, drift, tasks_stop.clone()));
        }
        if config.training.enabled {
            let (partitions, clock) = (Arc::clone(&engine.partitions), Arc::clone(&clock));
            tasks.spawn(retrain::schedule(config.clone(), partitions, clock, drifted, tasks_stop.clone()));
        }
    }
    tasks.spawn(shadow::follow(config.clone(), Arc::clone(&shadow), tasks_stop.clone()));
    tasks.spawn(gauges(readiness.clone(), Arc::clone(&engine.partitions), recorder, tasks_stop.clone()));
    info!(version = env!("CARGO_PKG_VERSION"), log = ?config.input.log, threads = config.stream.threads, "running");

    let failure = tokio::select! {
        () = shutdown.received() => {
            info!("asked to stop");
            None
        }
        end = engine.next_end() => Some(end.map_or_else(|| "there is no stream thread".to_owned(), |end| end.describe())),
        Some(ended) = tasks.join_next() => Some(match ended {
            Ok(Ok(())) => "a task ended that should run for ever".to_owned(),
            Ok(Err(error)) => format!("{error:#}"),
            Err(error) => format!("a task died: {error}"),
        }),
    };
    if let Some(failure) = &failure {
        error!(failure, "stopping");
    }
    readiness.drain();
    let deadline = Instant::now() + Duration::from_millis(config.shutdown.deadline_ms);
    let stopped = stop(engine, scoring, tasks, &tasks_stop, deadline).await;
    shadow.vacate();
    match failure {
        Some(failure) => bail!(failure),
        None => stopped,
    }
}

/// Not ready → threads end between two batches → last snapshots → pool → HTTP last.
async fn stop(
    engine: Engine,
    scoring: Scoring,
    mut tasks: JoinSet<anyhow::Result<()>>,
    tasks_stop: &CancellationToken,
    deadline: Instant,
) -> anyhow::Result<()> {
    let engine_stopped = engine.stop(deadline.saturating_duration_since(Instant::now())).await;
    if let Some(pool) = scoring.pool
        && engine_stopped.is_ok()
    {
        // A thread that did not stop still waits for scores; then the process ends without waiting for either.
        tokio::task::spawn_blocking(move || pool.close()).await.context("the scoring pool could not be closed")?;
    }
    tasks_stop.cancel();
    let drained = timeout_at(deadline, async { while tasks.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        warn!("some requests were cut off at the deadline");
        tasks.abort_all();
    }
    if engine_stopped.is_ok() {
        info!("stopped");
    }
    engine_stopped.context("the drain was cut short; nothing is lost, the next start replays more")
}

async fn listen(config: &Config) -> anyhow::Result<Option<TcpListener>> {
    if !config.http.enabled {
        return Ok(None);
    }
    let address = config.http.listen;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on `{address}`; choose another `http.listen`, or stop what has it"))?;
    Ok(Some(listener))
}

fn open_embedded(config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<Arc<EmbeddedLog>> {
    EmbeddedLog::open(params::embedded(config), Arc::clone(clock)).context("cannot open the embedded log")
}

fn api_state(
    config: &Config,
    engine: &Engine,
    scoring: &Scoring,
    embedded: Option<Arc<EmbeddedLog>>,
    clock: &Arc<dyn Clock>,
    readiness: &Readiness,
    metrics: PrometheusHandle,
) -> anyhow::Result<ApiState> {
    let readiness = readiness.clone();
    Ok(ApiState {
        clock: Arc::clone(clock),
        ingest: embedded.map(|log| log as Arc<dyn Ingest>),
        edge: Arc::new(Mutex::new(params::edge(config)?)),
        scorer: Arc::clone(&scoring.scorer),
        graph_params: params::graph(config)?,
        partitions: Arc::clone(&engine.partitions),
        streams: engine.statuses(),
        not_ready: Arc::new(move || readiness.reasons()),
        catalogue: Arc::clone(&scoring.catalogue),
        metrics: Arc::new(move || metrics.render()),
        token: params::http_token(config)?,
        limits: ApiLimits {
            max_body_bytes: config.http.max_body_bytes,
            request_timeout_ms: config.http.request_timeout_ms,
            max_events: config.http.max_events,
        },
    })
}

/// Keeps the slow gauges up to date.
async fn gauges(
    readiness: Readiness,
    partitions: Arc<Partitions>,
    recorder: PrometheusHandle,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for tick in 0_u64.. {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        metrics::gauge!(names::READY).set(if readiness.reasons().is_empty() { 1.0 } else { 0.0 });
        if tick % METRICS_TICKS == METRICS_TICKS - 1 {
            recorder.run_upkeep();
        }
        if tick % MEMORY_TICKS == MEMORY_TICKS - 1 {
            let partitions = Arc::clone(&partitions);
            tokio::task::spawn_blocking(move || measure_graphs(&partitions)).await.context("measuring graphs")?;
        }
    }
    Ok(())
}

fn measure_graphs(partitions: &Partitions) {
    for handle in partitions.all() {
        let mut bytes = 0;
        handle.state.graphs.for_each(|_, graph| bytes += graph.byte_count());
        let partition = handle.state.partition().to_string();
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        metrics::gauge!(names::GRAPH_BYTES, "partition" => partition).set(bytes as f64);
    }
}
