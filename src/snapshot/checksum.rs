//! A checksum of what a column holds, whatever its compression: lengths, validity, offsets and values of the array, level by
//! level. It names the column at fault where the checksum of the file can only name the file.

use arrow::{
    array::{Array, ArrayData},
    datatypes::DataType,
    error::ArrowError,
    record_batch::RecordBatch,
};
use xxhash_rust::xxh3::Xxh3;

use super::ColumnEntry;

/// The checksum of every column of `batch`, in order.
pub(super) fn column_checksums(batch: &RecordBatch) -> Result<Vec<ColumnEntry>, ArrowError> {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns());
    let checksums = columns.map(|(field, column)| {
        let mut hash = Xxh3::new();
        feed(&column.to_data(), &mut hash)?;
        Ok(ColumnEntry { name: field.name().clone(), xxh3_128: format!("{:032x}", hash.digest128()) })
    });
    checksums.collect()
}

fn feed(data: &ArrayData, hash: &mut Xxh3) -> Result<(), ArrowError> {
    let (offset, length) = (data.offset(), data.len());
    hash.update(&(length as u64).to_le_bytes());
    if length == 0 {
        return Ok(());
    }
    // A bitmap without a null says the same as none.
    if let Some(nulls) = data.nulls().filter(|nulls| nulls.null_count() > 0) {
        let valid: Vec<u8> = nulls.iter().map(u8::from).collect();
        hash.update(&valid);
    }
    match data.data_type() {
        DataType::Utf8 | DataType::List(_) => {
            let ends = &data.buffers()[0].typed_data::<i32>()[offset..=offset + length];
            // Counted from the first, so that a slice has the checksum of a copy.
            let rebased: Vec<u8> = ends.iter().flat_map(|end| (end - ends[0]).to_le_bytes()).collect();
            hash.update(&rebased);
            let place = |end: i32| usize::try_from(end).map_err(|error| ArrowError::ParseError(error.to_string()));
            let (first, last) = (place(ends[0])?, place(ends[length])?);
            match data.child_data() {
                [] => hash.update(&data.buffers()[1].as_slice()[first..last]),
                [values, ..] => feed(&values.slice(first, last - first), hash)?,
            }
        }
        DataType::Struct(_) => {
            for child in data.child_data() {
                feed(child, hash)?;
            }
        }
        other => {
            let width = other.primitive_width();
            let width = width.ok_or_else(|| ArrowError::NotYetImplemented(format!("a checksum of `{other}`")))?;
            hash.update(&data.buffers()[0].as_slice()[offset * width..(offset + length) * width]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, ListArray, StringArray};

    use super::*;

    fn checksum(column: ArrayRef) -> String {
        let batch = RecordBatch::try_from_iter([("column", column)]).unwrap();
        column_checksums(&batch).unwrap().swap_remove(0).xxh3_128
    }

    #[test]
    fn a_slice_has_the_checksum_of_a_copy() {
        let texts = StringArray::from(vec!["a", "bc", "", "def"]);
        let numbers = Int64Array::from(vec![Some(1), None, Some(3), Some(4)]);
        let lists = ListArray::from_iter_primitive::<arrow::datatypes::Int64Type, _, _>([
            Some(vec![Some(1)]),
            None,
            Some(vec![Some(2), Some(3)]),
            Some(vec![]),
        ]);
        let columns: [ArrayRef; 3] = [Arc::new(texts), Arc::new(numbers), Arc::new(lists)];
        for column in columns {
            let whole = RecordBatch::try_from_iter([("column", Arc::clone(&column))]).unwrap();
            let copied = arrow::compute::take(&column, &Int64Array::from(vec![1, 2]), None).unwrap();
            assert_eq!(checksum(column.slice(1, 2)), checksum(copied));
            assert_ne!(checksum(column.slice(1, 2)), checksum(Arc::clone(whole.column(0))));
        }
    }

    #[test]
    fn a_null_is_no_zero() {
        let null: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let zero: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(0)]));
        assert_ne!(checksum(null), checksum(zero));
    }
}
