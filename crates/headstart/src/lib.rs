//! Headstart: transfer learning in NLP. Pretrain a transformer once, give every later task a head start.
//!
//! The guided tour, in the order a run goes through it:
//!
//! 1. [`config`] — what the user asked for, validated.
//! 2. [`tokenizer`] and [`data`] — text becomes token ids, once, in a cache.
//!    [`hub`] — a published model's name becomes a folder.
//! 3. [`params`] and [`model`] — the parameter table and the one transformer over the engine's tape.
//! 4. [`train`] — the loop, the same for pretraining and fine-tuning; [`optim`], [`schedule`], [`masking`].
//! 5. [`eval`] and [`infer`] — loss, perplexity, accuracy; predict, generate.
//! 6. [`mod@bench`] — how fast all that is; [`plan`] — what a run will take. [`checkpoint`] and [`run_log`] — what a run leaves on disk.
//!
//! Shape letters in the docs: B batch, T time, N packed tokens, C embed, H heads, D head, F hidden, V vocab,
//! L layers. Nothing in this crate touches a terminal, an environment variable or the process.

#![forbid(unsafe_code)]

pub mod auto;
pub mod baseline;
pub mod batch;
pub mod bench;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod evaluate;
pub mod event;
pub mod files;
pub mod finetune;
mod guard;
mod head_fit;
pub mod history;
pub mod hub;
pub mod infer;
pub mod interop;
pub mod lint;
pub mod masking;
pub mod memory;
pub mod merge;
pub mod method;
pub mod model;
pub mod objective;
pub mod optim;
pub mod params;
pub mod plan;
pub mod predictions;
pub mod pretrain;
pub mod quickstart;
pub mod ranks;
pub mod rates;
pub mod report;
pub mod run_log;
pub mod schedule;
pub mod setup;
pub mod shipped;
pub mod teacher;
mod teacher_fit;
pub mod tensors;
pub mod tokenizer;
pub mod train;
mod train_log;
pub mod trials;

pub use error::{Error, Result};
// What the program needs of the engine for itself.
pub use headstart_engine::{Allocator, collective, signals};
