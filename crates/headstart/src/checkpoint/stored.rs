//! The weights of a model on disk, under this program's names or under those of its family, or a few of them over those of another
//! model.
//!
//! Owns: that all are used alike. Never: the translation of names (`interop`), the form of files (`tensors`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstart_engine::Weights;

use crate::checkpoint::weights::{copied, in_place_or_copied};
use crate::error::Result;
use crate::interop::PublishedWeights;
use crate::params::{Param, ParamTable};
use crate::tensors::TensorFile;

/// Where a model's weights lie.
#[derive(Clone, Debug)]
pub enum StoredWeights {
    /// In a file of this program.
    Own(TensorFile),
    /// In files of a family.
    Published(PublishedWeights),
    /// Few in a file of their own, all others in those of the model below.
    Over(Arc<Over>),
}

/// Parameters that stand beside, or instead of, those of a model.
#[derive(Debug)]
pub struct Over {
    /// The file that they are from.
    pub(super) path: PathBuf,
    /// The folder of the model below.
    pub(super) folder: PathBuf,
    /// By name: shape and numbers.
    pub(super) above: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    /// The model's own.
    pub(super) below: StoredWeights,
}

impl Over {
    fn weights(&self, table: &ParamTable) -> Result<Vec<f32>> {
        let mut weights = vec![0.0; table.len()];
        for param in table.params() {
            let place = &mut weights[param.offset..param.offset + param.len()];
            match self.above.get(&param.name) {
                Some((_, values)) => place.copy_from_slice(values),
                None => self.below.copy_to(&param.name, place)?,
            }
        }
        Ok(weights)
    }
}

impl StoredWeights {
    /// The file, for messages.
    pub fn path(&self) -> &Path {
        match self {
            Self::Own(tensors) => tensors.path(),
            Self::Published(weights) => weights.path(),
            Self::Over(over) => &over.path,
        }
    }

    /// The shape of a parameter; `None` when it is not there.
    pub(crate) fn shape(&self, param: &str) -> Option<Vec<usize>> {
        match self {
            Self::Own(tensors) => tensors.shape(param).map(<[usize]>::to_vec),
            Self::Published(weights) => weights.shape(param),
            Self::Over(over) => match over.above.get(param) {
                Some((shape, _)) => Some(shape.clone()),
                None => over.below.shape(param),
            },
        }
    }

    /// Whether a parameter is there in this shape.
    pub(super) fn fits(&self, param: &str, shape: &[usize]) -> bool {
        match self {
            Self::Own(tensors) => tensors.fits(param, shape),
            Self::Published(weights) => weights.shape(param).is_some_and(|stored| stored == shape),
            Self::Over(over) => match over.above.get(param) {
                Some((stored, _)) => stored == shape,
                None => over.below.fits(param, shape),
            },
        }
    }

    /// What is stored for a parameter, for people.
    pub(super) fn describe(&self, param: &str) -> String {
        match self {
            Self::Own(tensors) => tensors.describe(param),
            Self::Published(weights) => weights.describe(param),
            Self::Over(over) => match over.above.get(param) {
                Some((shape, _)) => format!("{shape:?}"),
                None => over.below.describe(param),
            },
        }
    }

    /// Copies a parameter to the beginning of `values`.
    pub(super) fn copy_to(&self, param: &str, values: &mut [f32]) -> Result<()> {
        match self {
            Self::Own(tensors) => tensors.copy_to(param, values),
            Self::Published(weights) => weights.copy_to(param, values),
            Self::Over(over) => match over.above.get(param) {
                Some((_, stored)) => {
                    values[..stored.len()].copy_from_slice(stored);
                    Ok(())
                }
                None => over.below.copy_to(param, values),
            },
        }
    }

    /// The weights of a table whose parameters are all there, in place where that is possible.
    pub(super) fn weights(&self, table: &ParamTable) -> Result<Weights> {
        match self {
            Self::Own(tensors) => in_place_or_copied(tensors, table),
            Self::Published(weights) => weights.weights(table),
            Self::Over(over) => over.weights(table).map(Weights::new),
        }
    }

    /// A copy of the weights of a table whose parameters are all there.
    pub(super) fn copied(&self, table: &ParamTable) -> Result<Vec<f32>> {
        match self {
            Self::Own(tensors) => copied(tensors, table),
            Self::Published(weights) => weights.copied(table),
            Self::Over(over) => over.weights(table),
        }
    }

    /// How many tensors are read for the parameters of a table.
    pub fn used_by(&self, table: &ParamTable) -> usize {
        match self {
            Self::Own(tensors) => table.params().iter().filter(|p| tensors.shape(&p.name).is_some()).count(),
            Self::Published(weights) => weights.used_by(table).len(),
            Self::Over(over) => {
                let above = |param: &&Param| over.above.contains_key(&param.name);
                table.params().iter().filter(above).count() + over.below.used_by(table)
            }
        }
    }

    /// The names of what is stored for no parameter of a table, sorted.
    pub fn left_by(&self, table: &ParamTable) -> Vec<String> {
        match self {
            Self::Own(tensors) => {
                let known: std::collections::HashSet<&str> =
                    table.params().iter().map(|param| param.name.as_str()).collect();
                tensors.names().filter(|name| !known.contains(name)).map(String::from).collect()
            }
            Self::Published(weights) => weights.left_by(table),
            Self::Over(over) => {
                let known = |name: &&String| table.params().iter().any(|param| param.name == **name);
                let mut left: Vec<String> = over.above.keys().filter(|name| !known(name)).cloned().collect();
                left.extend(over.below.left_by(table));
                left.sort();
                left
            }
        }
    }
}
