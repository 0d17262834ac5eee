//! The gradcheck: an op's fast forward against its plain f64 reference, its backward against finite differences
//! of that reference, in f32 and bf16, on the best and the portable code path, with 1 and 3 threads (equal bits), and
//! on a GPU where there is one, real or emulated: twice (equal bits), and against the processor.
//!
//! Owns: the tolerance table, which is never widened until green. Never: knows a single op.

use std::num::NonZeroUsize;
use std::sync::OnceLock;

use crate::cpu::convert::round_bf16;
use crate::cpu::simd::Level;
use crate::cuda::ops::elementwise;
use crate::dtype::DType;
use crate::rng::Stream;
use crate::{Device, Gradients, Packing, Precision, Tape, Tensor, Value, View, Weights};

/// Sizes that fit no register, tile or cache line.
pub(crate) const ODD_SIZES: [usize; 8] = [1, 7, 8, 31, 41, 63, 64, 65];
/// The dropout seed of every check.
pub(crate) const SEED: u64 = 11;
/// The optimizer step of every check.
pub(crate) const STEP: u64 = 3;

/// Largest error, relative to the largest magnitude of the tensor compared, by op: (f32, bf16).
/// f32 sums of some thousand terms lose a few units of 6e-8; bf16 operands are exact here, but what an op
/// rounds on the way (its output, saved activations, gradients between matmuls) costs up to 2^-9 each.
fn tolerance(op: &str) -> (f64, f64) {
    match op {
        "norm" | "pool" | "mix" | "cosine" | "select_rows" | "embedding" | "loss" => (5e-6, 5e-6),
        "linear" | "gate" | "rotary" | "dropout" | "column_scale" => (5e-6, 1.2e-2),
        "attention" | "linear_cross_entropy" => (1e-5, 1.5e-2),
        other => unreachable!("no tolerance for {other}"),
    }
}

/// Precisions, and the types that an op's inputs have in each: what comes from a norm stays f32 in bf16, what comes from a linear
/// does not, and attention has kernels for both.
fn input_types(op: &str) -> &'static [(Precision, DType)] {
    let all = &[(Precision::F32, DType::F32), (Precision::Bf16, DType::F32), (Precision::Bf16, DType::Bf16)];
    if op == "attention" { all } else { &all[..2] }
}

/// The GPU, or the emulated one (`tests/emulator`); `None`, and the reason printed, where there is neither.
pub(crate) fn gpu() -> Option<Device> {
    let paths = crate::CudaOptions::default();
    crate::load::ready().then(|| Device::gpu(0, NonZeroUsize::new(1), &paths).unwrap())
}

/// The GPU that all checks of ops share, so that each kernel is compiled and loaded once.
pub(crate) fn shared_gpu() -> Option<&'static Device> {
    static GPU: OnceLock<Option<Device>> = OnceLock::new();
    GPU.get_or_init(gpu).as_ref()
}

/// How far a GPU may be from the processor, relative to the largest magnitude.
pub(crate) fn between_devices(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 1e-5,
        Precision::Bf16 => 1e-2,
    }
}

/// One row of the gradcheck table.
pub(crate) struct Gradcheck {
    op: &'static str,
    inputs: Vec<(usize, usize)>,
    params: Vec<(usize, usize)>,
    lengths: Vec<usize>,
}

struct Outcome {
    y: Vec<f32>,
    input_gradients: Vec<Vec<f32>>,
    param_gradients: Vec<Vec<f32>>,
}

impl Outcome {
    /// The output, the gradients of the inputs, those of the parameters.
    fn parts(&self) -> impl Iterator<Item = &[f32]> {
        let all = [&self.y].into_iter().chain(&self.input_gradients).chain(&self.param_gradients);
        all.map(Vec::as_slice)
    }
}

impl Gradcheck {
    /// An op with inputs and parameters of the given (name, rows, columns).
    pub(crate) fn new(
        op: &'static str,
        inputs: &[(&str, usize, usize)],
        params: &[(&str, usize, usize)],
    ) -> Self {
        let sizes = |x: &[(&str, usize, usize)]| x.iter().map(|&(_, r, c)| (r, c)).collect::<Vec<_>>();
        let lengths = vec![inputs.first().map_or(1, |x| x.1)];
        Self { op, inputs: sizes(inputs), params: sizes(params), lengths }
    }

    /// The sequence lengths of the packing (default: one sequence of all rows of the first input).
    pub(crate) fn lengths(mut self, lengths: &[usize]) -> Self {
        self.lengths = lengths.to_vec();
        self
    }

    /// Runs the check. `forward` is the op on the tape; `reference` maps inputs and parameters to the output.
    pub(crate) fn run(
        &self,
        forward: impl Fn(&mut Tape<'_>, &[Value], &[View]) -> Value,
        reference: impl Fn(&[Vec<f64>], &[Vec<f64>]) -> Vec<f64>,
    ) {
        let mut stream =
            Stream::new(self.inputs.iter().chain(&self.params).fold(1, |s, x| s * 31 + x.0 + 7 * x.1) as u64);
        // Where bf16 enters, the operands are exact in it, so that only what an op itself rounds is measured.
        let (exact, rounded) = tolerance(self.op);
        let round = |x: f64| if rounded > exact { round_bf16(x as f32).to_f32() } else { x as f32 };
        let mut draw = |sizes: &[(usize, usize)]| -> Vec<Vec<f32>> {
            let one = |&(r, c): &(usize, usize)| (0..r * c).map(|_| round(stream.normal())).collect();
            sizes.iter().map(one).collect()
        };
        let (inputs, params) = (draw(&self.inputs), draw(&self.params));
        let wide = |x: &[Vec<f32>]| -> Vec<Vec<f64>> {
            x.iter().map(|x| x.iter().map(|&v| f64::from(v)).collect()).collect()
        };
        let (inputs64, params64) = (wide(&inputs), wide(&params));
        let expected = reference(&inputs64, &params64);
        let dy = draw(&[(1, expected.len())]).remove(0);
        let loss = |x: &[Vec<f64>], w: &[Vec<f64>]| -> f64 {
            reference(x, w).iter().zip(&dy).map(|(y, &d)| y * f64::from(d)).sum()
        };
        for &(precision, inputs_as) in input_types(self.op) {
            let (f32_limit, bf16_limit) = tolerance(self.op);
            let limit = if precision == Precision::F32 { f32_limit } else { bf16_limit };
            let check = |found: &Outcome, on: &str| {
                let what = format!(
                    "{} {:?} as {inputs_as:?} {:?} {precision:?} {on}",
                    self.op, self.inputs, self.params
                );
                close(&found.y, &expected, limit, &format!("{what}: output"));
                for i in 0..inputs.len() {
                    let at = |x: &[f64]| {
                        let mut all = inputs64.clone();
                        all[i] = x.to_vec();
                        loss(&all, &params64)
                    };
                    let name = format!("{what}: d input {i}");
                    slopes(&found.input_gradients[i], &inputs64[i], limit, at, &name);
                }
                for i in 0..params.len() {
                    let at = |w: &[f64]| {
                        let mut all = params64.clone();
                        all[i] = w.to_vec();
                        loss(&inputs64, &all)
                    };
                    let name = format!("{what}: d parameter {i}");
                    slopes(&found.param_gradients[i], &params64[i], limit, at, &name);
                }
            };
            let run =
                |device: &Device| self.once(&forward, (&inputs, inputs_as), &params, &dy, precision, device);
            let mut on_processor = None;
            for level in [Level::detect(), Level::Portable].into_iter().chain(Level::lesser()) {
                let [one, three] = [1, 3].map(|threads| run(&Device::of_level(level, threads)));
                self.same_bits(&one, &three, "threads change");
                check(&one, level.name());
                on_processor.get_or_insert(one);
            }
            if let (Some(gpu), Some(cpu)) = (shared_gpu(), on_processor) {
                let (found, again) = (run(gpu), run(gpu));
                gpu.check().unwrap();
                self.same_bits(&found, &again, "a second run changes");
                check(&found, "GPU");
                for (a, b) in found.parts().zip(cpu.parts()) {
                    let b: Vec<f64> = b.iter().map(|&b| f64::from(b)).collect();
                    close(a, &b, between_devices(precision), &format!("{}: GPU and processor", self.op));
                }
            }
        }
    }

    fn same_bits(&self, a: &Outcome, b: &Outcome, what: &str) {
        for (i, (a, b)) in a.parts().zip(b.parts()).enumerate() {
            assert!(bits(a) == bits(b), "{}: {what} the output or gradient {i}", self.op);
        }
    }

    fn once(
        &self,
        forward: &impl Fn(&mut Tape<'_>, &[Value], &[View]) -> Value,
        (inputs, inputs_as): (&[Vec<f32>], DType),
        params: &[Vec<f32>],
        dy: &[f32],
        precision: Precision,
        device: &Device,
    ) -> Outcome {
        let mut views = Vec::new();
        let mut offset = 0;
        for &(rows, cols) in &self.params {
            views.push(View { offset, rows, cols, grad: Some(offset) });
            offset += rows * cols;
        }
        let weights = Weights::new(params.concat());
        let mut gradients = Gradients::new(offset);
        let ids: Vec<u64> = (0..self.lengths.len() as u64).collect();
        let packing = Packing::new(&self.lengths, &ids);
        let mut tape = Tape::training(device, &weights, &mut gradients, &packing, precision, SEED, STEP);
        let leaves: Vec<Value> = inputs
            .iter()
            .zip(&self.inputs)
            .map(|(x, &(r, c))| tape.leaf(typed(device, Tensor::from_f32(device.pool(), r, c, x), inputs_as)))
            .collect();
        let y = forward(&mut tape, &leaves, &views);
        let out = y.tensor.to_f32_vec();
        let seed = Tensor::from_f32(device.pool(), y.tensor.rows(), y.tensor.cols(), dy);
        let found = tape.backward_from(vec![(y.id.unwrap(), seed)], None);
        let gradient_of = |leaf: &Value| match &found[leaf.id.unwrap()] {
            Some(t) => t.to_f32_vec(),
            None => vec![0.0; leaf.tensor.rows() * leaf.tensor.cols()],
        };
        let input_gradients = leaves.iter().map(gradient_of).collect();
        let param_gradients =
            views.iter().map(|v| gradients.values()[v.offset..v.offset + v.len()].to_vec()).collect();
        Outcome { y: out, input_gradients, param_gradients }
    }
}

/// The tensor in the given type.
fn typed(device: &Device, tensor: Tensor, dtype: DType) -> Tensor {
    if dtype == tensor.dtype() {
        return tensor;
    }
    if let Some(cuda) = device.cuda() {
        return elementwise::in_type(cuda, device.pool(), &tensor, dtype);
    }
    let mut rounded = Tensor::uninit(device.pool(), tensor.rows(), tensor.cols(), dtype);
    for (to, &from) in rounded.bf16_mut().iter_mut().zip(tensor.f32()) {
        *to = round_bf16(from);
    }
    rounded
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// max |a - b| / max |b| within the limit.
pub(crate) fn close(a: &[f32], b: &[f64], limit: f64, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}: length");
    let scale = b.iter().fold(1e-30_f64, |m, b| m.max(b.abs()));
    let worst = a.iter().zip(b).map(|(&a, b)| (f64::from(a) - b).abs()).fold(0.0, f64::max);
    assert!(worst / scale <= limit, "{what}: error {:.2e} over the limit {limit:.0e}", worst / scale);
}

/// A gradient against central differences of `loss`: along three random directions over all coordinates, and
/// along a sample of single ones.
fn slopes(gradient: &[f32], x: &[f64], limit: f64, loss: impl Fn(&[f64]) -> f64, what: &str) {
    const STEP_SIZE: f64 = 1e-6;
    let n = x.len();
    let mut stream = Stream::new(n as u64);
    let mut directions: Vec<Vec<f64>> = (0..3).map(|_| (0..n).map(|_| stream.normal()).collect()).collect();
    for _ in 0..n.min(24) {
        let mut one = vec![0.0; n];
        one[stream.below(n)] = 1.0;
        directions.push(one);
    }
    let scale = gradient.iter().fold(1e-3_f64, |m, g| m.max(f64::from(*g).abs()));
    for d in directions {
        let length = d.iter().map(|d| d * d).sum::<f64>().sqrt();
        let moved =
            |sign: f64| x.iter().zip(&d).map(|(x, d)| x + sign * STEP_SIZE / length * d).collect::<Vec<_>>();
        let slope = (loss(&moved(1.0)) - loss(&moved(-1.0))) / (2.0 * STEP_SIZE);
        let ours = gradient.iter().zip(&d).map(|(&g, d)| f64::from(g) * d / length).sum::<f64>();
        // A unit direction over n coordinates gathers independent errors like one coordinate does. The
        // differences themselves are good to about 1e-8 of the loss's size.
        let error = (ours - slope).abs() / scale;
        assert!(
            error <= limit + 2e-7,
            "{what}: slope {slope:.6e}, gradient {ours:.6e}, error {error:.2e} over {limit:.0e}"
        );
    }
}
