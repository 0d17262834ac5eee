//! Matmuls against a plain triple loop in f64.

use std::num::NonZeroUsize;

use half::bf16;

use super::{Operand, PackedRight, Right, Source, gemm};
use crate::cpu::convert::round_bf16;
use crate::cpu::shared::SharedSlice;
use crate::cpu::simd::Level;
use crate::rng::Stream;
use crate::{CodePath, Device, Precision};

const SIZES: [usize; 10] = [1, 7, 8, 31, 41, 63, 64, 65, 130, 515];

/// A matrix in both element types.
struct Matrix {
    rows: usize,
    cols: usize,
    wide: Vec<f32>,
    narrow: Vec<bf16>,
}

impl Matrix {
    fn random(rows: usize, cols: usize, stream: &mut Stream) -> Self {
        let wide: Vec<f32> = (0..rows * cols).map(|_| stream.uniform() as f32 - 0.5).collect();
        let narrow = wide.iter().map(|&x| round_bf16(x)).collect();
        Self { rows, cols, wide, narrow }
    }

    /// The matrix `[rows, cols]`, or the transpose of a stored `[cols, rows]`.
    fn operand(&self, is_bf16: bool, transposed: bool) -> Operand<'_> {
        let data = if is_bf16 { Source::Bf16(&self.narrow) } else { Source::F32(&self.wide) };
        let (rows, cols) = (self.rows, self.cols);
        if transposed {
            Operand { data, rows, cols, row_stride: 1, col_stride: rows }
        } else {
            Operand { data, rows, cols, row_stride: cols, col_stride: 1 }
        }
    }
}

/// C in f64 (of operands rounded as the precision has it), and for each element the sum of magnitudes.
fn reference(a: Operand<'_>, b: Operand<'_>, precision: Precision) -> Vec<(f64, f64)> {
    let column =
        |x: Operand<'_>, c: usize| -> Vec<f64> { (0..x.rows).map(|r| x.element(r, c, precision)).collect() };
    let left: Vec<Vec<f64>> = (0..a.rows).map(|r| column(a.transposed(), r)).collect();
    let right: Vec<Vec<f64>> = (0..b.cols).map(|c| column(b, c)).collect();
    let mut out = Vec::with_capacity(a.rows * b.cols);
    for x in &left {
        for y in &right {
            let (mut sum, mut size) = (0.0, 0.0);
            for (x, y) in x.iter().zip(y) {
                sum += x * y;
                size += (x * y).abs();
            }
            out.push((sum, size));
        }
    }
    out
}

fn run(device: &Device, precision: Precision, a: Operand<'_>, b: Right<'_>, cols: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; a.rows * cols];
    let shared = SharedSlice::new(&mut out);
    gemm(device, precision, a, b, None, |row, col, z| {
        assert!(col % 32 == 0 && !z.is_empty());
        // SAFETY: the matmul hands out every element once; what it leaves out stays NaN.
        let to = unsafe { shared.slice(row * cols + col, z.len()) };
        assert!(to.iter().all(|x| x.is_nan()), "({row}, {col}) is stored twice");
        to.copy_from_slice(z);
    });
    out
}

fn check(m: usize, k: usize, n: usize, which: impl Fn(usize) -> bool) {
    let mut stream = Stream::new((m * 1_000_003 + k * 1_009 + n) as u64);
    let (a, b) = (Matrix::random(m, k, &mut stream), Matrix::random(k, n, &mut stream));
    let mut devices: Vec<Device> = [1, 2, 4].map(|threads| Device::of_level(Level::detect(), threads)).into();
    devices.push(Device::of_level(Level::Portable, 2));
    devices.extend(Level::lesser().into_iter().map(|level| Device::of_level(level, 2)));
    for case in (0..32).filter(|&c| which(c)) {
        let bit = |i: usize| case >> i & 1 == 1;
        let precision = if bit(0) { Precision::Bf16 } else { Precision::F32 };
        let (a, b) = (a.operand(bit(1), bit(2)), b.operand(bit(3), bit(4)));
        let exact = reference(a, b, precision);
        let what = format!("{m} x {k} x {n}, case {case}");
        let mut first: Option<Vec<f32>> = None;
        for device in &devices {
            let found = run(device, precision, a, Right::Plain(b), n);
            for (i, (found, (exact, size))) in found.iter().zip(&exact).enumerate() {
                // Sums of k terms lose at most about sqrt(k) units of their size.
                let limit = 1.2e-7 * size * (k as f64).sqrt().max(2.0) + 1e-30;
                assert!(
                    (f64::from(*found) - exact).abs() <= limit,
                    "{what}, {}: element {i}: {found} for {exact}",
                    device.code_path()
                );
            }
            if precision == Precision::Bf16 {
                let packed = PackedRight::new(device, b);
                assert_eq!(run(device, precision, a, Right::Packed(&packed), n), found, "{what}: packed");
            }
            if device.level() == Level::detect() {
                let first = first.get_or_insert_with(|| found.clone());
                assert_eq!(first, &found, "{what}: {} threads", device.threads());
            }
        }
    }
}

#[test]
fn all_layouts_and_types_at_odd_sizes() {
    for (i, &m) in SIZES.iter().enumerate() {
        let (k, n) = (SIZES[(i + 3) % SIZES.len()], SIZES[(i + 6) % SIZES.len()]);
        check(m, k, n, |_| true);
        // Every pair of sizes meets, in some of the layouts.
        for (j, &k) in SIZES[..9].iter().enumerate() {
            let n = SIZES[(i * 3 + j * 7) % 9];
            if m < 500 {
                check(m, k, n, |case| case % 11 == (i + j) % 11);
            }
        }
    }
}

#[test]
fn a_long_sum_goes_in_blocks() {
    check(5, 4_501, 50, |case| case % 5 == 1 || case % 7 == 4);
    check(9, 8_003, 20, |case| case % 6 == 1);
    // A right operand that is packed part by part.
    check(2, 4_501, 970, |case| case == 0 || case == 20);
}

#[test]
fn nothing_times_nothing() {
    check(3, 0, 40, |_| true);
    check(0, 3, 4, |_| true);
    check(4, 3, 0, |_| true);
}

#[test]
fn packing_again_replaces_the_values_in_place() {
    let mut stream = Stream::new(8);
    let (a, b, c) = (
        Matrix::random(9, 33, &mut stream),
        Matrix::random(33, 100, &mut stream),
        Matrix::random(33, 100, &mut stream),
    );
    for path in [CodePath::Auto, CodePath::Portable] {
        let device = Device::cpu(NonZeroUsize::new(2), path).unwrap();
        let mut packed = PackedRight::new(&device, b.operand(false, false));
        packed.repack(&device, c.operand(false, true));
        let found = run(&device, Precision::Bf16, a.operand(false, false), Right::Packed(&packed), 100);
        let fresh = PackedRight::new(&device, c.operand(false, true));
        let wanted = run(&device, Precision::Bf16, a.operand(false, false), Right::Packed(&fresh), 100);
        assert_eq!(found, wanted);
        // Another shape, in the same object.
        let (a, b) = (b.operand(false, false).transposed(), a.operand(false, true));
        let (a, b) = (a, Operand { rows: 33, cols: 9, col_stride: 33, ..b });
        packed.repack(&device, b);
        let found = run(&device, Precision::Bf16, a, Right::Packed(&packed), 9);
        let fresh = PackedRight::new(&device, b);
        assert_eq!(found, run(&device, Precision::Bf16, a, Right::Packed(&fresh), 9));
    }
}
