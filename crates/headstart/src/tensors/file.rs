//! Named f32 arrays in a safetensors file of this program's own, compared with its sum.
//!
//! Owns: reading them without trusting a byte. Never: files of other programs, other types of numbers ([`super::Tensors`]).

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use headstart_engine::FileMap;
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use crate::error::Result;
use crate::files::{FileSum, damaged};
use crate::tensors::header;

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
        let (start, metadata) = header::parse(&map)
            .map_err(|what| damaged(path, format!("is not a whole safetensors file: {what}")))?;
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

    /// Copies the values of an array from number `first` on, as many as there is room for, bit for bit.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] when there is none of this name, it is not f32, or it ends before that.
    pub fn copy_part(&self, name: &str, first: usize, values: &mut [f32]) -> Result<()> {
        let skipped = first * size_of::<f32>();
        let bytes = self.bytes(name).filter(|all| skipped + size_of_val(values) <= all.len());
        let Some(bytes) = bytes else {
            let (end, found) = (first + values.len(), self.describe(name));
            return Err(damaged(
                &self.path,
                format!("`{name}`: expected {end} numbers in F32, found {found}"),
            ));
        };
        let start = bytes.start + skipped;
        let bytes = &self.map[start..start + size_of_val(values)];
        bytemuck::cast_slice_mut::<f32, u8>(values).copy_from_slice(bytes);
        Ok(())
    }

    /// The mapped file.
    pub(crate) fn map(&self) -> &FileMap {
        &self.map
    }

    /// Where an array's f32 lie in the mapped file; `None` when there is none of this name, or it is not f32.
    pub(crate) fn bytes(&self, name: &str) -> Option<Range<usize>> {
        let info = self.infos.get(name).filter(|info| info.dtype == Dtype::F32)?;
        Some(self.start + info.data_offsets.0..self.start + info.data_offsets.1)
    }
}

/// Whether there is no infinity and no NaN among some values.
pub fn all_finite(values: &[f32]) -> bool {
    all_finite_bytes(bytemuck::cast_slice(values))
}

/// As [`all_finite`], wherever the values lie: their exponents are compared, in parts on all threads.
pub(super) fn all_finite_bytes(bytes: &[u8]) -> bool {
    const PART: usize = 1 << 20;
    let finite = |value: &[u8; 4]| u32::from_le_bytes(*value) & 0x7f80_0000 != 0x7f80_0000;
    // Without an early end inside a part, so that it is compared by vectors.
    let part = |part: &[u8]| part.as_chunks().0.iter().fold(true, |all, value| all & finite(value));
    bytes.par_chunks(PART).all(part)
}

fn byte_len(info: &TensorInfo) -> usize {
    info.data_offsets.1 - info.data_offsets.0
}
