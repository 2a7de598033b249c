//! Long-horizon aggregates of a view. Integers, so exact and independent of order (up to saturation).

use super::RingEntry;

/// Weeks kept in [`Totals::week_value_minor`] and [`Totals::week_event_count`].
pub const WEEKS: usize = 16;

const DAY_S: u32 = 86_400;
const WEEK_DAYS: u32 = 7;

/// Long-horizon aggregates of a view.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    /// Events.
    pub event_count: u64,
    /// Product lines and searches.
    pub line_count: u64,
    /// Units.
    pub quantity: u64,
    /// Value in minor units.
    pub value_minor: u64,
    /// Events by kind, indexed by the kind's numeric value, saturating.
    pub kind_count: [u32; 6],
    /// Events by weekday (Monday 0, UTC), saturating.
    pub weekday_count: [u32; 7],
    /// Events by six-hour part of the day (UTC), saturating.
    pub daypart_count: [u32; 4],
    /// Number of the newest week with an event: days since the epoch divided by 7 (weeks start on Thursday).
    pub week_newest: u32,
    /// Value in minor units of each of the last 16 weeks, newest (`week_newest`) first, saturating.
    pub week_value_minor: [u32; WEEKS],
    /// Events of each of the last 16 weeks, newest first, saturating.
    pub week_event_count: [u16; WEEKS],
}

impl Totals {
    /// Adds one entry.
    pub(super) fn add(&mut self, entry: &RingEntry) {
        self.line_count += 1;
        self.quantity += u64::from(entry.quantity);
        self.value_minor = self.value_minor.saturating_add(u64::from(entry.value_minor));
        let day = entry.time_s / DAY_S;
        let week = self.week_slot(day / WEEK_DAYS);
        if let Some(slot) = week {
            self.week_value_minor[slot] = self.week_value_minor[slot].saturating_add(entry.value_minor);
        }
        if !entry.opens_event {
            return;
        }
        self.event_count += 1;
        bump(&mut self.kind_count[entry.kind as usize]);
        // Day 0 of the epoch was a Thursday.
        bump(&mut self.weekday_count[((day + 3) % WEEK_DAYS) as usize]);
        bump(&mut self.daypart_count[(entry.time_s % DAY_S / (DAY_S / 4)) as usize]);
        if let Some(slot) = week {
            self.week_event_count[slot] = self.week_event_count[slot].saturating_add(1);
        }
    }

    /// The place of `week`, after moving the window forward when the week is new; `None` when it is too old.
    fn week_slot(&mut self, week: u32) -> Option<usize> {
        if week > self.week_newest {
            let by = usize::try_from(week - self.week_newest).unwrap_or(WEEKS).min(WEEKS);
            self.week_value_minor.rotate_right(by % WEEKS);
            self.week_value_minor[..by].fill(0);
            self.week_event_count.rotate_right(by % WEEKS);
            self.week_event_count[..by].fill(0);
            self.week_newest = week;
        }
        usize::try_from(self.week_newest - week).ok().filter(|age| *age < WEEKS)
    }
}

fn bump(counter: &mut u32) {
    *counter = counter.saturating_add(1);
}
