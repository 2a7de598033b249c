//! Decode and fold: events a second on one core, and how the cost of an event depends on the number of users and on the
//! length of their history.
//!
//! `cargo bench --bench fold` prints one row a case: nanoseconds an event for decoding, for folding (with copying users on
//! first touch and publishing the batch), and both as events a second. Pass a number to divide all sizes by it.

#![expect(
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::filter_map_next,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench measures wall time, prints rates and ends at the first error"
)]

use std::{fmt::Write as _, hint::black_box, time::Instant};

use undercurrent::{
    event::{CleaningCounts, Decoder, Offset, PartitionId, RawRecord, View},
    graph::{FoldOutcome, GraphParams, PartitionState, WriteSet},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH_RECORDS: usize = 10_000;
const MEASURED_RECORDS: usize = 400_000;
/// Every case is measured this many times; the best counts, because a shared machine only ever adds time.
const ROUNDS: usize = 3;

fn main() {
    let divisor = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(1_usize).max(1);
    println!("fold: JSON records of about 200 bytes, micro-batches of {BATCH_RECORDS}, one thread");
    println!("{:>10} {:>8} {:>10} {:>9} {:>12} {:>7}", "users", "history", "decode ns", "fold ns", "events/s", "bytes");
    for users in [10_000, 100_000, 1_000_000] {
        case(users / divisor, 10, divisor);
    }
    for history in [10, 100, 1_000, 10_000] {
        case(2_000 / divisor, history, divisor);
    }
}

/// Folds `history` events of each user, then measures more of the same.
fn case(users: usize, history: usize, divisor: usize) {
    let mut source = Source::new(users.max(1));
    let state = PartitionState::new(PartitionId(0));
    let mut next_offset = 0;
    let mut remaining = source.users * history;
    while remaining > 0 {
        let count = remaining.min(BATCH_RECORDS);
        source.fill(count);
        run(&state, &source, &mut next_offset);
        remaining -= count;
    }
    let batches = (MEASURED_RECORDS / divisor / BATCH_RECORDS).max(1);
    let (mut decode_ns, mut fold_ns, mut bytes) = (f64::MAX, f64::MAX, 0);
    for _ in 0..ROUNDS {
        let (mut decode, mut both) = (0, 0);
        for _ in 0..batches {
            source.fill(BATCH_RECORDS);
            bytes = source.bytes.len() / BATCH_RECORDS;
            decode += decode_only(&source);
            both += run(&state, &source, &mut next_offset);
        }
        let per_event = |nanoseconds: u128| nanoseconds as f64 / (batches * BATCH_RECORDS) as f64;
        decode_ns = decode_ns.min(per_event(decode));
        fold_ns = fold_ns.min(per_event(both) - per_event(decode));
    }
    let rate = 1e9 / (decode_ns + fold_ns);
    println!("{:>10} {history:>8} {decode_ns:>10.0} {fold_ns:>9.0} {rate:>12.0} {bytes:>7}", source.users);
}

/// Decodes the records twice and gives back the time of the second pass, whose input is as warm as the fold's.
fn decode_only(source: &Source) -> u128 {
    let decoder = Decoder::default();
    let mut counts = CleaningCounts::default();
    let mut elapsed = 0;
    for _ in 0..2 {
        let start = Instant::now();
        for record in source.records() {
            black_box(decoder.decode(View::Click, &record, &mut counts).unwrap());
        }
        elapsed = start.elapsed().as_nanos();
    }
    elapsed
}

/// Decodes, folds and publishes one batch.
fn run(state: &PartitionState, source: &Source, next_offset: &mut i64) -> u128 {
    let (decoder, params) = (Decoder::default(), GraphParams::default());
    let mut counts = CleaningCounts::default();
    let start = Instant::now();
    let mut write_set = WriteSet::on(state);
    for record in source.records() {
        let event = decoder.decode(View::Click, &record, &mut counts).unwrap();
        let outcome = write_set.fold(state, View::Click, Offset(*next_offset), &event, &params);
        assert_eq!(outcome, FoldOutcome::Folded);
        *next_offset += 1;
    }
    write_set.publish(state);
    start.elapsed().as_nanos()
}

/// Makes records: users at random, items of a long tail, a few minutes apart for each user.
struct Source {
    users: usize,
    random: u64,
    event_count: u64,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    keys: Vec<String>,
}

impl Source {
    fn new(users: usize) -> Self {
        Self {
            users,
            random: 0x9E37_79B9_7F4A_7C15,
            event_count: 0,
            bytes: Vec::new(),
            ends: Vec::new(),
            keys: Vec::new(),
        }
    }

    /// Replaces the records by `count` new ones.
    fn fill(&mut self, count: usize) {
        self.bytes.clear();
        self.ends.clear();
        self.keys.clear();
        let mut text = String::new();
        for _ in 0..count {
            let user = self.below(self.users as u64);
            // Cubing a uniform number gives a long tail over 20,000 items.
            let uniform = self.below(1 << 20) as f64 / f64::from(1 << 20);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 20,000")]
            let item = (uniform.powi(3) * 20_000.0) as u64;
            self.event_count += 1;
            // On average a user comes back every 30 minutes, whatever their number.
            let time_ms = 1_600_000_000_000 + self.event_count * 1_800_000 / self.users as u64;
            text.clear();
            write!(
                text,
                r#"{{"event_id":"e{:09}","event":"view","user_id":"user-{user:07}","timestamp":{time_ms},"session_id":"s{}","products":[{{"product_id":"item-{item:05}","category":"DEPARTMENT > AISLE {}","price":{}.{:02},"quantity":1}}]}}"#,
                self.event_count, time_ms / 3_600_000, item % 200, item % 50, item % 100,
            )
            .unwrap();
            self.bytes.extend_from_slice(text.as_bytes());
            self.ends.push(self.bytes.len());
            self.keys.push(format!("user-{user:07}"));
        }
    }

    fn records(&self) -> impl Iterator<Item = RawRecord<'_>> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).zip(&self.keys).map(|((start, end), key)| RawRecord {
            key: Some(key.as_bytes()),
            payload: Some(&self.bytes[*start..*end]),
            timestamp_ms: 0,
        })
    }

    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64*
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) % bound
    }
}
