//! Writes made events, items and truth to a folder.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use super::{Catalogue, GenerateParams, Shoppers, csv_header, truth::write_truth, write, write_csv, write_json};

/// The form of the events' file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EventFormat {
    /// `events.csv`, one row a product.
    #[default]
    Csv,
    /// `events.csv.zst`.
    CsvZst,
    /// `events.jsonl`, one event a line.
    Jsonl,
    /// `events.jsonl.zst`.
    JsonlZst,
}

impl EventFormat {
    /// The file's name.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Csv => "events.csv",
            Self::CsvZst => "events.csv.zst",
            Self::Jsonl => "events.jsonl",
            Self::JsonlZst => "events.jsonl.zst",
        }
    }

    fn is_csv(self) -> bool {
        matches!(self, Self::Csv | Self::CsvZst)
    }

    fn is_packed(self) -> bool {
        matches!(self, Self::CsvZst | Self::JsonlZst)
    }
}

/// A file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write `{}`: {source}", path.display())]
pub struct GenerateError {
    /// The file.
    pub path: PathBuf,
    /// The system's answer.
    pub source: std::io::Error,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Events.
    pub events: u64,
    /// Rows or lines of the events' file; in CSV an event has one for each of its products.
    pub rows: u64,
    /// Bytes of the events before packing.
    pub bytes: u64,
}

/// Bytes collected before they are written.
const CHUNK_BYTES: usize = 1 << 16;

/// Writes the events, `items.csv` and `truth.csv` into `folder`, which is made if it is not there. `progress` is told
/// the events written and the day reached, every few hundred events.
pub fn write_files(
    params: &GenerateParams,
    folder: &Path,
    format: EventFormat,
    mut progress: impl FnMut(u64, i64),
) -> Result<Summary, GenerateError> {
    fs::create_dir_all(folder).map_err(|source| GenerateError { path: folder.to_owned(), source })?;
    let mut shoppers = Shoppers::new(params);
    let mut summary = Summary::default();
    write_file(&folder.join(format.file_name()), |file| {
        let mut out =
            if format.is_packed() { Output::Packed(zstd::Encoder::new(file, 3)?) } else { Output::Plain(file) };
        let mut chunk = Vec::with_capacity(CHUNK_BYTES * 2);
        if format.is_csv() {
            chunk.extend_from_slice(csv_header().as_bytes());
        }
        while let Some(event) = shoppers.next() {
            if format.is_csv() {
                summary.rows += write_csv(&event, shoppers.catalogue(), &mut chunk);
            } else {
                write_json(&event, shoppers.catalogue(), params.seed, &mut chunk);
                chunk.push(b'\n');
                summary.rows += 1;
            }
            summary.events += 1;
            if chunk.len() >= CHUNK_BYTES {
                summary.bytes += chunk.len() as u64;
                out.write_all(&chunk)?;
                chunk.clear();
                progress(summary.events, event.time_ms);
            }
        }
        summary.bytes += chunk.len() as u64;
        out.write_all(&chunk)?;
        out.finish()
    })?;
    write_file(&folder.join("items.csv"), |file| write_items(shoppers.catalogue(), file))?;
    write_file(&folder.join("truth.csv"), |file| write_truth(&shoppers, file))?;
    Ok(summary)
}

/// The events' file, packed or not.
enum Output<'a> {
    Plain(&'a mut BufWriter<File>),
    Packed(zstd::Encoder<'static, &'a mut BufWriter<File>>),
}

impl Output<'_> {
    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(file) => file.write_all(bytes),
            Self::Packed(encoder) => encoder.write_all(bytes),
        }
    }

    /// Ends the packed stream; dropping it would hide a failure.
    fn finish(self) -> std::io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Packed(encoder) => encoder.finish().map(|_| ()),
        }
    }
}

fn write_items(catalogue: &Catalogue, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "item_id,title,category,price,launched_ms")?;
    for item in 0..catalogue.len() {
        let mut row = Vec::with_capacity(96);
        write::push_item(&mut row, item);
        write!(row, ",{},{},", catalogue.title_of(item), catalogue.category_of(item))?;
        write::push_money(&mut row, catalogue.item(item).price_minor);
        writeln!(row, ",{}", catalogue.launch_ms(item))?;
        out.write_all(&row)?;
    }
    Ok(())
}

fn write_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<(), GenerateError> {
    File::create(path)
        .and_then(|file| {
            let mut file = BufWriter::with_capacity(CHUNK_BYTES, file);
            write(&mut file)?;
            file.flush()
        })
        .map_err(|source| GenerateError { path: path.to_owned(), source })
}
