//! Events: the schema's examples, the cleaning table, nasty input, files.

use std::{fs, io::Write as _, path::Path};

use proptest::prelude::*;
use serde_json::{Value, json};
use undercurrent::event::{
    CleaningCounts, CleaningParams, Decoder, Edge, Event, EventKind, EventMapping, FileError, MissingTime, NameHash,
    NameKind, RawRecord, Reason, Reject, Repair, RowReader, UnknownName, View, for_each_row,
};

const NOW_MS: i64 = 1_767_230_000_000;

fn record<'a>(key: &'a str, payload: &'a [u8]) -> RawRecord<'a> {
    RawRecord { key: Some(key.as_bytes()), payload: Some(payload), timestamp_ms: NOW_MS }
}

fn decode(view: View, payload: &[u8]) -> (Result<Event<'_>, Reject>, CleaningCounts) {
    let mut counts = CleaningCounts::default();
    let decoded = Decoder::default().decode(view, &record("u", payload), &mut counts);
    (decoded, counts)
}

/// A valid event with the fields of `changes` set (or, where `null`, taken away).
fn changed(changes: &Value) -> String {
    let mut event = json!({"event_id": "e", "event": "purchase", "user_id": "u", "timestamp": NOW_MS, "product_id": "tea", "price": 4.99, "quantity": 2});
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            event.as_object_mut().unwrap().remove(name);
        } else {
            event[name] = value.clone();
        }
    }
    event.to_string()
}

fn check_rejected(payload: &[u8], expected: Reason) {
    let (decoded, counts) = decode(View::Purchase, payload);
    let shown = String::from_utf8_lossy(&payload[..payload.len().min(120)]).into_owned();
    let reject = decoded.expect_err(&shown);
    assert_eq!(reject.reason, expected, "{shown}: {reject}");
    assert_eq!((counts.decoded, counts.rejected(), counts.reject_count(expected)), (0, 1, 1), "{shown}");
    assert_eq!(counts.repairs().map(|(_, count)| count).sum::<u64>(), 0, "a rejected record is not repaired: {shown}");
}

#[test]
fn every_example_of_the_schema_is_valid_and_is_decoded() {
    let schema: Value = serde_json::from_str(include_str!("../../schemas/event.schema.json")).unwrap();
    assert!(jsonschema::meta::is_valid(&schema));
    let validator = jsonschema::validator_for(&schema).unwrap();
    let examples = schema["examples"].as_array().unwrap();
    assert!(examples.len() >= 8);
    for example in examples {
        assert!(
            validator.is_valid(example),
            "{example}: {:?}",
            validator.iter_errors(example).map(|error| error.to_string()).collect::<Vec<_>>()
        );
        let payload = example.to_string();
        let mut counts = CleaningCounts::default();
        let mut edge = Edge::new(Decoder::default());
        let admitted =
            edge.admit(payload.as_bytes(), NOW_MS, &mut counts).unwrap_or_else(|reject| panic!("{example}: {reject}"));
        // The record goes to the topic and under the key that the edge says, and means the same there.
        let user = admitted.event.user.to_string();
        let decoded =
            Decoder::default().decode(admitted.view(), &record(&user, &admitted.payload), &mut counts).unwrap();
        assert_eq!(format!("{decoded:?}"), format!("{:?}", admitted.event));
    }
    for wrong in [
        json!({}),
        json!([]),
        json!({"event": "view", "user_id": "u"}),
        json!({"event": "view", "user_id": "u", "timestamp": NOW_MS, "price": -1}),
    ] {
        assert!(!validator.is_valid(&wrong), "{wrong}");
    }
}

#[test]
fn the_table_names_every_rule() {
    let table = include_str!("../../docs/events.md");
    for name in Reason::ALL.map(Reason::name).into_iter().chain(Repair::ALL.map(Repair::name)) {
        assert!(
            table.lines().any(|line| line.starts_with("| `") && line.contains(&format!("`{name}`"))),
            "{name} is not in docs/events.md"
        );
    }
    let mapping = EventMapping::default();
    for (name, kind) in mapping.names() {
        let row = table.lines().find(|line| line.starts_with(&format!("| `{}` | `", kind.name()))).unwrap();
        assert!(
            row.split(['|', ',', '·']).any(|cell| cell.trim() == name),
            "{name} is not in the row of {}",
            kind.name()
        );
    }
}

#[test]
fn an_event_of_our_own_is_read_whole() {
    let payload = br#"{"event_id":"e1","event":"purchase","user_id":"u","session_id":"s","timestamp":"2026-01-01T00:00:00Z","order_id":"o",
        "products":[{"product_id":"tea","category":"A > B","price":4.99,"quantity":2},{"product_id":"mug","price":"1.5"}],"unknown":{"deep":[1,{"x":null}]}}"#;
    let (event, counts) = decode(View::Purchase, payload);
    let event = event.unwrap();
    assert_eq!((event.kind, event.time_ms, &*event.user), (EventKind::Purchase, 1_767_225_600_000, "u"));
    assert_eq!(event.lines.len(), 2);
    let tea = &event.lines[0];
    assert_eq!(tea.item.as_ref().unwrap().hash, NameHash::of(NameKind::Item, "tea"));
    assert_eq!(&*tea.category.as_ref().unwrap().text, "A > B");
    assert_eq!((tea.price_minor, tea.quantity, tea.value_minor), (Some(499), 2, 998));
    let mug = &event.lines[1];
    assert_eq!((mug.price_minor, mug.quantity, mug.value_minor), (Some(150), 1, 150));
    assert_eq!(counts.repair_count(Repair::QuantityAbsent), 1);
    assert!(matches!(event.user, std::borrow::Cow::Borrowed(_)), "the usual record is not copied");
}

#[test]
fn a_segment_call_means_the_same_as_our_own_form() {
    let ours = br#"{"event_id":"m","event":"purchase","user_id":"u","session_id":7,"timestamp":1767225600000,"order_id":"o","products":[{"product_id":"tea","price":2,"quantity":3}]}"#;
    let segment = br#"{"type":"track","messageId":"m","event":"Order Completed","userId":"u","anonymousId":"a","context":{"sessionId":7,"page":{"url":"x"}},
        "timestamp":"2026-01-01T00:00:00.000Z","properties":{"order_id":"o","revenue":6,"products":[{"product_id":"tea","sku":"T","price":2,"quantity":3}]}}"#;
    assert_eq!(decode(View::Purchase, ours).0.unwrap(), decode(View::Purchase, segment).0.unwrap());
}

#[test]
fn every_kind_goes_to_its_topic_only() {
    for kind in EventKind::ALL {
        let payload = changed(&json!({"event": kind.name(), "query": "Green TEA"}));
        for view in View::ALL {
            let (decoded, _) = decode(view, payload.as_bytes());
            match decoded {
                Ok(event) => {
                    assert_eq!(kind.view(), view);
                    assert_eq!(
                        event.query.map(|query| query.text.into_owned()),
                        (kind == EventKind::Search).then(|| "green tea".to_owned())
                    );
                }
                Err(reject) => assert_eq!((reject.reason, kind.view() == view), (Reason::WrongTopic, false)),
            }
        }
    }
}

#[test]
fn names_are_mapped_by_configuration() {
    let payload = changed(&json!({"event": "clickout"}));
    let decode = |mapping: EventMapping| {
        Decoder::new(mapping, CleaningParams::default())
            .decode(View::Click, &record("u", payload.as_bytes()), &mut CleaningCounts::default())
            .map(|event| event.kind)
    };
    assert_eq!(decode(EventMapping::default()).unwrap_err().reason, Reason::UnknownEvent);
    assert_eq!(decode(EventMapping::default().with("clickout", EventKind::View)).unwrap(), EventKind::View);
    assert_eq!(decode(EventMapping::new(UnknownName::Kind(EventKind::Other))).unwrap(), EventKind::Other);
}

#[test]
fn records_are_rejected_by_the_rule_that_names_their_fault() {
    let field = |changes: Value, reason| check_rejected(changed(&changes).as_bytes(), reason);
    field(json!({"event": null}), Reason::MissingEvent);
    field(json!({"event": " "}), Reason::MissingEvent);
    field(json!({"event": "clickout"}), Reason::UnknownEvent);
    field(json!({"event": "view"}), Reason::WrongTopic);
    field(json!({"event": ["purchase"]}), Reason::WrongType);
    field(json!({"type": "identify"}), Reason::NotATrackCall);
    field(json!({"user_id": "someone else"}), Reason::KeyMismatch);
    field(json!({"user_id": {"id": 1}}), Reason::WrongType);
    field(json!({"user_id": 1.5}), Reason::WrongType);
    field(json!({"timestamp": null}), Reason::MissingTime);
    field(json!({"timestamp": ""}), Reason::MissingTime);
    field(json!({"timestamp": "yesterday"}), Reason::InvalidTime);
    field(json!({"timestamp": true}), Reason::WrongType);
    field(json!({"timestamp": 0}), Reason::AbsurdTime);
    field(json!({"timestamp": -1}), Reason::AbsurdTime);
    field(json!({"timestamp": NOW_MS / 1000}), Reason::AbsurdTime);
    field(json!({"timestamp": u64::MAX}), Reason::AbsurdTime);
    field(json!({"timestamp": "9999-12-31T23:59:59Z"}), Reason::AbsurdTime);
    field(json!({"timestamp": NOW_MS + 86_400_001}), Reason::FutureTime);
    field(json!({"price": -0.01}), Reason::NegativeNumber);
    field(json!({"quantity": -1}), Reason::NegativeNumber);
    field(json!({"quantity": "-1"}), Reason::NegativeNumber);
    field(json!({"price": "NaN"}), Reason::NonFiniteNumber);
    field(json!({"price": "1e999"}), Reason::NonFiniteNumber);
    field(json!({"price": "4,99"}), Reason::InvalidNumber);
    field(json!({"price": [4.99]}), Reason::WrongType);
    field(json!({"price": null, "product_id": null, "quantity": null, "revenue": -3}), Reason::NegativeNumber);
    field(
        json!({"products": [{"product_id": "a", "price": 1}, {"product_id": "b", "price": -1}]}),
        Reason::NegativeNumber,
    );
    field(json!({"products": {"product_id": "a"}}), Reason::WrongType);
    field(json!({"products": ["a"]}), Reason::WrongType);
    field(json!({"products": [{}]}), Reason::WrongType);
    field(json!({"properties": 5}), Reason::WrongType);
    field(json!({"product_id": "x".repeat(513)}), Reason::OversizeText);
    field(json!({"padding": "x".repeat(70_000)}), Reason::OversizeRecord);
}

#[test]
fn bytes_that_are_no_event_are_rejected() {
    for (payload, reason) in [
        (&b""[..], Reason::InvalidJson),
        (b" ", Reason::InvalidJson),
        (b"{", Reason::InvalidJson),
        (b"{}{}", Reason::InvalidJson),
        (b"{} x", Reason::InvalidJson),
        (b"{'event':1}", Reason::InvalidJson),
        (b"{\"event\":\"view\",}", Reason::InvalidJson),
        (b"\x00\x00\x00\x00\x01\x04\x75\x31", Reason::InvalidJson),
        (b"{\"event\":\"\\ud800\"}", Reason::InvalidJson),
        (b"[]", Reason::NotAnObject),
        (b"null", Reason::NotAnObject),
        (b"1", Reason::NotAnObject),
        (b"-1.5", Reason::NotAnObject),
        (b"true", Reason::NotAnObject),
        (b"\"event\"", Reason::NotAnObject),
        (b"{}", Reason::MissingEvent),
        (b"{\"event\":\"\xff\"}", Reason::InvalidUtf8),
        (b"\xed\xa0\x80", Reason::InvalidUtf8),
        (b"{\"price\": NaN}", Reason::NonFiniteNumber),
        (b"{\"price\": Infinity}", Reason::NonFiniteNumber),
        (b"{\"price\": -Infinity}", Reason::NonFiniteNumber),
        (b"{\"price\": 1e999}", Reason::NonFiniteNumber),
        (b"{\"price\": -1e999}", Reason::NonFiniteNumber),
    ] {
        check_rejected(payload, reason);
    }
    let mut counts = CleaningCounts::default();
    let tombstone = RawRecord { key: Some(b"u"), payload: None, timestamp_ms: NOW_MS };
    assert_eq!(Decoder::default().decode(View::Click, &tombstone, &mut counts).unwrap_err().reason, Reason::Tombstone);
}

#[test]
fn depth_is_no_danger() {
    let depth = 30_000;
    // Known fields, unknown fields, and the record itself.
    for (head, tail, expected) in [
        (r#"{"event":"purchase","user_id":"u","timestamp":1767225600000,"unknown":"#, "}", None),
        (r#"{"event":"purchase","user_id":"u","timestamp":1767225600000,"price":"#, "}", Some(Reason::WrongType)),
        (r#"{"event":"purchase","user_id":"u","timestamp":1767225600000,"products":"#, "}", Some(Reason::WrongType)),
        ("", "", Some(Reason::NotAnObject)),
    ] {
        let payload = format!("{head}{}{}{tail}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(decode(View::Purchase, payload.as_bytes()).0.err().map(|reject| reject.reason), expected, "{head}");
    }
    let nested = format!("{}1{}", r#"{"properties":"#.repeat(4_000), "}".repeat(4_000));
    assert!(decode(View::Purchase, nested.as_bytes()).0.is_err());
}

#[test]
fn keys_are_the_contract() {
    let decoder = Decoder::default();
    let payload = changed(&json!({}));
    let nameless = changed(&json!({"user_id": null}));
    let case = |key: Option<&[u8]>, payload: &str| {
        let record = RawRecord { key, payload: Some(payload.as_bytes()), timestamp_ms: NOW_MS };
        let mut counts = CleaningCounts::default();
        let decoded = decoder.decode(View::Purchase, &record, &mut counts).map(|event| event.user.into_owned());
        (decoded.map_err(|reject| reject.reason), counts.repair_count(Repair::UserFromKey))
    };
    assert_eq!(case(Some(b"u"), &payload), (Ok("u".to_owned()), 0));
    assert_eq!(case(Some(b"u"), &nameless), (Ok("u".to_owned()), 1));
    assert_eq!(case(None, &payload).0, Err(Reason::MissingKey));
    assert_eq!(case(Some(b""), &payload).0, Err(Reason::MissingKey));
    assert_eq!(case(Some(b"v"), &payload).0, Err(Reason::KeyMismatch));
    assert_eq!(case(None, &nameless).0, Err(Reason::MissingUser));
    assert_eq!(case(Some(b" "), &nameless).0, Err(Reason::MissingUser));
    assert_eq!(case(Some(b"\xff"), &nameless).0, Err(Reason::InvalidUtf8));
    assert_eq!(case(Some(b"17"), &changed(&json!({"user_id": 17}))), (Ok("17".to_owned()), 0));
    assert_eq!(case(Some(b"a"), &changed(&json!({"user_id": "", "anonymous_id": "a"}))), (Ok("a".to_owned()), 0));
}

#[test]
fn records_are_repaired_by_named_rules() {
    let repaired = |changes: Value, repair: Repair| {
        let payload = changed(&changes);
        let params = CleaningParams { missing_time: MissingTime::RecordTime, ..CleaningParams::default() };
        let mut counts = CleaningCounts::default();
        let view = if changes["event"] == "search" { View::Search } else { View::Purchase };
        let event = Decoder::new(EventMapping::default(), params)
            .decode(view, &record("u", payload.as_bytes()), &mut counts)
            .unwrap();
        assert_eq!(counts.repair_count(repair), 1, "{payload}");
        (event.time_ms, event.lines.first().map(|line| (line.price_minor, line.quantity, line.value_minor)))
    };
    assert_eq!(repaired(json!({"timestamp": null}), Repair::TimeFromRecord).0, NOW_MS);
    repaired(json!({"event_id": null}), Repair::IdFromRecord);
    assert_eq!(repaired(json!({"price": null}), Repair::PriceAbsent).1, Some((None, 2, 0)));
    assert_eq!(repaired(json!({"quantity": null}), Repair::QuantityAbsent).1, Some((Some(499), 1, 499)));
    assert_eq!(
        repaired(json!({"price": null, "revenue": "9.98"}), Repair::PriceFromRevenue).1,
        Some((Some(499), 2, 998))
    );
    assert_eq!(repaired(json!({"price": 1e300}), Repair::NumberSaturated).1, Some((Some(u32::MAX), 2, u32::MAX)));
    assert_eq!(repaired(json!({"quantity": 1e18}), Repair::NumberSaturated).1.unwrap().1, u32::MAX);
    repaired(json!({"category": "é".repeat(300)}), Repair::TextTruncated);
    repaired(json!({"event": "search"}), Repair::QueryAbsent);
    // Not a repair: half a pound.
    let payload = changed(&json!({"quantity": 0.5}));
    let (event, counts) = decode(View::Purchase, payload.as_bytes());
    let line = &event.unwrap().lines[0];
    assert_eq!((line.quantity, line.value_minor), (1, 250));
    assert_eq!(counts.repairs().map(|(_, count)| count).sum::<u64>(), 0);
}

#[test]
fn events_without_id_are_told_apart_by_their_bytes() {
    let id = |payload: &str| decode(View::Purchase, payload.as_bytes()).0.unwrap().event_id;
    let one = changed(&json!({"event_id": null}));
    let other = changed(&json!({"event_id": null, "quantity": 3}));
    assert_eq!(id(&one), id(&one));
    assert_ne!(id(&one), id(&other));
    assert_eq!(id(&changed(&json!({"event_id": 5}))), id(&changed(&json!({"event_id": "5"}))));
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = folder.join(name);
    let file = fs::File::create(&path).unwrap();
    match path.extension().unwrap().to_str().unwrap() {
        "gz" => {
            let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap();
        }
        "zst" => zstd::stream::copy_encode(bytes, file, 1).unwrap(),
        _ => fs::write(&path, bytes).unwrap(),
    }
    path
}

/// Number, name, and what became of one row.
type FoundRow = (u64, String, Result<(EventKind, String, i64, u64), Reason>);

/// Every row of a file as `name, user, time, event or reason`.
fn rows(path: &Path) -> Vec<FoundRow> {
    let mut edge =
        Edge::new(Decoder::new(EventMapping::new(UnknownName::Kind(EventKind::Other)), CleaningParams::default()));
    let mut counts = CleaningCounts::default();
    let mut out = Vec::new();
    for_each_row::<FileError>(path, |row| {
        let event = edge.decode_row(&row, &mut counts);
        let admitted = edge.admit_row(&row, &mut CleaningCounts::default());
        match (&event, &admitted) {
            (Ok(event), Ok(admitted)) => {
                assert_eq!(format!("{event:?}"), format!("{:?}", admitted.event));
                // The record that `send` writes means what the row meant.
                let record =
                    RawRecord { key: Some(event.user.as_bytes()), payload: Some(&admitted.payload), timestamp_ms: 0 };
                let decoded = edge.decoder().decode(admitted.view(), &record, &mut CleaningCounts::default()).unwrap();
                assert_eq!(format!("{event:?}"), format!("{decoded:?}"));
                assert_eq!(row.user().as_deref(), Some(&*event.user));
                assert_eq!(row.time_ms(), Some(event.time_ms));
            }
            (Err(reject), Err(again)) => assert_eq!(reject, again),
            (event, admitted) => panic!("{event:?} but {admitted:?}"),
        }
        let event = event.as_ref().map(|event| (event.kind, event.user.to_string(), event.time_ms, event.event_id));
        out.push((row.number, row.name().to_owned(), event.map_err(|reject| reject.reason)));
        Ok(())
    })
    .unwrap();
    out
}

#[test]
fn csv_files_are_read_by_header_in_every_packing() {
    let folder = tempfile::tempdir().unwrap();
    let csv = "\u{feff}event_type,extra,user_id,timestamp,item_id,category,query,price,quantity,session_id\n\
        purchase,x,u1,1541548939000,i1,\"A, \"\"B\"\"\",,11.77,1,s\n\
        search,x,u2,2018-11-07T00:02:19Z,,,\"Zurich, Switzerland\",,,\n\
        coupon_redemption,x,u3,1541548939000,,,,,,\n\
        purchase,x,u1\n\
        purchase,x,,1541548939000,,,,,,\n";
    let mut seen = Vec::new();
    for name in ["events.csv", "events.csv.gz", "events.csv.zst"] {
        let rows = rows(&write(folder.path(), name, csv.as_bytes()));
        assert_eq!(rows.len(), 5, "{name}");
        assert_eq!(rows[0].2.as_ref().unwrap().0, EventKind::Purchase);
        assert_eq!(
            (rows[1].2.as_ref().unwrap().0, rows[1].2.as_ref().unwrap().2),
            (EventKind::Search, 1_541_548_939_000)
        );
        assert_eq!((rows[2].1.as_str(), rows[2].2.as_ref().unwrap().0), ("coupon_redemption", EventKind::Other));
        assert_eq!(rows[3].2, Err(Reason::WrongColumns));
        assert_eq!(rows[4].2, Err(Reason::MissingUser));
        seen.push(rows);
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "packing changes nothing, ids included");
}

#[test]
fn a_csv_row_with_bad_bytes_costs_that_row_only() {
    let folder = tempfile::tempdir().unwrap();
    let csv = b"user_id,event_type,timestamp,item_id\nu,view,1541548939000,a\nu,view,1541548939000,\xff\nu,view,1541548939000,b\n";
    let rows = rows(&write(folder.path(), "e.csv", csv));
    assert_eq!(rows.iter().map(|row| row.2.is_ok()).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(rows[1].2, Err(Reason::InvalidUtf8));
}

#[test]
fn json_lines_hold_both_forms() {
    let folder = tempfile::tempdir().unwrap();
    let long = format!("{{\"event\":\"view\",\"padding\":\"{}\"}}\n", "x".repeat(2 << 20));
    let lines = [
        r#"{"event":"view","user_id":"u","timestamp":1541548939000,"item_id":"a"}"#,
        "\n\r\n",
        "\n",
        "{\"type\":\"track\",\"event\":\"Product Added\",\"userId\":\"u\",\"timestamp\":\"2018-11-07T00:02:19Z\",\"properties\":{\"product_id\":\"a\"}}\r\n",
        "not json\n",
        &long,
        r#"{"event":"search","user_id":"u","timestamp":1541548939000,"query":"no newline at the end"}"#,
    ]
    .concat();
    let rows = rows(&write(folder.path(), "e.jsonl.zst", lines.as_bytes()));
    let kinds: Vec<_> = rows.iter().map(|row| row.2.as_ref().map(|event| event.0).map_err(|reason| *reason)).collect();
    assert_eq!(
        kinds,
        [
            Ok(EventKind::View),
            Ok(EventKind::CartAdd),
            Err(Reason::InvalidJson),
            Err(Reason::OversizeRecord),
            Ok(EventKind::Search)
        ]
    );
    assert_eq!(rows.iter().map(|row| row.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
}

#[test]
fn what_cannot_be_read_says_file_and_place() {
    let folder = tempfile::tempdir().unwrap();
    let message = |path: &Path| {
        let mut reader = match RowReader::open(path) {
            Ok(reader) => reader,
            Err(error) => return error.to_string(),
        };
        loop {
            match reader.next_row() {
                Ok(Some(_)) => {}
                Ok(None) => return "read whole".to_owned(),
                Err(error) => return error.to_string(),
            }
        }
    };
    assert!(message(&folder.path().join("none.csv")).contains("none.csv"));
    assert!(message(&write(folder.path(), "events.xml", b"")).contains("events.xml"));
    assert!(message(&write(folder.path(), "no.csv", b"user_id,event_type\n")).contains("timestamp"));
    let whole = "user_id,event_type,timestamp\n".to_owned() + &"u,view,1541548939000\n".repeat(20_000);
    for name in ["cut.csv.gz", "cut.csv.zst"] {
        let path = write(folder.path(), name, whole.as_bytes());
        let packed = fs::read(&path).unwrap();
        fs::write(&path, &packed[..packed.len() / 2]).unwrap();
        let message = message(&path);
        assert!(message.contains(name) && message.contains("after row `"), "{message}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(json!(NOW_MS)),
        Just(json!("view")),
        Just(json!("u")),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-z_]{1,8}", inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

const FIELDS: [&str; 16] = [
    "event_id",
    "event",
    "type",
    "user_id",
    "userId",
    "anonymous_id",
    "session_id",
    "timestamp",
    "query",
    "order_id",
    "revenue",
    "products",
    "properties",
    "price",
    "quantity",
    "product_id",
];

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), view in 0_usize..3) {
        let (decoded, counts) = decode(View::ALL[view], &bytes);
        drop((decoded, counts));
    }

    #[test]
    fn no_object_of_known_fields_makes_it_panic_and_each_is_counted_once(
        fields in prop::collection::vec((prop::sample::select(&FIELDS[..]), any_json()), 0..8), is_usual in any::<bool>(), view in 0_usize..3,
    ) {
        let mut object = if is_usual { serde_json::from_str(&changed(&json!({}))).unwrap() } else { json!({}) };
        for (name, value) in fields {
            object[name] = value;
        }
        let payload = object.to_string();
        let (decoded, counts) = decode(View::ALL[view], payload.as_bytes());
        prop_assert_eq!(counts.decoded + counts.rejected(), 1);
        if let Ok(event) = decoded {
            prop_assert_eq!(event.kind.view(), View::ALL[view]);
            prop_assert_eq!(&*event.user, "u");
            prop_assert!(event.kind != EventKind::Purchase || !event.lines.is_empty());
        }
    }

    #[test]
    fn a_valid_event_comes_back_as_it_was_written(
        user in "[ -~&&[^\"\\\\ ]]{1,20}", item in "\\PC{1,20}", time_ms in 631_152_000_000_i64..NOW_MS, cents in 0_u32..100_000_000, quantity in 1_u32..42,
    ) {
        let price = f64::from(cents) / 100.0;
        let payload = json!({"event": "Order Completed", "user_id": user, "timestamp": time_ms, "products": [{"product_id": item, "price": price, "quantity": quantity}]}).to_string();
        let mut counts = CleaningCounts::default();
        let event = Decoder::default().decode(View::Purchase, &record(&user, payload.as_bytes()), &mut counts).unwrap();
        prop_assert_eq!(&*event.user, user.as_str());
        prop_assert_eq!(event.time_ms, time_ms);
        let line = &event.lines[0];
        prop_assert_eq!(line.item.as_ref().map_or("", |name| name.text.as_ref()), item.trim());
        prop_assert_eq!((line.price_minor, line.quantity), (Some(cents), quantity));
        prop_assert_eq!(line.value_minor, u32::try_from(u64::from(cents) * u64::from(quantity)).unwrap_or(u32::MAX));
    }
}
