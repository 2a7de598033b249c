//! Item files: what is known of items beside events.

use std::{collections::HashMap, path::Path};

use super::{NameHash, NameKind, file::FileError, open_input};

/// One line of an item file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedItem {
    /// The item's id, as events have it.
    pub id: String,
    /// Its title; empty when there is none.
    pub title: String,
    /// Its category; empty when there is none.
    pub category: String,
}

/// Why an item file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ItemsError {
    /// The file cannot be opened.
    #[error(transparent)]
    File(#[from] FileError),
    /// The item file is not what is expected.
    #[error("cannot read the items of `{path}`: {message}")]
    Content {
        /// The file.
        path: String,
        /// What is wrong.
        message: String,
    },
}

/// Reads a CSV with the columns `item_id`, `title` and `category` (the last two may be absent), plain or compressed.
pub fn read_items(path: &Path) -> Result<Vec<ListedItem>, ItemsError> {
    let failed = |message: String| ItemsError::Content { path: path.display().to_string(), message };
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(open_input(path)?);
    let header = reader.headers().map_err(|error| failed(error.to_string()))?.clone();
    let place_of = |name: &str| header.iter().position(|column| column.trim() == name);
    let Some(id_place) = place_of("item_id") else {
        return Err(failed("its first line has no column `item_id`".to_owned()));
    };
    let (title_place, category_place) = (place_of("title"), place_of("category"));
    let mut items = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| failed(error.to_string()))?;
        let text = |place: Option<usize>| place.and_then(|place| record.get(place)).unwrap_or("").trim().to_owned();
        let id = text(Some(id_place));
        if !id.is_empty() {
            items.push(ListedItem { id, title: text(title_place), category: text(category_place) });
        }
    }
    Ok(items)
}

/// The category of each listed item that has one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ItemCategories(HashMap<NameHash, Box<str>>);

impl ItemCategories {
    /// Takes the categories of `items`; of an item that is listed twice the last one counts.
    pub fn of(items: &[ListedItem]) -> Self {
        let known = items.iter().filter(|item| !item.category.is_empty());
        Self(known.map(|item| (NameHash::of(NameKind::Item, &item.id), Box::from(item.category.as_str()))).collect())
    }

    /// Whether no item has one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The category of an item.
    pub fn get(&self, item: NameHash) -> Option<&str> {
        self.0.get(&item).map(|text| &**text)
    }
}
