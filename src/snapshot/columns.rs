//! The columns of one view in a users file: one declaration each, used for writing and for reading.
//!
//! A user without a view has nulls in all of its columns. Lists hold structs, so that polars, pandas and pyarrow show
//! readable fields; times inside lists are whole seconds since the Unix epoch, as in the graph.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, ListArray, PrimitiveArray, StructArray},
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{
        ArrowNativeType, DataType, Date32Type, Field, Fields, Float32Type, TimestampMillisecondType, UInt8Type,
        UInt16Type, UInt32Type, UInt64Type,
    },
    error::ArrowError,
    record_batch::RecordBatch,
};

use super::SnapshotError;

/// A named column.
pub(super) type Column = (Field, ArrayRef);

/// A record batch with the path of its file, for errors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'a> {
    pub(super) path: &'a str,
    pub(super) batch: &'a RecordBatch,
}

impl<'a> Table<'a> {
    pub(super) fn error(&self, column: &str, problem: impl Into<String>) -> SnapshotError {
        SnapshotError::Column { path: self.path.to_owned(), column: column.to_owned(), problem: problem.into() }
    }

    pub(super) fn column(&self, name: &str) -> Result<&'a ArrayRef, SnapshotError> {
        self.batch.column_by_name(name).ok_or_else(|| self.error(name, "is not there"))
    }

    pub(super) fn primitive<T: ArrowPrimitiveType>(&self, name: &str) -> Result<&'a PrimitiveArray<T>, SnapshotError> {
        let column = self.column(name)?;
        column.as_primitive_opt::<T>().ok_or_else(|| self.error(name, format!("has type `{}`", column.data_type())))
    }

    fn list(&self, name: &str) -> Result<&'a ListArray, SnapshotError> {
        let column = self.column(name)?;
        column.as_list_opt().ok_or_else(|| self.error(name, format!("has type `{}`", column.data_type())))
    }
}

/// The element range of `row` in a list with these offsets.
pub(super) fn element_range(offsets: &[i32], row: usize) -> Range<usize> {
    let at = |index: usize| usize::try_from(offsets[index]).unwrap_or(0);
    at(row)..at(row + 1)
}

/// Offsets of a list column: one more than there are rows.
#[derive(Debug)]
pub(super) struct Offsets(Vec<i32>);

impl Offsets {
    pub(super) fn new() -> Self {
        Self(vec![0])
    }

    /// Ends a row at element `end`. The writer bounds a file far below `i32::MAX` elements.
    pub(super) fn end_row(&mut self, end: usize) {
        self.0.push(i32::try_from(end).unwrap_or(i32::MAX));
    }

    pub(super) fn finish(self, name: &str, values: ArrayRef, nulls: Option<&NullBuffer>) -> Result<Column, ArrowError> {
        let item = Arc::new(Field::new_list_field(values.data_type().clone(), false));
        let offsets = OffsetBuffer::new(self.0.into());
        let list = ListArray::try_new(item, offsets, values, nulls.cloned())?;
        Ok(named(name, Arc::new(list)))
    }
}

/// A nullable column called `name`.
pub(super) fn named(name: &str, array: ArrayRef) -> Column {
    (Field::new(name, array.data_type().clone(), true), array)
}

/// A column of plain values. An instant that never was (`i64::MIN`) is null: no library can show it as a date.
pub(super) fn primitive<T: ArrowPrimitiveType>(values: Vec<T::Native>, nulls: Option<&NullBuffer>) -> ArrayRef {
    let DataType::Timestamp(unit, _) = T::DATA_TYPE else {
        return Arc::new(PrimitiveArray::<T>::new(values.into(), nulls.cloned()));
    };
    let happened: NullBuffer = values.iter().map(|value| value.to_i64() != Some(i64::MIN)).collect();
    let array = PrimitiveArray::<T>::new(values.into(), NullBuffer::union(nulls, Some(&happened)));
    Arc::new(array.with_data_type(DataType::Timestamp(unit, Some("UTC".into()))))
}

/// A list column of plain numbers being filled.
#[derive(Debug)]
pub(super) struct Numbers<T: ArrowPrimitiveType> {
    offsets: Offsets,
    values: Vec<T::Native>,
}

impl<T: ArrowPrimitiveType> Numbers<T> {
    fn new() -> Self {
        Self { offsets: Offsets::new(), values: Vec::new() }
    }

    pub(super) fn push_row(&mut self, values: &[T::Native]) {
        self.values.extend_from_slice(values);
        self.offsets.end_row(self.values.len());
    }

    fn finish(self, name: &str, nulls: Option<&NullBuffer>) -> Result<Column, ArrowError> {
        self.offsets.finish(name, primitive::<T>(self.values, None), nulls)
    }
}

/// A list column of plain numbers being read.
#[derive(Debug)]
pub(super) struct NumberSlices<'a, T: ArrowPrimitiveType> {
    offsets: &'a [i32],
    values: &'a [T::Native],
}

impl<'a, T: ArrowPrimitiveType> NumberSlices<'a, T> {
    fn of(table: Table<'a>, name: &str) -> Result<Self, SnapshotError> {
        let list = table.list(name)?;
        let values = list.values().as_primitive_opt::<T>();
        let values = values.ok_or_else(|| table.error(name, format!("has type `{}`", list.data_type())))?;
        Ok(Self { offsets: list.value_offsets(), values: values.values() })
    }

    pub(super) fn row(&self, row: usize) -> &'a [T::Native] {
        &self.values[element_range(self.offsets, row)]
    }
}

/// Declares a list-of-structs column: `$columns` is filled, `$slices` is read.
macro_rules! struct_list {
    ($columns:ident, $slices:ident { $($field:ident: $arrow:ty),+ $(,)? }) => {
        #[derive(Debug)]
        pub(super) struct $columns {
            offsets: Offsets,
            $(pub(super) $field: Vec<<$arrow as ArrowPrimitiveType>::Native>,)+
        }

        impl $columns {
            pub(super) fn new() -> Self {
                Self { offsets: Offsets::new(), $($field: Vec::new(),)+ }
            }

            /// Ends the current user's list; every field must have been pushed equally often.
            pub(super) fn end_row(&mut self) {
                let lengths = [$(self.$field.len()),+];
                debug_assert!(lengths.iter().all(|length| *length == lengths[0]));
                self.offsets.end_row(lengths[0]);
            }

            fn finish(self, name: &str, nulls: Option<&NullBuffer>) -> Result<Column, ArrowError> {
                let fields = Fields::from(vec![$(Field::new(stringify!($field), <$arrow>::DATA_TYPE, false)),+]);
                let arrays = vec![$(primitive::<$arrow>(self.$field, None)),+];
                let values = Arc::new(StructArray::try_new(fields, arrays, None)?);
                self.offsets.finish(name, values, nulls)
            }
        }

        #[derive(Debug)]
        pub(super) struct $slices<'a> {
            offsets: &'a [i32],
            $(pub(super) $field: &'a [<$arrow as ArrowPrimitiveType>::Native],)+
        }

        impl<'a> $slices<'a> {
            fn of(table: Table<'a>, name: &str) -> Result<Self, SnapshotError> {
                let list = table.list(name)?;
                let values = list.values().as_struct_opt().ok_or_else(|| table.error(name, "holds no structs"))?;
                Ok(Self {
                    offsets: list.value_offsets(),
                    $($field: values
                        .column_by_name(stringify!($field))
                        .and_then(|column| column.as_primitive_opt::<$arrow>())
                        .ok_or_else(|| table.error(name, concat!("lacks the field `", stringify!($field), "`")))?
                        .values(),)+
                })
            }

            pub(super) fn range(&self, row: usize) -> Range<usize> {
                element_range(self.offsets, row)
            }
        }
    };
}

struct_list!(
    RingColumns,
    RingSlices {
        time_s: UInt32Type,
        kind: UInt8Type,
        opens_event: UInt8Type,
        is_query: UInt8Type,
        name: UInt64Type,
        category: UInt64Type,
        quantity: UInt16Type,
        value_minor: UInt32Type,
        session: UInt16Type,
        event_id: UInt32Type,
    }
);

struct_list!(
    NodeColumns,
    NodeSlices {
        name: UInt64Type,
        kind: UInt8Type,
        category: UInt64Type,
        count: UInt32Type,
        first_s: UInt32Type,
        last_s: UInt32Type,
        weight_short: Float32Type,
        weight_long: Float32Type,
        value_minor: UInt32Type,
    }
);

struct_list!(
    EdgeColumns,
    EdgeSlices { from: UInt64Type, to: UInt64Type, count: UInt16Type, gap_bucket: UInt8Type, last_s: UInt32Type }
);

/// Declares a group of columns that are null together: plain ones, lists of numbers, lists of structs.
macro_rules! column_group {
    ($columns:ident, $slices:ident {
        plain { $($plain:ident: $plain_type:ty),+ $(,)? }
        numbers { $($numbers:ident: $numbers_type:ty),+ $(,)? }
        structs { $($structs:ident: $structs_columns:ident, $structs_slices:ident);+ $(;)? }
    }) => {
        #[derive(Debug)]
        pub(super) struct $columns {
            present: Vec<bool>,
            $(pub(super) $plain: Vec<<$plain_type as ArrowPrimitiveType>::Native>,)+
            $(pub(super) $numbers: Numbers<$numbers_type>,)+
            $(pub(super) $structs: $structs_columns,)+
        }

        impl $columns {
            pub(super) fn new() -> Self {
                Self {
                    present: Vec::new(),
                    $($plain: Vec::new(),)+
                    $($numbers: Numbers::new(),)+
                    $($structs: $structs_columns::new(),)+
                }
            }

            /// Adds a user who has nothing of this group.
            pub(super) fn push_absent(&mut self) {
                $(self.$plain.push(Default::default());)+
                $(self.$numbers.push_row(&[]);)+
                $(self.$structs.end_row();)+
                self.present.push(false);
            }

            /// Ends a user of whom every plain column and list of numbers was pushed once.
            pub(super) fn end_row(&mut self) {
                $(self.$structs.end_row();)+
                self.present.push(true);
                $(debug_assert_eq!(self.$plain.len(), self.present.len());)+
            }

            /// The finished columns, each name after `prefix`.
            pub(super) fn finish(self, prefix: &str) -> Result<Vec<Column>, ArrowError> {
                let nulls = NullBuffer::from(self.present);
                let nulls = Some(&nulls);
                let name = |field: &str| format!("{prefix}_{field}");
                Ok(vec![
                    $(named(&name(stringify!($plain)), primitive::<$plain_type>(self.$plain, nulls)),)+
                    $(self.$numbers.finish(&name(stringify!($numbers)), nulls)?,)+
                    $(self.$structs.finish(&name(stringify!($structs)), nulls)?,)+
                ])
            }
        }

        #[derive(Debug)]
        pub(super) struct $slices<'a> {
            nulls: Option<&'a NullBuffer>,
            $(pub(super) $plain: &'a [<$plain_type as ArrowPrimitiveType>::Native],)+
            $(pub(super) $numbers: NumberSlices<'a, $numbers_type>,)+
            $(pub(super) $structs: $structs_slices<'a>,)+
        }

        impl<'a> $slices<'a> {
            pub(super) fn of(table: Table<'a>, prefix: &str) -> Result<Self, SnapshotError> {
                let name = |field: &str| format!("{prefix}_{field}");
                let plain = [$(table.column(&name(stringify!($plain)))?),+];
                Ok(Self {
                    nulls: plain[0].nulls(),
                    $($plain: table.primitive::<$plain_type>(&name(stringify!($plain)))?.values(),)+
                    $($numbers: NumberSlices::of(table, &name(stringify!($numbers)))?,)+
                    $($structs: $structs_slices::of(table, &name(stringify!($structs)))?,)+
                })
            }

            /// Whether the user of `row` has this group.
            pub(super) fn is_present(&self, row: usize) -> bool {
                self.nulls.is_none_or(|nulls| nulls.is_valid(row))
            }
        }
    };
}

// One view: what a reader asks first, and the recent lines. `value_minor` is derived: written for people, and checked
// when it is read.
column_group!(ViewColumns, ViewSlices {
    plain {
        event_count: UInt32Type,
        activity_count: UInt32Type,
        value_minor: UInt64Type,
        first_ms: TimestampMillisecondType,
        last_ms: TimestampMillisecondType,
        last_activity_ms: TimestampMillisecondType,
        day_count: UInt32Type,
        newest_day: Date32Type,
    }
    numbers { day_words: UInt64Type }
    structs { ring: RingColumns, RingSlices }
});

// What left the ring of a view.
column_group!(SettledColumns, SettledSlices {
    plain {
        event_count: UInt64Type,
        line_count: UInt64Type,
        quantity: UInt64Type,
        value_minor: UInt64Type,
        week_newest: UInt32Type,
    }
    numbers {
        kind_count: UInt32Type,
        weekday_count: UInt32Type,
        daypart_count: UInt32Type,
        week_value_minor: UInt32Type,
        week_event_count: UInt16Type,
    }
    structs { nodes: NodeColumns, NodeSlices; edges: EdgeColumns, EdgeSlices }
});
