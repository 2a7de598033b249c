//! `items.safetensors`: tables, rankers and names of the item model in one file.

use std::{collections::HashMap, path::Path};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::{CatalogueEntry, FEATURE_NAMES, FEATURE_WIDTH, ItemModel, ItemRow, ItemTables, Ranker};
use crate::event::{NameHash, NameKind};

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
const FORMAT: &str = "undercurrent items 1";
const ROW_FLOATS: usize = 5;

impl ItemModel {
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
        let (neighbours, similarities, neighbour_count) = self.tables.neighbour_parts();
        let mut parts: Vec<Part> = vec![
            Part::u64("row_items", rows.iter().map(|row| row.item.0)),
            Part::u64("row_categories", rows.iter().map(|row| row.category.0)),
            Part::f32("row_values", rows.iter().flat_map(row_values), ROW_FLOATS),
            Part::u32("neighbours", neighbours.iter().copied(), neighbour_count),
            Part::f32("similarities", similarities.iter().copied(), neighbour_count),
            Part::f32("half_life_days", self.tables.half_life_days(), 1),
            Part::bytes("names", names_to_text(self.tables.names()).into_bytes()),
            Part::bytes("feature_names", FEATURE_NAMES.join("\n").into_bytes()),
        ];
        for (prefix, ranker) in [(ITEMS, &self.items), (DISCOVERIES, &self.discoveries)] {
            let values = [
                &ranker.mean,
                &ranker.inverse_deviation,
                &ranker.linear,
                &ranker.hidden_weights,
                &ranker.hidden_bias,
                &ranker.output,
            ];
            parts.extend(
                prefix.into_iter().zip(values).map(|(name, values)| Part::f32(name, values.iter().copied(), 1)),
            );
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
        let file = SafeTensors::deserialize(bytes)?;
        let feature_names = text(&file, "feature_names")?;
        if feature_names.lines().ne(FEATURE_NAMES) {
            return Err(misfit("feature_names", "another list than this program computes: train the bundle again"));
        }
        let items = u64s(&file, "row_items")?;
        let categories = u64s(&file, "row_categories")?;
        let values = f32s(&file, "row_values")?;
        if categories.len() != items.len() || values.len() != items.len() * ROW_FLOATS {
            return Err(misfit("row_values", "not five values and one category a row"));
        }
        let rows: Vec<ItemRow> = items
            .into_iter()
            .zip(categories)
            .zip(values.chunks_exact(ROW_FLOATS))
            .map(|((item, category), values)| ItemRow {
                item: NameHash(item),
                category: NameHash(category),
                popularity_short: values[0],
                popularity_long: values[1],
                repeat_share: values[2],
                category_share: values[3],
                interest_short: values[4],
            })
            .collect();
        let neighbours = u32s(&file, "neighbours")?;
        let similarities = f32s(&file, "similarities")?;
        if similarities.len() != neighbours.len() || (!rows.is_empty() && neighbours.len() % rows.len() != 0) {
            return Err(misfit("neighbours", "not the same number a row"));
        }
        if neighbours.iter().any(|row| *row != ItemTables::NO_ROW && *row as usize >= rows.len()) {
            return Err(misfit("neighbours", "a neighbour is no row"));
        }
        let neighbour_count = neighbours.len() / rows.len().max(1);
        let half_life_days = <[f32; 2]>::try_from(f32s(&file, "half_life_days")?)
            .ok()
            .filter(|[short, long]| *short > 0.0 && *long > 0.0)
            .ok_or_else(|| misfit("half_life_days", "not two positive numbers"))?;
        let names = names_from_text(&text(&file, "names")?)?;
        let tables = ItemTables::new(rows, neighbours, similarities, neighbour_count, half_life_days, names);
        Ok(Self { tables, items: ranker(&file, ITEMS)?, discoveries: ranker(&file, DISCOVERIES)? })
    }
}

/// Tensor names of the two rankers, in the order of the ranker's fields.
const ITEMS: [&str; 6] = [
    "items.mean",
    "items.inverse_deviation",
    "items.linear",
    "items.hidden_weights",
    "items.hidden_bias",
    "items.output",
];
const DISCOVERIES: [&str; 6] = [
    "discoveries.mean",
    "discoveries.inverse_deviation",
    "discoveries.linear",
    "discoveries.hidden_weights",
    "discoveries.hidden_bias",
    "discoveries.output",
];

fn ranker(file: &SafeTensors<'_>, names: [&'static str; 6]) -> Result<Ranker, ItemModelError> {
    let [mean, inverse_deviation, linear, hidden_weights, hidden_bias, output] = names;
    let ranker = Ranker {
        mean: f32s(file, mean)?,
        inverse_deviation: f32s(file, inverse_deviation)?,
        linear: f32s(file, linear)?,
        hidden_weights: f32s(file, hidden_weights)?,
        hidden_bias: f32s(file, hidden_bias)?,
        output: f32s(file, output)?,
    };
    let valid = ranker.is_valid();
    valid.then_some(ranker).ok_or_else(|| misfit(mean, &format!("not finite, or not for `{FEATURE_WIDTH}` features")))
}

fn row_values(row: &ItemRow) -> [f32; ROW_FLOATS] {
    [row.popularity_short, row.popularity_long, row.repeat_share, row.category_share, row.interest_short]
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

    fn u32(name: &'static str, values: impl IntoIterator<Item = u32>, width: usize) -> Self {
        Self::of(name, Dtype::U32, values.into_iter().map(u32::to_le_bytes), width)
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
