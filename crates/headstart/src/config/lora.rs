//! Low-rank updates of a model's linears (LoRA, Hu et al. 2021): their sizes and places.
//!
//! Owns: names, ranges, the scale. Never: which of them train (`method`), what they compute (`model/peft.rs`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{check, check_positive};
use crate::error::Result;

/// A linear of a block that may have an update of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoraTarget {
    /// Attention's queries.
    Q,
    /// Attention's keys.
    K,
    /// Attention's values.
    V,
    /// Attention's out-projection.
    O,
    /// The first linear of the feed-forward.
    Up,
    /// The second linear of the feed-forward.
    Down,
}

impl LoraTarget {
    /// All of them, in the order of a block.
    pub const ALL: [Self; 6] = [Self::Q, Self::K, Self::V, Self::O, Self::Up, Self::Down];

    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q => "q",
            Self::K => "k",
            Self::V => "v",
            Self::O => "o",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// Which linears of every block have an update; written `attention` (q, k, v and o), `all`, or as a list like `q,v`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LoraTargets([bool; LoraTarget::ALL.len()]);

impl LoraTargets {
    /// Queries, keys, values and the out-projection.
    pub const ATTENTION: Self = Self([true, true, true, true, false, false]);

    /// Those of a list.
    pub const fn of(targets: &[LoraTarget]) -> Self {
        let (mut chosen, mut i) = ([false; LoraTarget::ALL.len()], 0);
        while i < targets.len() {
            chosen[targets[i] as usize] = true;
            i += 1;
        }
        Self(chosen)
    }

    /// Whether a linear is one of them.
    pub fn has(self, target: LoraTarget) -> bool {
        self.0[target as usize]
    }
}

impl FromStr for LoraTargets {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut targets = Self([false; LoraTarget::ALL.len()]);
        for name in text.split(',') {
            match name.trim() {
                "all" => targets.0 = [true; LoraTarget::ALL.len()],
                "attention" => (0..targets.0.len()).for_each(|i| targets.0[i] |= Self::ATTENTION.0[i]),
                name => match LoraTarget::ALL.into_iter().find(|target| target.name() == name) {
                    Some(target) => targets.0[target as usize] = true,
                    None => {
                        return Err(format!(
                            "`{name}` is no linear of a block: use attention, all, or a list of q, k, v, o, up and down"
                        ));
                    }
                },
            }
        }
        Ok(targets)
    }
}

impl TryFrom<String> for LoraTargets {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<LoraTargets> for String {
    fn from(targets: LoraTargets) -> Self {
        targets.to_string()
    }
}

impl fmt::Display for LoraTargets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = LoraTarget::ALL.into_iter().filter(|&target| self.has(target)).map(LoraTarget::name);
        f.write_str(&names.collect::<Vec<_>>().join(","))
    }
}

/// The updates of a model: W x becomes W x + scale * B A drop(x), A `[rank, inputs]`, B `[outputs, rank]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Rows of each A, columns of each B.
    pub rank: usize,
    /// What the scale is made of.
    pub alpha: f64,
    /// Dropout on what A reads.
    pub dropout: f32,
    /// The linears that have one.
    pub targets: LoraTargets,
    /// Whether the scale is alpha / sqrt(rank) (Kalajdzievski 2023), not alpha / rank.
    pub rslora: bool,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, dropout: 0.0, targets: LoraTargets::ATTENTION, rslora: false }
    }
}

impl LoraConfig {
    /// What B A x is multiplied by.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// Checks the ranges that are the same for every model.
    ///
    /// # Errors
    /// [`crate::Error::Config`] naming the key.
    pub fn validate(&self) -> Result<()> {
        check("lora_rank", self.rank > 0, || {
            (
                "0 is no rank of an update".into(),
                "use a number from 1 to the model's width; 8 is usual".into(),
            )
        })?;
        check_positive("lora_alpha", self.alpha)?;
        check("lora_dropout", (0.0..1.0).contains(&self.dropout), || {
            (format!("{} is not a probability below 1", self.dropout), "use a number from 0 to 0.99".into())
        })
    }

    /// Checks every range, for a model as wide as this.
    ///
    /// # Errors
    /// [`crate::Error::Config`] naming the key.
    pub fn check_width(&self, width: usize) -> Result<()> {
        self.validate()?;
        check("lora_rank", (1..=width).contains(&self.rank), || {
            let what = format!("{} is no rank of an update of linears that are {width} wide", self.rank);
            (what, format!("use a number from 1 to {width}; 8 is usual"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_by_name_and_written_in_the_order_of_a_block() {
        let read = |text: &str| text.parse::<LoraTargets>().map(|targets| targets.to_string());
        assert_eq!(read("v,q").unwrap(), "q,v");
        assert_eq!(read("attention, up").unwrap(), "q,k,v,o,up");
        assert_eq!(read("all").unwrap(), "q,k,v,o,up,down");
        assert_eq!(read("attention").unwrap(), LoraTargets::ATTENTION.to_string());
        for wrong in ["", "query", "q,,v", "Q"] {
            assert!(read(wrong).unwrap_err().contains("no linear of a block"), "{wrong}");
        }
        let stored = serde_json::to_string(&LoraConfig::default()).unwrap();
        assert!(stored.contains(r#""targets":"q,k,v,o""#), "{stored}");
        assert_eq!(serde_json::from_str::<LoraConfig>(&stored).unwrap(), LoraConfig::default());
    }

    #[test]
    #[allow(clippy::float_cmp)] // exact quotients
    fn the_scale_is_alpha_by_the_rank_or_its_root() {
        let lora = LoraConfig { rank: 4, ..LoraConfig::default() };
        assert_eq!((lora.scale(), LoraConfig { rslora: true, ..lora }.scale()), (4.0, 8.0));
        let error = LoraConfig { rank: 33, ..lora }.check_width(32).unwrap_err().to_string();
        assert!(error.contains("lora_rank") && error.contains("1 to 32"), "{error}");
        assert!(LoraConfig { rank: 32, ..lora }.check_width(32).is_ok());
        for wrong in [
            LoraConfig { rank: 0, ..lora },
            LoraConfig { alpha: 0.0, ..lora },
            LoraConfig { dropout: 1.0, ..lora },
        ] {
            assert!(wrong.validate().is_err(), "{wrong:?}");
        }
    }
}
