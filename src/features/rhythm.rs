//! Features of one series of active days: how recent, how frequent, how regular, and what silence has meant before.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "day numbers and counts of at most 512 days"
)]

use super::{BgNbd, FeatureSettings, RepeatHistory, row::Row};
use crate::event::DAY_MS;

/// Windows in which active days are counted.
const WINDOWS_DAYS: [i32; 7] = [3, 7, 14, 30, 60, 90, 180];
/// Half-lives of decayed active days.
const HALF_LIVES_DAYS: [i32; 5] = [3, 7, 14, 30, 90];
/// Horizon-long windows into the past in which activity is counted.
const PAST_HORIZONS: usize = 8;

/// `0.5^(age / half_life)` for every half-life and age in days, so that no user pays for powers.
#[derive(Debug, Clone)]
pub(super) struct DecayTables([Vec<f32>; HALF_LIVES_DAYS.len()]);

impl DecayTables {
    pub(super) fn new() -> Self {
        Self(
            HALF_LIVES_DAYS
                .map(|half_life| (0..=1024_u16).map(|age| 0.5_f32.powf(f32::from(age) / half_life as f32)).collect()),
        )
    }
}

/// A series of active days as seen from one moment.
pub(super) struct Rhythm {
    /// Whole days before the moment's day, ascending (newest first), no duplicates.
    ages: Vec<i32>,
    /// Days between successive active days, newest gap first.
    gaps: Vec<i32>,
    /// Days since the newest event, with fractions.
    recency_days: f64,
    /// Active days ever, also those the ages no longer hold.
    day_count: u32,
    /// Days since the first event, with fractions.
    tenure_days: f64,
}

impl Rhythm {
    /// A series from day numbers (any order, duplicates allowed). `first_ms` and `last_ms` are its first and newest event.
    pub(super) fn new(mut days: Vec<i32>, day_count: u32, first_ms: i64, last_ms: i64, as_of_ms: i64) -> Option<Self> {
        if days.is_empty() {
            return None;
        }
        let today = as_of_ms.div_euclid(DAY_MS) as i32;
        for day in &mut days {
            *day = (today - *day).max(0);
        }
        days.sort_unstable();
        days.dedup();
        let gaps = days.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let days_since = |time_ms: i64| (as_of_ms - time_ms).max(0) as f64 / DAY_MS as f64;
        Some(Self {
            day_count: day_count.max(days.len() as u32),
            ages: days,
            gaps,
            recency_days: days_since(last_ms),
            tenure_days: days_since(first_ms),
        })
    }

    /// What BG/NBD needs, by whole days.
    pub(super) fn repeat_history(&self) -> RepeatHistory {
        let age_days = self.tenure_days.max(f64::from(self.ages[self.ages.len() - 1]));
        RepeatHistory {
            repeats: f64::from(self.day_count.saturating_sub(1)),
            last_days: (age_days - self.recency_days).max(0.0),
            age_days,
        }
    }

    /// Active days within the last `days`.
    fn active_within(&self, days: i32) -> usize {
        self.ages.partition_point(|age| *age < days)
    }

    /// Of the past gaps that outlasted the present silence: how many, and how many of them ended within `horizon_days`.
    fn survival(&self, horizon_days: i32) -> (usize, usize) {
        let silence = self.ages[0];
        let outlasted = self.gaps.iter().filter(|gap| **gap > silence);
        outlasted.fold((0, 0), |(all, ended), gap| (all + 1, ended + usize::from(*gap <= silence + horizon_days)))
    }
}

/// Appends the features of one series under `source`; a user without it has all of them missing.
pub(super) fn put(
    row: &mut Row,
    source: &str,
    rhythm: Option<&Rhythm>,
    settings: &FeatureSettings,
    decay: &DecayTables,
) {
    let value = |compute: &dyn Fn(&Rhythm) -> f64| rhythm.map(compute);
    row.put(format_args!("{source}_recency"), "days", value(&|rhythm| rhythm.recency_days));
    row.put(format_args!("{source}_tenure"), "days", value(&|rhythm| rhythm.tenure_days));
    row.put(format_args!("{source}_active_days_ever"), "days", value(&|rhythm| f64::from(rhythm.day_count)));
    row.put(
        format_args!("{source}_active_share"),
        "share of days",
        value(&|rhythm| f64::from(rhythm.day_count) / (rhythm.tenure_days + 1.0)),
    );
    for days in WINDOWS_DAYS {
        let count = value(&|rhythm| rhythm.active_within(days) as f64);
        row.put(format_args!("{source}_active_days_{days}d"), "days", count);
    }
    for (half_life, table) in HALF_LIVES_DAYS.iter().zip(&decay.0) {
        let weight = |rhythm: &Rhythm| -> f64 {
            rhythm.ages.iter().map(|age| f64::from(table.get(*age as usize).copied().unwrap_or(0.0))).sum()
        };
        row.put(format_args!("{source}_decayed_days_{half_life}d"), "days", value(&weight));
    }
    put_gaps(row, source, rhythm);
    for (horizon, days) in settings.horizons() {
        put_horizon(row, source, rhythm, horizon, days);
    }
}

/// Statistics of the gaps, and the present silence against them.
fn put_gaps(row: &mut Row, source: &str, rhythm: Option<&Rhythm>) {
    let stats = rhythm.and_then(GapStats::of);
    let stat = |compute: &dyn Fn(&GapStats) -> f64| stats.as_ref().map(compute);
    row.put(format_args!("{source}_gap_mean"), "days", stat(&|gaps| gaps.mean));
    row.put(format_args!("{source}_gap_median"), "days", stat(&|gaps| gaps.median));
    row.put(format_args!("{source}_gap_deviation"), "days", stat(&|gaps| gaps.deviation));
    row.put(format_args!("{source}_gap_max"), "days", stat(&|gaps| gaps.max));
    row.put(format_args!("{source}_gap_last"), "days", stat(&|gaps| gaps.last));
    row.put(format_args!("{source}_gap_recent_mean"), "days", stat(&|gaps| gaps.recent_mean));
    row.put(format_args!("{source}_gap_trend"), "ratio", stat(&|gaps| gaps.recent_mean / gaps.mean));
    row.put(format_args!("{source}_gap_regularity"), "ratio", stat(&|gaps| gaps.deviation / gaps.mean));
    let against = |compute: &dyn Fn(&GapStats) -> f64| {
        stats.as_ref().zip(rhythm).map(|(gaps, rhythm)| rhythm.recency_days / compute(gaps).max(0.5))
    };
    row.put(format_args!("{source}_silence_per_mean_gap"), "ratio", against(&|gaps| gaps.mean));
    row.put(format_args!("{source}_silence_per_median_gap"), "ratio", against(&|gaps| gaps.median));
    row.put(format_args!("{source}_silence_per_max_gap"), "ratio", against(&|gaps| gaps.max));
    let longer = rhythm.map(|rhythm| {
        let outlasted = rhythm.gaps.iter().filter(|gap| **gap > rhythm.ages[0]).count();
        outlasted as f64 / (rhythm.gaps.len() as f64 + 1.0)
    });
    row.put(format_args!("{source}_gaps_longer_than_silence"), "share", longer);
}

/// Features tied to a label horizon.
fn put_horizon(row: &mut Row, source: &str, rhythm: Option<&Rhythm>, horizon: &str, days: i32) {
    let survival = rhythm.map(|rhythm| rhythm.survival(days)).filter(|(all, _)| *all > 0);
    row.put(
        format_args!("{source}_gap_survival_{horizon}"),
        "share",
        survival.map(|(all, ended)| (ended as f64 + 0.5) / (all as f64 + 1.0)),
    );
    let mut newer = 0;
    for window in (0_i32..).take(PAST_HORIZONS) {
        // A window before the user's first day says nothing of them.
        let count = rhythm.map(|rhythm| {
            let through = rhythm.active_within(days.saturating_mul(window + 1));
            let count = through - newer;
            newer = through;
            (count, rhythm.tenure_days >= f64::from(days) * f64::from(window))
        });
        let count = count.and_then(|(count, observed)| observed.then_some(count as f64));
        row.put(format_args!("{source}_active_days_{horizon}_window_{window}"), "days", count);
    }
}

/// Appends what BG/NBD says of the series for both horizons; missing without fitted parameters.
pub(super) fn put_bgnbd(
    row: &mut Row,
    source: &str,
    rhythm: Option<&Rhythm>,
    model: Option<&BgNbd>,
    settings: &FeatureSettings,
) {
    let both = model.zip(rhythm.map(Rhythm::repeat_history));
    row.put(
        format_args!("{source}_alive"),
        "probability",
        both.map(|(model, history)| model.alive_probability(history)),
    );
    for (horizon, days) in settings.horizons() {
        let days = f64::from(days);
        let silent = both.map(|(model, history)| model.silent_probability(history, days));
        row.put(format_args!("{source}_bgnbd_silent_{horizon}"), "probability", silent);
        let expected = both.map(|(model, history)| model.expected_days(history, days));
        row.put(format_args!("{source}_bgnbd_expected_{horizon}"), "days", expected);
    }
}

/// Gap statistics of a series with at least one gap, days.
struct GapStats {
    mean: f64,
    median: f64,
    deviation: f64,
    max: f64,
    last: f64,
    /// Mean of the newest four.
    recent_mean: f64,
}

impl GapStats {
    fn of(rhythm: &Rhythm) -> Option<Self> {
        let newest = *rhythm.gaps.first()?;
        let count = rhythm.gaps.len() as f64;
        let mut sorted = rhythm.gaps.clone();
        sorted.sort_unstable();
        let mean = sorted.iter().map(|gap| f64::from(*gap)).sum::<f64>() / count;
        let variance = sorted.iter().map(|gap| (f64::from(*gap) - mean).powi(2)).sum::<f64>() / count;
        let recent = &rhythm.gaps[..rhythm.gaps.len().min(4)];
        Some(Self {
            mean,
            median: f64::from(sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0,
            deviation: variance.sqrt(),
            max: f64::from(sorted[sorted.len() - 1]),
            last: f64::from(newest),
            recent_mean: recent.iter().map(|gap| f64::from(*gap)).sum::<f64>() / recent.len() as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rhythm(ages: &[i32]) -> Rhythm {
        let as_of_ms = 1_000 * DAY_MS;
        let days: Vec<i32> = ages.iter().map(|age| 1_000 - age).collect();
        let time_ms = |age: &i32| as_of_ms - i64::from(*age) * DAY_MS;
        Rhythm::new(days, 0, time_ms(ages.iter().max().unwrap()), time_ms(ages.iter().min().unwrap()), as_of_ms)
            .unwrap()
    }

    #[test]
    fn survival_looks_only_at_gaps_that_outlasted_the_silence() {
        // Gaps 2, 10, 30 and a silence of 5 days: 10 and 30 outlasted it, 10 ended within the next 7 days.
        let rhythm = rhythm(&[5, 7, 17, 47]);
        assert_eq!(rhythm.gaps, [2, 10, 30]);
        assert_eq!(rhythm.survival(7), (2, 1));
        assert_eq!(rhythm.survival(25), (2, 2));
    }

    #[test]
    fn windows_and_history() {
        let rhythm = rhythm(&[0, 2, 3, 29, 30]);
        assert_eq!(rhythm.active_within(3), 2);
        assert_eq!(rhythm.active_within(30), 4);
        let history = rhythm.repeat_history();
        assert!((history.repeats - 4.0).abs() < 1e-9 && (history.last_days - 30.0).abs() < 1e-9);
    }

    #[test]
    fn describing_and_computing_agree_in_length() {
        let settings = FeatureSettings::default();
        let decay = DecayTables::new();
        let mut describing = Row::describing();
        put(&mut describing, "activity", None, &settings, &decay);
        let mut values = Row::with_capacity(0);
        put(&mut values, "activity", Some(&rhythm(&[0, 3, 9])), &settings, &decay);
        assert_eq!(describing.into_infos().len(), values.into_values().len());
    }
}
