//! When silent users are due: an ordered set in memory, rebuilt from the graphs on restore.

use std::collections::{BTreeSet, HashMap};

use crate::event::{TextHashBuilder, UserId};

/// What a partition waits for in event time.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// Silent users who are due for a score.
    pub(super) due: DueTimers,
    /// Users with an alert whose horizon ends.
    pub(super) deadlines: DueTimers,
}

impl Timers {
    /// Makes sure that `user` does not come up.
    pub(super) fn forget(&mut self, user: &str) {
        self.due.forget(user);
        self.deadlines.forget(user);
    }
}

/// Users by the instant they are due, each once: what is held does not grow with how often users are put off or forgotten
/// (LIM-1).
///
/// An active user is put off at every event. That costs one look-up: the earlier instant stays, and when it comes the caller
/// finds that the user is not due and schedules the next one.
#[derive(Debug, Default)]
pub(super) struct DueTimers {
    order: BTreeSet<(i64, UserId)>,
    /// The instant of each user in `order`.
    scheduled: HashMap<UserId, i64, TextHashBuilder>,
}

impl DueTimers {
    /// Makes sure that `user` comes up at `due_ms` or earlier.
    pub(super) fn schedule(&mut self, user: &UserId, due_ms: i64) {
        match self.scheduled.get_mut(user) {
            Some(scheduled_ms) if *scheduled_ms <= due_ms => return,
            Some(scheduled_ms) => {
                let later_ms = std::mem::replace(scheduled_ms, due_ms);
                self.order.remove(&(later_ms, user.clone()));
            }
            None => _ = self.scheduled.insert(user.clone(), due_ms),
        }
        self.order.insert((due_ms, user.clone()));
    }

    /// Takes the users due at or before `now_ms`, earliest first, at most `limit`. Each must be scheduled again.
    pub(super) fn take_due(&mut self, now_ms: i64, limit: usize) -> Vec<(UserId, i64)> {
        let mut due = Vec::new();
        while due.len() < limit
            && self.is_due(now_ms)
            && let Some((due_ms, user)) = self.order.pop_first()
        {
            self.scheduled.remove(&user);
            due.push((user, due_ms));
        }
        due
    }

    /// Makes sure that `user` does not come up.
    pub(super) fn forget(&mut self, user: &str) {
        if let Some((user, due_ms)) = self.scheduled.remove_entry(user) {
            self.order.remove(&(due_ms, user));
        }
    }

    /// Whether someone is due at or before `now_ms`.
    pub(super) fn is_due(&self, now_ms: i64) -> bool {
        self.order.first().is_some_and(|(due_ms, _)| *due_ms <= now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(number: u32) -> UserId {
        UserId::new(&format!("u{number}"))
    }

    #[test]
    fn users_come_up_in_order_and_once() {
        let mut timers = DueTimers::default();
        for (number, due_ms) in [(1, 30), (2, 10), (3, 20), (2, 5), (1, 40)] {
            timers.schedule(&user(number), due_ms);
        }
        assert!(!timers.is_due(4));
        assert_eq!(timers.take_due(20, 10), [(user(2), 5), (user(3), 20)]);
        assert_eq!(timers.take_due(25, 10), []);
        assert_eq!(timers.take_due(100, 10), [(user(1), 30)]);
        assert!(!timers.is_due(i64::MAX));
    }

    #[test]
    fn a_user_who_is_gone_does_not_come_up() {
        let mut timers = DueTimers::default();
        timers.schedule(&user(1), 10);
        timers.schedule(&user(2), 10);
        timers.forget("u1");
        assert_eq!(timers.take_due(20, 10), [(user(2), 10)]);
    }

    #[test]
    fn the_limit_leaves_the_rest_for_later() {
        let mut timers = DueTimers::default();
        for number in 0..5 {
            timers.schedule(&user(number), i64::from(number));
        }
        assert_eq!(timers.take_due(100, 2).len(), 2);
        assert_eq!(timers.take_due(100, 10).len(), 3);
    }

    #[test]
    fn a_user_is_held_once_however_often_it_is_moved_or_forgotten() {
        let mut timers = DueTimers::default();
        for due_ms in (0..1_000).rev() {
            timers.schedule(&user(1), due_ms);
            timers.schedule(&user(2), due_ms);
            timers.forget("u2");
        }
        assert_eq!((timers.order.len(), timers.scheduled.len()), (1, 1));
        assert_eq!(timers.take_due(10_000, 10), [(user(1), 0)]);
        assert!(timers.order.is_empty() && timers.scheduled.is_empty());
    }
}
