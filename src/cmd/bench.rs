//! `headstart bench`: how fast this machine trains, evaluates, predicts and generates.
//!
//! Owns: the result as a table or one line of JSON. Never: a clock of its own.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use headstart::bench::{self, Measured, Work};
use headstart::config::ModelConfig;
use serde::Serialize;

use super::doctor::kilobytes;
use crate::args::BenchArgs;
use crate::output;
use crate::progress::{Progress, Verbosity};
use crate::settings;

/// One line of JSON: what was asked, what was found.
#[derive(Serialize)]
struct Report {
    what: Work,
    #[serde(skip_serializing_if = "Option::is_none")]
    preset: Option<String>,
    batch: usize,
    seq: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    dropout: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attention_dropout: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_mib: Option<u64>,
    #[serde(flatten)]
    measured: Measured,
}

/// Runs it.
pub fn run(args: BenchArgs) -> Result<ExitCode> {
    let json = args.json;
    let preset = args.sizes.preset.clone().unwrap_or_else(|| "naacl2019".into());
    let config = settings::bench(args)?;
    let mut progress = Progress::new(Verbosity::Calm);
    // A model that is named has its own.
    let sizes = config.run.is_none().then_some(&config.model);
    let measured = bench::bench(&config, &mut |event| progress.listen(&event))?;
    let line = Report {
        what: config.work,
        preset: sizes.map(|_| preset),
        batch: config.batch,
        seq: config.seq,
        dropout: sizes.map(|model| model.dropout),
        attention_dropout: sizes.map(ModelConfig::attention_dropout),
        peak_mib: peak_mib(),
        measured,
    };
    if json {
        output::json_line(&line)?;
    } else {
        output::text(&text(&line))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The most memory this process has had resident, where the system says.
fn peak_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    Some(kilobytes(&status, "VmHWM")? >> 20)
}

fn text(line: &Report) -> String {
    let found = &line.measured;
    let metrics = [
        ("tokens/s", Some(found.tokens_per_s).filter(|speed| *speed > 0.0)),
        ("examples/s", found.examples_per_s),
        ("ms, median", Some(1e3 * found.seconds)),
        ("ms, 95 %", found.p95_ms),
        ("epoch, s", found.epoch_seconds),
        ("GFLOP/s", found.gflops),
        ("peak GFLOP/s", found.peak_gflops),
        ("share of peak, %", found.share_of_peak.map(|share| 100.0 * share)),
        ("peak memory, MiB", line.peak_mib.map(|mib| mib as f64)),
        ("allocations a step", found.allocations_per_step),
        ("GPU memory, MiB", found.device_peak_mib.map(|mib| mib as f64)),
        ("replayed steps, %", found.replayed.map(|share| 100.0 * share)),
        ("threads", Some(found.threads as f64)),
    ];
    let mut text =
        format!("{:<20}{:>10}\n{:<20}{:>10}\n", "device", found.device, "products", found.precision);
    for (name, value) in metrics {
        if let Some(value) = value {
            let _ = writeln!(text, "{name:<20}{value:>10.1}");
        }
    }
    if let Some(why) = &found.not_recorded {
        let _ = writeln!(text, "no graphs: {why}");
    }
    if !found.profile.is_empty() {
        let all: f64 = found.profile.iter().map(|line| line.ms).sum();
        let _ = writeln!(text, "\n{:<32}{:>10}{:>8}{:>8}", "work", "ms a step", "share", "calls");
        for bench::WorkTime { work, ms, calls } in &found.profile {
            let _ = writeln!(text, "{work:<32}{ms:>10.1}{:>7.1}%{calls:>8.0}", 100.0 * ms / all);
        }
        let rest = 1e3 * found.seconds - all;
        let _ = writeln!(text, "{:<32}{rest:>10.1}", "(median step less these)");
    }
    text
}
