//! Activation functions and their derivatives, over rows.
//!
//! Owns: which there are, and their vector code on the processor. Never: where they stand in an op.

use crate::cpu::math;
use crate::cpu::simd::simd;

/// Activation functions. Their numbers are those in `common.cuh`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i32)]
pub enum Activation {
    /// None.
    #[default]
    Identity = 0,
    /// max(x, 0).
    Relu = 1,
    /// GELU in its tanh form (Hendrycks and Gimpel 2016), as GPT-2 has it.
    Gelu = 2,
    /// GELU itself, x Phi(x), as BERT has it.
    GeluExact = 3,
    /// x sigmoid(x) (Elfwing, Uchibe and Doya 2017), also known as Swish.
    Silu = 4,
    /// tanh(x), as BERT's pooler has it.
    Tanh = 5,
}

simd! {
    /// z = act(z).
    pub(crate) fn activate(activation: Activation, z: &mut [f32]) {
        match activation {
            Activation::Identity => {}
            Activation::Relu => z.iter_mut().for_each(|z| *z = if *z > 0.0 { *z } else { 0.0 }),
            Activation::Gelu => z.iter_mut().for_each(|z| *z = math::gelu(*z)),
            Activation::GeluExact => z.iter_mut().for_each(|z| *z = math::gelu_exact(*z)),
            Activation::Silu => z.iter_mut().for_each(|z| *z = math::silu(*z)),
            Activation::Tanh => z.iter_mut().for_each(|z| *z = math::tanh(*z)),
        }
    }
}

simd! {
    /// dz *= act'(saved).
    pub(crate) fn derive(activation: Activation, dz: &mut [f32], saved: &[f32]) {
        match activation {
            Activation::Identity => {}
            Activation::Relu => dz.iter_mut().zip(saved).for_each(|(d, &s)| *d = if s > 0.0 { *d } else { 0.0 }),
            Activation::Gelu => dz.iter_mut().zip(saved).for_each(|(d, &s)| *d *= math::gelu_derivative(s)),
            Activation::GeluExact => {
                dz.iter_mut().zip(saved).for_each(|(d, &s)| *d *= math::gelu_exact_derivative(s));
            }
            Activation::Silu => dz.iter_mut().zip(saved).for_each(|(d, &s)| *d *= math::silu_derivative(s)),
            Activation::Tanh => dz.iter_mut().zip(saved).for_each(|(d, &s)| *d *= math::tanh_derivative(s)),
        }
    }
}
