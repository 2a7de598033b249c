//! A steady stream of made-up events, so that faults hit a daemon that is at work.

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
    generate::{GenerateParams, MadeRecord, json_records},
    stream::kafka::{KafkaParams, KafkaProducer},
};

/// Events a second; more than five thousand are asked for.
pub(super) const EVENTS_PER_SECOND: usize = 5_500;
/// Events between two looks at the clock.
const BURST_EVENTS: usize = 55;

/// The events of a made-up year in time order; a run sends as many of them as it needs.
pub(super) fn events(most: usize, seed: u64) -> Arc<Vec<MadeRecord>> {
    // About two hundred events a shopper and year: the load lives through some months, so users fall silent too.
    let users = u32::try_from((most / 120).max(200)).unwrap();
    let events = json_records(&GenerateParams::new(users, 365, seed), most);
    assert_eq!(events.len(), most, "the year of {users} shoppers is too short");
    Arc::new(events)
}

/// Sends events at a steady rate until it is told to stop.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    sent_count: Arc<AtomicUsize>,
    thread: JoinHandle<f64>,
}

impl Load {
    pub(super) fn start(params: &KafkaParams, events: &Arc<Vec<MadeRecord>>) -> Self {
        let (stop, sent_count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let producer = KafkaProducer::open(params).unwrap();
        let (events, stopped, count) = (Arc::clone(events), Arc::clone(&stop), Arc::clone(&sent_count));
        let thread = std::thread::spawn(move || {
            let start = Instant::now();
            for burst in events.chunks(BURST_EVENTS) {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                for event in burst {
                    producer.send_blocking(event.view, event.key.as_bytes(), &event.payload).unwrap();
                }
                let sent = count.fetch_add(burst.len(), Ordering::Relaxed) + burst.len();
                #[expect(clippy::cast_precision_loss, reason = "a count of events")]
                let due = Duration::from_secs_f64(sent as f64 / EVENTS_PER_SECOND as f64);
                std::thread::sleep(due.saturating_sub(start.elapsed()));
            }
            let seconds = start.elapsed().as_secs_f64();
            producer.flush_blocking().unwrap();
            seconds
        });
        Self { stop, sent_count, thread }
    }

    /// Events handed to the producer so far.
    pub(super) fn sent_count(&self) -> usize {
        self.sent_count.load(Ordering::Relaxed)
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
