//! The weights of a parameter table in a file of tensors.
//!
//! Owns: their order there, so that inference can use them where they lie. Never: the form of such a file (`tensors`).

use std::path::Path;

use headstart_engine::Weights;

use crate::error::Result;
use crate::files::{FileSum, cannot_write};
use crate::params::ParamTable;
use crate::tensors::{self, TensorFile};

/// [`tensors::write_tensors`] with the way out of a disk that refuses.
pub(super) fn write_tensors<'a>(
    path: &Path,
    tensors: &[(String, &'a [usize], &'a [f32])],
) -> Result<FileSum> {
    tensors::write_tensors(path, tensors).map_err(cannot_write(path))
}

/// The weights of a table whose arrays are all there: where they lie, in a file of this program's own; copied out
/// of a file in which they lie otherwise.
///
/// # Errors
/// [`crate::Error::Checkpoint`] as for [`TensorFile::copy_to`].
pub(super) fn in_place_or_copied(tensors: &TensorFile, table: &ParamTable) -> Result<Weights> {
    let first = table.params().first().and_then(|param| tensors.bytes(&param.name));
    let start = first.map_or(0, |bytes| bytes.start);
    let in_place = table.params().iter().all(|param| {
        let bytes = tensors.bytes(&param.name);
        tensors.fits(&param.name, &param.shape)
            && bytes.is_some_and(|bytes| bytes.start == start + size_of::<f32>() * param.offset)
    });
    let bytes = start..start + size_of::<f32>() * table.len();
    if in_place && let Some(weights) = Weights::mapped(tensors.map().clone(), bytes) {
        return Ok(weights);
    }
    copied(tensors, table).map(Weights::new)
}

/// A copy of the weights of a table whose arrays are all there.
///
/// # Errors
/// [`crate::Error::Checkpoint`] as for [`TensorFile::copy_to`].
pub(super) fn copied(tensors: &TensorFile, table: &ParamTable) -> Result<Vec<f32>> {
    let mut weights = vec![0.0; table.len()];
    for param in table.params() {
        tensors.copy_to(&param.name, &mut weights[param.offset..param.offset + param.len()])?;
    }
    Ok(weights)
}
