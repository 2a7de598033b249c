//! How often and how soon an alert is tried again.

use std::time::Duration;

/// Bounds of the attempts at one alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// Attempts at most; at least 1.
    pub max_attempts: u32,
    /// Milliseconds before the second attempt.
    pub first_backoff_ms: u64,
    /// Milliseconds between two attempts at most.
    pub max_backoff_ms: u64,
}

impl Retries {
    /// The wait after attempt `attempt` (from 1): doubling up to the bound, half of it by `chance` (0 to 1), so that receivers that
    /// come back are not met by all senders at once.
    pub(super) fn wait(&self, attempt: u32, chance: f64) -> Duration {
        let doubled = 1_u64.checked_shl(attempt.saturating_sub(1)).unwrap_or(u64::MAX);
        let whole_ms = self.first_backoff_ms.saturating_mul(doubled).min(self.max_backoff_ms);
        Duration::from_millis(whole_ms).mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_bound_and_half_of_them_is_chance() {
        let retries = Retries { max_attempts: 5, first_backoff_ms: 100, max_backoff_ms: 1_000 };
        let longest = |attempt| retries.wait(attempt, 1.0).as_millis();
        assert_eq!(
            [1, 2, 3, 4, 5, 6, 64, 65, u32::MAX].map(longest),
            [100, 200, 400, 800, 1_000, 1_000, 1_000, 1_000, 1_000]
        );
        assert_eq!(retries.wait(1, 0.0).as_millis(), 50);
        assert_eq!(retries.wait(3, 0.5).as_millis(), 300);
    }
}
