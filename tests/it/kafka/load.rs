//! A steady stream of made-up events, so that faults hit a daemon that is at work.
//!
//! The load goes on until it is told to stop, however slow the machine is: its events are made one by one, year after year. It
//! waits when it is too far ahead of what it was allowed, so a slow machine gets fewer events and not a longer test.

#![expect(clippy::disallowed_methods, reason = "a load is paced by the machine's clock, on a thread of its own")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use undercurrent::{
    event::DAY_MS,
    generate::{GenerateParams, MadeRecord, MadeRecords},
    stream::kafka::{KafkaParams, KafkaProducer},
};

/// Events a second; more than five thousand are asked for.
pub(super) const EVENTS_PER_SECOND: usize = 5_500;
/// Events between two looks at the clock.
const BURST_EVENTS: usize = 55;
/// Days of the years from 2010 to 2021: no event is of the future, and a load never comes to their end.
const YEARS: u32 = 12;
const YEAR_DAYS: u32 = 365;
/// 2010-01-01T00:00:00Z.
const START_MS: i64 = 1_262_304_000_000;

/// The events of equally many shoppers over made-up years, in time order. Equal sizes make equal events.
pub(super) struct Events {
    users: u32,
    year: u32,
    records: MadeRecords,
}

impl Events {
    /// Years of about two hundred events a shopper, for a load of about `expected` events: it lives through some months, so
    /// users fall silent too. One that takes longer goes on with the next year.
    pub(super) fn sized_for(expected: usize) -> Self {
        let users = u32::try_from((expected / 120).max(200)).unwrap();
        Self { users, year: 0, records: Self::records(users, 0) }
    }

    fn records(users: u32, year: u32) -> MadeRecords {
        let mut params = GenerateParams::new(users, YEAR_DAYS, 7 + u64::from(year));
        params.start_ms = START_MS + i64::from(year * YEAR_DAYS) * DAY_MS;
        MadeRecords::new(&params)
    }
}

impl Iterator for Events {
    type Item = MadeRecord;

    fn next(&mut self) -> Option<MadeRecord> {
        loop {
            if let Some(record) = self.records.next() {
                return Some(record);
            }
            self.year += 1;
            assert!(self.year < YEARS, "{YEARS} years of {} shoppers were too short", self.users);
            self.records = Self::records(self.users, self.year);
        }
    }
}

/// Sends events at a steady rate until it is told to stop.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    sent_count: Arc<AtomicUsize>,
    allowed_count: Arc<AtomicUsize>,
    thread: JoinHandle<f64>,
}

impl Load {
    /// Starts to send; it waits after `allowed_count` events until more are [allowed](Self::allow).
    pub(super) fn start(params: &KafkaParams, events: Events, allowed_count: usize) -> Self {
        let (stop, sent_count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let allowed_count = Arc::new(AtomicUsize::new(allowed_count));
        let producer = KafkaProducer::open(params).unwrap();
        let (stopped, sent, allowed) = (Arc::clone(&stop), Arc::clone(&sent_count), Arc::clone(&allowed_count));
        let thread = std::thread::spawn(move || {
            let mut events = events;
            let start = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                if sent.load(Ordering::Relaxed) >= allowed.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                }
                for event in events.by_ref().take(BURST_EVENTS) {
                    producer.send_blocking(event.view, event.key.as_bytes(), &event.payload).unwrap();
                }
                let count = sent.fetch_add(BURST_EVENTS, Ordering::Relaxed) + BURST_EVENTS;
                #[expect(clippy::cast_precision_loss, reason = "a count of events")]
                let due = Duration::from_secs_f64(count as f64 / EVENTS_PER_SECOND as f64);
                std::thread::sleep(due.saturating_sub(start.elapsed()));
            }
            let seconds = start.elapsed().as_secs_f64();
            producer.flush_blocking().unwrap();
            seconds
        });
        Self { stop, sent_count, allowed_count, thread }
    }

    /// Lets it send up to `count` events in all.
    pub(super) fn allow(&self, count: usize) {
        self.allowed_count.fetch_max(count, Ordering::Relaxed);
    }

    /// Stops and returns how many events were sent, and how many a second.
    pub(super) fn finish(self) -> (usize, f64) {
        self.stop.store(true, Ordering::Relaxed);
        let seconds = self.thread.join().unwrap();
        let sent = self.sent_count.load(Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "a count of events")]
        let rate = sent as f64 / seconds;
        (sent, rate)
    }
}
