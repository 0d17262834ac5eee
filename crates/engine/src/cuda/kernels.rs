//! The kernels' sources: CUDA C++ texts that are part of the binary.
//!
//! Owns: which files there are. Never: what they compute (`kernels/*.cu`) or who launches them (`ops/`).

/// A source file; its kernels are compiled together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Module {
    Optimizer,
}

impl Module {
    /// The file's name without its ending.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Optimizer => "optimizer",
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Optimizer => include_str!("kernels/optimizer.cu"),
        }
    }

    /// What the compiler gets: what all files share, then the file.
    pub(crate) fn source(self) -> String {
        format!("{}\n#line 1 \"{}.cu\"\n{}", include_str!("kernels/common.cu"), self.name(), self.text())
    }
}
