//! Flags that several commands share, and what they make.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use gannet_engine::exec::Precision;
use gannet_engine::kv::KvType;
use gannet_engine::profile::Overrides;
use gannet_engine::{
    Config, DeviceChoice, Error, ExecutorChoice, Model, ModelOptions, SamplerOn, SessionOptions,
};
use gannet_gguf::Gguf;
use gannet_ptx_gen::kernels::GemvVariant;

use crate::console::Console;
use crate::embedded;
use crate::failure::Failure;
use crate::progress::Progress;

/// The model to work with.
#[derive(Args)]
pub(crate) struct ModelFlag {
    /// GGUF file, or the first of its shards [default: the embedded demonstration model]
    #[arg(short, long, value_name = "FILE")]
    model: Option<PathBuf>,
}

impl ModelFlag {
    /// Opens and checks the model.
    pub(crate) fn open(&self, console: &mut Console) -> Result<Arc<Model>, Failure> {
        let options = ModelOptions::default();
        let model = match &self.model {
            Some(path) => {
                let _progress = Progress::spinner("opening");
                Model::open_with(path, &options)?
            }
            None => Model::from_gguf(embedded::open()?, &options)?,
        };
        for warning in model
            .gguf()
            .warnings()
            .iter()
            .chain(model.tokenizer().warnings())
        {
            console.note(format!("warning: {warning}"));
        }
        Ok(Arc::new(model))
    }

    /// Opens the container alone.
    pub(crate) fn open_container(&self) -> Result<Gguf, Failure> {
        match &self.model {
            Some(path) => Ok(Gguf::open(path)?),
            None => embedded::open(),
        }
    }

    /// Whether a file was named.
    pub(crate) fn is_given(&self) -> bool {
        self.model.is_some()
    }
}

/// Where and how a model runs.
#[derive(Args)]
pub(crate) struct DeviceFlags {
    /// Where to run: auto (a GPU if one works, else the CPU), cpu, cuda, cuda:N, or interp (the
    /// kernels of a GPU, interpreted) [default: GANNET_DEVICE, else auto]
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceChoice>,
    /// How kernels reach a GPU: auto (a graph, or eager where none can be built), eager, graph or
    /// capture [default: GANNET_EXECUTOR, else auto]
    #[arg(long, value_name = "EXECUTOR")]
    executor: Option<ExecutorChoice>,
    /// Where a GPU's tokens are chosen: device, or cpu (the CPU's own code, for equality with it)
    /// [default: GANNET_SAMPLER_ON, else device]
    #[arg(long, value_name = "WHERE")]
    sampler_on: Option<SamplerOn>,
    /// Variant of every matrix-vector product that has it, such as f32-l32-w16-r2-b4 [default:
    /// GANNET_GEMV, else what `gannet tune` measured, else built in]
    #[arg(long, value_name = "VARIANT")]
    gemv: Option<GemvVariant>,
    /// Rows up to which a step runs on matrix-vector kernels, 1 to 8 [default: GANNET_GEMV_ROWS,
    /// else built in]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
    gemv_rows: Option<u8>,
    /// Element type of a GPU's key/value cache: f16, bf16, f32 or int8 (bytes, a scale for each head
    /// of a position)
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    kv_type: KvType,
    /// Compute with f32 activations: the reference, slower
    #[arg(long)]
    exact: bool,
    /// Do not compare a GPU with the CPU before it first serves a model [default: GANNET_GATE, else
    /// compare]
    #[arg(long)]
    no_gate: bool,
}

impl DeviceFlags {
    /// Options of a session; a flag wins over its variable in the environment.
    pub(crate) fn session_options(&self) -> Result<SessionOptions, Failure> {
        let mut config = Config::from_env()?;
        config.gate &= !self.no_gate;
        let device = match (self.device, &config.device) {
            (Some(device), _) => device,
            (None, Some(text)) => parsed("GANNET_DEVICE", text, "auto, cpu, cuda or cuda:N")?,
            (None, None) => DeviceChoice::Auto,
        };
        let executor = match (self.executor, &config.executor) {
            (Some(executor), _) => executor,
            (None, Some(text)) => parsed("GANNET_EXECUTOR", text, ExecutorChoice::NAMES)?,
            (None, None) => ExecutorChoice::default(),
        };
        let sampler_on = match (self.sampler_on, &config.sampler_on) {
            (Some(place), _) => place,
            (None, Some(text)) => parsed("GANNET_SAMPLER_ON", text, "device or cpu")?,
            (None, None) => SamplerOn::default(),
        };
        let overrides = Overrides {
            gemv: self.gemv.or(config.overrides.gemv),
            gemv_max_rows: self
                .gemv_rows
                .map(usize::from)
                .or(config.overrides.gemv_max_rows),
            ..config.overrides
        };
        let precision = precision(self.exact);
        Ok(SessionOptions {
            device,
            executor,
            precision,
            kv_type: self.kv_type,
            sampler_on,
            overrides,
            config,
            ..SessionOptions::default()
        })
    }
}

/// What `--exact` means.
pub(crate) fn precision(exact: bool) -> Precision {
    if exact {
        Precision::Exact
    } else {
        Precision::Fast
    }
}

fn parsed<T: std::str::FromStr>(
    variable: &'static str,
    value: &str,
    expected: &'static str,
) -> Result<T, Failure> {
    let wrong = || Error::Config {
        variable,
        value: value.to_owned(),
        expected,
    };
    Ok(value.parse().map_err(|_| wrong())?)
}

/// Token ids: `1,2,3`, or `@FILE` for a file with a JSON array of them.
pub(crate) fn token_ids(text: &str) -> Result<Vec<u32>, Failure> {
    let Some(file) = text.strip_prefix('@') else {
        return text
            .split(',')
            .map(|id| id.trim().parse())
            .collect::<Result<_, _>>()
            .map_err(|_| {
                let expected = "expected ids with commas between them, or @FILE with a JSON array";
                Failure::Usage(format!("--tokens {text:?}: {expected}"))
            });
    };
    let path = Path::new(file);
    let json = std::fs::read(path).map_err(|e| Failure::file(path, "read", &e))?;
    serde_json::from_slice(&json).map_err(|e| {
        Failure::Work(format!(
            "{file}: not a JSON array of token ids, such as [1, 2, 3]: {e}"
        ))
    })
}

/// The text of a file.
pub(crate) fn read_text(path: &Path) -> Result<String, Failure> {
    let bytes = std::fs::read(path).map_err(|e| Failure::file(path, "read", &e))?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Failure::Work(format!(
            "{}: not UTF-8 text at byte {at}; convert it first",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_ids_come_from_text_or_from_a_file() {
        assert_eq!(token_ids("1, 2,3").unwrap(), [1, 2, 3]);
        assert!(matches!(token_ids("1,x"), Err(Failure::Usage(_))));
        assert!(matches!(token_ids("@/no/such/file"), Err(Failure::Work(_))));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[8184, 46]").unwrap();
        assert_eq!(
            token_ids(&format!("@{}", file.path().display())).unwrap(),
            [8184, 46]
        );
        std::fs::write(file.path(), "[-1]").unwrap();
        assert!(matches!(
            token_ids(&format!("@{}", file.path().display())),
            Err(Failure::Work(_))
        ));
    }
}
