//! Which instructions this processor has, and one macro that compiles a plain loop for each of them.
//!
//! Owns: detection and dispatch. Never: intrinsics of its own; kernels that need them live beside their use.

/// Instruction sets with a code path of their own, best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// What every target has.
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ, VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512 with `vdpbf16ps`.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// That with the tile registers of AMX and their `tdpbf16ps`.
    #[cfg(target_arch = "x86_64")]
    Amx,
}

impl Level {
    /// The best level of this processor.
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx512 && is_x86_feature_detected!("avx512bf16") {
                return if tiles_granted() { Self::Amx } else { Self::Avx512Bf16 };
            }
            if avx512 {
                return Self::Avx512;
            }
            if avx2 {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// Those of this processor, but for the best and the portable one: what else than [`CodePath`](crate::CodePath) offers
    /// is to be tested here.
    #[cfg(test)]
    pub(crate) fn lesser() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        let all = [Self::Avx2, Self::Avx512, Self::Avx512Bf16];
        #[cfg(not(target_arch = "x86_64"))]
        let all = [];
        all.into_iter().filter(|&level| level < Self::detect()).collect()
    }

    /// Whether it multiplies bf16 in tile registers.
    pub(crate) fn has_tiles(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            self == Self::Amx
        }
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Whether it multiplies bf16 faster than f32. `vdpbf16ps` does twice as much as an FMA on AMD's processors and half as
    /// much on Intel's, which have tile registers for that (docs/performance.md).
    pub(crate) fn prefers_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            self.has_tiles() || self == Self::Avx512Bf16 && made_by_amd()
        }
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// In words, for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "AVX2 + FMA",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "AVX-512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => "AVX-512 + BF16",
            #[cfg(target_arch = "x86_64")]
            Self::Amx => "AMX",
        }
    }
}

/// The maker's name in leaf 0 is `AuthenticAMD`.
#[cfg(target_arch = "x86_64")]
fn made_by_amd() -> bool {
    let leaf = std::arch::x86_64::__cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
}

/// Whether this process may use AMX with bf16: the processor has it, and the system gives each thread room for the tile
/// registers when it is asked (Linux 5.16 and later; elsewhere nobody asks, and AMX is not used).
#[cfg(target_arch = "x86_64")]
fn tiles_granted() -> bool {
    #[cfg(target_os = "linux")]
    {
        use std::arch::x86_64::{__cpuid, __cpuid_count};
        use std::sync::LazyLock;
        /// `ARCH_REQ_XCOMP_PERM` and the tile data's number among the parts of a thread's state
        /// (the kernel's Documentation/arch/x86/xstate.rst).
        const REQUEST: libc::c_long = 0x1023;
        const TILE_DATA: libc::c_long = 18;
        /// `AMX-BF16` and `AMX-TILE` in EDX of leaf 7.
        const FEATURES: u32 = 1 << 22 | 1 << 24;
        static GRANTED: LazyLock<bool> = LazyLock::new(|| {
            __cpuid(0).eax >= 7
                && __cpuid_count(7, 0).edx & FEATURES == FEATURES
                // SAFETY: the call takes two numbers and touches no memory of ours.
                && unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) } == 0
        });
        *GRANTED
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// Defines a function whose body is compiled once per instruction set; the first argument picks the one to run.
/// The body is written with plain multiplications and additions (Rust never contracts them), so every path
/// gives the same bits.
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::inline_always)] // each copy must be compiled with its caller's instruction set
        $vis fn $name(level: $crate::cpu::simd::Level, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }

            match level {
                $crate::cpu::simd::Level::Portable => body($($arg),*),
                // SAFETY: these levels are only made by `Level::detect`, which found the features.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::simd::Level::Avx2 => unsafe { avx2($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::simd::Level::Avx512
                | $crate::cpu::simd::Level::Avx512Bf16
                | $crate::cpu::simd::Level::Amx => {
                    // SAFETY: as above.
                    unsafe { avx512($($arg),*) }
                }
            }
        }
    };
}
pub(crate) use simd;
