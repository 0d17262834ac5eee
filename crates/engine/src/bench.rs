//! What benchmarks need from inside: the processor's peak, and single matmuls as the ops run them.
//!
//! Owns: the cases and their check against f64. Never: a clock for others; no op uses this.

mod ops;

pub use ops::{Op, OpRun, fork_and_join};

use std::time::Instant;

use crate::cpu::convert::round_bf16;
use crate::cpu::gemm::{self, Operand, PackedRight, Right};
use crate::cpu::shared::SharedSlice;
use crate::cuda::Write;
use crate::cuda::ops::elementwise::in_type;
use crate::device::Device;
use crate::dtype::{DType, Precision};
use crate::rng::Stream;
use crate::tensor::Tensor;

/// The most floating-point operations per second (in units of 10^9) that matmuls reach here: on the processor what
/// [`register_peak_gflops`] finds, on a GPU the best of some large square matmuls of the kind that training has.
pub fn peak_gflops(device: &Device, precision: Precision) -> Option<f64> {
    let Some(cuda) = device.cuda() else { return register_peak_gflops(device, precision) };
    let mut stream = Stream::new(1);
    let drawn: Vec<f32> = (0..1 << 16).map(|_| stream.normal() as f32).collect();
    let seconds = |side: usize| {
        // Not zeros: with those a GPU draws less power and is faster than it ever is at work.
        let values: Vec<f32> = drawn.iter().copied().cycle().take(side * side).collect();
        let matrix = || {
            let wide = Tensor::from_f32(device.pool(), side, side, &values);
            in_type(cuda, device.pool(), &wide, precision.activation())
        };
        let (a, b) = (matrix(), matrix());
        let out = Tensor::uninit(device.pool(), side, side, precision.activation());
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            device.check().ok()?;
            let start = Instant::now();
            for _ in 0..10 {
                cuda.matmul(a.matrix(), b.matrix().transposed(), out.matrix(), Write::Replace);
            }
            device.check().ok()?;
            best = best.min(start.elapsed().as_secs_f64() / 10.0);
        }
        Some(best)
    };
    let speed = |side: usize| seconds(side).map(|best| 2.0 * (side as f64).powi(3) / best * 1e-9);
    // Small matmuls first: where they take long (the emulated GPU), large ones would take minutes.
    let small = speed(256)?;
    if small < 500.0 { Some(small) } else { speed(8_192) }
}

/// The most floating-point operations per second (in units of 10^9) that the matmul's instruction can reach with
/// this device's threads when all operands stay in registers: the best of some milliseconds. `None` where
/// matmuls have no kernel of our own.
pub fn register_peak_gflops(device: &Device, precision: Precision) -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    {
        use crate::cpu::simd::Level;
        const ROUNDS: usize = 50_000;
        let pairs = precision == Precision::Bf16;
        let least = if pairs { Level::Avx512Bf16 } else { Level::Avx512 };
        if device.level() < least {
            return None;
        }
        let tiles = pairs && device.has_tiles();
        let of_round = match () {
            () if tiles => gemm::AMX_PEAK_ROUND,
            () if pairs => 24 * 16 * 4,
            () => 24 * 16 * 2,
        };
        let flops = (ROUNDS * of_round * device.threads()) as f64;
        let mut best = f64::INFINITY;
        for _ in 0..20 {
            let start = Instant::now();
            device.for_each(device.threads(), |_| {
                // SAFETY: the level was detected.
                unsafe {
                    if tiles {
                        gemm::amx_peak_loop(ROUNDS);
                    } else if pairs {
                        std::hint::black_box(gemm::register_peak_loop::<true>(ROUNDS, 0.5));
                    } else {
                        std::hint::black_box(gemm::register_peak_loop::<false>(ROUNDS, 0.5));
                    }
                }
            });
            best = best.min(start.elapsed().as_secs_f64());
        }
        Some(flops / best * 1e-9)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (device, precision, Instant::now);
        None
    }
}

/// The three matmuls of a linear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Y `[m, n]` = X `[m, k]` times the transpose of W `[n, k]`.
    Forward,
    /// dX `[m, n]` = dY `[m, k]` times W `[k, n]`.
    InputGradient,
    /// dW `[m, n]` = the transpose of dY `[k, m]` times X `[k, n]`.
    WeightGradient,
}

/// One matmul with operands of random numbers.
#[derive(Debug)]
pub struct Matmul {
    form: Form,
    precision: Precision,
    shape: [usize; 3],
    left: Tensor,
    right: Tensor,
    packed: Option<PackedRight>,
    out: Tensor,
}

impl Matmul {
    /// A matmul of `m`, `k`, `n`. Activations are kept as the ops keep them; weights are f32, and packed
    /// beforehand in bf16.
    pub fn new(device: &Device, precision: Precision, form: Form, [m, k, n]: [usize; 3]) -> Self {
        let mut stream = Stream::new((m * 31 + k * 7 + n) as u64);
        let mut draw = |rows, cols, dtype| {
            let mut tensor = Tensor::uninit(device.pool(), rows, cols, dtype);
            // A short cycle of numbers with an odd period: as good as random here, and quick to make.
            let values: Vec<f32> = (0..8_191).map(|_| stream.normal() as f32).collect();
            match dtype {
                DType::F32 => {
                    let values = values.iter().cycle();
                    tensor.f32_mut().iter_mut().zip(values).for_each(|(t, v)| *t = *v);
                }
                DType::Bf16 => {
                    let values = values.iter().cycle();
                    tensor.bf16_mut().iter_mut().zip(values).for_each(|(t, v)| *t = round_bf16(*v));
                }
            }
            tensor
        };
        let (activation, weight) = (precision.activation(), DType::F32);
        let (left, right) = match form {
            Form::Forward => (draw(m, k, activation), draw(n, k, weight)),
            Form::InputGradient => (draw(m, k, activation), draw(k, n, weight)),
            Form::WeightGradient => (draw(k, m, activation), draw(k, n, activation)),
        };
        let out = Tensor::zeros(device.pool(), m, n, DType::F32);
        let mut matmul = Self { form, precision, shape: [m, k, n], left, right, packed: None, out };
        if precision == Precision::Bf16 && form != Form::WeightGradient {
            matmul.packed = Some(PackedRight::new(device, matmul.right_operand()));
        }
        matmul
    }

    /// Floating-point operations of one run.
    pub fn flops(&self) -> f64 {
        self.shape.iter().fold(2.0, |flops, &size| flops * size as f64)
    }

    fn left_operand(&self) -> Operand<'_> {
        let left = Operand::new(&self.left);
        if self.form == Form::WeightGradient { left.transposed() } else { left }
    }

    fn right_operand(&self) -> Operand<'_> {
        let right = Operand::new(&self.right);
        if self.form == Form::Forward { right.transposed() } else { right }
    }

    /// Computes it once.
    pub fn run(&mut self, device: &Device) {
        let cols = self.shape[2];
        let empty = Tensor::uninit(device.pool(), 0, 0, DType::F32);
        let mut out = std::mem::replace(&mut self.out, empty);
        {
            let destination = Some(gemm::Destination::new(out.f32(), cols));
            let out = SharedSlice::new(out.f32_mut());
            let right = match &self.packed {
                Some(packed) => Right::Packed(packed),
                None => Right::Plain(self.right_operand()),
            };
            gemm::gemm(device, self.precision, self.left_operand(), right, destination, |row, col, z| {
                // SAFETY: the matmul hands out every element once.
                unsafe { out.slice(row * cols + col, z.len()) }.copy_from_slice(z);
            });
        }
        self.out = out;
    }

    /// Writes packed weights anew, as after every optimizer step; nothing where none are packed.
    pub fn repack(&mut self, device: &Device) {
        if let Some(mut packed) = self.packed.take() {
            packed.repack(device, self.right_operand());
            self.packed = Some(packed);
        }
    }

    /// The largest error of some hundred elements of the last run against f64, relative to the root of k (the
    /// elements' size).
    pub fn error(&self) -> f64 {
        let [m, k, n] = self.shape;
        let (left, right) = (self.left_operand(), self.right_operand());
        let mut stream = Stream::new(1);
        let mut worst = 0.0_f64;
        for i in 0..300 {
            // The last row and column too: edges are where mistakes are.
            let row = if i % 10 == 0 { m - 1 } else { stream.below(m) };
            let col = if i % 10 < 2 { n - 1 } else { stream.below(n) };
            let exact: f64 = (0..k)
                .map(|k| left.element(row, k, self.precision) * right.element(k, col, self.precision))
                .sum();
            let found = f64::from(self.out.f32()[row * n + col]);
            worst = worst.max((found - exact).abs());
        }
        worst / (k as f64).sqrt()
    }
}
