//! The table `[data]`: where text and tokenizer come from. Owns: names and defaults. Never: reads files.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::check;
use crate::error::Result;

/// Where text and tokenizer come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// A named data set, a file, a folder or an address.
    pub path: String,
    /// A tokenizer.json, a vocab.txt, a folder with one, or a name of the catalogue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Lower-case the text (only for a bare vocab.txt; a tokenizer.json says so itself).
    pub lowercase: bool,
    /// The files' encoding; absent: UTF-8, or what the catalogue says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// Where downloads and token caches live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_dir: Option<PathBuf>,
    /// A folder with unpacked data sets, for machines without a network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<PathBuf>,
    /// Never touch the network.
    pub offline: bool,
    /// What stands between the columns of a table: one character, or `tab`; absent: detected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<String>,
    /// Whether the first row of a table names its columns; absent: it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<bool>,
    /// The column with the text, or the two with the texts of a pair, by name (without a header, by number from 1); absent:
    /// detected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_column: Option<TextColumns>,
    /// The column with the label, by name; absent: detected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_column: Option<String>,
    /// The column of a table whose equal values, such as authors, stand on one side when validation data is held out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_column: Option<String>,
    /// Use only so many training examples, drawn evenly over the classes with the run's seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_train_examples: Option<usize>,
}

/// The columns with the text: one, or the two of a pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "`text_column` is the name of a column, or a list of two names")]
pub enum TextColumns {
    /// As they are typed: a name, or two with a comma between.
    Typed(String),
    /// Name by name.
    Listed(Vec<String>),
}

impl TextColumns {
    /// Whether these are the two of a pair, as far as the names alone say.
    pub fn are_pair(&self) -> bool {
        match self {
            Self::Typed(names) => names.contains(','),
            Self::Listed(names) => names.len() > 1,
        }
    }
}

impl DataConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`crate::Error::Config`] naming the key.
    pub fn validate(&self) -> Result<()> {
        check("max_train_examples", self.max_train_examples != Some(0), || {
            (
                "0 examples train nothing".into(),
                "use a positive number, or n_epochs = 0 to evaluate only".into(),
            )
        })
    }
}
