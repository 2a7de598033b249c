//! Made-up records of the three topics, for properties of the fold.

use std::borrow::Cow;

use proptest::prelude::*;
use smallvec::SmallVec;
use undercurrent::event::{Event, EventKind, Name, NameKind, Offset, ProductLine, View};

/// A record of one topic: enough to make an event.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) user: u8,
    pub(super) kind: EventKind,
    pub(super) time_ms: i64,
    pub(super) event_id: u64,
    pub(super) session: Option<u64>,
    pub(super) lines: Vec<(u16, u8, u32, u32)>,
}

impl Record {
    pub(super) fn event(&self) -> Event<'static> {
        let query = (self.kind == EventKind::Search)
            .then(|| Name::new(NameKind::Query, format!("query {}", self.event_id % 97)));
        let lines: SmallVec<[ProductLine<'static>; 1]> = self
            .lines
            .iter()
            .map(|(item, category, quantity, value_minor)| ProductLine {
                item: (*item > 0).then(|| Name::new(NameKind::Item, format!("item {item}"))),
                category: (*category > 0).then(|| Name::new(NameKind::Category, format!("category {category}"))),
                price_minor: None,
                quantity: *quantity,
                value_minor: *value_minor,
            })
            .collect();
        Event {
            user: Cow::Owned(format!("user {}", self.user)),
            kind: self.kind,
            time_ms: self.time_ms,
            event_id: self.event_id,
            session: self.session,
            query,
            lines,
        }
    }
}

/// Times are mostly a few minutes apart, sometimes days, sometimes back.
fn record(kinds: &'static [EventKind]) -> impl Strategy<Value = (Record, i64)> {
    let step_ms = prop_oneof![
        6 => 0_i64..600_000,
        2 => 0_i64..9 * 86_400_000,
        1 => -90_000_000_i64..0,
    ];
    let line = (0_u16..400, 0_u8..40, 0_u32..20_000, 0_u32..100_000);
    (
        0_u8..5,
        prop::sample::select(kinds),
        step_ms,
        0_u64..600,
        prop::option::of(0_u64..9),
        prop::collection::vec(line, 0..4),
    )
        .prop_map(|(user, kind, step_ms, event_id, session, lines)| {
            (Record { user, kind, time_ms: 0, event_id, session, lines }, step_ms)
        })
}

/// The records of one topic, in the order of their offsets.
fn topic(kinds: &'static [EventKind], length: usize) -> impl Strategy<Value = Vec<Record>> {
    prop::collection::vec(record(kinds), 0..length).prop_map(|steps| {
        let mut time_ms = 1_700_000_000_000;
        steps
            .into_iter()
            .map(|(record, step_ms)| {
                time_ms += step_ms;
                Record { time_ms, ..record }
            })
            .collect()
    })
}

/// The records of the three topics, indexed by [`View::index`].
pub(super) fn topics(length: usize) -> impl Strategy<Value = [Vec<Record>; View::COUNT]> {
    (
        topic(&[EventKind::View, EventKind::CartAdd, EventKind::CartRemove, EventKind::Other], length),
        topic(&[EventKind::Search], length / 2),
        topic(&[EventKind::Purchase], length),
    )
        .prop_map(|(clicks, searches, purchases)| [clicks, searches, purchases])
}

/// All records in one order of arrival: `picks` says which topic comes next, what is left follows topic by topic.
pub(super) fn interleave(topics: &[Vec<Record>; View::COUNT], picks: &[u8]) -> Vec<(View, Offset, Record)> {
    let mut next = [0; View::COUNT];
    let mut order = Vec::new();
    let rest = View::ALL.into_iter().flat_map(|view| std::iter::repeat_n(view, topics[view.index()].len()));
    let picked = picks.iter().map(|pick| View::ALL[usize::from(*pick) % View::COUNT]);
    for view in picked.chain(rest) {
        let place = &mut next[view.index()];
        if let Some(record) = topics[view.index()].get(*place) {
            order.push((view, Offset(i64::try_from(*place).unwrap()), record.clone()));
            *place += 1;
        }
    }
    order
}
