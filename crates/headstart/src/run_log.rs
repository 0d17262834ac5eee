//! Stub.

/// One line of metrics.jsonl.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Optimizer step.
    pub step: u64,
    /// "train", "valid", "test".
    pub kind: &'static str,
    /// Name and value.
    pub values: Vec<(String, f64)>,
}
