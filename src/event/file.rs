//! Event files: CSV and JSON lines, plain or compressed (`.gz`, `.zst`), read row by row in bounded memory.

use std::{
    borrow::Cow,
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use super::{
    clean::{Reason, Reject},
    codec::{text_of, trimmed},
    time::parse_time_ms,
    wire::{Scalar, Wire},
};

/// Columns of the CSV layout. Their order is the header's; other columns are left aside.
pub const CSV_COLUMNS: [&str; 11] = [
    "user_id",
    "event_type",
    "timestamp",
    "item_id",
    "category",
    "query",
    "price",
    "quantity",
    "session_id",
    "order_id",
    "event_id",
];

/// Columns a CSV file of events cannot go without.
const NEEDED_COLUMNS: [&str; 3] = ["user_id", "event_type", "timestamp"];

/// Longest line of a JSON lines file in bytes; what is longer is rejected without being kept.
const MAX_LINE_BYTES: usize = 1 << 20;

/// Why a file cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be opened.
    #[error("cannot open `{}`: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Its name says no format that is read.
    #[error("`{}` is no event file by its name: use .csv, .jsonl or .ndjson, plain or with .gz or .zst", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// Its header has no such column.
    #[error("`{}` has no column `{column}` in its first line; it needs user_id, event_type and timestamp", path.display())]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: &'static str,
    },
    /// Reading failed.
    #[error("reading `{}` failed after row `{row}`: {message}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Rows read before.
        row: u64,
        /// What went wrong.
        message: String,
    },
}

/// One row of a file, borrowed from its reader.
#[derive(Debug)]
pub struct FileRow<'a> {
    /// The row's number, from 1; the header does not count.
    pub number: u64,
    wire: Result<Wire<'a>, Reject>,
}

impl<'a> FileRow<'a> {
    /// The event's name as the file has it; empty when the row has none or is broken.
    pub fn name(&self) -> &str {
        match self.wire.as_ref().map(|wire| &wire.event) {
            Ok(Scalar::Text(name)) => trimmed(name),
            _ => "",
        }
    }

    /// The user as the file has it, if the row names one.
    pub fn user(&self) -> Option<Cow<'a, str>> {
        text_of(&self.wire.as_ref().ok()?.user, "user_id").ok().flatten()
    }

    /// The time as the file has it, milliseconds since the Unix epoch, if there is one that can be read. No rule has
    /// looked at it yet.
    pub fn time_ms(&self) -> Option<i64> {
        match &self.wire.as_ref().ok()?.time {
            Scalar::Signed(time_ms) => Some(*time_ms),
            Scalar::Text(text) => parse_time_ms(trimmed(text)),
            _ => None,
        }
    }

    pub(super) fn wire(&self) -> Result<&Wire<'a>, Reject> {
        self.wire.as_ref().map_err(Clone::clone)
    }
}

/// Reads the rows of one file in order.
pub struct RowReader {
    path: PathBuf,
    stem: String,
    rows: u64,
    event_id: String,
    rows_of: Rows,
}

enum Rows {
    Csv { reader: Box<csv::Reader<Box<dyn Read + Send>>>, columns: Columns, record: csv::ByteRecord },
    Lines { reader: BufReader<Box<dyn Read + Send>>, line: Vec<u8> },
}

impl RowReader {
    /// Opens `path`. Its name says format and compression.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let (format, stem) = format_of(path).ok_or_else(|| FileError::UnknownFormat { path: path.to_owned() })?;
        let input = open_input(path)?;
        let rows_of = match format {
            Format::Csv => {
                let mut reader = csv::ReaderBuilder::new().flexible(true).buffer_capacity(1 << 16).from_reader(input);
                let header = reader.byte_headers().map_err(|error| FileError::Read {
                    path: path.to_owned(),
                    row: 0,
                    message: error.to_string(),
                })?;
                let columns =
                    Columns::of(header).map_err(|column| FileError::MissingColumn { path: path.to_owned(), column })?;
                Rows::Csv { reader: Box::new(reader), columns, record: csv::ByteRecord::new() }
            }
            Format::Lines => Rows::Lines { reader: BufReader::with_capacity(1 << 16, input), line: Vec::new() },
        };
        Ok(Self { path: path.to_owned(), stem, rows: 0, event_id: String::new(), rows_of })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next row; `None` at the end. Rows that are broken in themselves are rows too: decoding them says why. Empty
    /// lines of a JSON lines file are passed over.
    pub fn next_row(&mut self) -> Result<Option<FileRow<'_>>, FileError> {
        let Self { path, stem, rows, event_id, rows_of } = self;
        let failed = |row: u64, message: String| FileError::Read { path: path.clone(), row, message };
        match rows_of {
            Rows::Csv { reader, columns, record } => {
                match reader.read_byte_record(record) {
                    Ok(true) => *rows += 1,
                    Ok(false) => return Ok(None),
                    Err(error) => return Err(failed(*rows, error.to_string())),
                }
                set_id(event_id, stem, *rows);
                Ok(Some(FileRow { number: *rows, wire: columns.wire_of(record, event_id) }))
            }
            Rows::Lines { reader, line } => {
                let length = loop {
                    let length = read_line(reader, line).map_err(|error| failed(*rows, error.to_string()))?;
                    match length {
                        None => return Ok(None),
                        Some(_) if line.iter().all(u8::is_ascii_whitespace) => {}
                        Some(length) => break length,
                    }
                };
                *rows += 1;
                set_id(event_id, stem, *rows);
                Ok(Some(FileRow { number: *rows, wire: wire_of_line(line, length, *rows == 1, event_id) }))
            }
        }
    }
}

/// Shows every row of the file to `visit`, in order, until it answers with an error.
pub fn for_each_row<E: From<FileError>>(
    path: &Path,
    mut visit: impl FnMut(FileRow<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader = RowReader::open(path)?;
    while let Some(row) = reader.next_row()? {
        visit(row)?;
    }
    Ok(())
}

/// Opens a file for reading, unpacking `.gz` and `.zst` by its name.
pub fn open_input(path: &Path) -> Result<Box<dyn Read + Send>, FileError> {
    let failed = |source| FileError::Open { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    Ok(match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(BufReader::with_capacity(1 << 16, file))),
        Some("zst") => Box::new(zstd::Decoder::new(file).map_err(failed)?),
        _ => Box::new(file),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Csv,
    Lines,
}

/// The format and the stem by which rows get their ids: `events.csv.zst` is CSV with the stem `events`.
fn format_of(path: &Path) -> Option<(Format, String)> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(name);
    let (stem, extension) = name.rsplit_once('.')?;
    let format = match extension {
        "csv" => Format::Csv,
        "jsonl" | "ndjson" => Format::Lines,
        _ => return None,
    };
    Some((format, stem.to_owned()))
}

fn set_id(event_id: &mut String, stem: &str, row: u64) {
    use std::fmt::Write as _;
    event_id.clear();
    event_id.push_str(stem);
    // A string never refuses to grow.
    let written = write!(event_id, ":{row}");
    debug_assert!(written.is_ok());
}

/// Reads one line without its end into `line`; `None` at the end of the file. Of a line that is too long, only its length
/// is kept.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<Option<usize>> {
    line.clear();
    let mut length = 0;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok((length > 0).then_some(length));
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let taken = &buffer[..end.unwrap_or(buffer.len())];
        if length + taken.len() <= MAX_LINE_BYTES {
            line.extend_from_slice(taken);
        }
        length += taken.len();
        let consumed = taken.len() + usize::from(end.is_some());
        reader.consume(consumed);
        if end.is_some() {
            return Ok(Some(length));
        }
    }
}

fn wire_of_line<'a>(line: &'a [u8], length: usize, is_first: bool, event_id: &'a str) -> Result<Wire<'a>, Reject> {
    if length > MAX_LINE_BYTES {
        let message = format!("`{length}` bytes, at most `{MAX_LINE_BYTES}` are read");
        return Err(Reject::new(Reason::OversizeRecord, "record", message));
    }
    let line = if is_first { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
    let mut wire = Wire::parse(utf8(line, "record")?)?;
    if wire.event_id == Scalar::Absent {
        wire.event_id = Scalar::Text(Cow::Borrowed(event_id));
    }
    Ok(wire)
}

fn utf8<'a>(bytes: &'a [u8], field: &'static str) -> Result<&'a str, Reject> {
    std::str::from_utf8(bytes)
        .map_err(|error| Reject::new(Reason::InvalidUtf8, field, format!("no UTF-8 at byte `{}`", error.valid_up_to())))
}

/// Where each known column stands in a row.
struct Columns {
    places: [Option<usize>; CSV_COLUMNS.len()],
    count: usize,
}

impl Columns {
    fn of(header: &csv::ByteRecord) -> Result<Self, &'static str> {
        let place_of = |name: &str| header.iter().position(|column| column.trim_ascii() == name.as_bytes());
        if let Some(missing) = NEEDED_COLUMNS.into_iter().find(|name| place_of(name).is_none()) {
            return Err(missing);
        }
        Ok(Self { places: CSV_COLUMNS.map(place_of), count: header.len() })
    }

    fn wire_of<'a>(&self, record: &'a csv::ByteRecord, event_id: &'a str) -> Result<Wire<'a>, Reject> {
        if record.len() != self.count {
            let message = format!("`{}` columns, the header has `{}`", record.len(), self.count);
            return Err(Reject::new(Reason::WrongColumns, "record", message));
        }
        let mut wire = Wire { event_id: Scalar::Text(Cow::Borrowed(event_id)), ..Wire::default() };
        for (column, place) in CSV_COLUMNS.into_iter().zip(self.places) {
            let Some(bytes) = place.and_then(|place| record.get(place)).filter(|bytes| !bytes.is_empty()) else {
                continue;
            };
            let value = Scalar::Text(Cow::Borrowed(utf8(bytes, column)?));
            *field_of(&mut wire, column) = value;
        }
        Ok(wire)
    }
}

fn field_of<'w, 'a>(wire: &'w mut Wire<'a>, column: &str) -> &'w mut Scalar<'a> {
    match column {
        "user_id" => &mut wire.user,
        "event_type" => &mut wire.event,
        "timestamp" => &mut wire.time,
        "item_id" => &mut wire.flat.item,
        "category" => &mut wire.flat.category,
        "query" => &mut wire.query,
        "price" => &mut wire.flat.price,
        "quantity" => &mut wire.flat.quantity,
        "session_id" => &mut wire.session,
        "order_id" => &mut wire.order,
        _ => &mut wire.event_id,
    }
}
