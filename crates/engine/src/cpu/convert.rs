//! Between f32 and bf16, a row at a time.
//!
//! Owns: the instruction that rounds sixteen numbers at once. Never: the definition of rounding (`tensor.rs`).

use half::bf16;

use crate::cpu::simd::{Level, simd};
use crate::tensor;

simd! {
    /// bf16 to f32, exactly.
    pub(crate) fn widen(from: &[bf16], to: &mut [f32]) {
        tensor::widen(from, to);
    }
}

simd! {
    fn round(from: &[f32], to: &mut [bf16]) {
        tensor::narrow(from, to);
    }
}

/// f32 to bf16, round to nearest even. (The processor's instruction takes subnormal numbers, below 1.2e-38, for zero.)
pub(crate) fn narrow(level: Level, from: &[f32], to: &mut [bf16]) {
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512Bf16 {
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
            tensor::narrow(&from, &mut expected);
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
}
