//! What can go wrong between a model file and a token.
//!
//! Every message is one line that says what, where, and what would be right or what to do; a
//! compiler's log follows the line of a kernel that does not compile. The variants of a GPU say by
//! their type what may follow: only [`Error::NoDevice`] and [`Error::DoesNotFit`] mean that another
//! device can take over, all others that something is wrong which another device would hide.

use std::path::PathBuf;

use gannet_gguf::shown_path;

pub use gannet_cuda_runtime::Error as CudaError;
pub use gannet_gguf::Error as GgufError;

pub use crate::files::safetensors::Error as SafetensorsError;
pub use crate::text::grammar::GrammarError;
pub use crate::text::tokenizer::Error as TokenizerError;

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The container could not be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The vocabulary could not be used.
    #[error("{}: {source}", shown_path(file))]
    Tokenizer {
        /// The model file.
        file: PathBuf,
        /// What is wrong with the vocabulary.
        source: Box<TokenizerError>,
    },
    /// The safetensors container could not be read.
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),
    /// The model's architecture has no family here.
    #[error(
        "{}: general.architecture {arch:?} is not supported; supported: {supported}",
        shown_path(file)
    )]
    UnsupportedFamily {
        /// The model file.
        file: PathBuf,
        /// What the file names.
        arch: String,
        /// The names that work, comma-separated.
        supported: String,
    },
    /// A hyper-parameter is out of range.
    #[error("{}: {key} is {found}; {expected}", shown_path(file))]
    HyperParameter {
        /// The model file.
        file: PathBuf,
        /// The metadata key.
        key: String,
        /// The value found.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A tensor is missing or has the wrong shape or type.
    #[error("{}: tensor {tensor}: {problem}", shown_path(file))]
    Tensor {
        /// The model file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The file has keys or tensors that nothing uses and that are not known to change nothing.
    #[error(
        "{}: not used by {arch} models here: {items}; the result would lack what they say: use a \
         file without them, or --ignore-unknown to run all the same",
        shown_path(file)
    )]
    Unread {
        /// The model file.
        file: PathBuf,
        /// The architecture.
        arch: String,
        /// The keys with their values, and the tensors.
        items: String,
    },
    /// A file of a model's folder cannot be used.
    #[error("{}: {problem}", shown_path(file))]
    Folder {
        /// The file.
        file: PathBuf,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A prompt and its continuation do not fit the context.
    #[error(
        "{tokens} tokens do not fit the context of {context}; shorten the prompt or raise --ctx"
    )]
    ContextFull {
        /// Tokens asked for.
        tokens: usize,
        /// Positions of the cache.
        context: usize,
    },
    /// A size out of the range that anything here can address.
    #[error("{found} {what} are too many; ask for at most {most}")]
    TooLarge {
        /// What there are too many of.
        what: &'static str,
        /// How many were asked for.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// A cache, or what a step is computed in, that does not fit the memory of the machine.
    #[error(
        "a cache of {context} positions a sequence, {slots} at once, takes {cache_mib} MiB of memory, \
         steps of {rows} rows take {steps_mib} MiB, {free_mib} MiB are free; lower --ctx, or the \
         sequences at once, or free some memory"
    )]
    Memory {
        /// Positions of a sequence.
        context: usize,
        /// Sequences at once.
        slots: usize,
        /// What the cache and its tables take.
        cache_mib: u64,
        /// Rows of the largest step.
        rows: usize,
        /// What activations, logits and staging take.
        steps_mib: u64,
        /// What there is.
        free_mib: u64,
    },
    /// A token id that the vocabulary lacks.
    #[error("token {token} is not in the vocabulary of {vocab_size} entries")]
    TokenOutOfRange {
        /// The id given.
        token: u32,
        /// Entries of the vocabulary.
        vocab_size: usize,
    },
    /// A request that makes no sense, such as a prompt without tokens.
    #[error("{0}")]
    Request(String),
    /// A grammar that cannot be used.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// A setting that was given and means nothing on the device.
    #[error("{flag} means nothing on device {device}; leave it out, or choose --device cuda")]
    Idle {
        /// The setting, as the command line names it.
        flag: &'static str,
        /// The device, as the command line names it.
        device: String,
    },
    /// A `GANNET_*` variable that cannot be understood.
    #[error("{variable}={value:?} is not valid; expected {expected}")]
    Variable {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Logits that are no numbers.
    #[error(transparent)]
    NotFinite(#[from] Box<NotFinite>),
    /// No GPU can be used.
    #[error(transparent)]
    NoDevice(#[from] NoDevice),
    /// A model, its cache and what its steps need do not fit on the GPU.
    #[error(transparent)]
    DoesNotFit(#[from] DoesNotFit),
    /// The way to launch kernels was named, and no GPU can be used for it.
    #[error(
        "executor {executor} needs a GPU, and none can be used ({source}); without it device auto \
         runs on the CPU"
    )]
    ExecutorNeedsGpu {
        /// What was named: `eager`, `graph` or `capture`.
        executor: String,
        /// Why there is none: [`Error::NoDevice`] or [`Error::DoesNotFit`].
        source: Box<Error>,
    },
    /// A GPU computes the model wrongly.
    #[error(transparent)]
    Gate(#[from] Box<GateFailure>),
    /// The driver refused or failed.
    #[error("cuda: {source}")]
    Driver {
        /// What it said.
        #[from]
        source: CudaError,
    },
    /// The step failed in which a request had rows; other requests go on.
    #[error("a step failed: {0}; ask again")]
    Step(String),
    /// The engine can compute nothing any more.
    #[error("the engine is lost: {0}; make another one")]
    Lost(String),
    /// No kernel computes what a model has.
    #[error("{what}: {why}; no kernel computes that: choose --device cpu")]
    Unsupported {
        /// The tensor or layer.
        what: String,
        /// What about it.
        why: String,
    },
    /// An interpreted kernel broke a rule.
    #[error("interp: {0}")]
    Interp(String),
    /// Something that always holds does not: a mistake of this crate's.
    #[error("{what}; this is a bug in gannet: please report it, with the command")]
    Internal {
        /// What was found.
        what: String,
    },
    /// A file of the user's could not be read or written.
    #[error("{}: {source}", shown_path(file))]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Error {
    /// A broken invariant.
    pub(crate) fn internal(what: impl Into<String>) -> Error {
        Error::Internal { what: what.into() }
    }
}

/// Logits that are NaN or infinite: no token can be chosen from them, and nothing is measured by them.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("logits at position {position} are not finite: {}", Self::cause(origin.as_ref()))]
#[non_exhaustive]
pub struct NotFinite {
    /// Position of the token whose logits these are, from 0.
    pub position: usize,
    /// Where that began; `None` where running the steps again did not show it.
    pub origin: Option<Cause>,
}

/// The first operation that gave what is not finite, or what its result cannot hold.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Cause {
    /// Position of the token, from 0.
    pub position: usize,
    /// The unit: operation and buffer.
    pub unit: String,
    /// The layer that it belongs to, from 0.
    pub layer: Option<usize>,
    /// What it gave: NaN or infinity; of keys and values what the cache's type cannot hold.
    pub value: f32,
}

impl NotFinite {
    fn cause(origin: Option<&Cause>) -> String {
        let Some(origin) = origin else {
            return "penalties or biases made them so, it does not happen again, or there was no room to \
                    look for it; try it alone, or with --exact"
                .to_owned();
        };
        let layer = (origin.layer).map_or(String::new(), |layer| format!(" (layer {layer})"));
        let place = format!("{}{layer} at position {}", origin.unit, origin.position);
        match origin.value.is_finite() {
            true => format!(
                "{:e} exceeds f16 in {place}; choose --kv-type bf16 or f32",
                origin.value
            ),
            false => format!(
                "the first is {} in {place}; check the weights in the model file, or try --exact",
                origin.value
            ),
        }
    }
}

impl NotFinite {
    /// The error of a position whose own numbers they are.
    pub(crate) fn at(origin: Cause) -> NotFinite {
        NotFinite {
            position: origin.position,
            origin: Some(origin),
        }
    }
}

impl Cause {
    /// What a unit gave; its name has that of the layer's weight.
    pub(crate) fn of(position: usize, unit: &str, value: f32) -> Cause {
        let layer = unit.split_once("blk.").and_then(|(_, after)| {
            let number = after.split('.').next()?;
            number.parse().ok()
        });
        Cause {
            position,
            unit: unit.to_owned(),
            layer,
            value,
        }
    }
}

impl From<NotFinite> for Error {
    fn from(error: NotFinite) -> Self {
        Error::NotFinite(Box::new(error))
    }
}

/// Why no GPU can be used, and what is needed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum NoDevice {
    /// No driver, one that is too old, one that does not start, or no device of that index.
    #[error(transparent)]
    Driver(#[from] CudaError),
    /// The device is older than what the kernels are written for.
    #[error(
        "{name} has compute capability {}.{}; 7.5 or newer is needed", capability.0, capability.1
    )]
    TooOld {
        /// Name of the device.
        name: String,
        /// Its compute capability: major, minor.
        capability: (u32, u32),
    },
    /// The driver does not read the version of PTX that the device's kernels are written in.
    #[error(
        "CUDA driver too old for {name}: it serves CUDA {}.{} and refuses PTX {ptx}; update it",
        served.0, served.1
    )]
    DriverTooOld {
        /// Name of the device.
        name: String,
        /// The CUDA version that the driver serves: major, minor.
        served: (u32, u32),
        /// The version of PTX, such as `8.7`.
        ptx: String,
    },
    /// The device is there and takes nobody in: it is full, or another process has it for itself.
    #[error("{name} cannot be used now: {source}; end what uses it")]
    Busy {
        /// Name of the device.
        name: String,
        /// What the driver said.
        source: CudaError,
    },
}

/// What a model takes on a GPU against what is free there, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "weights {weights_mib} MiB, cache {cache_mib} MiB for {positions} positions, workspace \
     {workspace_mib} MiB, free {free_mib} MiB; {}", Self::advice(*largest_context)
)]
#[non_exhaustive]
pub struct DoesNotFit {
    /// The weights.
    pub weights_mib: u64,
    /// The cache.
    pub cache_mib: u64,
    /// Positions that the cache is for, those of all sequences together.
    pub positions: usize,
    /// What steps compute in.
    pub workspace_mib: u64,
    /// Free memory of the GPU.
    pub free_mib: u64,
    /// Positions of a sequence that would fit; `None`: not even one block of them.
    pub largest_context: Option<usize>,
}

impl DoesNotFit {
    fn advice(largest_context: Option<usize>) -> String {
        match largest_context {
            Some(positions) => format!("the largest context that fits is {positions}"),
            None => "the model does not fit on this GPU".to_owned(),
        }
    }
}

/// The first output of a GPU that strays from the CPU's, or from its own by another way.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "{device} computes this model wrongly: {buffer} of {unit} ({step}) has NMSE {nmse:.2e} against \
     {against}, limit {limit:.0e}; `gannet parity` shows more, --device cpu runs without it, \
     --no-gate skips this check"
)]
#[non_exhaustive]
pub struct GateFailure {
    /// Name of the device.
    pub device: String,
    /// The unit: plan operation and buffer.
    pub unit: String,
    /// The buffer.
    pub buffer: String,
    /// The step that was compared.
    pub step: String,
    /// What it was held against.
    pub against: String,
    /// The error: `sum((a - b)^2) / sum(b^2)`.
    pub nmse: f64,
    /// The largest that would pass.
    pub limit: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_is_told_with_its_place() {
        let line = |origin| {
            let error = NotFinite {
                position: 7,
                origin,
            };
            Error::from(error).to_string()
        };
        let of = |unit, value| line(Some(Cause::of(3, unit, value)));
        let found = of("matmul blk.12.ffn_down", f32::NAN);
        assert!(
            found.contains("logits at position 7 are not finite"),
            "{found}"
        );
        let place = "NaN in matmul blk.12.ffn_down (layer 12) at position 3";
        assert!(found.contains(place), "{found}");
        let found = of("embed embd", f32::NEG_INFINITY);
        assert!(
            found.contains("-inf in embed embd at position 3"),
            "{found}"
        );
        let found = of("kv_write blk.0.attn_k", 1e5);
        assert!(found.contains("1e5 exceeds f16 in kv_write"), "{found}");
        assert!(found.contains("--kv-type bf16 or f32"), "{found}");
        assert!(line(None).contains("--exact"));
    }
}
