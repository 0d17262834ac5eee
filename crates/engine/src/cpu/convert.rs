//! Between f32 and bf16: how one number is rounded, and how a row is, with the instruction that rounds sixteen at once.
//!
//! Owns: that. Never: when something is rounded, which each op decides.

use half::bf16;

use crate::cpu::simd::{Level, simd};

/// bf16 to f32, exactly.
#[inline(always)]
pub(crate) fn widen_plain(from: &[bf16], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = f32::from_bits(u32::from(from.to_bits()) << 16);
    }
}

/// f32 to bf16, round to nearest even; NaN stays NaN.
#[inline(always)]
pub(crate) fn narrow_plain(from: &[f32], to: &mut [bf16]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = round_bf16(from);
    }
}

/// One f32 to bf16, round to nearest even, in a form that vectorises; NaN stays NaN.
#[inline(always)]
pub(crate) fn round_bf16(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    let nan = (bits >> 16) | 0x40;
    bf16::from_bits(if x.is_nan() { nan } else { rounded } as u16)
}

simd! {
    /// bf16 to f32, exactly.
    pub(crate) fn widen(from: &[bf16], to: &mut [f32]) {
        widen_plain(from, to);
    }
}

simd! {
    fn round(from: &[f32], to: &mut [bf16]) {
        narrow_plain(from, to);
    }
}

/// f32 to bf16, round to nearest even. (The processor's instruction takes subnormal numbers, below 1.2e-38, for zero.)
pub(crate) fn narrow(level: Level, from: &[f32], to: &mut [bf16]) {
    #[cfg(target_arch = "x86_64")]
    if level >= Level::Avx512Bf16 {
        // SAFETY: the level was detected.
        unsafe { narrow_by_instruction(from, to) };
        return;
    }
    round(level, from, to);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn narrow_by_instruction(from: &[f32], to: &mut [bf16]) {
    use std::arch::x86_64::{
        __m256bh, __m256i, _mm256_mask_storeu_epi16, _mm256_storeu_si256, _mm512_cvtneps_pbh,
        _mm512_loadu_ps, _mm512_maskz_loadu_ps,
    };
    assert_eq!(from.len(), to.len());
    let bits = |x: __m256bh| -> __m256i {
        // SAFETY: both are 32 bytes of plain bits.
        unsafe { std::mem::transmute(x) }
    };
    let (chunks, rest) = from.as_chunks::<16>();
    let (to_chunks, to_rest) = to.as_chunks_mut::<16>();
    for (to, from) in to_chunks.iter_mut().zip(chunks) {
        // SAFETY: both have 16 elements.
        unsafe {
            let rounded = bits(_mm512_cvtneps_pbh(_mm512_loadu_ps(from.as_ptr())));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), rounded);
        }
    }
    if !rest.is_empty() {
        let mask = (1_u16 << rest.len()) - 1;
        // SAFETY: what the mask leaves out is not touched.
        unsafe {
            let rounded = bits(_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, rest.as_ptr())));
            _mm256_mask_storeu_epi16(to_rest.as_mut_ptr().cast(), mask, rounded);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;
    use crate::testing::ODD_SIZES;

    #[test]
    fn every_level_rounds_alike() {
        let mut stream = Stream::new(3);
        for len in ODD_SIZES.into_iter().chain([410]) {
            let mut from: Vec<f32> = (0..len).map(|_| (stream.normal() * 1e3) as f32).collect();
            from[0] = f32::INFINITY;
            from[len - 1] = 1.0 + 1.0 / 256.0; // half-way between two bf16: to even
            let mut expected = vec![bf16::ZERO; len];
            narrow_plain(&from, &mut expected);
            for level in [Level::Portable, Level::detect()] {
                let mut found = vec![bf16::ONE; len];
                narrow(level, &from, &mut found);
                assert_eq!(found, expected);
                let mut back = vec![0.0; len];
                widen(level, &found, &mut back);
                assert!(back.iter().zip(&expected).all(|(b, e)| b.to_bits() == e.to_f32().to_bits()));
            }
        }
        let mut found = [bf16::ZERO];
        narrow(Level::detect(), &[f32::NAN], &mut found);
        assert!(found[0].is_nan());
    }

    #[test]
    fn rounding_agrees_with_the_half_crate() {
        let mut x = 1_u32;
        for _ in 0..100_000 {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let f = f32::from_bits(x);
            let (ours, theirs) = (round_bf16(f), bf16::from_f32(f));
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{f}");
        }
    }
}
