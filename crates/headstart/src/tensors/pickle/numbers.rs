//! PyTorch's types of numbers.
//!
//! Owns: their names in pickles and their sizes. Never: converts them (`super::super::dtype`).

use crate::tensors::dtype::Dtype;

/// A type of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    /// `torch.NAME` in a pickle.
    storage: &'static str,
    /// `torch.NAME`, too.
    dtype: &'static str,
    /// As safetensors calls it.
    short: &'static str,
    /// Bytes of one.
    pub size: usize,
}

const ALL: [Numbers; 17] = [
    Numbers { storage: "FloatStorage", dtype: "float32", short: "F32", size: 4 },
    Numbers { storage: "HalfStorage", dtype: "float16", short: "F16", size: 2 },
    Numbers { storage: "BFloat16Storage", dtype: "bfloat16", short: "BF16", size: 2 },
    Numbers { storage: "DoubleStorage", dtype: "float64", short: "F64", size: 8 },
    Numbers { storage: "LongStorage", dtype: "int64", short: "I64", size: 8 },
    Numbers { storage: "IntStorage", dtype: "int32", short: "I32", size: 4 },
    Numbers { storage: "ShortStorage", dtype: "int16", short: "I16", size: 2 },
    Numbers { storage: "CharStorage", dtype: "int8", short: "I8", size: 1 },
    Numbers { storage: "ByteStorage", dtype: "uint8", short: "U8", size: 1 },
    Numbers { storage: "BoolStorage", dtype: "bool", short: "BOOL", size: 1 },
    Numbers { storage: "", dtype: "uint16", short: "U16", size: 2 },
    Numbers { storage: "", dtype: "uint32", short: "U32", size: 4 },
    Numbers { storage: "", dtype: "uint64", short: "U64", size: 8 },
    Numbers { storage: "", dtype: "float8_e4m3fn", short: "F8_E4M3", size: 1 },
    Numbers { storage: "", dtype: "float8_e5m2", short: "F8_E5M2", size: 1 },
    Numbers { storage: "", dtype: "float8_e4m3fnuz", short: "F8_E4M3FNUZ", size: 1 },
    Numbers { storage: "", dtype: "float8_e5m2fnuz", short: "F8_E5M2FNUZ", size: 1 },
];

impl Numbers {
    /// The numbers of `torch.FloatStorage` and the like.
    pub fn of_storage(name: &str) -> Option<Self> {
        ALL.into_iter().find(|numbers| !name.is_empty() && numbers.storage == name)
    }

    /// The numbers called `torch.float32` and the like.
    pub fn of_dtype(name: &str) -> Option<Self> {
        ALL.into_iter().find(|numbers| numbers.dtype == name)
    }

    /// For reading them.
    pub fn dtype(self) -> Dtype {
        match self.short {
            "F32" => Dtype::F32,
            "F16" => Dtype::F16,
            "BF16" => Dtype::Bf16,
            "F64" => Dtype::F64,
            name => Dtype::Other { name: name.into() },
        }
    }
}
