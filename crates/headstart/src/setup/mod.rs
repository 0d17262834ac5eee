//! What the commands share when they put a piece of work together: `pretrain`, `finetune`, `evaluate`, `bench`.
//!
//! Owns: opening a run, the weights it starts from, texts and labelled texts as the examples of a run. Never: the loop (`train`), a method's choices.

pub(crate) mod bag_of_words;
pub(crate) mod bar;
pub(crate) mod base;
pub(crate) mod classifier;
pub(crate) mod examples;
pub(crate) mod features_method;
pub mod labelled;
pub(crate) mod learning;
pub(crate) mod pace;
pub(crate) mod pace_by_phase;
pub(crate) mod pairs;
pub mod reader;
pub(crate) mod run;
pub(crate) mod text;
