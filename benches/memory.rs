//! Bytes a user: what the process really grew by for the graphs of users with some events, and what the graphs count
//! themselves (free capacity included, allocator overhead not).
//!
//! `cargo bench --bench memory` prints one row a mix of events. Linux only: reads `/proc/self/statm`.

#![expect(
    clippy::cast_precision_loss,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints means and ends at the first error"
)]

use std::borrow::Cow;

use smallvec::SmallVec;
use undercurrent::{
    event::{
        Event, EventKind,
        EventKind::{CartAdd, Purchase, Search, View as Look},
        Name, NameKind, Offset, PartitionId, ProductLine, View,
    },
    graph::{GraphParams, PartitionState, WriteSet},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USERS: usize = 100_000;
const BATCH_RECORDS: usize = 10_000;
const PAGE_BYTES: usize = 4_096;

fn main() {
    let mixed: Vec<EventKind> = [vec![Look; 30], vec![CartAdd; 6], vec![Search; 8], vec![Purchase; 6]].concat();
    let cases = [
        ("50 of one view (views)", vec![Look; 50]),
        ("50 of all views (36 clicks, 8 searches, 6 buys)", mixed),
        ("10 of one view (views)", vec![Look; 10]),
        ("1 (a view)", vec![Look; 1]),
        ("1,000 of one view (views)", vec![Look; 1_000]),
    ];
    if let Some(place) = std::env::args().find_map(|argument| argument.strip_prefix("--case=")?.parse::<usize>().ok()) {
        let (title, kinds) = &cases[place];
        case(title, kinds);
        return;
    }
    println!("memory: {USERS} users, items of a catalogue of 20,000 in 200 categories, 10-character user ids");
    println!("{:<48} {:>14} {:>14}", "events of a user", "resident bytes", "counted bytes");
    let program = std::env::current_exe().unwrap();
    for place in 0..cases.len() {
        // A process each: what one case frees, the allocator would hand to the next, which then would not grow.
        let status = std::process::Command::new(&program).arg(format!("--case={place}")).status().unwrap();
        assert!(status.success(), "case {place} failed");
    }
}

fn case(title: &str, kinds: &[EventKind]) {
    // Long histories need fewer users for the same certainty.
    let users = (USERS * 50 / kinds.len().max(50)).max(1_000);
    let before = resident_bytes();
    let state = PartitionState::new(PartitionId(0));
    let params = GraphParams::default();
    let mut next_offsets = [0; View::COUNT];
    let mut write_set = WriteSet::on(&state);
    let mut pending = 0;
    for (round, kind) in (0_u64..).zip(kinds) {
        // Spread the kinds: a user's events come one a round, in an order that mixes them.
        for user in 0..users as u64 {
            let view = kind.view();
            let offset = &mut next_offsets[view.index()];
            write_set.fold(&state, view, Offset(*offset), &event(user, round, *kind), &params);
            *offset += 1;
            pending += 1;
            if pending == BATCH_RECORDS {
                std::mem::replace(&mut write_set, WriteSet::on(&state)).publish(&state);
                // The new write set must stand on what was just published.
                write_set = WriteSet::on(&state);
                pending = 0;
            }
        }
    }
    write_set.publish(&state);
    let resident = resident_bytes().saturating_sub(before) as f64 / users as f64;
    let counted = state.graphs.byte_count() as f64 / users as f64;
    println!("{title:<48} {resident:>14.0} {counted:>14.0}");
}

fn event(user: u64, round: u64, kind: EventKind) -> Event<'static> {
    let mixed = (user * 1_000_003 + round * 7_919).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    let query = (kind == Search).then(|| Name::new(NameKind::Query, format!("query {}", mixed % 5_000)));
    let item = mixed % 20_000;
    let line = ProductLine {
        item: Some(Name::new(NameKind::Item, format!("item-{item:05}"))),
        category: Some(Name::new(NameKind::Category, format!("category {}", item % 200))),
        price_minor: Some(499),
        quantity: 1,
        value_minor: 499,
    };
    let lines: SmallVec<[ProductLine<'static>; 1]> = query.is_none().then_some(line).into_iter().collect();
    Event {
        user: Cow::Owned(format!("user{user:06}")),
        kind,
        time_ms: 1_700_000_000_000 + i64::try_from(round * 7_200_000).unwrap_or(0),
        event_id: mixed ^ round << 48,
        session: None,
        query,
        lines,
    }
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * PAGE_BYTES
}
