//! Learned scales of a model's activations ((IA)3, Liu et al. 2022): their places.
//!
//! Owns: names, which linears they stand at. Never: what trains (`method`), what they compute (`model/scales.rs`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::check;
use super::lora::{LoraTarget, LoraTargets};
use crate::error::Result;

/// Which activations of every block are scaled, named by their linears: what q, k and v give, what o and down read. Written
/// `all`, or as a list like `k,v,down`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ia3Targets(LoraTargets);

impl Ia3Targets {
    /// Keys, values and the feed-forward's inner activations, as in the paper.
    pub const USUAL: Self = Self(LoraTargets::of(&[LoraTarget::K, LoraTarget::V, LoraTarget::Down]));

    /// Those of a list; `None` where `up` is among them, or there is none.
    pub fn of(targets: &[LoraTarget]) -> Option<Self> {
        let targets = LoraTargets::of(targets);
        (targets != LoraTargets::of(&[]) && !targets.has(LoraTarget::Up)).then_some(Self(targets))
    }

    /// Whether the activations at a linear are among them.
    pub fn has(self, target: LoraTarget) -> bool {
        self.0.has(target)
    }
}

impl FromStr for Ia3Targets {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let text = if text.trim() == "all" { "q,k,v,o,down" } else { text };
        let refused = || {
            format!(
                "`{text}` names no activations that are scaled: use all, or a list of q, k, v, o and down"
            )
        };
        if text.split(',').any(|name| ["all", "attention", "up"].contains(&name.trim())) {
            return Err(refused());
        }
        text.parse().map(Self).map_err(|_| refused())
    }
}

impl TryFrom<String> for Ia3Targets {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<Ia3Targets> for String {
    fn from(targets: Ia3Targets) -> Self {
        targets.to_string()
    }
}

impl fmt::Display for Ia3Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The scales of a model: each starts at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ia3Config {
    /// What they stand at.
    pub targets: Ia3Targets,
}

impl Default for Ia3Config {
    fn default() -> Self {
        Self { targets: Ia3Targets::USUAL }
    }
}

impl Ia3Config {
    /// Refuses other scales than those that a model has already.
    ///
    /// # Errors
    /// [`crate::Error::Config`].
    pub fn check_same(self, own: Self) -> Result<()> {
        check("ia3_targets", self == own, || {
            let what = format!("the model has scales of {} already, and others are asked for", own.targets);
            (
                what,
                format!(
                    "use --ia3_targets {} to train those on, or merge them first: headstart export",
                    own.targets
                ),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_by_name() {
        let read = |text: &str| text.parse::<Ia3Targets>().map(|targets| targets.to_string());
        assert_eq!(read("down, k").unwrap(), "k,down");
        assert_eq!(read("all").unwrap(), "q,k,v,o,down");
        assert_eq!(Ia3Targets::USUAL.to_string(), "k,v,down");
        for wrong in ["", "up", "k,up", "attention", "keys", "k,all"] {
            assert!(read(wrong).unwrap_err().contains("q, k, v, o and down"), "{wrong}");
        }
        assert_eq!(
            Ia3Targets::of(&[LoraTarget::V, LoraTarget::K, LoraTarget::Down]),
            Some(Ia3Targets::USUAL)
        );
        assert_eq!([&[LoraTarget::Up][..], &[]].map(Ia3Targets::of), [None, None]);
        let stored = serde_json::to_string(&Ia3Config::default()).unwrap();
        assert_eq!(stored, r#"{"targets":"k,v,down"}"#);
        assert_eq!(serde_json::from_str::<Ia3Config>(&stored).unwrap(), Ia3Config::default());
    }
}
