//! `items.safetensors`: tables, rankers and names of the item model in one file.

use std::{collections::HashMap, path::Path};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::{AllLinks, CatalogueEntry, FEATURE_NAMES, FEATURE_WIDTH, ItemModel, ItemRow, ItemTables, Links, Ranker};
use crate::{
    event::{NameHash, NameKind},
    model::ForestParts,
};

/// Why an item file cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ItemModelError {
    /// The file system refused.
    #[error("cannot {action} `{path}`: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// No safetensors, or a tensor is absent.
    #[error("the item file is malformed: {0}")]
    Format(#[from] safetensors::SafeTensorError),
    /// Written by another version of the program.
    #[error("the item file has format `{found}`, this program reads `{FORMAT}`: train the bundle again")]
    Version {
        /// What the file says.
        found: String,
    },
    /// A tensor has another type or shape than this program reads.
    #[error("the item file's `{tensor}` does not fit: {message}")]
    Tensor {
        /// The tensor.
        tensor: &'static str,
        /// What does not fit.
        message: String,
    },
}

const FORMAT_KEY: &str = "format";
/// Raised whenever a tensor changes its meaning.
const FORMAT: &str = "undercurrent items 2";
/// A link place that is not used, as stored.
const NO_LINK: u16 = u16::MAX;

impl ItemModel {
    /// Rows a file holds at most: links are stored in 16 bits.
    pub const MAX_ROWS: usize = NO_LINK as usize;

    /// Writes the model.
    pub fn save(&self, path: &Path) -> Result<(), ItemModelError> {
        let bytes = self.to_bytes()?;
        std::fs::write(path, bytes).map_err(|source| io("write", path, source))
    }

    /// Reads a model written by [`save`](Self::save), checking shapes and values.
    pub fn load(path: &Path) -> Result<Self, ItemModelError> {
        let bytes = std::fs::read(path).map_err(|source| io("read", path, source))?;
        Self::from_bytes(&bytes)
    }

    /// The content of `items.safetensors`. Equal models give equal bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ItemModelError> {
        let rows = self.tables.rows();
        if rows.len() > Self::MAX_ROWS {
            return Err(misfit("row_items", &format!("`{}` rows, at most `{}` fit", rows.len(), Self::MAX_ROWS)));
        }
        let links = self.tables.links();
        let mut parts: Vec<Part> = vec![
            Part::u64("row_items", rows.iter().map(|row| row.item.0)),
            Part::u64("row_categories", rows.iter().map(|row| row.category.0)),
            Part::f32("row_values", rows.iter().flat_map(ItemRow::values), ItemRow::VALUES),
            Part::f32("half_life_days", self.tables.half_life_days(), 1),
            Part::f32("window_days", [self.tables.window_days()], 1),
            Part::bytes("names", names_to_text(self.tables.names()).into_bytes()),
            Part::bytes("feature_names", FEATURE_NAMES.join("\n").into_bytes()),
        ];
        for ([rows, weights], links) in LINKS.into_iter().zip([&links.regression, &links.common, &links.alike]) {
            let narrow = |row: &u32| u16::try_from(*row).unwrap_or(NO_LINK);
            parts.push(Part::u16(rows, links.rows.iter().map(narrow), links.count));
            parts.push(Part::bf16(weights, links.weights.iter().copied(), links.count));
        }
        for (names, ranker) in [(ITEMS, &self.items), (DISCOVERIES, &self.discoveries)] {
            let [linear, base, roots, features, thresholds, lefts] = names;
            let (weights, forest) = ranker.to_parts();
            parts.extend([
                Part::f32(linear, weights.iter().copied(), 1),
                Part::of(base, Dtype::F64, std::iter::once(forest.base.to_le_bytes()), 1),
                Part::u32(roots, forest.roots),
                Part::u32(features, forest.features),
                Part::f32(thresholds, forest.thresholds, 1),
                Part::u32(lefts, forest.lefts),
            ]);
        }
        let views = parts
            .iter()
            .map(|part| Ok((part.name, TensorView::new(part.dtype, part.shape.clone(), &part.data)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        let metadata = HashMap::from([(FORMAT_KEY.to_owned(), FORMAT.to_owned())]);
        Ok(safetensors::serialize(views, Some(metadata))?)
    }

    /// Reads [`to_bytes`](Self::to_bytes).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ItemModelError> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let format = header.metadata().as_ref().and_then(|facts| facts.get(FORMAT_KEY)).map_or("", String::as_str);
        if format != FORMAT {
            return Err(ItemModelError::Version { found: format.to_owned() });
        }
        let file = SafeTensors::deserialize(bytes)?;
        let feature_names = text(&file, "feature_names")?;
        if feature_names.lines().ne(FEATURE_NAMES) {
            return Err(misfit("feature_names", "another list than this program computes: train the bundle again"));
        }
        let items = u64s(&file, "row_items")?;
        let categories = u64s(&file, "row_categories")?;
        let values = f32s(&file, "row_values")?;
        let (values, rest) = values.as_chunks::<{ ItemRow::VALUES }>();
        if categories.len() != items.len() || values.len() != items.len() || !rest.is_empty() {
            return Err(misfit("row_values", "not one category and the same numbers a row"));
        }
        let rows: Vec<ItemRow> = items
            .into_iter()
            .zip(categories)
            .zip(values)
            .map(|((item, category), values)| ItemRow::from_values(NameHash(item), NameHash(category), *values))
            .collect();
        let mut links = AllLinks::default();
        for (names, links) in LINKS.into_iter().zip([&mut links.regression, &mut links.common, &mut links.alike]) {
            *links = read_links(&file, names, rows.len())?;
        }
        let half_life_days = <[f32; 2]>::try_from(f32s(&file, "half_life_days")?)
            .ok()
            .filter(|[short, long]| *short > 0.0 && *long > 0.0)
            .ok_or_else(|| misfit("half_life_days", "not two positive numbers"))?;
        let window_days = <[f32; 1]>::try_from(f32s(&file, "window_days")?)
            .ok()
            .filter(|[days]| *days > 0.0)
            .ok_or_else(|| misfit("window_days", "not one positive number"))?[0];
        let names = names_from_text(&text(&file, "names")?)?;
        let tables = ItemTables::new(rows, links, half_life_days, window_days, names);
        Ok(Self { tables, items: ranker(&file, ITEMS)?, discoveries: ranker(&file, DISCOVERIES)? })
    }
}

/// Tensor names of rows and weights of each kind of links.
const LINKS: [[&str; 2]; 3] = [
    ["links.regression.rows", "links.regression.weights"],
    ["links.common.rows", "links.common.weights"],
    ["links.alike.rows", "links.alike.weights"],
];

/// Tensor names of the two rankers: weights, and the parts of the trees.
const ITEMS: [&str; 6] =
    ["items.linear", "items.base", "items.roots", "items.features", "items.thresholds", "items.lefts"];
const DISCOVERIES: [&str; 6] = [
    "discoveries.linear",
    "discoveries.base",
    "discoveries.roots",
    "discoveries.features",
    "discoveries.thresholds",
    "discoveries.lefts",
];

fn read_links(
    file: &SafeTensors<'_>,
    [rows_name, weights_name]: [&'static str; 2],
    row_count: usize,
) -> Result<Links, ItemModelError> {
    let narrow = numbers(file, rows_name, Dtype::U16, u16::from_le_bytes)?;
    let links = Links {
        count: narrow.len() / row_count.max(1),
        rows: narrow.into_iter().map(|row| if row == NO_LINK { ItemTables::NO_ROW } else { row.into() }).collect(),
        weights: numbers(file, weights_name, Dtype::BF16, |bytes| {
            f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
        })?,
    };
    if links.fits(row_count) { Ok(links) } else { Err(misfit(rows_name, "not the same number a row, or to no row")) }
}

fn ranker(file: &SafeTensors<'_>, names: [&'static str; 6]) -> Result<Ranker, ItemModelError> {
    let [linear, base, roots, features, thresholds, lefts] = names;
    let [base] = <[f64; 1]>::try_from(numbers(file, base, Dtype::F64, f64::from_le_bytes)?)
        .map_err(|_| misfit(base, "not one number"))?;
    let forest = ForestParts {
        base,
        width: FEATURE_WIDTH,
        roots: u32s(file, roots)?,
        features: u32s(file, features)?,
        thresholds: f32s(file, thresholds)?,
        lefts: u32s(file, lefts)?,
    };
    Ranker::from_parts(f32s(file, linear)?, &forest).map_err(|error| misfit(linear, &error.to_string()))
}

/// One line a name: kind, text, title, separated by tabs (tabs and line ends inside become spaces). Sorted.
fn names_to_text(names: &HashMap<(NameKind, NameHash), CatalogueEntry>) -> String {
    let clean = |text: &str| text.replace(['\t', '\n', '\r'], " ");
    let mut lines: Vec<String> = names
        .iter()
        .map(|((kind, _), entry)| format!("{}\t{}\t{}", *kind as u8, clean(&entry.text), clean(&entry.title)))
        .collect();
    lines.sort_unstable();
    lines.join("\n")
}

fn names_from_text(text: &str) -> Result<HashMap<(NameKind, NameHash), CatalogueEntry>, ItemModelError> {
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, '\t');
        let (Some(kind), Some(text), Some(title)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(misfit("names", "a line without its three parts"));
        };
        let kind = NameKind::ALL.into_iter().find(|known| (*known as u8).to_string() == kind);
        let kind = kind.ok_or_else(|| misfit("names", "an unknown kind of name"))?;
        let entry = CatalogueEntry { text: text.to_owned(), title: title.to_owned() };
        names.insert((kind, NameHash::of(kind, text)), entry);
    }
    Ok(names)
}

struct Part {
    name: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Part {
    fn u64(name: &'static str, values: impl IntoIterator<Item = u64>) -> Self {
        Self::of(name, Dtype::U64, values.into_iter().map(u64::to_le_bytes), 1)
    }

    fn u32(name: &'static str, values: impl IntoIterator<Item = u32>) -> Self {
        Self::of(name, Dtype::U32, values.into_iter().map(u32::to_le_bytes), 1)
    }

    fn u16(name: &'static str, values: impl IntoIterator<Item = u16>, width: usize) -> Self {
        Self::of(name, Dtype::U16, values.into_iter().map(u16::to_le_bytes), width)
    }

    /// The upper half of each number; exact for numbers that went through [`Links::rounded`].
    fn bf16(name: &'static str, values: impl IntoIterator<Item = f32>, width: usize) -> Self {
        let upper = |value: f32| {
            let [.., low, high] = value.to_le_bytes();
            [low, high]
        };
        Self::of(name, Dtype::BF16, values.into_iter().map(upper), width)
    }

    fn f32(name: &'static str, values: impl IntoIterator<Item = f32>, width: usize) -> Self {
        Self::of(name, Dtype::F32, values.into_iter().map(f32::to_le_bytes), width)
    }

    fn bytes(name: &'static str, data: Vec<u8>) -> Self {
        Self { name, dtype: Dtype::U8, shape: vec![data.len()], data }
    }

    fn of<const N: usize>(
        name: &'static str,
        dtype: Dtype,
        values: impl Iterator<Item = [u8; N]>,
        width: usize,
    ) -> Self {
        let data: Vec<u8> = values.flatten().collect();
        let count = data.len() / N;
        let shape = if width > 1 { vec![count / width, width] } else { vec![count] };
        Self { name, dtype, shape, data }
    }
}

fn u64s(file: &SafeTensors<'_>, name: &'static str) -> Result<Vec<u64>, ItemModelError> {
    numbers(file, name, Dtype::U64, u64::from_le_bytes)
}

fn u32s(file: &SafeTensors<'_>, name: &'static str) -> Result<Vec<u32>, ItemModelError> {
    numbers(file, name, Dtype::U32, u32::from_le_bytes)
}

fn f32s(file: &SafeTensors<'_>, name: &'static str) -> Result<Vec<f32>, ItemModelError> {
    let values = numbers(file, name, Dtype::F32, f32::from_le_bytes)?;
    if values.iter().all(|value| value.is_finite()) { Ok(values) } else { Err(misfit(name, "not finite")) }
}

fn text(file: &SafeTensors<'_>, name: &'static str) -> Result<String, ItemModelError> {
    String::from_utf8(numbers(file, name, Dtype::U8, |[byte]| byte)?).map_err(|_| misfit(name, "no UTF-8"))
}

fn numbers<const N: usize, T>(
    file: &SafeTensors<'_>,
    name: &'static str,
    dtype: Dtype,
    read: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>, ItemModelError> {
    let tensor = file.tensor(name)?;
    if tensor.dtype() != dtype {
        return Err(misfit(name, &format!("type `{:?}` instead of `{dtype:?}`", tensor.dtype())));
    }
    let (chunks, _) = tensor.data().as_chunks::<N>();
    Ok(chunks.iter().map(|chunk| read(*chunk)).collect())
}

fn misfit(tensor: &'static str, message: &str) -> ItemModelError {
    ItemModelError::Tensor { tensor, message: message.to_owned() }
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> ItemModelError {
    ItemModelError::Io { action, path: path.display().to_string(), source }
}
