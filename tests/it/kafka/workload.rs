//! Real purchases of a year, with views and searches of the same users made up around them.

use std::path::Path;

use serde_json::json;
use undercurrent::event::View;
use xxhash_rust::xxh3::xxh3_64;

/// Events of the workload: 25,000 purchases, 15,000 views, 10,000 searches.
pub(super) const EVENT_COUNT: usize = 50_000;
const PURCHASE_COUNT: usize = 25_000;

/// One event, ready to be sent.
pub(super) struct Event {
    pub(super) view: View,
    pub(super) user: String,
    pub(super) payload: Vec<u8>,
}

#[derive(serde::Deserialize)]
struct Row {
    user_id: String,
    event_type: String,
    timestamp: i64,
    item_id: String,
    category: String,
    price: Option<f64>,
    quantity: Option<f64>,
    session_id: String,
}

/// The events in time order: some of the baskets of about 180 users over the whole year. The same in every run.
pub(super) fn events() -> Vec<Event> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/completejourney/events.csv.zst");
    let file = std::fs::File::open(path).unwrap();
    let mut rows = csv::Reader::from_reader(zstd::stream::read::Decoder::new(file).unwrap());
    let mut events = Vec::new();
    let purchases =
        rows.deserialize().map(Result::unwrap).filter(|row: &Row| row.event_type == "purchase").filter(|row| {
            xxh3_64(row.user_id.as_bytes()).is_multiple_of(13) && xxh3_64(row.session_id.as_bytes()).is_multiple_of(4)
        });
    for (index, row) in purchases.take(PURCHASE_COUNT).enumerate() {
        if index % 5 < 2 {
            events.push(search(index, &row));
        }
        if index % 5 < 3 {
            events.push(view(index, &row));
        }
        events.push(purchase(index, &row));
    }
    events
}

fn search(index: usize, row: &Row) -> Event {
    let query = row.category.rsplit(" > ").next().unwrap_or_default();
    let payload = json!({
        "event_id": format!("s{index}"), "event": "search", "user_id": row.user_id, "timestamp": row.timestamp - 120_000,
        "session_id": row.session_id, "query": query,
    });
    event(View::Search, row, &payload)
}

fn view(index: usize, row: &Row) -> Event {
    let payload = json!({
        "event_id": format!("v{index}"), "event": "view", "user_id": row.user_id, "timestamp": row.timestamp - 60_000,
        "session_id": row.session_id, "product_id": row.item_id, "category": row.category, "price": row.price,
    });
    event(View::Click, row, &payload)
}

fn purchase(index: usize, row: &Row) -> Event {
    let payload = json!({
        "event_id": format!("p{index}"), "event": "purchase", "user_id": row.user_id, "timestamp": row.timestamp,
        "session_id": row.session_id, "product_id": row.item_id, "category": row.category, "price": row.price,
        "quantity": row.quantity,
    });
    event(View::Purchase, row, &payload)
}

fn event(view: View, row: &Row, payload: &serde_json::Value) -> Event {
    Event { view, user: row.user_id.clone(), payload: serde_json::to_vec(payload).unwrap() }
}
