//! The three parts of a data set. Owns: their names. Never: decides which example goes where.

use std::fmt;

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// What the model learns from.
    Train,
    /// What choices are made on: the best checkpoint, when to stop.
    Valid,
    /// What is looked at once, at the end.
    Test,
}

impl Split {
    /// All splits, in this order.
    pub const ALL: [Self; 3] = [Self::Train, Self::Valid, Self::Test];

    /// The names under which data sets keep the split, the usual one first.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Train => &["train", "training"],
            Self::Valid => &["valid", "validation", "val", "dev"],
            Self::Test => &["test"],
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.names()[0])
    }
}
