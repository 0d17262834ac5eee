//! The tensors of a folder or a file of another program.
//!
//! Owns: one list of names over all files, reading rows as f32, what is said when that cannot be. Never: which files belong
//! together (`shards`), how numbers lie in them (`place`), what the names mean.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use headstart_engine::FileMap;

use crate::error::{Error, Result};
use crate::tensors::dtype::Dtype;
use crate::tensors::file::all_finite_bytes;
use crate::tensors::place::{Place, count};
use crate::tensors::{all_finite, header, pickle, shards};

/// Weights of another program, still in their files. Every tensor listed lies inside its file.
#[derive(Clone, Debug)]
pub struct Tensors {
    path: PathBuf,
    files: Vec<(PathBuf, FileMap)>,
    places: BTreeMap<String, (usize, Place)>,
}

impl Tensors {
    /// The weights of a model folder: `model.safetensors`, or its parts with an index, or `pytorch_model.bin`, or its parts
    /// with an index; the first of these that is there.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is none of them, saying what there is instead; [`Error::Checkpoint`] when a file is
    /// missing, truncated, in a form that is not read, or calls anything; [`Error::Engine`] when it cannot be mapped.
    pub fn open(folder: &Path) -> Result<Self> {
        shards::open(folder)
    }

    /// The weights of one safetensors or PyTorch file, whatever its name.
    ///
    /// # Errors
    /// As for [`Tensors::open`].
    pub fn open_file(path: &Path) -> Result<Self> {
        let mut tensors = Self::none(path);
        tensors.add_file(path)?;
        Ok(tensors)
    }

    pub(super) fn none(path: &Path) -> Self {
        Self { path: path.to_path_buf(), files: Vec::new(), places: BTreeMap::new() }
    }

    /// Adds the tensors of a file. No two files have one of the same name.
    pub(super) fn add_file(&mut self, path: &Path) -> Result<Vec<String>> {
        let kind = fs::metadata(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => unusable(path, "is missing", FETCH),
            _ => Error::io("read", path)(source),
        })?;
        if !kind.is_file() {
            return Err(unusable(path, "is not a file", "name a file or a model's folder"));
        }
        let map = FileMap::open(path)?;
        let mut names = Vec::new();
        for (name, place) in places(path, &map)? {
            if let Some((other, _)) = self.places.insert(name.clone(), (self.files.len(), place)) {
                let where_else = self.files.get(other).map_or(path, |(path, _)| path);
                let what = format!("`{name}` is stored twice, also in {}", where_else.display());
                return Err(unusable(path, what, FETCH));
            }
            names.push(name);
        }
        self.files.push((path.to_path_buf(), map));
        Ok(names)
    }

    /// The folder or file that was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that holds a tensor, for messages; what was opened when there is none of this name.
    pub fn path_of(&self, name: &str) -> &Path {
        self.places.get(name).map_or(&self.path, |(file, _)| &self.files[*file].0)
    }

    /// The tensors' names, sorted. Those that are no floating-point numbers (`position_ids`) are among them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// A tensor's shape; `None` when there is none of this name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.places.get(name).map(|(_, place)| &place.shape[..])
    }

    /// What a tensor's numbers are; `None` when there is none of this name.
    pub fn dtype(&self, name: &str) -> Option<&Dtype> {
        self.places.get(name).map(|(_, place)| &place.dtype)
    }

    /// What is stored under a name, for people: "[6, 384]", "BF16 [6, 384]", "nothing".
    pub fn describe(&self, name: &str) -> String {
        match self.places.get(name) {
            None => "nothing".into(),
            Some((_, place)) if place.dtype == Dtype::F32 => format!("{:?}", place.shape),
            Some((_, place)) => format!("{} {:?}", place.dtype, place.shape),
        }
    }

    /// Copies some rows of a tensor, converted as PyTorch's `.float()` does. A row is everything but the first dimension;
    /// a single number is one row of one.
    ///
    /// # Shapes
    /// `values` has as many numbers as those rows.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when there is no such tensor or row, when the rows are not as many numbers as `values`, when
    /// they are no floating-point numbers, or when one of them is not finite.
    pub fn copy_rows_to(&self, name: &str, rows: Range<usize>, values: &mut [f32]) -> Result<()> {
        let (file, place) = self.readable(name)?;
        let (path, map) = &self.files[file];
        let fits = rows.start <= rows.end && rows.end <= place.rows();
        if !fits || rows.len().checked_mul(place.row_len()) != Some(values.len()) {
            let what = format!(
                "`{name}`: expected {} numbers in rows {rows:?}, found {}",
                values.len(),
                self.describe(name)
            );
            return Err(unusable(path, what, "use a model of the sizes that its configuration names"));
        }
        place.copy_rows(map, rows, values);
        if all_finite(values) { Ok(()) } else { Err(not_finite(path, name)) }
    }

    /// Copies all of a tensor, as [`Tensors::copy_rows_to`] does.
    ///
    /// # Errors
    /// As for [`Tensors::copy_rows_to`].
    pub fn copy_to(&self, name: &str, values: &mut [f32]) -> Result<()> {
        let rows = self.places.get(name).map_or(0, |(_, place)| place.rows());
        self.copy_rows_to(name, 0..rows, values)
    }

    /// Where the numbers of a tensor lie, to be used where they are: the mapped file and the bytes in it. `None` when
    /// they are not f32 in the order of the rows.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when there is no such tensor, or a number is not finite.
    pub fn in_place(&self, name: &str) -> Result<Option<(&FileMap, Range<usize>)>> {
        let (file, place) = self.readable(name)?;
        let (path, map) = &self.files[file];
        let Some(bytes) = place.f32_bytes() else { return Ok(None) };
        if all_finite_bytes(&map[bytes.clone()]) {
            Ok(Some((map, bytes)))
        } else {
            Err(not_finite(path, name))
        }
    }

    /// A tensor of floating-point numbers, and which file it is in.
    fn readable(&self, name: &str) -> Result<(usize, &Place)> {
        let Some((file, place)) = self.places.get(name) else {
            let what = format!("there is no tensor `{name}`");
            return Err(unusable(&self.path, what, "use a model that has it"));
        };
        if let Dtype::Other { name: dtype } = &place.dtype {
            return Err(unusable(
                &self.files[*file].0,
                format!("`{name}` is stored as {dtype}: quantised and integer weights are not read"),
                "use the model as it was before it was quantised, in F32, F16 or BF16",
            ));
        }
        Ok((*file, place))
    }
}

/// Each tensor of a file, and where it lies.
fn places(path: &Path, map: &[u8]) -> Result<Vec<(String, Place)>> {
    if map.starts_with(b"version https://git-lfs") {
        return Err(unusable(
            path,
            "is not the file itself but a Git LFS pointer to it",
            "fetch it with `git lfs pull`",
        ));
    }
    if pickle::is_torch(map) {
        return pickle::places(path, map);
    }
    let (start, metadata) = header::parse(map)
        .map_err(|what| unusable(path, format!("is not a whole safetensors file: {what}"), FETCH))?;
    let place = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        if count(&info.shape).is_none() {
            let what = format!("`{name}` cannot have the shape {:?}", info.shape);
            return Err(unusable(path, what, FETCH));
        }
        let dtype = Dtype::of_safetensors(info.dtype);
        Ok((name, Place::in_order(dtype, info.shape.clone(), start + info.data_offsets.0)))
    };
    metadata.tensors().into_iter().map(place).collect()
}

fn not_finite(path: &Path, name: &str) -> Error {
    let what = format!("`{name}` holds numbers that are not finite");
    unusable(path, what, "use another copy or revision of the model")
}

/// The way out of most of what can be wrong with a file of another program.
pub(super) const FETCH: &str = "fetch the file again from where it came from";

/// The error of a file of another program that cannot be used.
pub(super) fn unusable(path: &Path, what: impl Into<String>, fix: impl Into<String>) -> Error {
    Error::Checkpoint { path: path.to_path_buf(), what: what.into(), fix: fix.into() }
}
