//! Elementary functions and sums in a form the compiler vectorises, the same bits on every path.
//!
//! Owns: exp, tanh, GELU, SiLU, sums over 16 fixed lanes. Never: reads a tensor.

/// Number of partial sums of every reduction: the result does not depend on the vector width in use.
const LANES: usize = 16;
/// Elements of a long row, a vocabulary's, that go into one set of partial sums.
const BLOCK: usize = 64 * LANES;

/// exp(x) for x at most 0 (but for rounding), as softmax and tanh need it: in f32 within 2 units in the last place
/// on [-87, 0]; below, 0.
///
/// Cody-Waite reduction by ln 2 and a polynomial of degree 6.
#[inline(always)]
pub(crate) fn exp_nonpositive(x: f32) -> f32 {
    const ROUNDER: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Not `max`, which would take the bound for NaN.
    let clamped = if x < -87.3 { -87.3 } else { x };
    // Adding and taking away 1.5 * 2^23 rounds to the nearest integer.
    let shifted = clamped * std::f32::consts::LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.987_569_1e-4_f32;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let y = (p * (r * r) + r) + 1.0;
    // The integer stands in the low bits of the sum; `as i32` saturates, which vector instructions do not.
    let n = shifted.to_bits().wrapping_sub(ROUNDER.to_bits());
    let y = y * f32::from_bits(n.wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { y }
}

/// tanh(x) from exp, odd by construction.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let a = x.abs().min(20.0);
    let e = exp_nonpositive(-2.0 * a);
    // For small a the quotient loses digits; the series is exact to f32 there.
    let large = (1.0 - e) / (1.0 + e);
    let a2 = a * a;
    let small = a * (1.0 - a2 * (0.333_333_34 - a2 * (0.133_333_33 - a2 * 0.053_968_254)));
    let t = if a < 0.15 { small } else { large };
    if x.is_nan() { x } else { t.copysign(x) }
}

const GELU_SCALE: f32 = 0.797_884_6; // sqrt(2 / pi)
const GELU_CUBIC: f32 = 0.044_715;

/// GELU, tanh form (Hendrycks and Gimpel 2016): 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + tanh(GELU_SCALE * (x + GELU_CUBIC * x * x * x)))
}

/// The derivative of [`gelu`].
#[inline(always)]
pub(crate) fn gelu_derivative(x: f32) -> f32 {
    let t = tanh(GELU_SCALE * (x + GELU_CUBIC * x * x * x));
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * GELU_SCALE * (1.0 + 3.0 * GELU_CUBIC * x * x)
}

/// The standard normal distribution function, and exp(-x^2 / 2), which its density and its approximation share. The error is
/// at most 2e-7 (Abramowitz and Stegun 1964, 7.1.26).
#[inline(always)]
fn normal_cdf(x: f32) -> (f32, f32) {
    let a = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let e = exp_nonpositive(-a * a);
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let p = t * (1.421_413_7 + t * (-1.453_152 + t * 1.061_405_4));
    let tail = 0.5 * e * t * (0.254_829_6 + t * (-0.284_496_75 + p));
    (if x < 0.0 { tail } else { 1.0 - tail }, e)
}

/// GELU (Hendrycks and Gimpel 2016): x Phi(x).
#[inline(always)]
pub(crate) fn gelu_exact(x: f32) -> f32 {
    x * normal_cdf(x).0
}

/// The derivative of [`gelu_exact`]: Phi(x) + x phi(x).
#[inline(always)]
pub(crate) fn gelu_exact_derivative(x: f32) -> f32 {
    const DENSITY: f32 = 0.398_942_3; // 1 / sqrt(2 pi)
    let (cdf, e) = normal_cdf(x);
    cdf + x * e * DENSITY
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    let e = exp_nonpositive(-x.abs());
    (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
}

/// x sigmoid(x).
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// The derivative of [`silu`].
#[inline(always)]
pub(crate) fn silu_derivative(x: f32) -> f32 {
    let s = sigmoid(x);
    s * (1.0 + x * (1.0 - s))
}

/// The derivative of [`tanh`].
#[inline(always)]
pub(crate) fn tanh_derivative(x: f32) -> f32 {
    let t = tanh(x);
    1.0 - t * t
}

/// Sum of `f` over the elements of slices of one length, in 16 interleaved partial sums joined in a fixed tree.
#[inline(always)]
pub(crate) fn sum<const S: usize>(x: [&[f32]; S], f: impl Fn([f32; S]) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let n = x.first().map_or(0, |x| x.len());
    // Whole chunks by themselves: an index into a slice would be checked, and the loop not vectorised.
    let parts = x.map(|x| x[..n].as_chunks::<LANES>());
    for i in 0..n / LANES {
        let chunks = parts.map(|(chunks, _)| &chunks[i]);
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane += f(chunks.map(|x| x[l]));
        }
    }
    for (l, lane) in lanes.iter_mut().enumerate().take(n % LANES) {
        *lane += f(parts.map(|(_, rest)| rest[l]));
    }
    join(lanes)
}

/// Replaces every element by `f` of it and sums the results as [`sum`] does, a block at a time.
#[inline(always)]
pub(crate) fn map_and_sum(x: &mut [f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut total = [0.0_f32; LANES];
    for block in x.chunks_mut(BLOCK) {
        let mut lanes = [0.0_f32; LANES];
        let (chunks, rest) = block.as_chunks_mut::<LANES>();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *x = f(*x);
                *lane += *x;
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *x = f(*x);
            *lane += *x;
        }
        total.iter_mut().zip(lanes).for_each(|(total, lane)| *total += lane);
    }
    join(total)
}

#[inline(always)]
fn join(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            lanes[l] += lanes[l + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The largest element; negative infinity for none.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = if x > *lane { x } else { *lane };
    }
    // No lane is NaN. A tree, as a chain of 16 takes longer than a short row.
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            lanes[l] = if lanes[l + width] > lanes[l] { lanes[l + width] } else { lanes[l] };
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::float_cmp)] // exact by construction
    fn exp_is_accurate_over_its_range() {
        for i in -8_730..=1 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp_nonpositive(x)) - exact).abs() / exact;
            assert!(error < 3e-7, "exp({x}): relative error {error:e}");
        }
        assert_eq!(exp_nonpositive(-1_000.0), 0.0);
        assert_eq!(exp_nonpositive(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp_nonpositive(0.0), 1.0);
        assert!(exp_nonpositive(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_and_gelu_agree_with_f64() {
        for i in -4_000..=4_000 {
            let x = i as f32 / 200.0;
            assert!((f64::from(tanh(x)) - f64::from(x).tanh()).abs() < 2e-7, "tanh({x})");
            let d = f64::from(x);
            let exact =
                |d: f64| 0.5 * d * (1.0 + (0.797_884_560_802_865_4 * (d + 0.044_715 * d.powi(3))).tanh());
            assert!((f64::from(gelu(x)) - exact(d)).abs() < 2e-6, "gelu({x})");
            let slope = (exact(d + 1e-5) - exact(d - 1e-5)) / 2e-5;
            assert!((f64::from(gelu_derivative(x)) - slope).abs() < 2e-6, "gelu'({x})");
        }
    }

    #[test]
    #[allow(clippy::float_cmp)] // exact by construction
    fn sums_and_maxima_cover_every_length() {
        for n in 0..70 {
            let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin()).collect();
            let exact: f64 = x.iter().map(|&x| f64::from(x)).sum();
            assert!((f64::from(sum([&x], |[x]| x)) - exact).abs() < 1e-5);
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
