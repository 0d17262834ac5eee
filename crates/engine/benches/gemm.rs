//! Matmuls at this project's shapes: GFLOP/s and the share of the register peak, checked before timed.
//!
//! `cargo bench -p headstart-engine --bench gemm [-- FILTER]`; the filter is a part of a line such as `bf16 dW`.
//! Every number is the best of many short repetitions: what else runs on the machine can only make it worse.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use headstart_engine::bench::{Form, Matmul, register_peak_gflops};
use headstart_engine::{CodePath, Device, EngineError, Precision};

/// Repetitions go on for this long, and are at least [`LEAST`].
const LONG: Duration = Duration::from_millis(250);
const LEAST: u32 = 5;

/// (in, out) of the linears: the tutorial's model, its language-model head, GPT-2's.
const LINEARS: [(usize, usize); 7] =
    [(410, 1_230), (410, 410), (410, 2_100), (2_100, 410), (410, 28_996), (768, 2_304), (768, 3_072)];

/// Rows of a slab, and rows of the head's logits that exist at once.
const SLAB: usize = 512;

fn main() -> Result<(), EngineError> {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    for precision in [Precision::F32, Precision::Bf16] {
        for threads in [1, 2] {
            let device = Device::cpu(NonZeroUsize::new(threads), CodePath::Auto)?;
            let title = if precision == Precision::F32 { "f32" } else { "bf16" };
            let measure = || register_peak_gflops(&device, precision).unwrap_or(f64::NAN);
            let mut peak = measure();
            println!("{title}, {threads} threads, {}, peak {:.0}", device.code_path(), peak);
            println!("{:28} {:>22} {:>9} {:>7}", "", "m x k x n", "GFLOP/s", "share");
            for (inputs, outputs) in LINEARS {
                for (name, form, shape) in [
                    ("Y = X W^T", Form::Forward, [SLAB, inputs, outputs]),
                    ("dX = dY W", Form::InputGradient, [SLAB, outputs, inputs]),
                    ("dW = dY^T X", Form::WeightGradient, [outputs, SLAB, inputs]),
                ] {
                    let line = format!("{title} {threads} {name} {inputs} {outputs}");
                    if !line.contains(&filter) {
                        continue;
                    }
                    let mut matmul = Matmul::new(&device, precision, form, shape);
                    matmul.run(&device);
                    let error = matmul.error();
                    assert!(error < 1e-4, "{line}: error {error}");
                    let seconds = best(|| matmul.run(&device));
                    // The clock may have been slower when the peak was measured.
                    peak = peak.max(measure());
                    let rate = matmul.flops() / seconds * 1e-9;
                    let [m, k, n] = shape;
                    let shape = format!("{m} x {k} x {n}");
                    println!("{line:28} {shape:>22} {rate:9.1} {:6.1}%", 100.0 * rate / peak);
                    if precision == Precision::Bf16 && form != Form::WeightGradient {
                        let packing = best(|| matmul.repack(&device));
                        let bytes = (6 * inputs * outputs) as f64;
                        println!("{:51} packing {:.1} GB/s", "", bytes / packing * 1e-9);
                    }
                }
            }
        }
    }
    Ok(())
}

/// The shortest of many runs, in seconds.
fn best(mut run: impl FnMut()) -> f64 {
    let (begin, mut best, mut runs) = (Instant::now(), f64::INFINITY, 0);
    while runs < LEAST || begin.elapsed() < LONG {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}
