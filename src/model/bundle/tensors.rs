//! Plain arrays to and from the safetensors format.

use std::collections::{BTreeMap, HashMap};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::BundleError;

/// An array of 32-bit numbers on its way to or from a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Array {
    Floats(Vec<f32>),
    Integers(Vec<u32>),
}

/// Writes named arrays; `shape` lists the sizes, outermost first.
pub(super) fn write(arrays: &BTreeMap<String, (Vec<usize>, Array)>) -> Result<Vec<u8>, safetensors::SafeTensorError> {
    let bytes: Vec<(&str, Dtype, &[usize], Vec<u8>)> = arrays
        .iter()
        .map(|(name, (shape, array))| {
            let (kind, bytes) = match array {
                Array::Floats(values) => (Dtype::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
                Array::Integers(values) => (Dtype::U32, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            };
            (name.as_str(), kind, shape.as_slice(), bytes)
        })
        .collect();
    let mut views = Vec::with_capacity(bytes.len());
    for (name, kind, shape, data) in &bytes {
        views.push((*name, TensorView::new(*kind, shape.to_vec(), data)?));
    }
    safetensors::serialize(views, None::<HashMap<String, String>>)
}

/// Reads all arrays of `file`.
pub(super) fn read(file: &'static str, bytes: &[u8]) -> Result<BTreeMap<String, (Vec<usize>, Array)>, BundleError> {
    let malformed = |message: String| BundleError::Malformed { file, message };
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| malformed(error.to_string()))?;
    let mut arrays = BTreeMap::new();
    for (name, view) in tensors.iter() {
        let words = view.data().as_chunks::<4>().0.iter();
        let array = match view.dtype() {
            Dtype::F32 => Array::Floats(words.map(|word| f32::from_le_bytes(*word)).collect()),
            Dtype::U32 => Array::Integers(words.map(|word| u32::from_le_bytes(*word)).collect()),
            other => return Err(malformed(format!("tensor `{name}` has type `{other:?}`, expected F32 or U32"))),
        };
        arrays.insert(name.to_owned(), (view.shape().to_vec(), array));
    }
    Ok(arrays)
}
