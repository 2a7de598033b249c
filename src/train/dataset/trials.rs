//! Files of tuning trials: one row a trial and fold.

use std::{fs::File, path::Path};

use arrow::{
    array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringArray, UInt32Array},
    datatypes::{Float64Type, UInt32Type},
};
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};

use super::{DatasetError, compressed};
use crate::train::tune::{Measured, PARAMETERS, Row};

const NUMBERS: [&str; 2] = ["trial", "fold"];
const LOSSES: [&str; 4] = ["loss", "loss_churn", "loss_purchase", "seconds"];

/// Writes `method` (string), `trial` and `fold` (unsigned), the value of every parameter, its place from 0 to 1
/// (`place_NAME`), and `loss`, `loss_churn`, `loss_purchase`, `seconds`. The file is whole or absent at every moment.
pub fn write_trials(path: &Path, method: &str, rows: &[Row]) -> Result<(), DatasetError> {
    let numbers = |of: &dyn Fn(&Row) -> usize| -> ArrayRef {
        let values = rows.iter().map(|row| u32::try_from(of(row)).unwrap_or(u32::MAX));
        std::sync::Arc::new(UInt32Array::from_iter_values(values))
    };
    let decimals = |of: &dyn Fn(&Row) -> f64| -> ArrayRef {
        std::sync::Arc::new(Float64Array::from_iter_values(rows.iter().map(of)))
    };
    let methods: ArrayRef = std::sync::Arc::new(StringArray::from_iter_values(rows.iter().map(|_| method)));
    let mut columns = vec![("method".to_owned(), methods)];
    columns.push((NUMBERS[0].to_owned(), numbers(&|row| row.trial)));
    columns.push((NUMBERS[1].to_owned(), numbers(&|row| row.fold)));
    for (place, parameter) in PARAMETERS.iter().enumerate() {
        columns.push((parameter.name.to_owned(), decimals(&|row| parameter.value(row.point[place]))));
        columns.push((format!("place_{}", parameter.name), decimals(&|row| row.point[place])));
    }
    let losses: [&dyn Fn(&Row) -> f64; 4] =
        [&|row| row.measured.loss(), &|row| row.measured.churn, &|row| row.measured.purchase, &|row| {
            row.measured.seconds
        }];
    columns.extend(LOSSES.into_iter().zip(losses).map(|(name, of)| (name.to_owned(), decimals(of))));
    let batch = RecordBatch::try_from_iter(columns)?;
    let partial = path.with_extension("partial");
    let create = |source| DatasetError::Create { path: path.display().to_string(), source };
    let mut writer = ArrowWriter::try_new(File::create(&partial).map_err(create)?, batch.schema(), Some(compressed()))?;
    writer.write(&batch)?;
    writer.close()?;
    std::fs::rename(&partial, path).map_err(create)
}

/// Reads what [`write_trials`] wrote: the method and the rows in order. A file that is not there has none.
pub fn read_trials(path: &Path) -> Result<Option<(String, Vec<Row>)>, DatasetError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DatasetError::Open { path: path.display().to_string(), source }),
    };
    let foreign = |column: &str| DatasetError::Column { path: path.display().to_string(), column: column.to_owned() };
    let (mut method, mut rows) = (String::new(), Vec::new());
    for batch in ParquetRecordBatchReaderBuilder::try_new(file)?.build()? {
        let batch = batch?;
        let decimal = |name: &str| {
            let column = batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Float64Type>());
            column.filter(|column| column.null_count() == 0).ok_or_else(|| foreign(name))
        };
        let number = |name: &str| {
            let column = batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<UInt32Type>());
            column.filter(|column| column.null_count() == 0).ok_or_else(|| foreign(name))
        };
        let methods = batch.column_by_name("method").and_then(|column| column.as_string_opt::<i32>());
        let methods = methods.ok_or_else(|| foreign("method"))?;
        let (trial, fold) = (number(NUMBERS[0])?, number(NUMBERS[1])?);
        let places = PARAMETERS.map(|parameter| decimal(&format!("place_{}", parameter.name)));
        let places = places.into_iter().collect::<Result<Vec<_>, _>>()?;
        let (churn, purchase, seconds) = (decimal(LOSSES[1])?, decimal(LOSSES[2])?, decimal(LOSSES[3])?);
        for row in 0..batch.num_rows() {
            methods.value(row).clone_into(&mut method);
            rows.push(Row {
                trial: trial.value(row) as usize,
                fold: fold.value(row) as usize,
                point: places.iter().map(|places| places.value(row)).collect(),
                measured: Measured {
                    churn: churn.value(row),
                    purchase: purchase.value(row),
                    seconds: seconds.value(row),
                },
            });
        }
    }
    Ok(Some((method, rows)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::tune::default_point;

    #[test]
    fn trials_are_read_back_to_the_bit_and_absence_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trials.parquet");
        assert!(read_trials(&path).unwrap().is_none());
        let row = |trial: usize, loss: f64| Row {
            trial,
            fold: trial % 2,
            point: default_point().iter().map(|place| place / 3.0).collect(),
            measured: Measured { churn: loss, purchase: loss / 7.0, seconds: 1.5 },
        };
        let rows = vec![row(0, 0.1), row(1, 0.2), row(2, 1.0 / 3.0)];
        write_trials(&path, "tpe", &rows).unwrap();
        assert_eq!(read_trials(&path).unwrap(), Some(("tpe".to_owned(), rows)));
        std::fs::write(&path, b"no parquet").unwrap();
        assert!(read_trials(&path).is_err());
    }
}
