//! What runs a model and how launches reach it: the values of `--device`, `--executor` and
//! `--sampler-on`.

use std::fmt;
use std::str::FromStr;

/// `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU that works, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU by index.
    Cuda(usize),
    /// The kernels of a GPU, interpreted on the CPU.
    Interp,
}

impl DeviceChoice {
    /// The GPU that may be used, by its index; `None` where none is.
    #[must_use]
    pub fn gpu(self) -> Option<usize> {
        match self {
            DeviceChoice::Auto => Some(0),
            DeviceChoice::Cuda(index) => Some(index),
            DeviceChoice::Cpu | DeviceChoice::Interp => None,
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            "interp" => Ok(DeviceChoice::Interp),
            _ => s
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(DeviceChoice::Cuda)
                .ok_or_else(|| {
                    format!("{s:?} is not a device; expected auto, cpu, cuda, cuda:N or interp")
                }),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => write!(f, "auto"),
            DeviceChoice::Cpu => write!(f, "cpu"),
            DeviceChoice::Cuda(n) => write!(f, "cuda:{n}"),
            DeviceChoice::Interp => write!(f, "interp"),
        }
    }
}

/// `--executor`: how launches reach a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExecutorChoice {
    /// A graph; one launch after the other where it can't be built, said once.
    #[default]
    Auto,
    /// One launch after the other.
    Eager,
    /// A graph of kernel nodes, replayed for every step.
    Graph,
    /// A graph recorded by capturing a stream, replayed for every step.
    Capture,
}

impl ExecutorChoice {
    /// The values of `--executor`, for messages.
    pub const NAMES: &str = "auto, eager, graph or capture";
}

impl FromStr for ExecutorChoice {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(ExecutorChoice::Auto),
            "eager" => Ok(ExecutorChoice::Eager),
            "graph" => Ok(ExecutorChoice::Graph),
            "capture" => Ok(ExecutorChoice::Capture),
            _ => {
                let names = ExecutorChoice::NAMES;
                Err(format!("{s:?} is not an executor; expected {names}"))
            }
        }
    }
}

impl fmt::Display for ExecutorChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ExecutorChoice::Auto => "auto",
            ExecutorChoice::Eager => "eager",
            ExecutorChoice::Graph => "graph",
            ExecutorChoice::Capture => "capture",
        })
    }
}

/// `--sampler-on`: where the tokens of a GPU's sequences are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SamplerOn {
    /// On the device that computes the logits.
    #[default]
    Device,
    /// On the CPU, by the code that chooses for a model on the CPU: logits travel to the host and
    /// every token waits for it.
    Cpu,
}

impl FromStr for SamplerOn {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "device" => Ok(SamplerOn::Device),
            "cpu" => Ok(SamplerOn::Cpu),
            _ => Err(format!(
                "{s:?} is no place to sample on; expected device or cpu"
            )),
        }
    }
}

impl fmt::Display for SamplerOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SamplerOn::Device => "device",
            SamplerOn::Cpu => "cpu",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_parse_and_print() {
        for text in ["auto", "cpu", "cuda:0", "cuda:3", "interp"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        assert!(
            "gpu"
                .parse::<DeviceChoice>()
                .unwrap_err()
                .contains("expected auto")
        );
    }
}
