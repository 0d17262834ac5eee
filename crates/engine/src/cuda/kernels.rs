//! The kernels' sources: CUDA C++ texts that are part of the binary. Each is named by the launchers that use it (`ops/`).
//!
//! Owns: what stands before every text. Never: what kernels compute (`kernels/*.cu`).

/// A source file `kernels/NAME.cu`; its kernels are compiled together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Module {
    /// The file's name without its ending; no other module has it.
    pub(crate) name: &'static str,
    /// Its content.
    pub(crate) text: &'static str,
}

impl Module {
    /// What the compiler gets: what all files share, then the file.
    pub(crate) fn source(self) -> String {
        format!("{}\n#line 1 \"{}.cu\"\n{}", include_str!("kernels/common.cuh"), self.name, self.text)
    }
}
