//! The two tables of a snapshot, rows in and rows out: users with their graphs, and names.

use std::{io::Cursor, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, StringArray},
    buffer::NullBuffer,
    datatypes::{Schema, TimestampMillisecondType, UInt64Type},
    error::ArrowError,
    ipc::{
        CompressionType,
        reader::FileReader,
        writer::{FileWriter, IpcWriteOptions},
    },
    record_batch::RecordBatch,
};

use super::{
    ColumnEntry, SnapshotError,
    checksum::column_checksums,
    columns::{Column, RingColumns, SettledColumns, SettledSlices, Table, ViewColumns, ViewSlices, named, primitive},
};
use crate::{
    event::{EventKind, NameHash, NameKind, UserId, View},
    graph::{DayBits, Edge, Node, RingEntry, Settled, Totals, UserGraph, ViewGraph, ViewParts, ViewSummary},
};

/// How the buffers of the Arrow files are compressed. All three are plain Arrow; readers need no setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4 frames: about half the size at little cost.
    #[default]
    Lz4,
    /// Zstandard: smaller still, slower to write.
    Zstd,
}

impl Compression {
    fn to_arrow(self) -> Option<CompressionType> {
        match self {
            Self::None => None,
            Self::Lz4 => Some(CompressionType::LZ4_FRAME),
            Self::Zstd => Some(CompressionType::ZSTD),
        }
    }
}

/// A user with the version of the graph to keep.
pub type UserEntry = (UserId, Arc<UserGraph>);

/// Encodes `users` as one Arrow file.
pub(super) fn encode_users(users: &[UserEntry], compression: Compression) -> Result<Encoded, ArrowError> {
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values(users.iter().map(|(user, _)| user.as_str())));
    let event_count = users.iter().map(|(_, graph)| graph.event_count()).collect();
    let value_of = |graph: &UserGraph| graph.views().map(|(_, view)| value_minor(view)).sum();
    let value_minor = users.iter().map(|(_, graph)| value_of(graph)).collect();
    let newest: Vec<Option<i64>> = users.iter().map(|(_, graph)| graph.last_event_ms()).collect();
    let newest_nulls = newest.iter().map(Option::is_some).collect::<NullBuffer>();
    let newest = newest.into_iter().map(Option::unwrap_or_default).collect();
    let mut columns = vec![
        named("user_id", ids),
        named("last_event_ms", primitive::<TimestampMillisecondType>(newest, Some(&newest_nulls))),
        named("event_count", primitive::<UInt64Type>(event_count, None)),
        named("value_minor", primitive::<UInt64Type>(value_minor, None)),
    ];
    for view in View::ALL {
        let (mut recent, mut settled) = (ViewColumns::new(), SettledColumns::new());
        for (_, graph) in users {
            if let Some(graph) = graph.view(view) {
                push_view(&mut recent, &mut settled, graph);
            } else {
                recent.push_absent();
                settled.push_absent();
            }
        }
        columns.extend(recent.finish(view.name())?);
        columns.extend(settled.finish(&settled_prefix(view))?);
    }
    write_file(columns, compression)
}

/// What the columns of the settled part of a view begin with.
fn settled_prefix(view: View) -> String {
    format!("{}_settled", view.name())
}

fn push_view(columns: &mut ViewColumns, settled: &mut SettledColumns, view: &ViewGraph) {
    let ViewParts { ring, settled: old, days, summary } = view.to_parts();
    columns.event_count.push(summary.event_count);
    columns.activity_count.push(summary.activity_count);
    columns.value_minor.push(value_minor(view));
    columns.first_ms.push(summary.first_ms);
    columns.last_ms.push(summary.last_ms);
    columns.last_activity_ms.push(summary.last_activity_ms);
    columns.day_count.push(summary.day_count);
    columns.newest_day.push(days.newest_day().unwrap_or_default());
    columns.day_words.push_row(days.words());
    for entry in &ring {
        push_entry(&mut columns.ring, entry);
    }
    columns.end_row();
    match old {
        Some(old) => push_settled(settled, &old),
        None => settled.push_absent(),
    }
}

fn push_entry(ring: &mut RingColumns, entry: &RingEntry) {
    // Taken apart field by field, here and below, so that a new field cannot be forgotten.
    let RingEntry { time_s, kind, opens_event, name, category, event_id, value_minor, quantity, session, is_query } =
        *entry;
    ring.time_s.push(time_s);
    ring.kind.push(kind as u8);
    ring.opens_event.push(u8::from(opens_event));
    ring.is_query.push(u8::from(is_query));
    ring.name.push(name.map_or(0, |name| name.0));
    ring.category.push(category.map_or(0, |category| category.0));
    ring.quantity.push(quantity);
    ring.value_minor.push(value_minor);
    ring.session.push(session.unwrap_or(0));
    ring.event_id.push(event_id);
}

fn push_settled(columns: &mut SettledColumns, settled: &Settled) {
    let Settled { nodes, edges, totals } = settled;
    let Totals {
        event_count,
        line_count,
        quantity,
        value_minor,
        kind_count,
        weekday_count,
        daypart_count,
        week_newest,
        week_value_minor,
        week_event_count,
    } = totals;
    columns.event_count.push(*event_count);
    columns.line_count.push(*line_count);
    columns.quantity.push(*quantity);
    columns.value_minor.push(*value_minor);
    columns.week_newest.push(*week_newest);
    columns.kind_count.push_row(kind_count);
    columns.weekday_count.push_row(weekday_count);
    columns.daypart_count.push_row(daypart_count);
    columns.week_value_minor.push_row(week_value_minor);
    columns.week_event_count.push_row(week_event_count);
    for node in nodes {
        let Node { name, kind, category, count, first_s, last_s, weight_short, weight_long, value_minor } = *node;
        let nodes = &mut columns.nodes;
        nodes.name.push(name.0);
        nodes.kind.push(kind as u8);
        nodes.category.push(category.0);
        nodes.count.push(count);
        nodes.first_s.push(first_s);
        nodes.last_s.push(last_s);
        nodes.weight_short.push(weight_short);
        nodes.weight_long.push(weight_long);
        nodes.value_minor.push(value_minor);
    }
    for edge in edges {
        let Edge { from, to, count, gap_bucket, last_s } = *edge;
        let edges = &mut columns.edges;
        edges.from.push(from.0);
        edges.to.push(to.0);
        edges.count.push(count);
        edges.gap_bucket.push(gap_bucket);
        edges.last_s.push(last_s);
    }
    columns.end_row();
}

/// Value of all lines of a view in minor units.
fn value_minor(view: &ViewGraph) -> u64 {
    let settled = view.settled().map_or(0, |settled| settled.totals.value_minor);
    view.ring().fold(settled, |sum, entry| sum.saturating_add(u64::from(entry.value_minor)))
}

/// Decodes one users file, giving its rows in order.
pub(super) fn decode_users(path: &str, bytes: &[u8], visit: &mut dyn FnMut(UserEntry)) -> Result<u64, SnapshotError> {
    read_file(path, bytes, &mut |table| {
        let ids = table.column("user_id")?;
        let ids = ids.as_string_opt::<i32>().ok_or_else(|| table.error("user_id", "is no text"))?;
        let of = |view: View| {
            let recent = ViewSlices::of(table, view.name())?;
            Ok::<_, SnapshotError>((recent, SettledSlices::of(table, &settled_prefix(view))?))
        };
        let views = [of(View::Click)?, of(View::Search)?, of(View::Purchase)?];
        for row in 0..table.batch.num_rows() {
            let mut graphs: [Option<Arc<ViewGraph>>; View::COUNT] = Default::default();
            for (graph, (recent, settled)) in graphs.iter_mut().zip(&views) {
                if recent.is_present(row) {
                    *graph = Some(Arc::new(read_view(table, recent, settled, row)?));
                }
            }
            visit((UserId::new(ids.value(row)), Arc::new(UserGraph::from_views(graphs))));
        }
        Ok(())
    })
}

fn read_view(
    table: Table<'_>,
    columns: &ViewSlices<'_>,
    settled: &SettledSlices<'_>,
    row: usize,
) -> Result<ViewGraph, SnapshotError> {
    let ring = &columns.ring;
    let entry = |at: usize| {
        let kind = EventKind::ALL.get(usize::from(ring.kind[at])).copied();
        let some = |hash: u64| (hash != 0).then_some(NameHash(hash));
        Ok(RingEntry {
            time_s: ring.time_s[at],
            kind: kind.ok_or_else(|| table.error("ring.kind", format!("`{}` is no event kind", ring.kind[at])))?,
            opens_event: ring.opens_event[at] != 0,
            name: some(ring.name[at]),
            category: some(ring.category[at]),
            event_id: ring.event_id[at],
            value_minor: ring.value_minor[at],
            quantity: ring.quantity[at],
            session: Some(ring.session[at]).filter(|session| *session != 0),
            is_query: ring.is_query[at] != 0,
        })
    };
    let view = ViewGraph::from_parts(ViewParts {
        ring: ring.range(row).map(entry).collect::<Result<_, SnapshotError>>()?,
        settled: if settled.is_present(row) { Some(Arc::new(read_settled(table, settled, row)?)) } else { None },
        days: DayBits::from_parts(columns.newest_day[row], columns.day_words.row(row)),
        summary: ViewSummary {
            first_ms: columns.first_ms[row],
            last_ms: columns.last_ms[row],
            // Null in the file: what is under it is not ours to read.
            last_activity_ms: match columns.activity_count[row] {
                0 => ViewSummary::NEVER_MS,
                _ => columns.last_activity_ms[row],
            },
            event_count: columns.event_count[row],
            activity_count: columns.activity_count[row],
            day_count: columns.day_count[row],
        },
    });
    if value_minor(&view) != columns.value_minor[row] {
        return Err(table.error("value_minor", "is not the sum of its lines"));
    }
    Ok(view)
}

fn read_settled(table: Table<'_>, columns: &SettledSlices<'_>, row: usize) -> Result<Settled, SnapshotError> {
    let nodes = &columns.nodes;
    let node = |at: usize| {
        let kind = NameKind::ALL.get(usize::from(nodes.kind[at])).copied();
        Ok(Node {
            name: NameHash(nodes.name[at]),
            kind: kind.ok_or_else(|| table.error("nodes.kind", format!("`{}` is no name kind", nodes.kind[at])))?,
            category: NameHash(nodes.category[at]),
            count: nodes.count[at],
            first_s: nodes.first_s[at],
            last_s: nodes.last_s[at],
            weight_short: nodes.weight_short[at],
            weight_long: nodes.weight_long[at],
            value_minor: nodes.value_minor[at],
        })
    };
    let edges = &columns.edges;
    let edge = |at: usize| Edge {
        from: NameHash(edges.from[at]),
        to: NameHash(edges.to[at]),
        count: edges.count[at],
        gap_bucket: edges.gap_bucket[at],
        last_s: edges.last_s[at],
    };
    Ok(Settled {
        nodes: nodes.range(row).map(node).collect::<Result<_, SnapshotError>>()?,
        edges: edges.range(row).map(edge).collect(),
        totals: Totals {
            event_count: columns.event_count[row],
            line_count: columns.line_count[row],
            quantity: columns.quantity[row],
            value_minor: columns.value_minor[row],
            kind_count: array(table, "kind_count", columns.kind_count.row(row))?,
            weekday_count: array(table, "weekday_count", columns.weekday_count.row(row))?,
            daypart_count: array(table, "daypart_count", columns.daypart_count.row(row))?,
            week_newest: columns.week_newest[row],
            week_value_minor: array(table, "week_value_minor", columns.week_value_minor.row(row))?,
            week_event_count: array(table, "week_event_count", columns.week_event_count.row(row))?,
        },
    })
}

fn array<T: Copy, const N: usize>(table: Table<'_>, column: &str, values: &[T]) -> Result<[T; N], SnapshotError> {
    values.try_into().map_err(|_| table.error(column, format!("holds {} numbers, not {N}", values.len())))
}

/// A name with its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameEntry {
    /// Its hash.
    pub hash: NameHash,
    /// What it names; `None` when its text does not hash to it.
    pub kind: Option<NameKind>,
    /// Its text.
    pub text: Arc<str>,
}

/// How kinds of names are spelt in the names table.
const KIND_TEXTS: [&str; NameKind::ALL.len()] = ["item", "category", "query"];

/// Encodes `names` as one Arrow file.
pub(super) fn encode_names(names: &[NameEntry], compression: Compression) -> Result<Encoded, ArrowError> {
    let hashes = names.iter().map(|name| name.hash.0).collect();
    let kinds = names.iter().map(|name| name.kind.map(|kind| KIND_TEXTS[kind as usize])).collect::<StringArray>();
    let texts = StringArray::from_iter_values(names.iter().map(|name| &name.text));
    let columns = vec![
        named("hash", primitive::<UInt64Type>(hashes, None)),
        named("kind", Arc::new(kinds)),
        named("text", Arc::new(texts)),
    ];
    write_file(columns, compression)
}

/// Decodes one names file, giving its rows in order.
pub(super) fn decode_names(path: &str, bytes: &[u8], visit: &mut dyn FnMut(NameEntry)) -> Result<u64, SnapshotError> {
    read_file(path, bytes, &mut |table| {
        let hashes = table.primitive::<UInt64Type>("hash")?.values();
        let texts_of = |column: &str| {
            table.column(column)?.as_string_opt::<i32>().ok_or_else(|| table.error(column, "is no text"))
        };
        let (kinds, texts) = (texts_of("kind")?, texts_of("text")?);
        for (row, hash) in hashes.iter().enumerate() {
            let kind = match kinds.is_valid(row).then(|| kinds.value(row)) {
                None => None,
                Some(text) => {
                    let known = KIND_TEXTS.iter().position(|known| *known == text).map(|index| NameKind::ALL[index]);
                    Some(known.ok_or_else(|| table.error("kind", format!("`{text}` is no kind")))?)
                }
            };
            visit(NameEntry { hash: NameHash(*hash), kind, text: Arc::from(texts.value(row)) });
        }
        Ok(())
    })
}

/// One Arrow file, and what its columns hold.
pub(super) struct Encoded {
    pub(super) bytes: Vec<u8>,
    pub(super) columns: Vec<ColumnEntry>,
}

fn write_file(columns: Vec<Column>, compression: Compression) -> Result<Encoded, ArrowError> {
    let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?;
    let options = IpcWriteOptions::default().try_with_compression(compression.to_arrow())?;
    let mut bytes = Vec::with_capacity(batch.get_array_memory_size() / 2);
    let mut writer = FileWriter::try_new_with_options(&mut bytes, &batch.schema(), options)?;
    writer.write(&batch)?;
    writer.finish()?;
    drop(writer);
    Ok(Encoded { bytes, columns: column_checksums(&batch)? })
}

/// Reads a file and holds its columns against `expected`; a file of format version 1 has none.
pub(super) fn check_columns(path: &str, bytes: &[u8], expected: &[ColumnEntry]) -> Result<(), SnapshotError> {
    if expected.is_empty() {
        return Ok(());
    }
    read_file(path, bytes, &mut |table| {
        let refused = |error: ArrowError| SnapshotError::Arrow { path: path.to_owned(), message: error.to_string() };
        let found = column_checksums(table.batch).map_err(refused)?;
        for expected in expected {
            let actual = found.iter().find(|column| column.name == expected.name);
            let actual = actual.ok_or_else(|| table.error(&expected.name, "is missing"))?;
            if actual.xxh3_128 != expected.xxh3_128 {
                return Err(SnapshotError::ColumnChecksum {
                    path: path.to_owned(),
                    column: expected.name.clone(),
                    expected: expected.xxh3_128.clone(),
                    actual: actual.xxh3_128.clone(),
                });
            }
        }
        Ok(())
    })
    .map(drop)
}

fn read_file(
    path: &str,
    bytes: &[u8],
    visit: &mut dyn FnMut(Table<'_>) -> Result<(), SnapshotError>,
) -> Result<u64, SnapshotError> {
    let refused = |error: ArrowError| SnapshotError::Arrow { path: path.to_owned(), message: error.to_string() };
    let reader = FileReader::try_new(Cursor::new(bytes), None).map_err(refused)?;
    let mut rows = 0;
    for batch in reader {
        let batch = batch.map_err(refused)?;
        visit(Table { path, batch: &batch })?;
        rows += batch.num_rows() as u64;
    }
    Ok(rows)
}
