//! The kernels' sources: CUDA C++ texts that are part of the binary.
//!
//! Owns: which files there are. Never: what they compute (`kernels/*.cu`) or who launches them (`ops/`).

/// A source file; its kernels are compiled together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Module {
    Attention,
    CrossEntropy,
    Elementwise,
    Embedding,
    Linear,
    Loss,
    Norm,
    Optimizer,
    Pool,
    SelectRows,
}

impl Module {
    /// The file's name without its ending.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::CrossEntropy => "cross_entropy",
            Self::Elementwise => "elementwise",
            Self::Embedding => "embedding",
            Self::Linear => "linear",
            Self::Loss => "loss",
            Self::Norm => "norm",
            Self::Optimizer => "optimizer",
            Self::Pool => "pool",
            Self::SelectRows => "select_rows",
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Attention => include_str!("kernels/attention.cu"),
            Self::CrossEntropy => include_str!("kernels/cross_entropy.cu"),
            Self::Elementwise => include_str!("kernels/elementwise.cu"),
            Self::Embedding => include_str!("kernels/embedding.cu"),
            Self::Linear => include_str!("kernels/linear.cu"),
            Self::Loss => include_str!("kernels/loss.cu"),
            Self::Norm => include_str!("kernels/norm.cu"),
            Self::Optimizer => include_str!("kernels/optimizer.cu"),
            Self::Pool => include_str!("kernels/pool.cu"),
            Self::SelectRows => include_str!("kernels/select_rows.cu"),
        }
    }

    /// What the compiler gets: what all files share, then the file.
    pub(crate) fn source(self) -> String {
        format!("{}\n#line 1 \"{}.cu\"\n{}", include_str!("kernels/common.cuh"), self.name(), self.text())
    }
}
