//! Element types, and the two precisions that matmuls are computed in.
//!
//! Owns: their sizes. Never: conversion between them (`cpu/convert.rs`).

/// Element types of activations. Ids are plain `u32` slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit IEEE.
    F32,
    /// bfloat16: the upper half of an f32.
    Bf16,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// In which precision matmuls are computed. Masters, norms, softmax, losses and moments are f32 in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// f32 everywhere: the reference.
    #[default]
    F32,
    /// bf16 inputs to matmuls and attention, f32 accumulation.
    Bf16,
}

impl Precision {
    /// "f32", "bf16".
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// The type in which activations that only feed matmuls are kept.
    pub const fn activation(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::Bf16,
        }
    }
}
