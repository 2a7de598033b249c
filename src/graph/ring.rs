//! Recent events: the plain form for readers and the packed form that is kept, 28 bytes a line.

use crate::event::{EventKind, NameHash, NameKind};

/// One recent product line or search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingEntry {
    /// Seconds since the Unix epoch.
    pub time_s: u32,
    /// What was done.
    pub kind: EventKind,
    /// Whether this is the first line of its event: counting these counts events.
    pub opens_event: bool,
    /// The item, or the query where [`name_kind`](Self::name_kind) says so.
    pub name: Option<NameHash>,
    /// The item's category.
    pub category: Option<NameHash>,
    /// Low half of the event id; lines of one event share it.
    pub event_id: u32,
    /// Value of the line in minor units.
    pub value_minor: u32,
    /// Units, saturating at [`MAX_QUANTITY`](Self::MAX_QUANTITY).
    pub quantity: u16,
    /// 13 bits of the session id's hash, never 0; `None` when the sender gave none.
    pub session: Option<u16>,
    /// Whether the name is a query.
    pub is_query: bool,
}

impl RingEntry {
    /// The largest quantity an entry holds.
    pub const MAX_QUANTITY: u16 = (1 << 14) - 1;

    /// The session field for a session id's hash.
    pub fn session_of(hash: u64) -> u16 {
        let bits = (hash & 0x1FFF) as u16;
        bits.max(1)
    }

    /// What [`name`](Self::name) names.
    pub fn name_kind(&self) -> NameKind {
        if self.is_query { NameKind::Query } else { NameKind::Item }
    }

    /// Whether `next` goes on in the same session: equal session ids, or, where one has none, a gap of at most
    /// `session_gap_s`.
    pub fn continues_into(&self, next: &Self, session_gap_s: u32) -> bool {
        match (self.session, next.session) {
            (Some(mine), Some(theirs)) => mine == theirs,
            _ => next.time_s.abs_diff(self.time_s) <= session_gap_s,
        }
    }
}

/// The kept form. Words: time, name low, category low, name high and category high (16 bits each), event id, value,
/// and from the lowest bit: kind 3, opens 1, query 1, quantity 14, session 13.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackedEntry([u32; 7]);

impl PackedEntry {
    #[expect(clippy::cast_possible_truncation, reason = "hashes are split into their 32 low and 16 high bits")]
    pub(super) fn pack(entry: &RingEntry) -> Self {
        let name = entry.name.map_or(0, |hash| hash.0);
        let category = entry.category.map_or(0, |hash| hash.0);
        debug_assert!(name <= NameHash::MASK && category <= NameHash::MASK, "name hashes have 48 bits");
        let quantity = u32::from(entry.quantity.min(RingEntry::MAX_QUANTITY));
        let session = u32::from(entry.session.unwrap_or(0)) & 0x1FFF;
        Self([
            entry.time_s,
            name as u32,
            category as u32,
            ((name >> 32) as u32 & 0xFFFF) | ((category >> 32) as u32) << 16,
            entry.event_id,
            entry.value_minor,
            entry.kind as u32
                | u32::from(entry.opens_event) << 3
                | u32::from(entry.is_query) << 4
                | quantity << 5
                | session << 19,
        ])
    }

    pub(super) fn unpack(&self) -> RingEntry {
        let [time_s, name, category, high, event_id, value_minor, bits] = self.0;
        let some = |hash: u64| (hash != 0).then_some(NameHash(hash));
        RingEntry {
            time_s,
            kind: EventKind::ALL[(bits & 7).min(5) as usize],
            opens_event: bits & 8 != 0,
            name: some(u64::from(name) | u64::from(high & 0xFFFF) << 32),
            category: some(u64::from(category) | u64::from(high >> 16) << 32),
            event_id,
            value_minor,
            quantity: (bits >> 5 & 0x3FFF) as u16,
            session: Some((bits >> 19) as u16).filter(|session| *session != 0),
            is_query: bits & 16 != 0,
        }
    }

    pub(super) fn time_s(&self) -> u32 {
        self.0[0]
    }

    pub(super) fn event_id(&self) -> u32 {
        self.0[4]
    }

    pub(super) fn words(&self) -> &[u32; 7] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(entry: RingEntry) {
        assert_eq!(PackedEntry::pack(&entry).unpack(), entry);
    }

    #[test]
    fn packing_keeps_every_field() {
        let plain = RingEntry {
            time_s: 1,
            kind: EventKind::View,
            opens_event: false,
            name: None,
            category: None,
            event_id: 0,
            value_minor: 0,
            quantity: 0,
            session: None,
            is_query: false,
        };
        check(plain);
        check(RingEntry { name: Some(NameHash(NameHash::MASK)), ..plain });
        check(RingEntry { category: Some(NameHash(NameHash::MASK)), ..plain });
        check(RingEntry { quantity: RingEntry::MAX_QUANTITY, opens_event: true, ..plain });
        check(RingEntry { session: Some(0x1FFF), is_query: true, ..plain });
        for kind in EventKind::ALL {
            check(RingEntry { kind, time_s: u32::MAX, value_minor: u32::MAX, event_id: u32::MAX, ..plain });
        }
    }
}
