//! The table `[distill]`: what a model learns of another one.
//!
//! Owns: names, defaults, ranges. Never: loads the teacher, computes a loss.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{check, check_positive};
use crate::error::Result;

/// Which layers of the student learn of which of the teacher, counted from 1: `2:3,4:6`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LayerMap(Vec<(usize, usize)>);

impl LayerMap {
    /// The last of the student and of the teacher.
    pub fn last(student: usize, teacher: usize) -> Self {
        Self(vec![(student, teacher)])
    }

    /// Student's layer and teacher's layer, in the order of the student's.
    pub fn pairs(&self) -> &[(usize, usize)] {
        &self.0
    }
}

impl FromStr for LayerMap {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong =
            |part: &str| format!("`{part}` is no pair of layers: write student:teacher, as in 2:3,4:6");
        let pair = |part: &str| {
            let (student, teacher) = part.split_once(':')?;
            let layer =
                |text: &str| text.trim().parse::<usize>().ok().filter(|layer| (1..=4_096).contains(layer));
            Some((layer(student)?, layer(teacher)?))
        };
        let pairs: std::result::Result<Vec<_>, String> =
            text.split(',').map(|part| pair(part).ok_or_else(|| wrong(part))).collect();
        let pairs = pairs?;
        if !pairs.is_sorted_by(|a, b| a.0 < b.0) {
            return Err("name each layer of the student once, the lowest first".into());
        }
        Ok(Self(pairs))
    }
}

impl TryFrom<String> for LayerMap {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<LayerMap> for String {
    fn from(map: LayerMap) -> Self {
        map.to_string()
    }
}

impl fmt::Display for LayerMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> =
            self.0.iter().map(|(student, teacher)| format!("{student}:{teacher}")).collect();
        f.write_str(&pairs.join(","))
    }
}

/// `headstart distill`, beside what pretraining is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DistillConfig {
    /// The model that is learned from: a run folder, its `final/`, a checkpoint or a published model's folder.
    pub teacher: PathBuf,
    /// SHA-256 of its weights, taken down when the run begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_sha256: Option<String>,
    /// Weight of the distance to its hidden states, token by token; 0: off.
    pub token_loss: f64,
    /// Weight of the divergence from its token relations; 0: off.
    pub relation_loss: f64,
    /// The heads that both models' queries, keys and values are cut into for them, each to be related to itself; absent: those of attention, which
    /// are to be as many in both, with queries related to keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relation_heads: Option<usize>,
    /// The teacher's layer, from 1, whose relations the student's last layer learns; absent: the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relation_layer: Option<usize>,
    /// Weight of the distance to its vectors of whole inputs; 0: off.
    pub sentence_loss: f64,
    /// Weight of the divergence from a classifier's probabilities; absent: 1 where the teacher tells single labels, else 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_loss: Option<f64>,
    /// What these probabilities are softened by.
    pub temperature: f64,
    /// Weight of the language model's loss; 0: off.
    pub lm_loss: f64,
    /// The layers whose hidden states are compared; absent: the last ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<LayerMap>,
    /// How the linears toward the teacher begin, where the student begins with a model that is there.
    pub linears: Linears,
}

/// How a student's linears toward its teacher begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Linears {
    /// By least squares, from what the student makes of some inputs before its first step.
    #[default]
    Solved,
    /// With random weights, as where the student itself does.
    Random,
}

impl Default for DistillConfig {
    fn default() -> Self {
        Self {
            teacher: PathBuf::new(),
            teacher_sha256: None,
            token_loss: 1.0,
            relation_loss: 0.0,
            relation_heads: None,
            relation_layer: None,
            sentence_loss: 1.0,
            label_loss: None,
            temperature: 2.0,
            lm_loss: 0.0,
            layers: None,
            linears: Linears::default(),
        }
    }
}

impl DistillConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`crate::Error::Config`] naming the key.
    pub fn validate(&self) -> Result<()> {
        check("teacher", !self.teacher.as_os_str().is_empty(), || {
            ("no model is named to learn from".into(), "name one: --teacher minilm-l6, or a folder".into())
        })?;
        let label_loss = self.label_loss.unwrap_or(0.0);
        let weights = [
            ("token_loss", self.token_loss),
            ("relation_loss", self.relation_loss),
            ("sentence_loss", self.sentence_loss),
            ("label_loss", label_loss),
            ("lm_loss", self.lm_loss),
        ];
        for (key, weight) in weights {
            check(key, weight >= 0.0 && weight.is_finite(), || {
                (format!("{weight} is not a weight"), "use 0 (off) or a positive number".into())
            })?;
        }
        let learns = self.learns_states() || self.sentence_loss > 0.0 || self.label_loss != Some(0.0);
        check("token_loss", learns, || {
            ("nothing is learned of the teacher".into(), "give one of its losses a positive number".into())
        })?;
        check_positive("temperature", self.temperature)?;
        check("layers", self.layers.is_none() || self.token_loss > 0.0, || {
            ("the layers are those of token_loss, which is 0".into(), "leave layers out".into())
        })?;
        for (key, given) in [
            ("relation_heads", self.relation_heads.is_some()),
            ("relation_layer", self.relation_layer.is_some()),
        ] {
            check(key, !given || self.relation_loss > 0.0, || {
                (
                    "it is of relation_loss, which is 0".into(),
                    format!("leave {key} out, or set relation_loss"),
                )
            })?;
        }
        Ok(())
    }

    /// Whether anything is learned token by token, for which both models have to read the same pieces.
    pub fn learns_states(&self) -> bool {
        self.token_loss > 0.0 || self.relation_loss > 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_read_as_they_are_written() {
        let map: LayerMap = "2:3, 4:6".parse().unwrap();
        assert_eq!((map.pairs(), map.to_string().as_str()), (&[(2, 3), (4, 6)][..], "2:3,4:6"));
        for wrong in ["", "2", "0:1", "2:3,2:4", "4:6,2:3", "a:b", "1:9999"] {
            assert!(wrong.parse::<LayerMap>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn something_has_to_be_learned() {
        let config = |token_loss, sentence_loss| DistillConfig {
            teacher: "t".into(),
            token_loss,
            sentence_loss,
            label_loss: Some(0.0),
            ..DistillConfig::default()
        };
        assert!(config(0.0, 1.0).validate().is_ok() && config(1.0, 0.0).validate().is_ok());
        let none = config(0.0, 0.0).validate().unwrap_err().to_string();
        assert!(none.contains("nothing is learned"), "{none}");
        assert!(config(-1.0, 1.0).validate().is_err() && config(f64::NAN, 1.0).validate().is_err());
        // Relations are something, and their own keys need them.
        let related = DistillConfig { relation_loss: 1.0, relation_heads: Some(4), ..config(0.0, 0.0) };
        assert!(related.validate().is_ok() && related.learns_states());
        let idle = DistillConfig { relation_layer: Some(4), ..config(1.0, 0.0) };
        assert!(idle.validate().unwrap_err().to_string().contains("relation_layer"));
    }
}
