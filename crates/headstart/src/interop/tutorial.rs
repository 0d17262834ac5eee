//! The files of the tutorial's own program (NAACL 2019): `model_checkpoint.pth`, a state dict, and `model_training_args.bin`, the
//! arguments that it was trained with.
//!
//! Owns: their names, what the arguments say of a model. Never: executes anything (`tensors`); writes such files.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::config::{Arch, HeadPooling, ModelConfig, Positions};
use crate::error::{Error, Result};
use crate::interop::config_json::Card;
use crate::interop::names::Names;
use crate::tensors::plain_values;

/// The weights.
pub const TUTORIAL_WEIGHTS: &str = "model_checkpoint.pth";
/// The arguments of the program.
pub const TUTORIAL_ARGUMENTS: &str = "model_training_args.bin";

/// `utils.py` and `pretraining_model.py` of the tutorial; attention is `torch.nn.MultiheadAttention`.
pub(super) const NAMES: Names = Names {
    prefix: "transformer.",
    blocks: "",
    in_block: &[
        ("norm_1", &["layer_norms_1.{n}"]),
        ("attention.in_proj", &["attentions.{n}.in_proj_"]),
        ("attention.out_proj", &["attentions.{n}.out_proj"]),
        ("norm_2", &["layer_norms_2.{n}"]),
        ("feed_forward.up", &["feed_forwards.{n}.0"]),
        ("feed_forward.down", &["feed_forwards.{n}.2"]),
    ],
    trunk: &[
        ("transformer.token_embedding", "tokens_embeddings"),
        ("transformer.position_embedding", "position_embeddings"),
    ],
    heads: &[],
    transposed: &[],
    copies: &["lm_head.weight"],
    decoder: "lm_head.weight",
};

/// Reads the arguments; `vocab_size` are the rows of the token embedding beside them, where there is one.
///
/// # Errors
/// [`Error::Checkpoint`] naming the argument: it is not there, or is no number or truth value that can stand there;
/// [`Error::Missing`], [`Error::Io`] when the file is not there or cannot be read.
pub fn read_tutorial(folder: &Path, vocab_size: Option<usize>) -> Result<Card> {
    let path = folder.join(TUTORIAL_ARGUMENTS);
    if !path.is_file() {
        return Err(Error::Missing {
            what: format!("{} has {TUTORIAL_WEIGHTS} but no {TUTORIAL_ARGUMENTS}", folder.display()),
            fix: "put the file of that name beside it, from the same training run: it says the sizes".into(),
        });
    }
    let arguments = Arguments { path: &path, values: plain_values(&path)? };
    let stated = arguments.values.contains_key("num_embeddings");
    let stated = if stated { Some(arguments.size("num_embeddings")?) } else { None };
    if let (Some(stated), Some(rows)) = (stated, vocab_size)
        && stated != rows
    {
        let what = format!("its `num_embeddings` is {stated}, the weights beside it have {rows} rows");
        return Err(arguments.refuse(what));
    }
    let config = ModelConfig {
        arch: Arch::Naacl2019,
        vocab_size: vocab_size.or(stated).unwrap_or(0),
        embed_dim: arguments.size("embed_dim")?,
        hidden_dim: arguments.size("hidden_dim")?,
        num_max_positions: arguments.size("num_max_positions")?,
        num_heads: arguments.size("num_heads")?,
        num_layers: arguments.size("num_layers")?,
        positions: if arguments.flag("sinusoidal_embeddings")? {
            Positions::Sinusoidal
        } else {
            Positions::Learned
        },
        causal: !arguments.flag("mlm")?,
        dropout: arguments.number("dropout", 0.1)?,
        initializer_range: arguments.number("initializer_range", 0.02)?,
        ..ModelConfig::default()
    };
    config.validate().map_err(|error| arguments.refuse(error.to_string()))?;
    Ok(Card {
        config,
        pooling: HeadPooling::Cls,
        head_dropout: None,
        problem: None,
        labels: Vec::new(),
        tied: true,
        other_head: None,
        unused: Vec::new(),
    })
}

/// What `argparse` made of a command line.
struct Arguments<'a> {
    path: &'a Path,
    values: BTreeMap<String, Value>,
}

impl Arguments<'_> {
    fn size(&self, name: &str) -> Result<usize> {
        let value = self.values.get(name).ok_or_else(|| {
            self.refuse(format!("it has no `{name}`: these are no arguments of the tutorial's pretraining"))
        })?;
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        size.ok_or_else(|| self.refuse(format!("its `{name}` is {value}, which is no size")))
    }

    fn number(&self, name: &str, default: f32) -> Result<f32> {
        let Some(value) = self.values.get(name) else { return Ok(default) };
        let number = value.as_f64().map(|number| number as f32);
        number.ok_or_else(|| self.refuse(format!("its `{name}` is {value}, which is no number")))
    }

    fn flag(&self, name: &str) -> Result<bool> {
        let Some(value) = self.values.get(name) else { return Ok(false) };
        value
            .as_bool()
            .ok_or_else(|| self.refuse(format!("its `{name}` is {value}, which is neither true nor false")))
    }

    fn refuse(&self, what: String) -> Error {
        Error::Checkpoint {
            path: self.path.to_path_buf(),
            what,
            fix: format!("put back the {TUTORIAL_ARGUMENTS} that the weights were trained with"),
        }
    }
}
