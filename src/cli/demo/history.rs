//! What really happened: the rest of the file, against which alerts and lists are settled.

use std::collections::{HashMap, HashSet};

use crate::event::{DAY_MS, Event, EventKind, NameHash};

/// One purchase of several items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Basket {
    /// When, milliseconds since the Unix epoch.
    pub(super) time_ms: i64,
    session: u64,
    /// The items, each once.
    pub(super) items: Vec<NameHash>,
}

impl Basket {
    #[cfg(test)]
    pub(super) fn new(time_ms: i64, items: &[u64]) -> Self {
        Self { time_ms, session: 0, items: items.iter().map(|item| NameHash(*item)).collect() }
    }
}

/// Everything one user did that matters here, in order of time.
#[derive(Debug, Clone, Default)]
pub(super) struct UserHistory {
    /// Times of activity, milliseconds since the Unix epoch, ascending.
    pub(super) activity_ms: Vec<i64>,
    /// Baskets, ascending by time.
    pub(super) baskets: Vec<Basket>,
}

impl UserHistory {
    /// Whether the user did anything in `(from_ms, to_ms]`.
    pub(super) fn is_active_within(&self, from_ms: i64, to_ms: i64) -> bool {
        let next = self.activity_ms.partition_point(|time_ms| *time_ms <= from_ms);
        self.activity_ms.get(next).is_some_and(|time_ms| *time_ms <= to_ms)
    }

    /// Silences longer than `longer_than_ms`: the last activity before each, and the next one after it if there is one.
    pub(super) fn silences(&self, longer_than_ms: i64, end_ms: i64) -> impl Iterator<Item = (i64, Option<i64>)> + '_ {
        self.activity_ms.iter().enumerate().filter_map(move |(index, last_ms)| {
            let next_ms = self.activity_ms.get(index + 1).copied();
            (next_ms.unwrap_or(end_ms) - last_ms > longer_than_ms).then_some((*last_ms, next_ms))
        })
    }
}

/// All users, as far as the file was read.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    pub(super) users: HashMap<String, UserHistory>,
    /// Time of the newest event, milliseconds since the Unix epoch.
    pub(super) end_ms: i64,
}

impl History {
    /// Takes in one event of the file; events come in order of time.
    pub(super) fn record(&mut self, event: &Event<'_>) {
        self.end_ms = self.end_ms.max(event.time_ms);
        if event.kind == EventKind::Other {
            return;
        }
        if !self.users.contains_key(&*event.user) {
            self.users.insert(event.user.to_string(), UserHistory::default());
        }
        let Some(user) = self.users.get_mut(&*event.user) else { return };
        if user.activity_ms.last() != Some(&event.time_ms) {
            user.activity_ms.push(event.time_ms);
        }
        if event.kind == EventKind::Purchase {
            let session = event.session.unwrap_or(event.event_id);
            let items = event.lines.iter().filter_map(|line| line.item.as_ref().map(|item| item.hash));
            match user.baskets.last_mut().filter(|basket| basket.session == session) {
                Some(basket) => basket.items.extend(items),
                None => user.baskets.push(Basket { time_ms: event.time_ms, session, items: items.collect() }),
            }
        }
    }

    /// The `count` items bought in most baskets before `before_ms`.
    pub(super) fn popular(&self, before_ms: i64, count: usize) -> HashSet<NameHash> {
        let mut counts: HashMap<NameHash, u32> = HashMap::new();
        for basket in self.users.values().flat_map(|user| &user.baskets).filter(|basket| basket.time_ms < before_ms) {
            for item in &basket.items {
                *counts.entry(*item).or_default() += 1;
            }
        }
        let mut ranked: Vec<_> = counts.into_iter().map(|(item, count)| (std::cmp::Reverse(count), item)).collect();
        ranked.sort_unstable();
        ranked.into_iter().take(count).map(|(_, item)| item).collect()
    }
}

/// Whole and part days as a number for people.
#[expect(clippy::cast_precision_loss, reason = "days for people")]
pub(super) fn days(milliseconds: i64) -> f64 {
    milliseconds as f64 / DAY_MS as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(days: &[i64]) -> UserHistory {
        UserHistory { activity_ms: days.iter().map(|day| day * DAY_MS).collect(), baskets: Vec::new() }
    }

    #[test]
    fn activity_within_excludes_the_start_and_includes_the_end() {
        let user = user(&[1, 5, 9]);
        assert!(!user.is_active_within(DAY_MS, 4 * DAY_MS));
        assert!(user.is_active_within(DAY_MS, 5 * DAY_MS));
        assert!(user.is_active_within(4 * DAY_MS, 100 * DAY_MS));
        assert!(!user.is_active_within(9 * DAY_MS, 100 * DAY_MS));
    }

    #[test]
    fn silences_are_between_activities_and_after_the_last() {
        let user = user(&[1, 2, 10, 11]);
        let found: Vec<_> = user.silences(5 * DAY_MS, 30 * DAY_MS).collect();
        assert_eq!(found, [(2 * DAY_MS, Some(10 * DAY_MS)), (11 * DAY_MS, None)]);
        assert_eq!(user.silences(5 * DAY_MS, 15 * DAY_MS).count(), 1);
    }
}
