//! Holds what was said against what happened.
//!
//! - An alert is right when its user does nothing in the horizon after it. Alerts too near the end of the data to know
//!   are not counted, neither for nor against.
//! - Only moments from the start of the stream on are settled. The first scores of users who had fallen silent before are
//!   dated at the moment they were due, inside the months the bundle was trained on: the model has seen what followed.
//! - A user has left when a silence lasts the whole horizon; who left was warned when an alert stood open at that moment.
//!   A warning older than the silence counts from its beginning: earlier, the user was still there.
//! - The recency rule alerts after a fixed silence, chosen so that it raises about as many alerts as the model did. It is
//!   chosen in hindsight, which favours the rule.

use std::collections::{HashMap, HashSet};

use super::history::{History, UserHistory, days};
use crate::event::{DAY_MS, NameHash};

/// One time a user was held to be at risk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RiskSpan {
    /// Event time of the alert.
    pub(super) entered_ms: i64,
    /// Event time of the recovery, if there was one.
    pub(super) recovered_ms: Option<i64>,
}

/// A list as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListSeen {
    /// Event time of the score it came with.
    pub(super) time_ms: i64,
    /// What the user is likely to want next.
    pub(super) items: Vec<NameHash>,
    /// The same among items never bought.
    pub(super) discoveries: Vec<NameHash>,
}

/// What the daemon said of one user, in order of event time.
#[derive(Debug, Clone, Default)]
pub(super) struct Said {
    pub(super) risks: Vec<RiskSpan>,
    pub(super) lists: Vec<ListSeen>,
}

/// How right alerts were.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct AlertQuality {
    /// Alerts raised from the start on.
    pub(super) raised: usize,
    /// Alerts dated before the start: not counted anywhere else.
    pub(super) before_start: usize,
    /// Of them those whose horizon ends within the data.
    pub(super) settled: usize,
    /// Of the settled those whose user was truly gone.
    pub(super) gone: usize,
    /// Users who left (a silence of the whole horizon that ends within the data).
    pub(super) left: usize,
    /// Of them those who were warned before.
    pub(super) warned: usize,
    /// Median days from the warning to the end of the horizon.
    pub(super) days_ahead: Option<f64>,
}

/// How often lists held what was bought next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ListQuality {
    /// Baskets with a list written before them.
    pub(super) baskets: usize,
    /// Of them those with an item of the newest list.
    pub(super) hits: usize,
    /// Of them those with one of the 20 most popular items of the warm-up.
    pub(super) popular_hits: usize,
    /// Baskets that hold an item new to the user.
    pub(super) new_baskets: usize,
    /// Of them those with a new item that the newest list of discoveries held.
    pub(super) discovery_hits: usize,
}

/// The window and the horizon everything is settled with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settlement {
    /// Event time from which scores were given.
    pub(super) start_ms: i64,
    /// The churn horizon.
    pub(super) horizon_ms: i64,
}

/// The longest silence the rule may wait for. Past the horizon it warns of nobody any more, but its alerts can be right.
const MAX_SILENCE_DAYS: i64 = 180;

/// A user without a history, for users of whom nothing is known.
const NOBODY: &UserHistory = &UserHistory { activity_ms: Vec::new(), baskets: Vec::new() };

impl Settlement {
    /// Settles the model's alerts.
    pub(super) fn alerts(&self, history: &History, said: &HashMap<String, Said>) -> AlertQuality {
        let mut quality = AlertQuality::default();
        let mut ahead = Vec::new();
        for (user, said) in said {
            let lived = history.users.get(user).unwrap_or(NOBODY);
            for risk in &said.risks {
                if risk.entered_ms < self.start_ms {
                    quality.before_start += 1;
                    continue;
                }
                self.settle_one(risk.entered_ms, lived, history.end_ms, &mut quality);
            }
        }
        for (user, lived) in &history.users {
            let risks = said.get(user).map_or(&[][..], |said| &said.risks);
            for left_ms in self.departures(lived, history.end_ms) {
                quality.left += 1;
                let open = risks.iter().rev().find(|risk| {
                    (self.start_ms..left_ms).contains(&risk.entered_ms)
                        && risk.recovered_ms.is_none_or(|recovered_ms| recovered_ms >= left_ms)
                });
                if let Some(risk) = open {
                    quality.warned += 1;
                    ahead.push((left_ms - risk.entered_ms).min(self.horizon_ms));
                }
            }
        }
        quality.days_ahead = median(&mut ahead).map(days);
        quality
    }

    /// Settles the rule that alerts after a silence of `silence_ms`.
    pub(super) fn recency_rule(&self, history: &History, silence_ms: i64) -> AlertQuality {
        let mut quality = AlertQuality::default();
        for lived in history.users.values() {
            for (last_ms, _) in lived.silences(silence_ms, history.end_ms) {
                let alert_ms = last_ms + silence_ms;
                if alert_ms >= self.start_ms {
                    self.settle_one(alert_ms, lived, history.end_ms, &mut quality);
                }
            }
            let departures = self.departures(lived, history.end_ms).count();
            quality.left += departures;
            // A silence of the horizon is longer than the rule's, so the rule warned of every one of them.
            quality.warned += if silence_ms < self.horizon_ms { departures } else { 0 };
        }
        quality.days_ahead = (quality.warned > 0).then(|| days(self.horizon_ms - silence_ms));
        quality
    }

    /// The shortest silence, in whole days, with which the rule raises at most `alerts` alerts.
    pub(super) fn silence_for(&self, history: &History, alerts: usize) -> i64 {
        (1..MAX_SILENCE_DAYS)
            .map(|silence_days| silence_days * DAY_MS)
            .find(|silence_ms| self.recency_rule(history, *silence_ms).raised <= alerts)
            .unwrap_or(MAX_SILENCE_DAYS * DAY_MS)
    }

    /// Settles lists against the baskets after them.
    pub(super) fn lists(&self, history: &History, said: &HashMap<String, Said>) -> ListQuality {
        let popular = history.popular(self.start_ms, 20);
        let mut quality = ListQuality::default();
        for (user, lived) in &history.users {
            let lists = said.get(user).map_or(&[][..], |said| &said.lists);
            let mut bought: HashSet<NameHash> = HashSet::new();
            for basket in &lived.baskets {
                let seen = lists.partition_point(|list| list.time_ms < basket.time_ms);
                let newest = seen.checked_sub(1).filter(|_| basket.time_ms >= self.start_ms);
                if let Some(list) = newest.and_then(|place| lists.get(place)) {
                    quality.baskets += 1;
                    quality.hits += usize::from(basket.items.iter().any(|item| list.items.contains(item)));
                    quality.popular_hits += usize::from(basket.items.iter().any(|item| popular.contains(item)));
                    let mut fresh = basket.items.iter().filter(|item| !bought.contains(item)).peekable();
                    if fresh.peek().is_some() {
                        quality.new_baskets += 1;
                        quality.discovery_hits += usize::from(fresh.any(|item| list.discoveries.contains(item)));
                    }
                }
                bought.extend(&basket.items);
            }
        }
        quality
    }

    fn settle_one(&self, alert_ms: i64, lived: &UserHistory, end_ms: i64, quality: &mut AlertQuality) {
        quality.raised += 1;
        let until_ms = alert_ms + self.horizon_ms;
        if until_ms <= end_ms {
            quality.settled += 1;
            quality.gone += usize::from(!lived.is_active_within(alert_ms, until_ms));
        }
    }

    /// The moments at which a silence that began after the start had lasted the whole horizon.
    fn departures<'a>(&'a self, lived: &'a UserHistory, end_ms: i64) -> impl Iterator<Item = i64> + 'a {
        lived
            .silences(self.horizon_ms, end_ms)
            .filter(|(last_ms, _)| *last_ms >= self.start_ms)
            .map(|(last_ms, _)| last_ms + self.horizon_ms)
    }
}

fn median(values: &mut [i64]) -> Option<i64> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::{super::history::Basket, *};

    const SETTLEMENT: Settlement = Settlement { start_ms: 0, horizon_ms: 30 * DAY_MS };

    fn history(users: &[(&str, &[i64])], end_day: i64) -> History {
        let users = users
            .iter()
            .map(|(user, days)| {
                let activity_ms = days.iter().map(|day| day * DAY_MS).collect();
                ((*user).to_owned(), UserHistory { activity_ms, baskets: Vec::new() })
            })
            .collect();
        History { users, end_ms: end_day * DAY_MS }
    }

    fn said(user: &str, spans: &[(i64, Option<i64>)]) -> HashMap<String, Said> {
        let risks = spans
            .iter()
            .map(|(entered, recovered)| RiskSpan {
                entered_ms: entered * DAY_MS,
                recovered_ms: recovered.map(|day| day * DAY_MS),
            })
            .collect();
        HashMap::from([(user.to_owned(), Said { risks, lists: Vec::new() })])
    }

    #[test]
    fn an_alert_is_right_when_nothing_follows_in_the_horizon() {
        let history = history(&[("a", &[1, 5, 50])], 100);
        let quality = SETTLEMENT.alerts(&history, &said("a", &[(2, Some(5)), (10, Some(50)), (90, None)]));
        assert_eq!((quality.raised, quality.settled, quality.gone), (3, 2, 1));
    }

    #[test]
    fn who_left_was_warned_when_an_alert_stood_open() {
        let history = history(&[("a", &[1, 5]), ("b", &[5, 20])], 60);
        let quality = SETTLEMENT.alerts(&history, &said("a", &[(15, None)]));
        assert_eq!((quality.left, quality.warned), (2, 1));
        assert_eq!(quality.days_ahead, Some(20.0));
    }

    #[test]
    fn a_warning_that_was_taken_back_does_not_count() {
        let history = history(&[("a", &[1, 5])], 60);
        let quality = SETTLEMENT.alerts(&history, &said("a", &[(10, Some(20))]));
        assert_eq!((quality.left, quality.warned, quality.days_ahead), (1, 0, None));
    }

    #[test]
    fn what_is_dated_before_the_start_is_not_settled() {
        let history = history(&[("a", &[-90, 5])], 60);
        let quality = SETTLEMENT.alerts(&history, &said("a", &[(-50, None)]));
        assert_eq!((quality.before_start, quality.raised, quality.settled, quality.gone), (1, 0, 0, 0));
        assert_eq!((quality.left, quality.warned), (1, 0));
    }

    #[test]
    fn a_warning_older_than_the_silence_counts_from_its_beginning() {
        let history = history(&[("a", &[1, 50])], 100);
        let quality = SETTLEMENT.alerts(&history, &said("a", &[(3, None)]));
        assert_eq!(quality.warned, 2);
        assert_eq!(quality.days_ahead, Some(30.0));
    }

    #[test]
    fn the_recency_rule_alerts_after_every_long_silence() {
        let history = history(&[("a", &[1, 15, 60])], 200);
        let quality = SETTLEMENT.recency_rule(&history, 10 * DAY_MS);
        // After day 1 (back on day 15), after day 15 (back on day 60, so gone for the 30 days after day 25), after day 60.
        assert_eq!((quality.raised, quality.settled, quality.gone), (3, 3, 2));
        assert_eq!((quality.left, quality.warned, quality.days_ahead), (2, 2, Some(20.0)));
    }

    #[test]
    fn the_rule_is_chosen_to_raise_no_more_alerts() {
        let history = history(&[("a", &[1, 15, 60])], 200);
        assert_eq!(SETTLEMENT.silence_for(&history, 2), 14 * DAY_MS);
        assert_eq!(SETTLEMENT.silence_for(&history, 3), DAY_MS);
    }

    #[test]
    fn lists_are_held_against_the_next_baskets_only() {
        let item = NameHash;
        let basket = |day: i64, items: &[u64]| Basket::new(day * DAY_MS, items);
        let mut history = history(&[("a", &[])], 100);
        history.users.get_mut("a").unwrap().baskets = vec![basket(1, &[1]), basket(5, &[1, 2]), basket(9, &[3])];
        let lists = vec![ListSeen { time_ms: 5 * DAY_MS, items: vec![item(1)], discoveries: vec![item(3)] }];
        let said = HashMap::from([("a".to_owned(), Said { risks: Vec::new(), lists })]);
        let quality = SETTLEMENT.lists(&history, &said);
        assert_eq!((quality.baskets, quality.hits), (1, 0));
        assert_eq!((quality.new_baskets, quality.discovery_hits), (1, 1));
    }
}
