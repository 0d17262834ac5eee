//! Named f32 arrays in safetensors files.
//!
//! Owns: writing them without a second copy in memory, reading them without trusting a byte. Never: knows what they are.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use headstart_engine::{FileMap, Weights};
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::checkpoint::disk::{FileSum, NewFile, damaged};
use crate::error::Result;
use crate::params::ParamTable;

/// safetensors is little-endian, and values go to and from it as they lie in memory.
const _: () = assert!(cfg!(target_endian = "little"));

/// The length field in front of the header.
const LENGTH_BYTES: usize = size_of::<u64>();
/// The header's largest length by the format's definition.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Writes named arrays with their shapes, in the order given.
pub(super) fn write_tensors<'a>(
    path: &Path,
    tensors: &[(String, &'a [usize], &'a [f32])],
) -> Result<FileSum> {
    let mut end = 0;
    let infos = tensors.iter().map(|(name, shape, values)| {
        let start = end;
        end += size_of_val(*values);
        (name.clone(), TensorInfo { dtype: Dtype::F32, shape: shape.to_vec(), data_offsets: (start, end) })
    });
    // Hugging Face's reader insists on this note.
    let note = HashMap::from([("format".into(), "pt".into())]);
    let unusable = |e: &dyn std::fmt::Display| damaged(path, format!("cannot be laid out: {e}"));
    let metadata = Metadata::new(Some(note), infos.collect()).map_err(|e| unusable(&e))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| unusable(&e))?;
    header.resize(header.len().next_multiple_of(LENGTH_BYTES), b' ');

    let mut file = NewFile::create(path)?;
    file.write(&(header.len() as u64).to_le_bytes())?;
    file.write(&header)?;
    for (_, _, values) in tensors {
        file.write(bytemuck::cast_slice(values))?;
    }
    file.finish()
}

/// A mapped safetensors file whose header holds: every array lies inside the file. Cheap enough to clone.
#[derive(Clone, Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: FileMap,
    start: usize,
    infos: BTreeMap<String, TensorInfo>,
}

impl TensorFile {
    /// Opens a file and checks its header, and its content where a sum is known.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] when it is missing, altered, no safetensors file, or holds f32 that are not finite;
    /// [`crate::Error::Engine`] when it cannot be mapped.
    pub fn open(path: &Path, sum: Option<&FileSum>) -> Result<Self> {
        if !path.is_file() {
            return Err(damaged(path, "is missing"));
        }
        let map = FileMap::open(path)?;
        if let Some(sum) = sum {
            sum.check(path, &map)?;
        }
        let (start, metadata) =
            parse(&map).map_err(|what| damaged(path, format!("is not a whole safetensors file: {what}")))?;
        for (name, info) in metadata.tensors() {
            let (from, to) = info.data_offsets;
            if info.dtype == Dtype::F32 && !all_finite_bytes(&map[start + from..start + to]) {
                return Err(damaged(path, format!("`{name}` holds numbers that are not finite")));
            }
        }
        let infos = metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        Ok(Self { path: path.to_path_buf(), map, start, infos })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The arrays' names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.infos.keys().map(String::as_str)
    }

    /// An array's shape; `None` when there is none of this name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.infos.get(name).map(|info| &info.shape[..])
    }

    /// What is stored under a name, for people: "[6, 410]", "BF16 [6, 410]", "nothing".
    pub fn describe(&self, name: &str) -> String {
        match self.infos.get(name) {
            None => "nothing".into(),
            Some(info) if info.dtype == Dtype::F32 => format!("{:?}", info.shape),
            Some(info) => format!("{} {:?}", info.dtype, info.shape),
        }
    }

    /// Whether the array is there, in f32 and of this shape.
    pub fn fits(&self, name: &str, shape: &[usize]) -> bool {
        self.infos.get(name).is_some_and(|info| info.dtype == Dtype::F32 && info.shape == shape)
    }

    /// Copies an array to the beginning of `values`, bit for bit.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] when there is none of this name, it is not f32, or it is longer than `values`.
    pub fn copy_to(&self, name: &str, values: &mut [f32]) -> Result<()> {
        let most = values.len();
        let fitting = |info: &&TensorInfo| info.dtype == Dtype::F32 && byte_len(info) <= size_of_val(values);
        let Some(info) = self.infos.get(name).filter(fitting) else {
            let found = self.describe(name);
            let what = format!("`{name}`: expected at most {most} numbers in F32, found {found}");
            return Err(damaged(&self.path, what));
        };
        let bytes = &self.map[self.start..][info.data_offsets.0..info.data_offsets.1];
        bytemuck::cast_slice_mut::<f32, u8>(values)[..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// The weights of a table whose arrays are all there: where they lie, in a file of this program's own; copied out
    /// of a file in which they lie otherwise.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] as for [`TensorFile::copy_to`].
    pub(super) fn weights(&self, table: &ParamTable) -> Result<Weights> {
        let in_place = table.params().iter().all(|param| {
            let start = self.infos.get(&param.name).map(|info| info.data_offsets.0);
            self.fits(&param.name, &param.shape) && start == Some(size_of::<f32>() * param.offset)
        });
        let bytes = self.start..self.start + size_of::<f32>() * table.len();
        if in_place && let Some(weights) = Weights::mapped(self.map.clone(), bytes) {
            return Ok(weights);
        }
        self.copied(table).map(Weights::new)
    }

    /// A copy of the weights of a table whose arrays are all there.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] as for [`TensorFile::copy_to`].
    pub(super) fn copied(&self, table: &ParamTable) -> Result<Vec<f32>> {
        let mut weights = vec![0.0; table.len()];
        for param in table.params() {
            self.copy_to(&param.name, &mut weights[param.offset..param.offset + param.len()])?;
        }
        Ok(weights)
    }
}

/// Whether there is no infinity and no NaN among some values.
pub(super) fn all_finite(values: &[f32]) -> bool {
    all_finite_bytes(bytemuck::cast_slice(values))
}

/// As [`all_finite`], wherever the values lie: their exponents are compared, in parts on all threads.
fn all_finite_bytes(bytes: &[u8]) -> bool {
    const PART: usize = 1 << 20;
    let finite = |value: &[u8; 4]| u32::from_le_bytes(*value) & 0x7f80_0000 != 0x7f80_0000;
    // Without an early end inside a part, so that it is compared by vectors.
    let part = |part: &[u8]| part.as_chunks().0.iter().fold(true, |all, value| all & finite(value));
    bytes.par_chunks(PART).all(part)
}

fn byte_len(info: &TensorInfo) -> usize {
    info.data_offsets.1 - info.data_offsets.0
}

/// Where the arrays begin, and the header. The crate's own entry point adds up the lengths of a hostile header
/// unchecked, so its end is compared here; the crate checks order, gaps, shapes and types.
fn parse(bytes: &[u8]) -> Result<(usize, Metadata), String> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>().ok_or("it ends in the first 8 bytes")?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES || length > rest.len() as u64 {
        return Err(format!("its header of {length} bytes cannot be in a file of {}", bytes.len()));
    }
    let (header, data) = rest.split_at(length as usize);
    let metadata: Metadata = serde_json::from_slice(header).map_err(|e| format!("its header: {e}"))?;
    if metadata.data_len() != data.len() {
        let (expected, found) = (metadata.data_len(), data.len());
        return Err(format!("its header describes {expected} bytes of data, the file has {found}"));
    }
    Ok((LENGTH_BYTES + header.len(), metadata))
}
