//! Faults done to the daemon while events come at a steady rate. Whatever is done, the end is that of a run over the same
//! events without failures, bit for bit.
//!
//! The tests are the short forms; `scripts/chaos` runs the same code longer and harder, by the variables `CHAOS_…`.

use std::{path::Path, time::Duration};

use undercurrent::stream::kafka::{KafkaParams, KafkaProducer, TopicPlan, create_topics};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    broker_with_topics,
    daemon::Daemon,
    load::{Events, Load},
    oracle::{Ending, GroupWatcher, PARTITION_COUNT},
    params_at, patient,
};

/// Events expected for every fault: some seconds of load. A run may take more.
pub(super) const EVENTS_PER_FAULT: usize = 40_000;
/// Events that the load may be ahead of what is waited for: eighteen seconds of it.
const LEAD_EVENTS: usize = 100_000;

/// A number given by the environment, or the short form's.
pub(super) fn number(name: &str, short: usize) -> usize {
    std::env::var(name).map_or(short, |text| text.parse().unwrap())
}

/// The `index`th random number of a run.
fn random(seed: usize, index: usize) -> u64 {
    xxh3_64(&[seed.to_le_bytes(), index.to_le_bytes()].concat())
}

/// What a scenario works with.
pub(super) struct Scene {
    pub(super) params: KafkaParams,
    folder: tempfile::TempDir,
    expected_events: usize,
    lead_events: usize,
    watcher: GroupWatcher,
    load: Load,
    name: &'static str,
}

impl Scene {
    /// Starts the load; `None`, said aloud, without a broker.
    fn open(name: &'static str, expected_events: usize) -> Option<Self> {
        let params = broker_with_topics(name, PARTITION_COUNT)?;
        Some(Self::with(name, params, expected_events, number("CHAOS_LEAD", LEAD_EVENTS)))
    }

    /// The same on topics that are there, with a load that may be `lead_events` ahead.
    pub(super) fn with(name: &'static str, params: KafkaParams, expected_events: usize, lead_events: usize) -> Self {
        let load = Load::start(&patient(&params), Events::sized_for(expected_events), lead_events);
        let watcher = GroupWatcher::new(&params);
        Self { params, folder: tempfile::tempdir().unwrap(), expected_events, lead_events, watcher, load, name }
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn start(&self, settings: &[(&str, &str)]) -> Daemon {
        Daemon::start(&self.params, self.folder(), settings)
    }

    /// Waits until `daemons` have committed `count` more events. The load goes on meanwhile, and for a while after it.
    pub(super) fn wait_for_progress(&self, daemons: &mut [&mut Daemon], count: usize) {
        let wanted = self.watcher.committed_count() + count;
        self.load.allow(wanted + self.lead_events);
        self.watcher.wait_for(daemons, wanted);
    }

    /// Ends the load and the daemon, once it has read everything. Returns how many events there were.
    pub(super) fn finish(self, mut daemon: Daemon) -> usize {
        let (sent, _) = self.load.finish();
        self.watcher.wait_for(&mut [&mut daemon], sent);
        self.watcher.wait_for_silence();
        daemon.stop();
        sent
    }

    /// Ends the load, lets `daemons` finish, stops them, audits some of their scores, and compares the end with that of a calm
    /// run over the same events. `CHAOS_LEAST_RATE` is the least load that a longer run takes for one: how fast a machine is
    /// that has other things to do is no matter of the tests.
    fn close(self, daemons: Vec<Daemon>) {
        let rate = self.close_after_outage(daemons);
        let least = number("CHAOS_LEAST_RATE", 0);
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let is_enough = rate > least as f64;
        assert!(is_enough, "the load was to be above {least} events a second, not {rate:.0}");
    }

    /// The same where the load itself had to wait. Returns its events a second.
    #[expect(clippy::print_stdout, reason = "how hard the run was")]
    pub(super) fn close_after_outage(self, mut daemons: Vec<Daemon>) -> f64 {
        let (sent, rate) = self.load.finish();
        println!("{}: {sent} events at {rate:.0} a second", self.name);
        self.watcher.wait_for(&mut daemons.iter_mut().collect::<Vec<_>>(), sent);
        self.watcher.wait_for_silence();
        daemons.into_iter().for_each(Daemon::stop);
        let ending = Ending::of(&self.params, self.folder.path(), sent, 10);
        let audited = Daemon::audit(&self.params, self.folder.path(), number("CHAOS_AUDIT", 20));
        println!("{}: {audited}", self.name);

        let calm = params_at(&format!("{}-calm", self.name), self.params.bootstrap.clone());
        let plan = TopicPlan { partition_count: PARTITION_COUNT, replication: None, input_retention_ms: None };
        create_topics(&calm, &plan).unwrap();
        let producer = KafkaProducer::open(&patient(&calm)).unwrap();
        for event in Events::sized_for(self.expected_events).take(sent) {
            producer.send_blocking(event.view, event.key.as_bytes(), &event.payload).unwrap();
        }
        producer.flush_blocking().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let watcher = GroupWatcher::new(&calm);
        let mut daemon = Daemon::start(&calm, folder.path(), &[]);
        watcher.wait_for(&mut [&mut daemon], sent);
        watcher.wait_for_silence();
        daemon.stop();
        assert_eq!(ending, Ending::of(&calm, folder.path(), sent, 10));
        rate
    }
}

/// Faults 1 and 3. `CHAOS_KILLS` and `CHAOS_SEED` make it longer and different.
#[test]
fn killed_at_seeded_moments_under_load_it_ends_as_if_never_killed() {
    let (kills, seed) = (number("CHAOS_KILLS", 10), number("CHAOS_SEED", 1));
    let Some(scene) = Scene::open("chaos-kill", (kills + 2) * EVENTS_PER_FAULT) else { return };
    println!("chaos-kill: {kills} kills, seed {seed}");
    let mut daemon = scene.start(&[]);
    for kill in 0..kills {
        // Every fourth at any moment, start and restore included; the others while batches are committed.
        let millis = random(seed, kill);
        if kill % 4 != 3 {
            scene.wait_for_progress(&mut [&mut daemon], 1);
        }
        std::thread::sleep(Duration::from_millis(millis % 400));
        daemon.kill();
        daemon = scene.start(&[]);
    }
    scene.close(vec![daemon]);
}

/// Fault 4.
#[test]
fn sigterm_under_load_drains_exits_0_and_repeats_nothing() {
    let Some(scene) = Scene::open("chaos-term", 6 * EVENTS_PER_FAULT) else { return };
    let mut daemon = scene.start(&[]);
    for _ in 0..3 {
        scene.wait_for_progress(&mut [&mut daemon], 2_000);
        daemon.stop();
        daemon = scene.start(&[]);
    }
    scene.close(vec![daemon]);
}

/// Fault 5: the other instance takes over; the one that was stopped finds itself thrown out. It may end with an error, then
/// its supervisor starts it again, or join again by itself.
#[test]
fn stopped_beyond_its_session_an_instance_is_fenced_and_joins_again() {
    let Some(scene) = Scene::open("chaos-pause", 12 * EVENTS_PER_FAULT) else { return };
    let (a, b) = ([("kafka.instance_id", "a")], [("kafka.instance_id", "b")]);
    let mut stopped = scene.start(&a);
    scene.wait_for_progress(&mut [&mut stopped], 1_000);
    let mut other = scene.start(&b);
    scene.wait_for_progress(&mut [&mut stopped, &mut other], 5_000);
    stopped.signal("STOP");
    // Every partition goes on: more than the other's own half of what came before.
    let before = scene.watcher.committed();
    std::thread::sleep(Duration::from_millis(u64::from(scene.params.timeouts.session_ms) + 2_000));
    loop {
        scene.wait_for_progress(&mut [&mut other], 1);
        let now = scene.watcher.committed();
        if before
            .iter()
            .all(|(partition, positions)| now[partition].0.iter().zip(&positions.0).any(|(now, then)| now > then))
        {
            break;
        }
    }
    stopped.signal("CONT");
    let ended = stopped.ended_within(5);
    if let Some(status) = ended {
        assert!(!status.success(), "an instance that was thrown out must not end as if asked to");
        println!("chaos-pause: the stopped instance ended with {status} and is started again");
        stopped = scene.start(&a);
    }
    scene.wait_for_progress(&mut [&mut stopped, &mut other], 10_000);
    scene.close(vec![stopped, other]);
}

/// Fault 15: one instance, three, one again; one of those that go is killed.
#[test]
fn one_instance_three_and_one_again_under_load_end_the_same() {
    let Some(scene) = Scene::open("chaos-scale", 12 * EVENTS_PER_FAULT) else { return };
    let mut first = scene.start(&[("kafka.instance_id", "a")]);
    scene.wait_for_progress(&mut [&mut first], 1_000);
    let mut second = scene.start(&[("kafka.instance_id", "b")]);
    let mut third = scene.start(&[("kafka.instance_id", "c")]);
    scene.wait_for_progress(&mut [&mut first, &mut second, &mut third], 20_000);
    // Each of three instances owns partitions of four, as soon as the group has got that far.
    while ![&second, &third].iter().all(|daemon| daemon.log_text().contains("partition restored")) {
        scene.wait_for_progress(&mut [&mut first, &mut second, &mut third], 1);
    }
    second.stop();
    scene.wait_for_progress(&mut [&mut first, &mut third], 2_000);
    third.kill();
    scene.wait_for_progress(&mut [&mut first], 10_000);
    scene.close(vec![first]);
}

/// Fault 6.
#[test]
fn the_older_of_two_processes_of_one_name_ends_with_a_clear_error() {
    let Some(scene) = Scene::open("chaos-twins", 6 * EVENTS_PER_FAULT) else { return };
    let mut older = scene.start(&[("kafka.instance_id", "twin")]);
    scene.wait_for_progress(&mut [&mut older], 1_000);
    let mut newer = scene.start(&[("kafka.instance_id", "twin")]);
    let status = older.ended_within(60).expect("the older one is fenced");
    assert!(!status.success());
    let log = older.log_text();
    assert!(log.contains("give every live instance its own `instance`"), "{log}");
    scene.wait_for_progress(&mut [&mut newer], 2_000);
    scene.close(vec![newer]);
}
