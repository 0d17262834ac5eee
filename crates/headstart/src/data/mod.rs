//! Text on disk becomes examples of token ids. Never: models, optimizers, the terminal.

pub mod cache;
pub mod catalog;
pub mod classification;
pub mod content;
pub mod corpus;
pub mod corpus_files;
pub mod download;
pub mod encoding;
pub mod inspect;
mod json_list;
pub mod meeting;
mod parquet;
pub mod rows;
pub mod running_text;
mod shards;
pub mod source;
pub mod split;
pub mod starter;
pub mod template;
pub mod unknown;
mod watch;

pub use split::Split;
