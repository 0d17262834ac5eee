//! The weights of a published model, by this program's names.
//!
//! Owns: finding a parameter's parts in files of a family, and cutting a parameter into them. Never: reads bytes (`tensors`),
//! decides what a model is made of.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;

use headstart_engine::Weights;
use rayon::prelude::*;

use crate::config::{Arch, ModelConfig, ObjectiveName};
use crate::error::{Error, Result};
use crate::interop::names::{self, Source};
use crate::params::{Param, ParamTable};
use crate::tensors::{TensorFile, Tensors};

/// Tensors of a family, looked up by parameters' names.
#[derive(Clone, Debug)]
pub struct PublishedWeights {
    tensors: Tensors,
    arch: Arch,
    /// What stands before the trunk's names in these files.
    prefix: &'static str,
}

impl PublishedWeights {
    /// Opens the weights of a folder.
    ///
    /// # Errors
    /// Those of [`Tensors::open`].
    pub fn open(folder: &Path, arch: Arch) -> Result<Self> {
        Ok(Self::of(Tensors::open(folder)?, arch))
    }

    /// Opens the weights in one file.
    ///
    /// # Errors
    /// Those of [`Tensors::open_file`].
    pub fn open_file(path: &Path, arch: Arch) -> Result<Self> {
        Ok(Self::of(Tensors::open_file(path)?, arch))
    }

    /// The weights in one file that is open and compared with its sum already.
    ///
    /// # Errors
    /// Those of [`Tensors::open_file`].
    pub fn of_file(file: &TensorFile, arch: Arch) -> Result<Self> {
        Self::open_file(file.path(), arch)
    }

    fn of(tensors: Tensors, arch: Arch) -> Self {
        let names::Names { prefix, trunk, .. } = names::of(arch);
        let bare = |name: &str| trunk.iter().any(|(_, theirs)| name.starts_with(theirs));
        let prefix = if tensors.names().any(bare) { "" } else { prefix };
        Self { tensors, arch, prefix }
    }

    /// The file, or what there are several of.
    pub fn path(&self) -> &Path {
        self.tensors.path()
    }

    /// Number of tensors, and of numbers in them.
    pub fn size(&self) -> (usize, usize) {
        let numbers = |name| self.tensors.shape(name).map_or(0, |shape| shape.iter().product());
        (self.tensors.names().count(), self.tensors.names().map(numbers).sum())
    }

    /// Blocks that there are tensors of.
    pub fn blocks(&self) -> usize {
        let before = format!("{}{}.", self.prefix, names::of(self.arch).blocks);
        let number = |name: &str| name.strip_prefix(&before)?.split('.').next()?.parse::<usize>().ok();
        self.tensors.names().filter_map(number).max().map_or(0, |last| last + 1)
    }

    /// Whether all parts of a parameter are there.
    pub fn has(&self, param: &str) -> bool {
        self.source(param).is_some()
    }

    /// The shape of a parameter as it would be taken; `None` where one of its parts is missing or they do not go together.
    pub fn shape(&self, param: &str) -> Option<Vec<usize>> {
        let source = self.source(param)?;
        let parts: Option<Vec<&[usize]>> =
            source.tensors.iter().map(|name| self.tensors.shape(name)).collect();
        let parts = parts?;
        let first = parts.first()?;
        if parts.iter().any(|part| part != first) {
            return None;
        }
        match (*first, source.transposed) {
            // A table of one row is a table, too.
            ([rows], _) => Some(vec![rows * parts.len()]),
            ([rows, cols], true) => Some(vec![*cols, rows * parts.len()]),
            ([rows, cols], false) => Some(vec![rows * parts.len(), *cols]),
            _ => None,
        }
    }

    /// What is stored for a parameter, for people, in the files' names.
    pub fn describe(&self, param: &str) -> String {
        let Some(source) = names::of(self.arch).source(self.prefix, param) else { return "nothing".into() };
        let described = source.tensors.iter().map(|name| {
            let stored = self.stored(name);
            format!("{} in `{name}`", self.tensors.describe(stored.as_deref().unwrap_or(name)))
        });
        described.collect::<Vec<_>>().join(", ")
    }

    /// Copies a parameter to the beginning of `values`, in the rows that are stored.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where it is not there, is no kind of floating-point numbers, or is not finite.
    pub fn copy_to(&self, param: &str, values: &mut [f32]) -> Result<()> {
        let source = self.source(param).ok_or_else(|| self.lacks(param))?;
        let mut rest = values;
        for name in &source.tensors {
            let shape = self.tensors.shape(name).ok_or_else(|| self.lacks(param))?.to_vec();
            let length: usize = shape.iter().product();
            let Some((part, behind)) = rest.split_at_mut_checked(length) else {
                return Err(self.lacks(param));
            };
            if let ([rows, cols], true) = (&shape[..], source.transposed) {
                let mut stored = vec![0.0; length];
                self.tensors.copy_to(name, &mut stored)?;
                transpose(&stored, *rows, *cols, part);
            } else {
                self.tensors.copy_to(name, part)?;
            }
            rest = behind;
        }
        Ok(())
    }

    /// The weights of a table whose parameters are all there with their shapes: where they lie, in a file that was written by
    /// this program; else a copy.
    ///
    /// # Errors
    /// As for [`PublishedWeights::copy_to`].
    pub fn weights(&self, table: &ParamTable) -> Result<Weights> {
        match self.in_place(table)? {
            Some(weights) => Ok(weights),
            None => self.copied(table).map(Weights::new),
        }
    }

    /// A copy of them.
    ///
    /// # Errors
    /// As for [`PublishedWeights::copy_to`].
    pub fn copied(&self, table: &ParamTable) -> Result<Vec<f32>> {
        let mut weights = vec![0.0; table.len()];
        let mut rest = &mut weights[..];
        let mut places = Vec::new();
        for param in table.params() {
            let (place, behind) = rest.split_at_mut(param.len());
            places.push((param, place));
            rest = behind;
        }
        places.into_par_iter().try_for_each(|(param, place)| self.copy_to(&param.name, place))?;
        Ok(weights)
    }

    /// The names of the tensors that are read for the parameters of a table.
    pub fn used_by(&self, table: &ParamTable) -> HashSet<String> {
        let sources = table.params().iter().filter_map(|param| self.source(&param.name));
        sources.flat_map(|source| source.tensors).collect()
    }

    /// The names of tensors that are used for no parameter of a table, without those that are no parameters.
    pub fn left_by(&self, table: &ParamTable) -> Vec<String> {
        let names = names::of(self.arch);
        let used = self.used_by(table);
        let left = self.tensors.names().filter(|name| {
            !used.contains(*name)
                && !names.copies.iter().any(|copy| name.ends_with(copy))
                && !name.ends_with("inv_freq")
        });
        left.map(String::from).collect()
    }

    /// Whether the LM head's matrix is stored on its own with other numbers than the token embedding has.
    ///
    /// # Errors
    /// As for [`PublishedWeights::copy_to`].
    pub fn is_untied(&self) -> Result<bool> {
        const TOKENS: &str = "transformer.token_embedding.weight";
        let decoder = names::of(self.arch).decoder;
        let (Some(shape), Some(tokens)) = (self.tensors.shape(decoder), self.shape(TOKENS)) else {
            return Ok(false);
        };
        if shape != tokens {
            return Ok(true);
        }
        let length = tokens.iter().product();
        let (mut table, mut matrix) = (vec![0.0; length], vec![0.0; length]);
        self.copy_to(TOKENS, &mut table)?;
        self.tensors.copy_to(decoder, &mut matrix)?;
        Ok(table != matrix)
    }

    /// Maps them, where the parts of all parameters lie one behind the other in table order.
    fn in_place(&self, table: &ParamTable) -> Result<Option<Weights>> {
        let (mut file, mut end, mut start) = (None, 0, 0);
        for param in table.params() {
            let Some(source) = self.source(&param.name) else { return Ok(None) };
            if source.transposed {
                return Ok(None);
            }
            for name in &source.tensors {
                let Some((map, range)) = self.tensors.in_place(name)? else { return Ok(None) };
                if file.is_none() {
                    (file, start, end) = (Some(map), range.start, range.start);
                }
                if range.start != end {
                    return Ok(None);
                }
                end = range.end;
            }
        }
        Ok(file.and_then(|map| Weights::mapped(map.clone(), start..end)))
    }

    /// Where a parameter lies, if all of it is there.
    fn source(&self, param: &str) -> Option<Source> {
        let mut source = names::of(self.arch).source(self.prefix, param)?;
        for name in &mut source.tensors {
            *name = self.stored(name)?;
        }
        Some(source)
    }

    /// The name under which a tensor is stored: its own, or the one that norms had in 2018.
    fn stored(&self, name: &str) -> Option<String> {
        if self.tensors.shape(name).is_some() {
            return Some(name.to_owned());
        }
        let old =
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
        self.tensors.shape(&old).is_some().then_some(old)
    }

    fn lacks(&self, param: &str) -> Error {
        Error::Checkpoint {
            path: self.path().to_path_buf(),
            what: format!("lacks what `{param}` is read from: {}", self.describe(param)),
            fix: "fetch the model's files again; they are not whole, or not of the family that its config.json names".into(),
        }
    }
}

/// A tensor as a family names and stores it: name, shape, numbers.
pub type Piece<'a> = (String, Vec<usize>, Cow<'a, [f32]>);

/// What stands before the trunk's names of a model: nothing where it is all there is.
pub fn prefix(config: &ModelConfig, objective: Option<ObjectiveName>) -> &'static str {
    let trunk_only = config.arch.is_encoder() && config.head.is_none() && objective.is_none();
    if trunk_only { "" } else { names::of(config.arch).prefix }
}

/// The parts of a parameter in a family's files, with what stands before the trunk's names. `None` where the family has no such
/// parameter.
pub fn pieces<'a>(arch: Arch, prefix: &str, param: &Param, values: &'a [f32]) -> Option<Vec<Piece<'a>>> {
    let source = names::of(arch).source(prefix, &param.name)?;
    let count = source.tensors.len();
    let mut shape = param.shape.clone();
    shape[0] /= count;
    let length: usize = shape.iter().product();
    let parts = source.tensors.into_iter().zip(values.chunks_exact(length));
    let stored = parts.map(|(name, part)| match (&shape[..], source.transposed) {
        ([rows, cols], true) => {
            let mut turned = vec![0.0; length];
            transpose(part, *rows, *cols, &mut turned);
            (name, vec![*cols, *rows], Cow::Owned(turned))
        }
        _ => (name, shape.clone(), Cow::Borrowed(part)),
    });
    Some(stored.collect())
}

/// Exchanges rows and columns.
fn transpose(values: &[f32], rows: usize, cols: usize, turned: &mut [f32]) {
    turned.par_chunks_mut(rows.max(1)).enumerate().for_each(|(col, line)| {
        for (row, value) in line.iter_mut().enumerate() {
            *value = values[row * cols + col];
        }
    });
}
