//! Activation functions and their derivatives, over rows.
//!
//! Owns: which there are, and their vector code on the processor. Never: where they stand in an op.

use crate::cpu::math;
use crate::cpu::simd::simd;

/// Activation functions. Their numbers are those in `linear.cu`.
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
}

simd! {
    /// z = act(z).
    pub(crate) fn activate(activation: Activation, z: &mut [f32]) {
        match activation {
            Activation::Identity => {}
            Activation::Relu => z.iter_mut().for_each(|z| *z = if *z > 0.0 { *z } else { 0.0 }),
            Activation::Gelu => z.iter_mut().for_each(|z| *z = math::gelu(*z)),
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
        }
    }
}
