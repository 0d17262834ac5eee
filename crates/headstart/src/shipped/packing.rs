//! Weights at a byte each: a row's whole numbers from -127 to 127, and the row's scale.
//!
//! Owns: that format, both ways. Never: which weights.
//!
//! A matrix of R rows is stored as R x C bytes under its name, and R scales under its name with `.scale` behind it; a weight is
//! its number times the scale, which is the row's largest magnitude by 127 (round to nearest, so at most half a scale is lost).
//! What has one dimension (biases, norms) stays as it is.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, View};

use super::{PACKED_FILE, WEIGHTS_FILE};
use crate::error::{Error, Result};
use crate::files::{read_regular, write_atomic};

const SCALE: &str = ".scale";
/// The largest number of a byte that has its negative as well.
const MOST: f32 = 127.0;

/// An array with bytes of its own.
struct Array {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for &Array {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Writes the model of a folder (`model.safetensors`, f32) as [`PACKED_FILE`] into another.
///
/// # Errors
/// [`Error::Io`] when a file cannot be read or written; [`Error::Checkpoint`] when the weights are no f32 or not finite.
pub fn pack(folder: &Path, into: &Path) -> Result<()> {
    let path = folder.join(WEIGHTS_FILE);
    let bytes = read_regular(&path)?;
    let packed = packed(&bytes).map_err(|what| Error::Checkpoint {
        path: path.clone(),
        what,
        fix: "pack a finished model's folder, as `headstart export` writes it".into(),
    })?;
    write_atomic(&into.join(PACKED_FILE), &packed)
}

/// The packed form of a safetensors file.
fn packed(file: &[u8]) -> Result<Vec<u8>, String> {
    let tensors = SafeTensors::deserialize(file).map_err(|error| error.to_string())?;
    let mut arrays = Vec::new();
    for (name, tensor) in tensors.tensors() {
        let values = numbers(&name, &tensor)?;
        let &[_, columns] = tensor.shape() else {
            arrays.push((name, of_f32(tensor.shape(), &values)));
            continue;
        };
        let (mut whole, mut scales) = (Vec::with_capacity(values.len()), Vec::new());
        for row in values.chunks(columns.max(1)) {
            let largest = row.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            let scale = largest / MOST;
            // A row of zeros has no scale; its numbers are zero.
            let number = |x: &f32| if scale > 0.0 { (x / scale).round() as i8 } else { 0 };
            whole.extend(row.iter().map(number).map(i8::cast_unsigned));
            scales.push(scale);
        }
        arrays.push((format!("{name}{SCALE}"), of_f32(&[scales.len()], &scales)));
        arrays.push((name, Array { dtype: Dtype::I8, shape: tensor.shape().to_vec(), bytes: whole }));
    }
    file_of(&arrays)
}

/// The weights of a packed file, as a safetensors file of f32.
pub(super) fn unpacked(file: &[u8]) -> Result<Vec<u8>, String> {
    let tensors = SafeTensors::deserialize(file).map_err(|error| error.to_string())?;
    let mut arrays = Vec::new();
    for (name, tensor) in tensors.tensors() {
        if name.strip_suffix(SCALE).is_some_and(|of| tensors.tensor(of).is_ok()) {
            continue;
        }
        let values = match (tensor.dtype(), tensor.shape()) {
            (Dtype::I8, &[rows, columns]) => {
                let of = format!("{name}{SCALE}");
                let scales = tensors.tensor(&of).map_err(|error| error.to_string())?;
                let scales = numbers(&of, &scales)?;
                if scales.len() != rows {
                    return Err(format!("{of} has {} scales, {name} {rows} rows", scales.len()));
                }
                let rows = tensor.data().chunks(columns.max(1)).zip(scales);
                rows.flat_map(|(row, scale)| row.iter().map(move |x| f32::from(x.cast_signed()) * scale))
                    .collect()
            }
            _ => numbers(&name, &tensor)?,
        };
        arrays.push((name, of_f32(tensor.shape(), &values)));
    }
    file_of(&arrays)
}

/// The parameters of a packed file; none of what is no such file.
pub(super) fn parameters(file: &[u8]) -> u64 {
    let tensors = SafeTensors::deserialize(file).map_or_else(|_| Vec::new(), |file| file.tensors());
    let of_weights = tensors.iter().filter(|(name, _)| !name.ends_with(SCALE));
    of_weights.map(|(_, tensor)| tensor.shape().iter().product::<usize>() as u64).sum()
}

fn numbers(name: &str, tensor: &TensorView<'_>) -> Result<Vec<f32>, String> {
    if tensor.dtype() != Dtype::F32 {
        return Err(format!("{name} is {:?}, not F32", tensor.dtype()));
    }
    let values: Vec<f32> =
        tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    if values.iter().all(|x| x.is_finite()) { Ok(values) } else { Err(format!("{name} is not finite")) }
}

fn of_f32(shape: &[usize], values: &[f32]) -> Array {
    let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    Array { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
}

fn file_of(arrays: &[(String, Array)]) -> Result<Vec<u8>, String> {
    // Hugging Face's reader insists on this note.
    let note = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let arrays = arrays.iter().map(|(name, array)| (name, array));
    safetensors::serialize(arrays, Some(note)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(arrays: &[(&str, &[usize], &[f32])]) -> Vec<u8> {
        let arrays: Vec<_> =
            arrays.iter().map(|(name, shape, values)| ((*name).to_owned(), of_f32(shape, values))).collect();
        file_of(&arrays).unwrap()
    }

    #[test]
    fn a_weight_comes_back_within_half_a_scale_and_twice_packed_is_the_same() {
        let matrix = [1.27, -0.634, 0.0049, 0.0, 0.0, 0.0, -2.54, 2.0, 1.0];
        let vector = [0.123_456_7, -9.0];
        let packed_once =
            packed(&file(&[("a.weight", &[3, 3], &matrix), ("a.bias", &[2], &vector)])).unwrap();
        let found = unpacked(&packed_once).unwrap();
        let tensors = SafeTensors::deserialize(&found).unwrap();
        assert_eq!(tensors.names().len(), 2, "scales are gone");
        assert_eq!(numbers("a.bias", &tensors.tensor("a.bias").unwrap()).unwrap(), vector);
        let values = numbers("a.weight", &tensors.tensor("a.weight").unwrap()).unwrap();
        let scales = [0.01, 0.0, 0.02];
        for (i, (found, expected)) in values.iter().zip(matrix).enumerate() {
            assert!((found - expected).abs() <= scales[i / 3] / 2.0 + 1e-7, "{i}: {found} {expected}");
        }
        // The largest magnitude of a row is a whole number of scales again.
        assert!(packed(&found).unwrap() == packed_once);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let of = |bytes: &[u8]| unpacked(bytes).unwrap_err();
        assert!(!of(b"no file at all").is_empty());
        let whole = Array { dtype: Dtype::I8, shape: vec![2, 1], bytes: vec![1, 2] };
        let with = |scales: Option<&[f32]>| {
            let whole = Array { dtype: whole.dtype, shape: whole.shape.clone(), bytes: whole.bytes.clone() };
            let scales = scales.map(|scales| ("w.scale".to_owned(), of_f32(&[scales.len()], scales)));
            file_of(&[("w".to_owned(), whole)].into_iter().chain(scales).collect::<Vec<_>>()).unwrap()
        };
        assert!(of(&with(None)).contains("w.scale"));
        assert!(of(&with(Some(&[1.0]))).contains("1 scales, w 2 rows"));
        assert!(of(&with(Some(&[1.0, f32::NAN]))).contains("not finite"));
        assert!(packed(&file(&[("w", &[1], &[f32::INFINITY])])).unwrap_err().contains("w is not finite"));
    }
}
