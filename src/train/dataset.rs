//! Prediction files and files of tuning trials: the only place of training that knows Arrow and Parquet.

mod trials;

use std::{fs::File, path::Path, sync::Arc};

use arrow::{
    array::{ArrayRef, Float64Builder, ListBuilder, RecordBatch, StringBuilder},
    error::ArrowError,
};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::properties::WriterProperties,
};

pub use trials::{read_trials, write_trials};

/// Predictions of one user.
#[derive(Debug, Clone, PartialEq)]
pub struct UserPrediction {
    /// The user.
    pub user_id: String,
    /// P(no activity in the churn horizon).
    pub churn: f64,
    /// P(a purchase in the purchase horizon).
    pub purchase: f64,
    /// Likely next purchases, best first.
    pub items: Vec<String>,
    /// The same of items the user never bought.
    pub discoveries: Vec<String>,
}

/// Why a prediction file cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The file cannot be created.
    #[error("cannot create `{path}`: {source}")]
    Create {
        /// The file.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file cannot be opened.
    #[error("cannot open `{path}`: {source}")]
    Open {
        /// The file.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file is of another kind.
    #[error("`{path}` has no column `{column}` of the expected type")]
    Column {
        /// The file.
        path: String,
        /// The column.
        column: String,
    },
    /// The columns do not form a batch.
    #[error("cannot lay out columns: {0}")]
    Layout(#[from] ArrowError),
    /// Reading or writing failed.
    #[error("cannot read or write Parquet: {0}")]
    Parquet(#[from] ParquetError),
}

/// Writes `user_id` (string), `churn` and `purchase` (double), `items` and `discoveries` (list of string).
pub fn write_predictions(path: &Path, predictions: &[UserPrediction]) -> Result<(), DatasetError> {
    let file =
        File::create(path).map_err(|source| DatasetError::Create { path: path.display().to_string(), source })?;
    let batch = batch_of(predictions)?;
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(compressed()))?;
    writer.write(&batch)?;
    writer.close()?;
    Ok(())
}

fn compressed() -> WriterProperties {
    WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build()
}

fn batch_of(predictions: &[UserPrediction]) -> Result<RecordBatch, ArrowError> {
    let mut users = StringBuilder::new();
    let (mut churn, mut purchase) = (Float64Builder::new(), Float64Builder::new());
    let mut items = ListBuilder::new(StringBuilder::new());
    let mut discoveries = ListBuilder::new(StringBuilder::new());
    for prediction in predictions {
        users.append_value(&prediction.user_id);
        churn.append_value(prediction.churn);
        purchase.append_value(prediction.purchase);
        for (list, names) in [(&mut items, &prediction.items), (&mut discoveries, &prediction.discoveries)] {
            for name in names {
                list.values().append_value(name);
            }
            list.append(true);
        }
    }
    let columns: [(&str, ArrayRef); 5] = [
        ("user_id", Arc::new(users.finish())),
        ("churn", Arc::new(churn.finish())),
        ("purchase", Arc::new(purchase.finish())),
        ("items", Arc::new(items.finish())),
        ("discoveries", Arc::new(discoveries.finish())),
    ];
    RecordBatch::try_from_iter(columns)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("predictions.parquet");
        let user = |user_id: &str, items: &[&str]| UserPrediction {
            user_id: user_id.to_owned(),
            churn: 0.25,
            purchase: 0.75,
            items: items.iter().map(|item| (*item).to_owned()).collect(),
            discoveries: Vec::new(),
        };
        write_predictions(&path, &[user("a", &["x", "y"]), user("b", &[])]).unwrap();
        let mut reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap().build().unwrap();
        let batch = reader.next().unwrap().unwrap();
        let names: Vec<String> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["user_id", "churn", "purchase", "items", "discoveries"]);
        let items = batch.column(3).as_list::<i32>();
        assert_eq!(items.value(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!((items.value(1).len(), items.null_count()), (0, 0));
    }
}
