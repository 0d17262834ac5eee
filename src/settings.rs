//! What was typed becomes what the library is asked to do.
//!
//! Owns: the order of the layers: defaults, preset, `--config` file (or the settings of the run that continues), flags.
//! Never: flag names (args.rs) or ranges (the library's `validate`).
//!
//! Every clap struct is taken apart in full (no `..`) and every configuration is built in full, so that a forgotten
//! flag or key does not compile.

mod adapters;
mod auto;
mod bench;
mod data;
pub mod devices;
mod file;
mod finetune;
mod hub;
mod plan;
mod pretrain;
pub mod ranks;
mod run;
mod train;
mod tutorial;

pub use adapters::{named_adapters, trained_columns_of_all};
pub use auto::auto;
pub use bench::bench;
pub use data::{absolute_path, data_config, default_cache_dir, locations};
pub use file::{TrainedColumns, trained_columns};
pub use finetune::finetune;
pub use hub::{
    hub_options, model_and_base, model_folder, model_where_none_is_named, places_of, say as say_model,
    trunk_of_run,
};
pub use plan::assumptions;
pub use pretrain::{distill, pretrain};
pub use run::{Run, default_out, new_folder};

/// The program was called wrongly.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

#[cfg(test)]
mod tests;
