//! Models of other programs: what their files say in this program's words, and back.
//!
//! Owns: the translation of config.json and of parameters' names, one table a family; the notes of sentence-transformers; the
//! tutorial's own files; the code that goes with its models. Never: run folders (`checkpoint`), tokenizers, what a model
//! computes. Nothing read is executed, and a key that could change the
//! mathematics is understood or refused.
//!
//! To add a family: its options in `model/families.rs`, its file here (a table of names, and how its config.json is read
//! and written), its template in `data/template.rs`, and a golden written by the program it comes from.

mod adapterhub;
mod adapterhub_read;
mod bert;
mod code;
mod config_json;
mod distilbert;
mod electra;
mod gpt2;
mod modernbert;
mod names;
mod peft;
mod peft_read;
mod roberta;
mod schema;
mod sentence_transformers;
mod settings;
#[cfg(test)]
mod tests;
mod tokenizer_files;
mod tutorial;
mod weights;

pub use adapterhub::{HubForm, adapterhub_form};
pub use adapterhub_read::{HubHead, HubParts, adapterhub_base, read_adapterhub, read_adapterhub_head};
pub use code::{CODE_FILES, CODE_MODEL_TYPE, has_code, write_code_config};
pub use config_json::{Card, keep_head_defaults, read_config, write_config};
pub use peft::peft_form;
pub use peft_read::{Parameter, PeftParts, peft_base, read_peft};
pub(crate) use schema::number;
pub use sentence_transformers::{
    SentenceLinear, SentenceSettings, read_sentence_settings, sentence_files, tokenizer_max_length,
};
pub use tokenizer_files::tokenizer_files;
pub use tutorial::{TUTORIAL_ARGUMENTS, TUTORIAL_WEIGHTS, read_tutorial};
pub use weights::{Piece, PublishedWeights, pieces, prefix};
