//! What a pickle can make here.
//!
//! Owns: values and the few callables that are known. Never: runs opcodes (`machine`).

use super::numbers::Numbers;

/// How the error of an unknown callable begins.
pub(super) const WOULD_CALL: &str = "would call";

/// A value on the machine's stack. Containers are nodes of their own, so that a value is copied, shared, and part of a cycle
/// without harm, and nothing is dropped by recursion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits, as its little-endian bytes.
    Long(&'a [u8]),
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    Callable(Callable),
    Node(usize),
}

/// A container, or what a callable made.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node<'a> {
    Tuple(Vec<Value<'a>>),
    List(Vec<Value<'a>>),
    Dict(Vec<(Value<'a>, Value<'a>)>),
    /// The attributes of an `argparse.Namespace`.
    Namespace(Vec<(Value<'a>, Value<'a>)>),
    /// `torch.device`, by its name and number.
    Device(&'a str, Option<i64>),
    Storage(Storage<'a>),
    Tensor(Tensor),
}

/// Where a tensor's numbers are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Storage<'a> {
    pub key: &'a str,
    /// `None` for bytes, whose tensors say themselves what they are.
    pub numbers: Option<Numbers>,
    /// How many numbers, or bytes.
    pub count: usize,
}

/// A view of a storage.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tensor {
    /// The storage's node.
    pub storage: usize,
    pub numbers: Numbers,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// Everything that a pickle may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Callable {
    OrderedDict,
    Namespace,
    Device,
    RebuildTensor,
    RebuildTypedTensor,
    RebuildParameter,
    Storage(Numbers),
    UntypedStorage,
    Dtype(Numbers),
}

impl Callable {
    /// The callable of a name; an error for any that is not known.
    pub fn of(module: &str, name: &str) -> Result<Self, String> {
        let known = match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("argparse", "Namespace") => Some(Self::Namespace),
            ("torch", "device") => Some(Self::Device),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_tensor_v3") => Some(Self::RebuildTypedTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch.storage", "UntypedStorage") => Some(Self::UntypedStorage),
            ("torch", name) => {
                let storage = Numbers::of_storage(name).map(Self::Storage);
                storage.or_else(|| Numbers::of_dtype(name).map(Self::Dtype))
            }
            _ => None,
        };
        known.ok_or_else(|| {
            let shown: String = format!("{module}.{name}").chars().take(200).collect();
            format!("{WOULD_CALL} `{}`; nothing in a file is executed here", shown.escape_debug())
        })
    }
}
