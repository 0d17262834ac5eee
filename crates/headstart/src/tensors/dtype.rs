//! Types of numbers in files of other programs, and how they become f32.
//!
//! Owns: that conversion, equal to PyTorch's `.float()`. Never: where the numbers lie.

use std::fmt;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// What a tensor's numbers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point.
    F16,
    /// The upper half of 32-bit floating point.
    Bf16,
    /// 64-bit floating point.
    F64,
    /// Anything else, by its name in the file: such a tensor is listed and never read.
    Other {
        /// As the format calls it: "I64", "F8_E4M3".
        name: String,
    },
}

impl Dtype {
    /// The type of a safetensors file.
    pub(super) fn of_safetensors(dtype: safetensors::Dtype) -> Self {
        match dtype {
            safetensors::Dtype::F32 => Self::F32,
            safetensors::Dtype::F16 => Self::F16,
            safetensors::Dtype::BF16 => Self::Bf16,
            safetensors::Dtype::F64 => Self::F64,
            other => Self::Other { name: other.to_string() },
        }
    }

    /// Bytes of one number; `None` for what is never read.
    pub(super) fn size(&self) -> Option<usize> {
        match self {
            Self::F32 => Some(4),
            Self::F16 | Self::Bf16 => Some(2),
            Self::F64 => Some(8),
            Self::Other { .. } => None,
        }
    }

    /// Converts as many numbers as `values` holds; `bytes` holds as many.
    pub(super) fn convert(&self, bytes: &[u8], values: &mut [f32]) {
        match self {
            Self::F32 => bytemuck::cast_slice_mut::<f32, u8>(values).copy_from_slice(bytes),
            Self::F16 => in_parts(bytes, values, f16::from_le_bytes, <[f16]>::convert_to_f32_slice),
            Self::Bf16 => in_parts(bytes, values, bf16::from_le_bytes, <[bf16]>::convert_to_f32_slice),
            Self::F64 => {
                for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                    *value = f64::from_le_bytes(*bytes) as f32;
                }
            }
            Self::Other { .. } => {}
        }
    }
}

/// The numbers need not be aligned in the file, so they pass through a little buffer that is.
fn in_parts<T: Copy + Default>(
    bytes: &[u8],
    values: &mut [f32],
    number: impl Fn([u8; 2]) -> T,
    convert: impl Fn(&[T], &mut [f32]),
) {
    const PART: usize = 512;
    let mut part = [T::default(); PART];
    for (bytes, values) in bytes.as_chunks().0.chunks(PART).zip(values.chunks_mut(PART)) {
        let part = &mut part[..values.len()];
        for (to, from) in part.iter_mut().zip(bytes) {
            *to = number(*from);
        }
        convert(part, values);
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::F64 => "F64",
            Self::Other { name } => name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_the_f32_of_its_own_definition() {
        for bits in 0..=u16::MAX {
            let mut found = [0.0; 1];
            Dtype::Bf16.convert(&bits.to_le_bytes(), &mut found);
            let upper = f32::from_bits(u32::from(bits) << 16);
            assert!(
                found[0].to_bits() == upper.to_bits() || (found[0].is_nan() && upper.is_nan()),
                "{bits:x}"
            );

            Dtype::F16.convert(&bits.to_le_bytes(), &mut found);
            let (sign, exponent, mantissa) = (bits >> 15, i32::from(bits >> 10 & 31), f64::from(bits & 1023));
            let magnitude = match exponent {
                0 => mantissa * 2_f64.powi(-24),
                31 if mantissa == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                _ => (1.0 + mantissa / 1024.0) * 2_f64.powi(exponent - 15),
            };
            let expected = if sign == 1 { -magnitude } else { magnitude } as f32;
            assert!(found[0].to_bits() == expected.to_bits() || (found[0].is_nan() && expected.is_nan()));
        }
    }

    #[test]
    fn a_double_is_rounded_to_the_nearest_even_f32() {
        let half_way = f64::from(1.0_f32) + f64::from(f32::EPSILON) / 2.0;
        let numbers = [0.1, half_way, 1e300, -1e-46, 16_777_217.0];
        let bytes: Vec<u8> = numbers.iter().flat_map(|x: &f64| x.to_le_bytes()).collect();
        let mut found = [0.0; 5];
        Dtype::F64.convert(&bytes, &mut found);
        let expected = [0.1_f32, 1.0, f32::INFINITY, -0.0, 16_777_216.0];
        assert_eq!(found.map(f32::to_bits), expected.map(f32::to_bits));
    }

    #[test]
    fn odd_places_and_lengths_are_read() {
        let numbers: Vec<f32> = (0..1111).map(|i| i as f32 / 8.0).collect();
        for (dtype, size) in [(Dtype::F16, 2), (Dtype::Bf16, 2), (Dtype::F32, 4), (Dtype::F64, 8)] {
            let mut bytes = vec![7];
            for x in &numbers {
                match dtype {
                    Dtype::F16 => bytes.extend(f16::from_f32(*x).to_le_bytes()),
                    Dtype::Bf16 => bytes.extend(bf16::from_f32(*x).to_le_bytes()),
                    Dtype::F32 => bytes.extend(x.to_le_bytes()),
                    _ => bytes.extend(f64::from(*x).to_le_bytes()),
                }
            }
            assert_eq!(dtype.size(), Some(size));
            let mut found = vec![0.0; numbers.len()];
            dtype.convert(&bytes[1..], &mut found);
            let rounded = |x: &f32| if dtype == Dtype::Bf16 { bf16::from_f32(*x).to_f32() } else { *x };
            assert_eq!(found, numbers.iter().map(rounded).collect::<Vec<_>>(), "{dtype}");
        }
    }
}
