//! `headstart plan`: what a run will take, as text or one line of JSON.
//!
//! Owns: how it reads. Never: the sums, or a network: a model that is named has to be here.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use headstart::config::DataConfig;
use headstart::plan::{self, Memory, Parameters, Plan, Time};

use crate::args::{PlaceArgs, PlanArgs, PlanCommand};
use crate::output::{self, bytes, duration};
use crate::ranks::Ranks;
use crate::settings::{self, Run};

/// Runs it.
pub fn run(command: PlanCommand) -> Result<ExitCode> {
    let alone = Ranks::default();
    let (plan, json) = match command {
        PlanCommand::Pretrain(args) => {
            let PlanArgs { assumed, work } = *args;
            let ranks = work.ranks.clone();
            let Run { mut config, telling, .. } = settings::pretrain(work, &alone)?;
            config.from = config.from.map(|name| here(name, &config.data)).transpose()?;
            let assumed = settings::assumptions(&assumed, &ranks, &config.data)?;
            (plan::pretrain(&config, &assumed)?, telling.json)
        }
        PlanCommand::Finetune(args) => {
            let PlanArgs { assumed, work } = *args;
            let ranks = work.ranks.clone();
            let Run { mut config, telling, .. } = settings::finetune(work, &alone)?;
            config.model = config.model.map(|name| here(name, &config.data)).transpose()?;
            config.peft.base = config.peft.base.map(|name| here(name, &config.data)).transpose()?;
            let assumed = settings::assumptions(&assumed, &ranks, &config.data)?;
            (plan::finetune(&config, &assumed)?, telling.json)
        }
    };
    if json {
        output::json_line(&plan)?;
    } else {
        output::text(&text(&plan))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The folder of a model that is on this machine.
fn here(name: PathBuf, data: &DataConfig) -> Result<PathBuf> {
    let places = PlaceArgs { offline: Some(true), ..settings::places_of(data) };
    settings::model_folder(name, places)
        .context("a plan fetches nothing; `headstart models pull` brings a model here")
}

fn text(plan: &Plan) -> String {
    let Plan {
        parameters,
        ranks,
        sequences_per_step,
        tokens_per_example,
        tokens_per_step,
        slabs_per_step,
        sequences_of_rank,
        steps,
        flops_per_step,
        memory,
        traffic_bytes,
        time,
    } = plan;
    let Parameters { embeddings, attention, feed_forward, norms, adapters, heads, total, trainable } =
        parameters;
    let Memory { weights, gradients, moments, copies, group_sums, activations, total: memory } = memory;
    let parts = [
        ("embeddings", embeddings),
        ("attention", attention),
        ("feed-forward", feed_forward),
        ("norms", norms),
        ("adapters", adapters),
        ("heads", heads),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{name} {}", amount(*count as f64)))
        .collect();
    let mut lines = vec![
        ("parameters", format!("{}: {}", amount(*total as f64), parts.join(", "))),
        ("trained", amount(*trainable as f64)),
        (
            "a step",
            format!(
                "{sequences_per_step} sequences of {tokens_per_example} tokens: {} tokens, {}FLOP",
                amount(*tokens_per_step as f64),
                amount(*flops_per_step)
            ),
        ),
    ];
    lines.push(match steps {
        Some(steps) => {
            let all = *steps as f64;
            let (tokens, flops) = (all * *tokens_per_step as f64, all * flops_per_step);
            ("the run", format!("{} steps: {} tokens, {}FLOP", amount(all), amount(tokens), amount(flops)))
        }
        None => ("the run", "of unknown length: --max_steps or --examples says it".into()),
    });
    let of_each = if *ranks > 1 { "a rank" } else { "memory" };
    lines.push((
        of_each,
        format!(
            "{}: weights {}, gradients {}, moments {}{}{}, activations about {}",
            bytes(*memory),
            bytes(*weights),
            bytes(*gradients),
            bytes(*moments),
            if *copies > 0 { format!(", copies of weights {}", bytes(*copies)) } else { String::new() },
            if *group_sums > 0 { format!(", sums of groups {}", bytes(*group_sums)) } else { String::new() },
            bytes(*activations)
        ),
    ));
    if *ranks > 1 {
        lines.push((
            "traffic",
            format!("{} a step sent by each of {ranks} ranks, and received", bytes(*traffic_bytes)),
        ));
    }
    if *ranks > 1 {
        let share = format!("up to {sequences_of_rank} sequences each, in whole slabs of about 512 tokens");
        let idle = ranks.saturating_sub(*slabs_per_step);
        lines.push(match idle {
            0 => ("ranks", share),
            idle => {
                ("ranks", format!("{share}; {idle} have none: a larger --train_batch_size gives them some"))
            }
        });
    }
    match time {
        None => lines.push(("time", "unknown: --gflops says how fast a process is".into())),
        Some(time) => lines.extend(time_lines(time, *ranks)),
    }
    let mut text = String::new();
    for (name, value) in lines {
        let _ = writeln!(text, "{name:<12}{value}");
    }
    text
}

fn time_lines(time: &Time, ranks: usize) -> Vec<(&'static str, String)> {
    let Time { compute_s, traffic_s, step_s, overlapped_step_s, efficiency, overlapped_efficiency, run_s } =
        time;
    let mut lines = Vec::new();
    if ranks > 1 {
        lines.push((
            "step",
            format!("{}: compute {}, traffic {}", short(*step_s), short(*compute_s), short(*traffic_s)),
        ));
        lines.push((
            "efficiency",
            format!(
                "{:.1} %; {:.1} % where gradients travel during the last backward ({})",
                100.0 * efficiency,
                100.0 * overlapped_efficiency,
                short(*overlapped_step_s)
            ),
        ));
    } else {
        lines.push(("step", short(*step_s)));
    }
    if let Some(run_s) = run_s {
        lines.push(("time", format!("{}, without evaluations and saving", duration(*run_s))));
    }
    lines
}

/// Seconds of a step.
fn short(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.3} ms", 1e3 * seconds) } else { format!("{seconds:.2} s") }
}

/// A count, in the unit that suits.
fn amount(count: f64) -> String {
    const UNITS: [(f64, &str); 6] =
        [(1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "K")];
    match UNITS.iter().find(|(from, _)| count >= *from) {
        Some((_, "K")) => format!("{:.1} K", count / 1e3),
        Some((size, unit)) => format!("{:.1} {unit}", count / size),
        None => format!("{count}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_everything() {
        let plan = Plan {
            parameters: Parameters {
                embeddings: 7_000_000,
                attention: 500,
                total: 7_000_500,
                trainable: 7_000_500,
                ..Parameters::default()
            },
            ranks: 2,
            sequences_per_step: 8,
            tokens_per_example: 256,
            tokens_per_step: 2_048,
            slabs_per_step: 4,
            sequences_of_rank: 4,
            steps: Some(100),
            flops_per_step: 2.5e12,
            memory: Memory { weights: 28_000_000, ..Memory::default() },
            traffic_bytes: 28_000_000,
            time: Some(Time { step_s: 1.5, efficiency: 0.9, run_s: Some(150.0), ..Time::default() }),
        };
        let said = text(&plan);
        for words in [
            "parameters  7.0 M: embeddings 7.0 M, attention 500\n",
            "a step      8 sequences of 256 tokens: 2048 tokens, 2.5 TFLOP\n",
            "the run     100 steps: 204.8 K tokens, 250.0 TFLOP\n",
            "traffic     28.0 MB a step sent by each of 2 ranks, and received\n",
            "efficiency  90.0 %; ",
            "time        2m 30s, without evaluations and saving\n",
        ] {
            assert!(said.contains(words), "{words} is not in\n{said}");
        }
        let alone = text(&Plan { ranks: 1, time: None, steps: None, ..plan });
        assert!(
            alone.contains("memory ") && alone.contains("--gflops") && alone.contains("--max_steps"),
            "{alone}"
        );
        assert!(!alone.contains("traffic"));
    }
}
