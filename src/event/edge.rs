//! Where events enter: HTTP, files, `send`. The only place that knows more than the record, because what it decides is written
//! down: categories from an item file, and a memory of prices and quantities.
//!
//! A price or quantity that is missing can be filled with the item's median or last one. Done while folding, it would
//! make the fold depend on more than its topic; done here, once, it becomes part of the record.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use xxhash_rust::xxh3::xxh3_64;

use super::{
    CleaningCounts, Decoder, Event, EventKind, ItemCategories, NameHash, NameKind, Reject, Repair, View,
    clean::MissingNumber,
    codec::{Repairs, Surroundings, amount_of, needs_numbers, text_of},
    encode::write_json,
    file::FileRow,
    wire::{Scalar, Wire, WireLine},
};

/// An event that may be appended to the topic of its view, under its user's key.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted<'a> {
    /// The event. Its `user` is the record's key, its kind says the topic.
    pub event: Event<'a>,
    /// The record's payload: the sender's own bytes, unless a rule changed the event or it came from a file row.
    pub payload: Cow<'a, [u8]>,
}

impl Admitted<'_> {
    /// The view whose topic takes the record.
    pub fn view(&self) -> View {
        self.event.kind.view()
    }
}

/// Checks events before they are in a log, and repairs what needs a memory of earlier events.
#[derive(Debug, Clone)]
pub struct Edge {
    decoder: Decoder,
    categories: Arc<ItemCategories>,
    memory: Option<ItemMemory>,
}

impl Edge {
    /// An edge with the decoder's names and rules. It keeps a memory only when a rule asks for one.
    pub fn new(decoder: Decoder) -> Self {
        let rules = [decoder.params().missing_price, decoder.params().missing_quantity];
        let memory = rules.iter().any(|rule| *rule != MissingNumber::Absent).then(ItemMemory::default);
        Self { decoder, categories: Arc::default(), memory }
    }

    /// The same, and a product without a category gets the one of its item in `categories`.
    #[must_use]
    pub fn with_categories(mut self, categories: Arc<ItemCategories>) -> Self {
        self.categories = categories;
        self
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Checks one payload that arrived at `now_ms`, which must become the record's timestamp.
    pub fn admit<'a>(
        &mut self,
        payload: &'a [u8],
        now_ms: i64,
        counts: &mut CleaningCounts,
    ) -> Result<Admitted<'a>, Reject> {
        let surroundings = Surroundings { topic: None, timestamp_ms: now_ms, record: payload };
        self.decoder
            .parse(payload)
            .and_then(|mut wire| {
                let mut repairs = Repairs::default();
                let changed = self.repair(&mut wire, &mut repairs)?;
                if changed && text_of(&wire.event_id, "event_id")?.is_none() {
                    // The id stands for what was sent, not for what it became: sent again, it is the same event again.
                    wire.event_id = Scalar::Text(Cow::Owned(format!("{:016x}", xxh3_64(payload))));
                    repairs.add(Repair::IdFromRecord);
                }
                let event = self.decoder.event_of(&wire, surroundings, repairs, counts)?;
                let payload = if changed { Cow::Owned(json_of(&wire)) } else { Cow::Borrowed(payload) };
                Ok(Admitted { event, payload })
            })
            .inspect_err(|reject| counts.add_reject(reject.reason))
    }

    /// Checks one row of a file and writes it as a record of our schema. Event names stay the file's own.
    pub fn admit_row<'a>(&mut self, row: &FileRow<'a>, counts: &mut CleaningCounts) -> Result<Admitted<'a>, Reject> {
        self.wire_of(row)
            .and_then(|(wire, repairs)| {
                let event = self.decoder.event_of(&wire, OF_A_FILE, repairs, counts)?;
                Ok(Admitted { event, payload: Cow::Owned(json_of(&wire)) })
            })
            .inspect_err(|reject| counts.add_reject(reject.reason))
    }

    /// Decodes one row of a file to the same event as [`admit_row`](Self::admit_row), without writing a record.
    pub fn decode_row<'a>(&mut self, row: &FileRow<'a>, counts: &mut CleaningCounts) -> Result<Event<'a>, Reject> {
        self.wire_of(row)
            .and_then(|(wire, repairs)| self.decoder.event_of(&wire, OF_A_FILE, repairs, counts))
            .inspect_err(|reject| counts.add_reject(reject.reason))
    }

    fn wire_of<'a>(&mut self, row: &FileRow<'a>) -> Result<(Wire<'a>, Repairs), Reject> {
        let mut wire = row.wire()?.clone();
        let mut repairs = Repairs::default();
        self.repair(&mut wire, &mut repairs)?;
        Ok((wire, repairs))
    }

    /// Fills what is missing. Says whether it changed the event.
    fn repair(&mut self, wire: &mut Wire<'_>, repairs: &mut Repairs) -> Result<bool, Reject> {
        let has_new_category = self.fill_categories(wire, repairs)?;
        Ok(self.fill_numbers(wire, repairs)? || has_new_category)
    }

    /// Fills missing categories of listed items.
    fn fill_categories(&self, wire: &mut Wire<'_>, repairs: &mut Repairs) -> Result<bool, Reject> {
        let mut changed = false;
        if self.categories.is_empty() {
            return Ok(changed);
        }
        for line in lines_of(wire) {
            if text_of(&line.category, "category")?.is_some() {
                continue;
            }
            let Some(item) = text_of(&line.item, "product_id")? else { continue };
            if let Some(category) = self.categories.get(NameHash::of(NameKind::Item, &item)) {
                line.category = Scalar::Text(Cow::Owned(category.to_owned()));
                repairs.add(Repair::CategoryFromItems);
                changed = true;
            }
        }
        Ok(changed)
    }

    /// Fills missing numbers from the memory, then remembers the given ones.
    fn fill_numbers(&mut self, wire: &mut Wire<'_>, repairs: &mut Repairs) -> Result<bool, Reject> {
        let Some(memory) = &mut self.memory else { return Ok(false) };
        let kind = self.decoder.kind_of(wire, &mut Repairs::default())?;
        let params = self.decoder.params();
        // With a revenue and one line, the price is known better than any memory knows it.
        let priced_by_revenue = wire.revenue != Scalar::Absent && wire.lines().len() <= 1;
        let mut changed = false;
        for line in lines_of(wire) {
            let Some(item) = text_of(&line.item, "product_id")?.map(|text| NameHash::of(NameKind::Item, &text)) else {
                continue;
            };
            let price = amount_of(&line.price, "price")?;
            let quantity = amount_of(&line.quantity, "quantity")?;
            if needs_numbers(kind) {
                if price.is_none()
                    && !priced_by_revenue
                    && let Some(number) = memory.recall(item, Amount::Price, params.missing_price)
                {
                    line.price = Scalar::Float(number);
                    repairs.add(if params.missing_price == MissingNumber::Median {
                        Repair::PriceFromMedian
                    } else {
                        Repair::PriceFromLastSeen
                    });
                    changed = true;
                }
                if quantity.is_none()
                    && let Some(number) = memory.recall(item, Amount::Quantity, params.missing_quantity)
                {
                    line.quantity = Scalar::Float(number);
                    repairs.add(if params.missing_quantity == MissingNumber::Median {
                        Repair::QuantityFromMedian
                    } else {
                        Repair::QuantityFromLastSeen
                    });
                    changed = true;
                }
            }
            memory.remember(item, price, quantity.filter(|_| kind == EventKind::Purchase));
        }
        Ok(changed)
    }
}

/// The products of an event, to be changed.
fn lines_of<'w, 'a>(wire: &'w mut Wire<'a>) -> &'w mut [WireLine<'a>] {
    if wire.products.is_empty() { std::slice::from_mut(&mut wire.flat) } else { &mut wire.products[..] }
}

const OF_A_FILE: Surroundings<'static> = Surroundings { topic: None, timestamp_ms: 0, record: &[] };

fn json_of(wire: &Wire<'_>) -> Vec<u8> {
    let mut json = Vec::with_capacity(256);
    write_json(wire, &mut json);
    json
}

/// Numbers remembered an item and kind of number.
const REMEMBERED: usize = 9;
/// Items in each of the two generations of the memory: about 200 bytes each.
const GENERATION_ITEMS: usize = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Amount {
    Price,
    Quantity,
}

/// The newest prices and quantities of items. Bounded: when a generation is full, the one before it is forgotten; an item
/// that is asked for or seen moves to the newest.
#[derive(Debug, Clone, Default)]
struct ItemMemory {
    newest: HashMap<NameHash, [Recent; 2]>,
    older: HashMap<NameHash, [Recent; 2]>,
}

/// The last numbers of one item, newest last.
#[derive(Debug, Clone, Default)]
struct Recent {
    numbers: [f64; REMEMBERED],
    count: usize,
}

impl Recent {
    fn push(&mut self, number: f64) {
        if self.count == REMEMBERED {
            self.numbers.rotate_left(1);
        } else {
            self.count += 1;
        }
        self.numbers[self.count - 1] = number;
    }

    fn last(&self) -> Option<f64> {
        self.count.checked_sub(1).map(|newest| self.numbers[newest])
    }

    /// The lower median.
    fn median(&self) -> Option<f64> {
        let mut sorted = self.numbers;
        let sorted = &mut sorted[..self.count];
        sorted.sort_unstable_by(f64::total_cmp);
        sorted.get(self.count.checked_sub(1)? / 2).copied()
    }
}

impl ItemMemory {
    fn recall(&mut self, item: NameHash, amount: Amount, rule: MissingNumber) -> Option<f64> {
        let recent = self.newest.get(&item).or_else(|| self.older.get(&item))?;
        match rule {
            MissingNumber::Absent => None,
            MissingNumber::Median => recent[amount as usize].median(),
            MissingNumber::LastSeen => recent[amount as usize].last(),
        }
    }

    fn remember(&mut self, item: NameHash, price: Option<f64>, quantity: Option<f64>) {
        if price.is_none() && quantity.is_none() {
            return;
        }
        if !self.newest.contains_key(&item) {
            if self.newest.len() >= GENERATION_ITEMS {
                self.older = std::mem::take(&mut self.newest);
            }
            let known = self.older.remove(&item).unwrap_or_default();
            self.newest.insert(item, known);
        }
        let recent = self.newest.entry(item).or_default();
        if let Some(price) = price {
            recent[Amount::Price as usize].push(price);
        }
        if let Some(quantity) = quantity {
            recent[Amount::Quantity as usize].push(quantity);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{CleaningParams, EventMapping, ListedItem};

    fn edge(rule: MissingNumber) -> Edge {
        let params = CleaningParams { missing_price: rule, missing_quantity: rule, ..CleaningParams::default() };
        Edge::new(Decoder::new(EventMapping::default(), params))
    }

    fn buy(price: Option<f64>) -> String {
        let price = price.map_or(String::new(), |price| format!(r#","price":{price},"quantity":2"#));
        format!(r#"{{"event":"purchase","user_id":"u","timestamp":1700000000000,"product_id":"tea"{price}}}"#)
    }

    fn last_price(rule: MissingNumber, prices: &[f64]) -> (Option<u32>, u32, CleaningCounts) {
        let mut edge = edge(rule);
        let mut counts = CleaningCounts::default();
        for price in prices {
            edge.admit(buy(Some(*price)).as_bytes(), 1_700_000_000_000, &mut counts).unwrap();
        }
        let payload = buy(None);
        let admitted = edge.admit(payload.as_bytes(), 1_700_000_000_000, &mut counts).unwrap();
        // What is in the record is what the fold will see.
        let record = super::super::RawRecord {
            key: Some(b"u"),
            payload: Some(&admitted.payload),
            timestamp_ms: 1_700_000_000_000,
        };
        let again = edge.decoder().decode(View::Purchase, &record, &mut CleaningCounts::default()).unwrap();
        assert_eq!(format!("{:?}", again.lines), format!("{:?}", admitted.event.lines));
        (admitted.event.lines[0].price_minor, admitted.event.lines[0].quantity, counts)
    }

    #[test]
    fn missing_numbers_follow_the_rule() {
        let (price, quantity, counts) = last_price(MissingNumber::Median, &[1.0, 9.0, 2.0]);
        assert_eq!((price, quantity, counts.repair_count(Repair::PriceFromMedian)), (Some(200), 2, 1));
        let (price, quantity, counts) = last_price(MissingNumber::LastSeen, &[1.0, 9.0, 2.5]);
        assert_eq!((price, quantity, counts.repair_count(Repair::PriceFromLastSeen)), (Some(250), 2, 1));
        let (price, quantity, counts) = last_price(MissingNumber::Absent, &[1.0]);
        assert_eq!((price, quantity, counts.repair_count(Repair::PriceAbsent)), (None, 1, 1));
        let (price, _, counts) = last_price(MissingNumber::Median, &[]);
        assert_eq!((price, counts.repair_count(Repair::QuantityAbsent)), (None, 1));
    }

    #[test]
    fn a_repaired_event_keeps_its_id_when_sent_again() {
        let mut edge = edge(MissingNumber::LastSeen);
        let mut counts = CleaningCounts::default();
        edge.admit(buy(Some(3.0)).as_bytes(), 1_700_000_000_000, &mut counts).unwrap();
        let payload = buy(None);
        let ids: Vec<u64> = (0..2)
            .map(|_| {
                let admitted = edge.admit(payload.as_bytes(), 1_700_000_000_000, &mut counts).unwrap();
                let record =
                    super::super::RawRecord { key: Some(b"u"), payload: Some(&admitted.payload), timestamp_ms: 0 };
                edge.decoder().decode(View::Purchase, &record, &mut CleaningCounts::default()).unwrap().event_id
            })
            .collect();
        assert_eq!(ids[0], ids[1]);
    }

    #[test]
    fn a_category_comes_from_the_item_file_and_stays_in_the_record() {
        let listed = [("tea", "DRINKS > TEA"), ("mug", "")].map(|(id, category)| ListedItem {
            id: id.to_owned(),
            title: String::new(),
            category: category.to_owned(),
        });
        let mut edge = Edge::new(Decoder::default()).with_categories(Arc::new(ItemCategories::of(&listed)));
        let mut counts = CleaningCounts::default();
        let mut category = |product: &str| {
            let payload =
                format!(r#"{{"event":"view","user_id":"u","timestamp":1700000000000,"product_id":{product}}}"#);
            let admitted = edge.admit(payload.as_bytes(), 1_700_000_000_000, &mut counts).unwrap();
            let record = super::super::RawRecord { key: Some(b"u"), payload: Some(&admitted.payload), timestamp_ms: 0 };
            let again = Decoder::default().decode(View::Click, &record, &mut CleaningCounts::default()).unwrap();
            assert_eq!(format!("{:?}", again.lines), format!("{:?}", admitted.event.lines));
            again.lines[0].category.as_ref().map(|category| category.text.to_string())
        };
        assert_eq!(category(r#""tea""#).as_deref(), Some("DRINKS > TEA"));
        assert_eq!(category(r#""tea","category":"SALE""#).as_deref(), Some("SALE"), "what the event says is stronger");
        assert_eq!((category(r#""mug""#), category(r#""milk""#)), (None, None));
        assert_eq!(counts.repair_count(Repair::CategoryFromItems), 1);
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut memory = ItemMemory::default();
        for item in 0..3 * GENERATION_ITEMS as u64 {
            memory.remember(NameHash(item), Some(1.0), None);
        }
        assert!(memory.newest.len() + memory.older.len() <= 2 * GENERATION_ITEMS);
    }
}
