//! A side of a comparison: which executor, and in what arithmetic.

use std::fmt;
use std::str::FromStr;

use crate::settings::{DeviceChoice, ExecutorChoice, Precision};

/// One side of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Side {
    /// The CPU with f32 activations: the reference.
    Cpu,
    /// The CPU as it serves.
    CpuFast,
    /// The kernels of a GPU, interpreted.
    Interp,
    /// A GPU, one launch after the other.
    CudaEager,
    /// A GPU, steps as graphs of kernel nodes.
    CudaGraph,
    /// A GPU, steps as graphs captured from a stream.
    CudaCapture,
}

impl Side {
    /// Every side.
    pub const ALL: [Side; 6] = [
        Side::Cpu,
        Side::CpuFast,
        Side::Interp,
        Side::CudaEager,
        Side::CudaGraph,
        Side::CudaCapture,
    ];

    /// Whether it runs on a GPU.
    #[must_use]
    pub fn is_gpu(self) -> bool {
        match self {
            Side::CudaEager | Side::CudaGraph | Side::CudaCapture => true,
            Side::Cpu | Side::CpuFast | Side::Interp => false,
        }
    }

    /// Whether it runs kernels, on a GPU or interpreted.
    #[must_use]
    pub fn runs_kernels(self) -> bool {
        self.is_gpu() || self == Side::Interp
    }

    /// What runs it, on the GPU of an index where it needs one.
    pub(super) fn choice(self, gpu: usize) -> (DeviceChoice, ExecutorChoice) {
        match self {
            Side::Cpu | Side::CpuFast => (DeviceChoice::Cpu, ExecutorChoice::Eager),
            Side::Interp => (DeviceChoice::Interp, ExecutorChoice::Eager),
            Side::CudaEager => (DeviceChoice::Cuda(gpu), ExecutorChoice::Eager),
            Side::CudaGraph => (DeviceChoice::Cuda(gpu), ExecutorChoice::Graph),
            Side::CudaCapture => (DeviceChoice::Cuda(gpu), ExecutorChoice::Capture),
        }
    }

    /// Its arithmetic, where the side itself says it.
    pub(super) fn precision(self) -> Option<Precision> {
        match self {
            Side::Cpu => Some(Precision::Exact),
            Side::CpuFast => Some(Precision::Fast),
            Side::Interp | Side::CudaEager | Side::CudaGraph | Side::CudaCapture => None,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Side::Cpu => "cpu",
            Side::CpuFast => "cpu-fast",
            Side::Interp => "interp",
            Side::CudaEager => "cuda-eager",
            Side::CudaGraph => "cuda-graph",
            Side::CudaCapture => "cuda-capture",
        })
    }
}

/// Its name; `cpu-exact`, as reports call that executor, is [`Side::Cpu`], too.
impl FromStr for Side {
    type Err = String;

    fn from_str(s: &str) -> Result<Side, String> {
        if s == "cpu-exact" {
            return Ok(Side::Cpu);
        }
        let named = |side: &Side| side.to_string() == s;
        Side::ALL.into_iter().find(named).ok_or_else(|| {
            let names = Side::ALL.map(|side| side.to_string());
            let (last, others) = names.split_last().map_or(("", &[][..]), |(l, o)| (l, o));
            format!(
                "{s:?} is not an executor; expected {} or {last}",
                others.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_parse_and_print() {
        for side in Side::ALL {
            assert_eq!(side.to_string().parse(), Ok(side));
        }
        assert_eq!("cpu-exact".parse(), Ok(Side::Cpu));
        let refused = "abacus".parse::<Side>().unwrap_err();
        assert!(refused.contains("cpu, cpu-fast, interp") && refused.ends_with("or cuda-capture"));
    }
}
