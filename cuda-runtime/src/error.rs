//! Everything that can go wrong, as values: driver codes with their names, and the mistakes this
//! crate refuses before the driver sees them.
//!
//! Always holds: an error prints on one line (a JIT error adds its log below it), and errors are
//! `Clone`, because a dead context hands the same one to every later caller.

use crate::jit::JitError;

/// A code the driver returned, with what the driver calls it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call} failed: {name} ({code}): {text}")]
pub struct DriverError {
    /// The `CUresult` as a number; codes newer than this crate are kept as they are.
    pub code: u32,
    /// The name of the code, such as `CUDA_ERROR_ILLEGAL_ADDRESS`.
    pub name: String,
    /// The driver's one-line description.
    pub text: String,
    /// The driver function that returned it.
    pub call: &'static str,
}

impl DriverError {
    /// `CUDA_ERROR_OUT_OF_MEMORY`.
    pub(crate) const OUT_OF_MEMORY: u32 = 2;
    /// `CUDA_ERROR_NO_DEVICE`.
    pub(crate) const NO_DEVICE: u32 = 100;
    /// `CUDA_ERROR_NOT_READY`.
    pub(crate) const NOT_READY: u32 = 600;

    /// Whether the context is beyond saving: every later call in it returns this error as well.
    ///
    /// These are the codes whose documentation says that the process must end to use CUDA again:
    /// uncorrectable ECC (214), NVLink (220) and contained (226) errors, illegal address (700),
    /// launch timeout (702), destroyed context (709), device assert (710), the device exceptions
    /// 714 to 719, and 721.
    #[must_use]
    pub fn is_sticky(&self) -> bool {
        matches!(
            self.code,
            214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721
        )
    }
}

/// An error of this crate.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The driver library is not installed or not on the loader's path.
    #[error("no CUDA driver: libcuda was not found (install NVIDIA driver 525 or newer)")]
    LibraryMissing,
    /// The driver library is there and cannot be used: damaged, of another machine, or without what
    /// it needs itself.
    #[error("broken CUDA driver: {why} (install NVIDIA driver 525 or newer again)")]
    LibraryBroken {
        /// What the loader said, or what the library lacks.
        why: String,
    },
    /// The driver is older than this crate can use.
    #[error("CUDA driver too old: it serves CUDA {}.{}, 12.0 is needed (driver 525 or newer)", found.0, found.1)]
    DriverTooOld {
        /// The CUDA version the driver serves, major and minor.
        found: (u32, u32),
    },
    /// libcuda lacks a function that every driver since CUDA 12.0 has.
    #[error(
        "CUDA driver too old: libcuda has no {symbol}; CUDA 12.0 is needed (driver 525 or newer)"
    )]
    SymbolMissing {
        /// The function that was looked for.
        symbol: &'static str,
    },
    /// The driver is there and sees no GPU.
    #[error("no CUDA device: the driver is installed but sees no GPU (check CUDA_VISIBLE_DEVICES)")]
    NoDevice,
    /// A device index past the end.
    #[error("no CUDA device {index}: there are {count}")]
    NoSuchDevice {
        /// The index asked for.
        index: usize,
        /// How many devices there are.
        count: usize,
    },
    /// The driver refused a call; the context is still usable.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// An earlier error ended this context; nothing in it can be used any more.
    #[error("the CUDA context is dead: {0}")]
    ContextDead(DriverError),
    /// The device has not enough free memory.
    #[error("out of GPU memory: {requested} bytes wanted, {free} of {total} free")]
    OutOfMemory {
        /// Bytes asked for.
        requested: usize,
        /// Bytes free when the allocation failed.
        free: usize,
        /// Bytes the device has.
        total: usize,
    },
    /// An arena has not enough room left.
    #[error("arena full: {requested} bytes wanted (aligned to {align}), {used} of {capacity} used")]
    ArenaFull {
        /// Bytes asked for.
        requested: usize,
        /// Alignment asked for, in bytes.
        align: usize,
        /// Bytes handed out already, padding included.
        used: usize,
        /// Bytes of the arena.
        capacity: usize,
    },
    /// A range that is not inside its buffer, or not aligned as the operation needs it.
    #[error("{what}: {offset}..{offset}+{len} does not fit a buffer of {size} bytes")]
    OutOfRange {
        /// The operation.
        what: &'static str,
        /// First byte.
        offset: usize,
        /// Number of bytes.
        len: usize,
        /// Bytes of the buffer.
        size: usize,
    },
    /// A value that the operation cannot take, found before the driver was called.
    #[error("{what}: {reason}")]
    Invalid {
        /// The operation or object.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// PTX did not compile.
    #[error(transparent)]
    Jit(Box<JitError>),
    /// A module has no entry of that name.
    #[error("module {module} has no kernel {kernel}")]
    KernelMissing {
        /// The module's name.
        module: String,
        /// The entry looked for.
        kernel: String,
    },
    /// A kernel specification that contradicts itself, the device or the compiled kernel.
    #[error("kernel {kernel}: {reason}")]
    Spec {
        /// The kernel.
        kernel: String,
        /// What is wrong.
        reason: String,
    },
    /// Arguments that do not match the kernel's parameters.
    #[error("arguments of kernel {kernel}: {reason}")]
    Args {
        /// The kernel.
        kernel: String,
        /// What is wrong: count, size or parameter name.
        reason: String,
    },
    /// A grid, block or cluster that the kernel or device cannot run.
    #[error("launch of kernel {kernel}: {reason}")]
    LaunchConfig {
        /// The kernel.
        kernel: String,
        /// What is wrong.
        reason: String,
    },
    /// A graph node, stream or buffer that belongs somewhere else.
    #[error("{what} belongs to another {owner}")]
    Foreign {
        /// What was passed.
        what: &'static str,
        /// What it should have belonged to.
        owner: &'static str,
    },
    /// A debug arena found bytes written outside a buffer.
    #[error("out-of-bounds write: {bytes} bytes changed {side} buffer {index} at {ptr:#x}")]
    Canary {
        /// The buffer, counted in order of allocation.
        index: usize,
        /// Its device address.
        ptr: u64,
        /// `before` or `after`.
        side: &'static str,
        /// How many guard bytes changed.
        bytes: usize,
    },
}

impl Error {
    /// The driver's code, when the driver is what failed.
    #[must_use]
    pub fn driver_error(&self) -> Option<&DriverError> {
        match self {
            Error::Driver(e) | Error::ContextDead(e) => Some(e),
            Error::Jit(e) => Some(&e.driver),
            _ => None,
        }
    }

    /// Whether the context this came from can never be used again.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.driver_error().is_some_and(DriverError::is_sticky)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(code: u32) -> DriverError {
        DriverError {
            code,
            name: "CUDA_ERROR_X".into(),
            text: "x".into(),
            call: "cuX",
        }
    }

    #[test]
    fn sticky_codes() {
        for code in [226, 700, 702, 714, 715, 716, 717, 718, 719, 721] {
            assert!(driver(code).is_sticky(), "{code}");
        }
        for code in [0, 1, 2, 100, 200, 218, 222, 600, 701, 713, 720, 900, 999] {
            assert!(!driver(code).is_sticky(), "{code}");
        }
        assert!(Error::ContextDead(driver(700)).is_fatal());
        assert!(!Error::LibraryMissing.is_fatal());
    }

    #[test]
    fn errors_are_one_line() {
        let errors = [
            Error::LibraryMissing,
            Error::LibraryBroken {
                why: "libcuda.so.1: file too short".into(),
            },
            Error::DriverTooOld { found: (11, 8) },
            Error::NoDevice,
            Error::Driver(driver(1)),
        ];
        for e in errors {
            assert!(!e.to_string().contains('\n'), "{e}");
        }
        assert!(
            Error::DriverTooOld { found: (11, 8) }
                .to_string()
                .contains("11.8")
        );
    }
}
