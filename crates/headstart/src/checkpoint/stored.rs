//! The weights of a model on disk, under this program's names or under those of its family.
//!
//! Owns: that both are used alike. Never: the translation of names (`interop`), the form of files (`tensors`).

use std::path::Path;

use headstart_engine::Weights;

use crate::checkpoint::weights::{copied, in_place_or_copied};
use crate::error::Result;
use crate::interop::PublishedWeights;
use crate::params::ParamTable;
use crate::tensors::TensorFile;

/// Where a model's weights lie.
#[derive(Clone, Debug)]
pub enum StoredWeights {
    /// In a file of this program.
    Own(TensorFile),
    /// In files of a family.
    Published(PublishedWeights),
}

impl StoredWeights {
    /// The file, for messages.
    pub fn path(&self) -> &Path {
        match self {
            Self::Own(tensors) => tensors.path(),
            Self::Published(weights) => weights.path(),
        }
    }

    /// The shape of a parameter; `None` when it is not there.
    pub(crate) fn shape(&self, param: &str) -> Option<Vec<usize>> {
        match self {
            Self::Own(tensors) => tensors.shape(param).map(<[usize]>::to_vec),
            Self::Published(weights) => weights.shape(param),
        }
    }

    /// Whether a parameter is there in this shape.
    pub(super) fn fits(&self, param: &str, shape: &[usize]) -> bool {
        match self {
            Self::Own(tensors) => tensors.fits(param, shape),
            Self::Published(weights) => weights.shape(param).is_some_and(|stored| stored == shape),
        }
    }

    /// What is stored for a parameter, for people.
    pub(super) fn describe(&self, param: &str) -> String {
        match self {
            Self::Own(tensors) => tensors.describe(param),
            Self::Published(weights) => weights.describe(param),
        }
    }

    /// Copies a parameter to the beginning of `values`.
    pub(super) fn copy_to(&self, param: &str, values: &mut [f32]) -> Result<()> {
        match self {
            Self::Own(tensors) => tensors.copy_to(param, values),
            Self::Published(weights) => weights.copy_to(param, values),
        }
    }

    /// The weights of a table whose parameters are all there, in place where that is possible.
    pub(super) fn weights(&self, table: &ParamTable) -> Result<Weights> {
        match self {
            Self::Own(tensors) => in_place_or_copied(tensors, table),
            Self::Published(weights) => weights.weights(table),
        }
    }

    /// A copy of the weights of a table whose parameters are all there.
    pub(super) fn copied(&self, table: &ParamTable) -> Result<Vec<f32>> {
        match self {
            Self::Own(tensors) => copied(tensors, table),
            Self::Published(weights) => weights.copied(table),
        }
    }

    /// How many tensors are read for the parameters of a table.
    pub fn used_by(&self, table: &ParamTable) -> usize {
        match self {
            Self::Own(tensors) => table.params().iter().filter(|p| tensors.shape(&p.name).is_some()).count(),
            Self::Published(weights) => weights.used_by(table).len(),
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
        }
    }
}
