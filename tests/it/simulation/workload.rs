//! What the senders sent: users with rhythms and silences, and everything that can be wrong with a record.

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use undercurrent::{
    event::{DAY_MS, Decoder, PartitionId, View},
    stream::{TimeMode, memory::MemoryBroker, partitioner::partition_of},
};

use super::scorer::POISON_MS;

const START_MS: i64 = 1_700_000_000_000;

pub(super) struct Workload {
    pub(super) partition_count: u32,
    pub(super) time: TimeMode,
    pub(super) inputs: Vec<Input>,
    /// Users who are asked to be erased.
    pub(super) erasures: Vec<Erased>,
    /// Users and times of events that nothing is wrong with, and that came in time.
    pub(super) plain_events: Vec<(String, i64)>,
    /// The wall clock when everything has settled.
    pub(super) end_ms: i64,
}

/// A request to forget a user, in one view.
pub(super) struct Erased {
    pub(super) user: String,
    pub(super) view: View,
    pub(super) time_ms: i64,
}

/// One record of an input topic.
pub(super) struct Input {
    view: View,
    partition: PartitionId,
    pub(super) timestamp_ms: i64,
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    is_aborted: bool,
}

struct User {
    name: String,
    gap_ms: i64,
    /// Silent between these two instants.
    silence: (i64, i64),
    next_ms: i64,
    is_poison: bool,
}

impl Workload {
    pub(super) fn of(seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x0077_6f72_6b6c_6f61);
        let partition_count = rng.random_range(1..=4);
        let days = rng.random_range(40..200);
        let end_ms = START_MS + days * DAY_MS;
        let mut users: Vec<User> =
            (0..rng.random_range(3..25)).map(|number| User::draw(&mut rng, number, days)).collect();
        let input_count = rng.random_range(80..320);
        let mut inputs: Vec<Input> = Vec::new();
        let mut number = 0;
        let (mut erasures, mut plain_events) = (Vec::new(), Vec::new());
        while inputs.len() < input_count {
            let Some(user) = users.iter_mut().min_by_key(|user| user.next_ms) else { break };
            if user.next_ms > end_ms {
                break;
            }
            let now_ms = user.next_ms;
            user.move_on(&mut rng);
            number += 1;
            if rng.random_ratio(1, 12) && !inputs.is_empty() {
                // Sent twice: the same bytes at another offset.
                let again = rng.random_range(0..inputs.len());
                let repeated = inputs[again].at(now_ms);
                inputs.push(repeated);
            }
            let (input, is_plain) = draw_input(&mut rng, user, now_ms, number, partition_count);
            if is_plain {
                plain_events.push((user.name.clone(), now_ms));
            }
            inputs.push(input);
            if rng.random_ratio(1, 25) {
                for view in View::ALL {
                    let request = Input::erasing(&user.name, view, now_ms, partition_count, rng.random_ratio(1, 20));
                    if !request.is_aborted {
                        erasures.push(Erased { user: user.name.clone(), view, time_ms: now_ms });
                    }
                    inputs.push(request);
                }
            }
        }
        let time = if seed.is_multiple_of(3) { TimeMode::Live { grace_ms: DAY_MS } } else { TimeMode::Replay };
        Self {
            partition_count,
            time,
            inputs,
            erasures,
            plain_events,
            end_ms: end_ms + rng.random_range(0..60) * DAY_MS,
        }
    }
}

impl User {
    fn draw(rng: &mut Xoshiro256PlusPlus, number: usize, days: i64) -> Self {
        let leaves_ms = START_MS + rng.random_range(0..=days) * DAY_MS;
        let returns_ms = leaves_ms + rng.random_range(10..200) * DAY_MS;
        Self {
            name: format!("u{number}"),
            gap_ms: rng.random_range(1..12) * DAY_MS / 2,
            silence: if rng.random_bool(0.6) { (leaves_ms, returns_ms) } else { (0, 0) },
            next_ms: START_MS + rng.random_range(0..20) * DAY_MS,
            is_poison: number != 0 && rng.random_ratio(1, 20),
        }
    }

    fn move_on(&mut self, rng: &mut Xoshiro256PlusPlus) {
        self.next_ms += 60_000 + rng.random_range(0..2 * self.gap_ms);
        if (self.silence.0..self.silence.1).contains(&self.next_ms) {
            self.next_ms = self.silence.1;
        }
        self.next_ms -= self.next_ms % 1_000;
    }
}

impl Input {
    fn at(&self, timestamp_ms: i64) -> Self {
        Self { timestamp_ms, key: self.key.clone(), payload: self.payload.clone(), ..*self }
    }

    fn erasing(user: &str, view: View, now_ms: i64, partition_count: u32, is_aborted: bool) -> Self {
        Self {
            view,
            partition: partition_of(user.as_bytes(), partition_count),
            timestamp_ms: now_ms,
            key: Some(user.as_bytes().to_vec()),
            payload: Some(Decoder::default().erasure_request(user, now_ms).expect("a user of the workload")),
            is_aborted,
        }
    }

    pub(super) fn append(&self, broker: &MemoryBroker) {
        if self.is_aborted {
            broker.append_aborted(self.view, self.partition, self.payload.as_deref().unwrap_or_default());
        } else {
            let (key, payload) = (self.key.as_deref(), self.payload.as_deref());
            broker.append(self.view, self.partition, self.timestamp_ms, key, payload);
        }
    }
}

/// An input, and whether it is what a sender without faults sends in time.
fn draw_input(
    rng: &mut Xoshiro256PlusPlus,
    user: &User,
    now_ms: i64,
    number: u64,
    partition_count: u32,
) -> (Input, bool) {
    let (view, event) = match rng.random_range(0..10) {
        0..=3 => (View::Click, "view"),
        4 => (View::Click, "cart_add"),
        5..=6 => (View::Search, "search"),
        _ => (View::Purchase, "purchase"),
    };
    let mut time_ms = now_ms + if user.is_poison { POISON_MS } else { 0 };
    match rng.random_range(0..30) {
        // Out of order, late beyond the limit, and from the far future.
        0..=4 => time_ms -= rng.random_range(1..72) * 3_600_000,
        5 => time_ms -= rng.random_range(31..90) * DAY_MS,
        6 => time_ms += rng.random_range(2..90) * DAY_MS,
        _ => {}
    }
    let (name, item) = (&user.name, rng.random_range(0..40));
    let text = format!(
        r#"{{"event_id":"e{number}","event":"{event}","user_id":"{name}","timestamp":{time_ms},"product_id":"i{item}","category":"c{}","price":{}.25,"quantity":{},"query":"q{item}"}}"#,
        item % 5,
        rng.random_range(1..50),
        rng.random_range(1..4),
    );
    let mut input = Input {
        view,
        partition: partition_of(name.as_bytes(), partition_count),
        timestamp_ms: now_ms,
        key: Some(name.clone().into_bytes()),
        payload: Some(text.into_bytes()),
        is_aborted: rng.random_ratio(1, 25),
    };
    let damage = rng.random_range(0..60);
    match damage {
        0 => input.payload = None,
        1 => input.payload = Some(b"{\"event\":".to_vec()),
        2 => input.payload = Some(vec![0xff, 0xfe, b'{']),
        3 => input.payload = Some(b"{\"event\":\"purchase\",\"price\":-1}".to_vec()),
        4 => input.key = None,
        5 => input.key = Some(b"someone else".to_vec()),
        6 => input.view = View::ALL[rng.random_range(0..View::COUNT)],
        _ => {}
    }
    let is_plain = time_ms == now_ms && damage > 6 && !input.is_aborted;
    (input, is_plain)
}
