//! The ops of a training step around their matmuls: milliseconds forward and backward, checked before timed.
//!
//! `cargo bench -p headstart-engine --bench step_ops [-- FILTER]`; the filter is a part of a line such as
//! `bf16 1 Attention`. Every number is the best of many: what else runs on the machine can only make it worse.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use headstart_engine::bench::{Op, OpRun, fork_and_join};
use headstart_engine::ops::adam::{Adam, Decay, Range, squared_norm};
use headstart_engine::{CodePath, Device, EngineError, Flat, Gradients, Precision, Weights};

/// Repetitions go on for this long, and are at least [`LEAST`].
const LONG: Duration = Duration::from_millis(400);
const LEAST: u32 = 5;

/// Parameters of the tutorial's model.
const PARAMETERS: usize = 50_396_360;

fn main() -> Result<(), EngineError> {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let plain = Device::cpu(None, CodePath::Portable)?;
    println!("{:32} {:>11} {:>11}", "", "forward ms", "backward ms");
    for threads in [1, 2] {
        let device = Device::cpu(NonZeroUsize::new(threads), CodePath::Auto)?;
        for (title, precision, tolerance) in [("f32", Precision::F32, 1e-4), ("bf16", Precision::Bf16, 2e-2)]
        {
            for op in Op::ALL {
                let line = format!("{title} {threads} {op:?}");
                if !line.contains(&filter) {
                    continue;
                }
                let mut run = OpRun::new(&device, precision, op);
                let difference = run.difference(&mut OpRun::new(&plain, precision, op));
                assert!(difference < tolerance, "{line}: {difference} from the portable path");
                print(&line, best(|| run.run()));
            }
        }
        let line = format!("f32 {threads} Adam, norm of gradients");
        if line.contains(&filter) {
            print(&line, adam(&device));
        }
        let line = format!("- {threads} fork and join, 2 and 16 tasks");
        if line.contains(&filter) {
            print(&line, best(|| [2, 16].map(|tasks| fork_and_join(&device, tasks))));
        }
    }
    Ok(())
}

/// The optimizer step, and the norm that clipping needs.
fn adam(device: &Device) -> [Duration; 2] {
    let mut weights = Weights::new(vec![1.0; PARAMETERS]);
    let mut gradients = Gradients::new(PARAMETERS);
    let (mut m, mut v) = (Flat::zeros(PARAMETERS), Flat::zeros(PARAMETERS));
    let settings = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: Decay::Coupled };
    let range =
        Range { start: 0, grad: 0, moment: 0, len: PARAMETERS, lr: 0.125, weight_decay: 0.0, step: 1 };
    gradients.values_mut().fill(3.0);
    assert!((squared_norm(device, &gradients).wait() - 9.0 * PARAMETERS as f64).abs() < 1.0);
    settings.step(device, &mut weights, &mut gradients, &mut m, &mut v, &[range], 1.0);
    // The first step of Adam has the length of the rate.
    assert!(weights.values().iter().all(|w| (w - 0.875).abs() < 1e-6));
    best(|| {
        let start = Instant::now();
        settings.step(device, &mut weights, &mut gradients, &mut m, &mut v, &[range], 1.0);
        let step = start.elapsed();
        let start = Instant::now();
        std::hint::black_box(squared_norm(device, &gradients).wait());
        [step, start.elapsed()]
    })
}

/// The shortest of many runs, each part by itself.
fn best(mut run: impl FnMut() -> [Duration; 2]) -> [Duration; 2] {
    let (begin, mut best, mut runs) = (Instant::now(), [Duration::MAX; 2], 0);
    while runs < LEAST || begin.elapsed() < LONG {
        let took = run();
        best = [best[0].min(took[0]), best[1].min(took[1])];
        runs += 1;
    }
    best
}

fn print(line: &str, [forward, backward]: [Duration; 2]) {
    println!("{line:32} {:11.4} {:11.4}", forward.as_secs_f64() * 1e3, backward.as_secs_f64() * 1e3);
}
