//! Decoders of text: events as JSON, files, dead letters, stored scores, item lists, the configuration.

use std::{cell::RefCell, path::PathBuf};

use undercurrent::{
    config::{Config, Sources},
    decision::{FirstOrigin, restore_dead_letter, restore_score},
    event::{
        CleaningCounts, CleaningParams, Decoder, Edge, EventMapping, MissingNumber, MissingTime, RawRecord, RowReader,
        UnknownName, View, read_items,
    },
    train::evaluate::parse_cutoff,
};

use super::{Take, Target};

const NOW_MS: i64 = 1_700_000_000_000;

pub(crate) fn targets() -> Vec<Target> {
    // A base for tables that are made once and grow, and room for the texts of an event in several forms.
    let of_a_record = (1 << 20, 64);
    let of_a_file = (4 << 20, 64);
    let text = |name, start, limit_bytes| Target { name, seeds: Vec::new, start, limit_bytes, is_text: true };
    vec![
        text("json", json, of_a_record),
        text("segment", json, of_a_record),
        text("csv", csv, of_a_file),
        text("jsonl", jsonl, of_a_file),
        text("items_csv", items_csv, of_a_file),
        text("dead_letter", dead_letter, of_a_record),
        text("score", score, of_a_record),
        text("config", config, (4 << 20, 512)),
    ]
}

fn decoders() -> Vec<Decoder> {
    let strict = Decoder::new(EventMapping::default(), CleaningParams::default());
    let params = CleaningParams {
        missing_time: MissingTime::RecordTime,
        missing_price: MissingNumber::Median,
        missing_quantity: MissingNumber::LastSeen,
        ..CleaningParams::default()
    };
    let kind = undercurrent::event::EventKind::View;
    vec![strict, Decoder::new(EventMapping::new(UnknownName::Kind(kind)), params)]
}

/// One record of a topic, and one payload at the edge. What the edge admits, the stream must take.
fn json() -> Take {
    let mut edges: Vec<Edge> = decoders().into_iter().map(Edge::new).collect();
    Box::new(move |bytes| {
        let mut counts = CleaningCounts::default();
        for edge in &mut edges {
            let decoder = edge.decoder().clone();
            for view in View::ALL {
                for key in [None, Some(&b"u1"[..]), Some(&bytes[..bytes.len().min(8)])] {
                    let raw = RawRecord { key, payload: Some(bytes), timestamp_ms: NOW_MS };
                    if let Ok(event) = decoder.decode(view, &raw, &mut counts) {
                        assert_eq!(event.kind.view(), view);
                        assert!(!event.user.is_empty());
                    }
                }
            }
            let Ok(admitted) = edge.admit(bytes, NOW_MS, &mut counts) else { continue };
            let key = admitted.event.user.as_bytes();
            let raw = RawRecord { key: Some(key), payload: Some(&admitted.payload), timestamp_ms: NOW_MS };
            let again = decoder.decode(admitted.view(), &raw, &mut counts).expect("what the edge admits is decoded");
            assert_eq!(again.event_id, admitted.event.event_id);
            assert_eq!((again.time_ms, again.lines.len()), (admitted.event.time_ms, admitted.event.lines.len()));
        }
    })
}

/// A file of this name that is written anew for each input.
struct Scratch {
    _folder: tempfile::TempDir,
    file: PathBuf,
}

impl Scratch {
    fn new(name: &str) -> Self {
        // In memory where there is such a place: a disk would be most of the time.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        Self { file: folder.path().join(name), _folder: folder }
    }

    fn with(&self, bytes: &[u8]) -> &PathBuf {
        std::fs::write(&self.file, bytes).unwrap();
        &self.file
    }
}

fn rows(name: &'static str) -> Take {
    let scratch = Scratch::new(name);
    let edges: Vec<RefCell<Edge>> = decoders().into_iter().map(|decoder| RefCell::new(Edge::new(decoder))).collect();
    Box::new(move |bytes| {
        for edge in &edges {
            let Ok(mut reader) = RowReader::open(scratch.with(bytes)) else { continue };
            let mut counts = CleaningCounts::default();
            let mut edge = edge.borrow_mut();
            while let Ok(Some(row)) = reader.next_row() {
                _ = (row.name().len(), row.user(), row.time_ms());
                if let Ok(admitted) = edge.admit_row(&row, &mut counts) {
                    assert!(!admitted.payload.is_empty());
                }
            }
        }
    })
}

fn csv() -> Take {
    rows("events.csv")
}

fn jsonl() -> Take {
    rows("events.jsonl")
}

fn items_csv() -> Take {
    let scratch = Scratch::new("items.csv");
    Box::new(move |bytes| {
        if let Ok(items) = read_items(scratch.with(bytes)) {
            assert!(items.iter().all(|item| !item.id.is_empty()));
        }
    })
}

fn dead_letter() -> Take {
    Box::new(|bytes| {
        if let Ok(letter) = restore_dead_letter(bytes) {
            _ = letter.first.to_header();
        }
        if let Some(first) = FirstOrigin::parse(bytes) {
            assert_eq!(FirstOrigin::parse(first.to_header().as_bytes()), Some(first));
        }
    })
}

fn score() -> Take {
    Box::new(|bytes| {
        if let Ok(score) = restore_score(bytes) {
            assert!((0.0..=1.0).contains(&score.churn_probability.get()));
        }
        if let Ok(text) = std::str::from_utf8(bytes) {
            _ = parse_cutoff(text);
        }
    })
}

/// The file, and each line of it as a flag.
fn config() -> Take {
    let scratch = Scratch::new("undercurrent.toml");
    Box::new(move |bytes| {
        let file = Some(scratch.with(bytes).clone());
        _ = Config::load(&Sources { file, ..Sources::default() });
        let text = String::from_utf8_lossy(bytes);
        let pairs = text.lines().filter_map(|line| line.split_once('=')).take(8);
        let settings = pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect();
        _ = Config::load(&Sources { settings, ..Sources::default() });
    })
}
