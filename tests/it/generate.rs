//! Made-up shoppers: equal seeds, time order, plausibility, bounded memory, and a truth that is true.

#![expect(clippy::cast_precision_loss, reason = "counts of a test")]

use std::{
    collections::{HashMap, HashSet},
    fs,
};

use undercurrent::{
    event::{CleaningCounts, DAY_MS, Decoder, Edge, EventKind, FileError, RawRecord, for_each_row},
    generate::{EventFormat, GenerateParams, MadeEvent, Shoppers, json_records, truth_columns, user_id, write_files},
};

fn events(users: u32, days: u32, seed: u64) -> Vec<MadeEvent> {
    Shoppers::new(&GenerateParams::new(users, days, seed)).collect()
}

#[test]
fn equal_seeds_make_equal_files() {
    let folder = tempfile::tempdir().unwrap();
    let written = |name: &str, seed: u64, format: EventFormat| {
        let folder = folder.path().join(name);
        let mut last = 0;
        let summary =
            write_files(&GenerateParams::new(200, 40, seed), &folder, format, |events, _| last = events).unwrap();
        assert!(last > 0 && last <= summary.events);
        [format.file_name(), "items.csv", "truth.csv"].map(|file| fs::read(folder.join(file)).unwrap())
    };
    for format in [EventFormat::Csv, EventFormat::Jsonl, EventFormat::CsvZst, EventFormat::JsonlZst] {
        let [one, again, other] =
            [("one", 5), ("again", 5), ("other", 6)].map(|(name, seed)| written(name, seed, format));
        assert_eq!(one, again);
        assert_ne!(one[0], other[0]);
        assert_ne!(one[2], other[2]);
    }
    assert_eq!(
        zstd::decode_all(&written("packed", 5, EventFormat::CsvZst)[0][..]).unwrap(),
        written("plain", 5, EventFormat::Csv)[0]
    );
}

/// A change of these bytes is a change of every made data set: it must be meant.
#[test]
fn the_bytes_of_a_seed_stay_what_they_were() {
    let all: Vec<u8> = json_records(&GenerateParams::new(50, 30, 1), 1_000_000)
        .into_iter()
        .flat_map(|record| record.payload)
        .collect();
    assert_eq!(
        (all.len(), format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&all))),
        (GOLDEN_BYTES, GOLDEN_HASH.to_owned())
    );
}

const GOLDEN_BYTES: usize = 177_283;
const GOLDEN_HASH: &str = "06c761dc4d8b1d6d";

#[test]
fn events_come_in_time_order_and_numbered() {
    let params = GenerateParams::new(300, 60, 2);
    let events = events(300, 60, 2);
    assert!(events.len() > 10_000);
    assert!(events.windows(2).all(|pair| pair[0].time_ms <= pair[1].time_ms));
    assert!(events.iter().zip(0..).all(|(event, number)| event.sequence == number));
    assert!(events.iter().all(|event| (params.start_ms..params.end_ms()).contains(&event.time_ms)));
    // A user is in one visit at a time, and does one thing at a time.
    let mut last: HashMap<u32, (u32, i64)> = HashMap::new();
    for event in &events {
        if let Some((visit, time_ms)) = last.insert(event.user, (event.visit, event.time_ms)) {
            assert!(event.time_ms > time_ms && (event.visit == visit || event.visit == visit + 1));
        }
    }
}

#[test]
fn a_user_does_the_same_whoever_else_is_there() {
    let of_user = |users: u32| -> Vec<_> {
        events(users, 60, 3)
            .into_iter()
            .filter(|event| event.user == 7)
            .map(|event| (event.visit, event.time_ms, event.kind, event.lines))
            .collect()
    };
    assert!(!of_user(10).is_empty());
    assert_eq!(of_user(10), of_user(500));
}

#[test]
fn visits_lead_from_search_to_view_to_cart_to_purchase() {
    let params = GenerateParams::new(500, 120, 4);
    let shoppers = Shoppers::new(&params);
    let catalogue = shoppers.catalogue().clone();
    let mut count = [0_usize; 6];
    let mut new_items = 0;
    let mut looked_at: HashMap<(u32, u32), Vec<(EventKind, u32)>> = HashMap::new();
    for event in shoppers {
        count[event.kind as usize] += 1;
        assert_eq!(event.kind == EventKind::Search, event.query.is_some() && event.lines.is_empty());
        let before = looked_at.entry((event.user, event.visit)).or_default();
        for line in &event.lines {
            assert!(line.quantity >= 1 && line.price_minor > 0);
            // A visit is played as of its start, and lasts well under an hour.
            assert!(catalogue.launch_ms(line.item) <= event.time_ms);
            new_items += usize::from(catalogue.launch_ms(line.item) > params.start_ms);
            let needs = match event.kind {
                EventKind::CartAdd => Some(EventKind::View),
                EventKind::CartRemove | EventKind::Purchase => Some(EventKind::CartAdd),
                _ => None,
            };
            assert!(needs.is_none_or(|kind| before.contains(&(kind, line.item))), "{event:?} without {needs:?}");
            before.push((event.kind, line.item));
        }
    }
    let [views, searches, adds, removes, purchases, others] = count;
    assert!(
        views > searches
            && searches > purchases
            && views > adds
            && adds > purchases
            && purchases > removes
            && removes > 0,
        "{count:?}"
    );
    assert_eq!(others, 0);
    assert!(new_items > 500, "{new_items}");
}

#[test]
fn days_and_weeks_have_seasons() {
    let mut weekdays = [0_u32; 7];
    let mut hours = [0_u32; 24];
    let params = GenerateParams::new(1000, 140, 5);
    for event in Shoppers::new(&params) {
        let since_ms = event.time_ms - params.start_ms;
        weekdays[usize::try_from(since_ms / DAY_MS % 7).unwrap()] += 1;
        hours[usize::try_from(since_ms / (DAY_MS / 24) % 24).unwrap()] += 1;
    }
    assert!(weekdays[5] > weekdays[1] * 6 / 5, "Saturdays are busier than Tuesdays: {weekdays:?}");
    assert!(hours[19] > hours[3] * 6 / 5, "evenings are busier than nights: {hours:?}");
}

#[test]
fn memory_does_not_grow_with_days() {
    let at_once = |days: u32| {
        let mut shoppers = Shoppers::new(&GenerateParams::new(2_000, days, 6));
        while shoppers.next().is_some() {}
        shoppers.visits_at_once()
    };
    let (short, long) = (at_once(30), at_once(600));
    assert!(short <= 40 && long <= 40, "visits going on at once: {short}, {long}");
}

#[test]
fn every_made_record_is_decoded_without_repair() {
    let mut counts = CleaningCounts::default();
    let records = json_records(&GenerateParams::new(200, 60, 7), 5_000);
    assert_eq!(records.len(), 5_000);
    let made = events(200, 60, 7);
    let mut ids = HashSet::new();
    for (record, made) in records.iter().zip(&made) {
        let raw = RawRecord {
            key: Some(record.key.as_bytes()),
            payload: Some(&record.payload),
            timestamp_ms: record.time_ms,
        };
        let event = Decoder::default().decode(record.view, &raw, &mut counts).unwrap();
        assert_eq!((event.kind, event.time_ms, &*event.user), (made.kind, made.time_ms, user_id(made.user).as_str()));
        assert_eq!(event.lines.len(), made.lines.len());
        for (line, made) in event.lines.iter().zip(&made.lines) {
            assert_eq!((line.price_minor, line.quantity), (Some(made.price_minor), made.quantity));
        }
        assert!(ids.insert(event.event_id));
    }
    assert_eq!((counts.decoded, counts.rejected()), (5_000, 0));
    assert_eq!(counts.repairs().map(|(_, count)| count).sum::<u64>(), 0);
}

#[test]
fn the_truth_holds_against_the_events() {
    let folder = tempfile::tempdir().unwrap();
    let params = GenerateParams::new(3_000, 140, 8);
    let summary = write_files(&params, folder.path(), EventFormat::CsvZst, |_, _| {}).unwrap();
    let mut edge = Edge::new(Decoder::default());
    let mut counts = CleaningCounts::default();
    let mut last_ms: HashMap<String, i64> = HashMap::new();
    let (mut back, mut bought) = (HashSet::new(), HashSet::new());
    let mut items: HashMap<String, HashSet<String>> = HashMap::new();
    for_each_row::<FileError>(&folder.path().join("events.csv.zst"), |row| {
        let event = edge.decode_row(&row, &mut counts).unwrap();
        let user = event.user.to_string();
        let after_ms = event.time_ms - params.cutoff_ms();
        if (0..i64::from(params.churn_days) * DAY_MS).contains(&after_ms) {
            back.insert(user.clone());
        }
        if event.kind == EventKind::Purchase && (0..i64::from(params.purchase_days) * DAY_MS).contains(&after_ms) {
            bought.insert(user.clone());
            items.entry(user.clone()).or_default().insert(event.lines[0].item.as_ref().unwrap().text.to_string());
        }
        last_ms.insert(user, event.time_ms);
        Ok(())
    })
    .unwrap();
    assert_eq!((counts.decoded, counts.rejected()), (summary.rows, 0));

    let mut truth = csv::Reader::from_path(folder.path().join("truth.csv")).unwrap();
    assert!(truth.headers().unwrap().iter().eq(truth_columns().iter().map(|(name, _)| *name)));
    let (mut churn, mut purchase, mut left, mut hits, mut users) = (Vec::new(), Vec::new(), 0, 0.0, 0);
    for row in truth.records() {
        let row = row.unwrap();
        let field =
            |name: &str| row[truth_columns().iter().position(|(column, _)| *column == name).unwrap()].to_owned();
        users += 1;
        let user = field("user_id");
        if !field("left_ms").is_empty() {
            left += 1;
            assert!(last_ms[&user] <= field("left_ms").parse().unwrap());
        }
        if field("cutoff_churn").is_empty() {
            continue;
        }
        let last: i64 = field("cutoff_last_ms").parse().unwrap();
        if last < params.cutoff_ms() - 56 * DAY_MS {
            continue;
        }
        churn.push((field("cutoff_churn").parse::<f64>().unwrap(), !back.contains(&user)));
        purchase.push((field("cutoff_purchase").parse::<f64>().unwrap(), bought.contains(&user)));
        if let Some(items) = items.get(&user) {
            let list = field("would_buy");
            let listed = items.iter().filter(|item| list.split(' ').any(|place| place == *item)).count();
            hits += listed as f64 / items.len() as f64;
        }
    }
    assert_eq!(users, 3_000);
    assert!((users / 5..users * 4 / 5).contains(&left), "{left} of {users} left");
    for (what, predictions, least) in [("churn", &churn, 0.8), ("purchase", &purchase, 0.7)] {
        let auc = auc(predictions);
        let expected = predictions.iter().map(|(probability, _)| probability).sum::<f64>() / predictions.len() as f64;
        let seen = predictions.iter().filter(|(_, happened)| *happened).count() as f64 / predictions.len() as f64;
        println!("{what}: AUC {auc:.3}, oracle {expected:.3}, seen {seen:.3} of {}", predictions.len());
        assert!(auc > least, "{what}: {auc}");
        assert!((expected - seen).abs() < 0.06, "{what}: {expected} and {seen}");
    }
    let recall = hits / items.len() as f64;
    println!("would_buy: recall {recall:.3}");
    assert!(recall > 0.5, "{recall}");
}

fn auc(predictions: &[(f64, bool)]) -> f64 {
    let (mut better, mut pairs) = (0.0, 0.0);
    for (high, _) in predictions.iter().filter(|(_, happened)| *happened) {
        for (low, _) in predictions.iter().filter(|(_, happened)| !*happened) {
            pairs += 1.0;
            better += if high > low {
                1.0
            } else if (high - low).abs() < f64::EPSILON {
                0.5
            } else {
                0.0
            };
        }
    }
    better / pairs
}
