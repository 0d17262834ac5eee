//! `headstart bench`.
//!
//! Owns: sizes of a benchmark that are not given. Never: times anything.

use anyhow::Result;
use headstart::bench::{BenchConfig, Work};
use headstart::config::{DataConfig, ModelConfig};
use headstart::data::source::STARTER_QUESTIONS;

use super::{Usage, data, devices, hub, pretrain};
use crate::args::{BenchArgs, ComputeArgs};

/// What `headstart bench` times.
pub fn bench(args: BenchArgs) -> Result<BenchConfig> {
    let BenchArgs {
        work,
        batch,
        seq,
        steps,
        warmup,
        objective,
        vocab_size,
        stated_peak,
        model,
        profile,
        json: _,
        compute,
        sizes,
        source,
    } = args;
    let ComputeArgs { precision, threads, device } = compute;
    let preset = ModelConfig::preset(sizes.preset.as_deref().unwrap_or("naacl2019"))?;
    let gpt2 = sizes.preset.as_deref().is_some_and(|name| matches!(name, "gpt2" | "124m"));
    let mut config = pretrain::model_config(&sizes, preset.clone());
    let sized = sizes.preset.is_some() || config != preset || vocab_size.is_some();
    config.vocab_size = vocab_size.unwrap_or(if gpt2 { 50_257 } else { 28_996 });
    let mut base = DataConfig::default();
    if work == Work::Features {
        // Some texts are in the program itself.
        STARTER_QUESTIONS.clone_into(&mut base.path);
    }
    let mut data = data::source_config(source, base);
    data::fill_cache_dir(&mut data)?;
    if let (Work::Train | Work::Forward, Some(model)) = (work, &model) {
        let what = format!(
            "--model {}: `bench {}` times sizes on random tokens, no model of its own\n  fix: name them (--preset, --arch, \
             --embed_dim, ...), or time `bench finetune`",
            model.display(),
            if work == Work::Train { "train" } else { "forward" },
        );
        return Err(Usage(what).into());
    }
    if work == Work::Finetune && model.is_some() && sized {
        let what = "sizes and --model are given, and `bench finetune` takes those of the model\n  fix: leave one out";
        return Err(Usage(what.into()).into());
    }
    let run = model.map(|name| hub::model_folder(name, hub::places_of(&data))).transpose()?;
    Ok(BenchConfig {
        work,
        model: config,
        objective,
        precision,
        threads,
        device: devices::choice(device),
        batch: batch.unwrap_or(match work {
            Work::Finetune => 16,
            Work::Features => 32,
            _ if gpt2 => 4,
            _ => 8,
        }),
        seq: seq.unwrap_or(if gpt2 { 512 } else { 256 }),
        steps: steps.unwrap_or(match work {
            Work::Train | Work::Forward => 6,
            Work::Finetune | Work::Features => 40,
            Work::Predict | Work::Generate => 200,
        }),
        warmup,
        stated_peak,
        data,
        run,
        profile,
    })
}
