//! Bounded waits on the network.

use std::time::{Duration, Instant};

/// A moment after which a wait gives up. Monotonic, and never part of an event-time result.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
}

impl Deadline {
    /// The moment `wait_ms` milliseconds from now.
    #[expect(clippy::disallowed_methods, reason = "a bound on a network wait; no result depends on it")]
    pub(super) fn after_ms(wait_ms: u64) -> Self {
        Self { at: Instant::now() + Duration::from_millis(wait_ms) }
    }

    /// What is left; zero when it has passed.
    #[expect(clippy::disallowed_methods, reason = "a bound on a network wait; no result depends on it")]
    pub(super) fn remaining(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// What is left, at most `limit_ms` milliseconds.
    pub(super) fn remaining_at_most(&self, limit_ms: u64) -> Duration {
        self.remaining().min(Duration::from_millis(limit_ms))
    }

    /// What is left in whole milliseconds. rdkafka waits for whole ones and spins through the rest of the last one, at full
    /// speed: a wait must never hold a part of one.
    pub(super) fn whole_ms(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.remaining().as_millis()).unwrap_or(u64::MAX))
    }

    /// Whether nothing is left.
    pub(super) fn has_passed(&self) -> bool {
        self.remaining().is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_down_to_zero() {
        let far = Deadline::after_ms(60_000);
        assert!(!far.has_passed());
        assert_eq!(far.remaining_at_most(5), Duration::from_millis(5));
        assert_eq!(far.whole_ms().subsec_nanos() % 1_000_000, 0);
        assert!(Deadline::after_ms(0).has_passed());
    }
}
