//! Flags that several commands share, and what they make.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use gannet_engine::internals::lower::FusionRule;
use gannet_engine::settings::{
    DeviceChoice, Environment, ExecutorChoice, GemvVariant, Given, KvType, MAX_CONTEXT, Precision,
    RuleSet, SamplerOn, Settings,
};
use gannet_engine::{Model, ModelOptions};
use gannet_gguf::Gguf;

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
            None => embedded::model(&options)?,
        };
        for warning in model.warnings() {
            console.note(format!("warning: {warning}"));
        }
        Ok(Arc::new(model))
    }

    /// Opens the container alone.
    pub(crate) fn open_container(&self) -> Result<Gguf, Failure> {
        match &self.model {
            Some(path) => Ok(Gguf::open(path)?),
            None => embedded::container(),
        }
    }

    /// Whether a file was named.
    pub(crate) fn is_given(&self) -> bool {
        self.model.is_some()
    }
}

/// Which device runs a model, and how its matrix products compute.
#[derive(Args)]
pub(crate) struct PlaceFlags {
    /// Where to run: auto (a GPU if one works, else the CPU), cpu, cuda, cuda:N, or interp (the
    /// kernels of a GPU, interpreted) [default: GANNET_DEVICE, else auto]
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceChoice>,
    /// Rows up to which a step runs on matrix-vector kernels, 1 to 8 [default: GANNET_GEMV_ROWS,
    /// else built in]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
    gemv_rows: Option<u8>,
    /// Compute with f32 activations: the reference, slower
    #[arg(long)]
    exact: bool,
}

impl PlaceFlags {
    fn given(&self) -> Given {
        Given {
            device: self.device,
            gemv_rows: self.gemv_rows.map(usize::from),
            precision: self.exact.then_some(Precision::Exact),
            ..Given::default()
        }
    }

    /// The settings that count with these flags.
    pub(crate) fn settings(&self) -> Result<Settings, Failure> {
        resolve(&self.given())
    }

    /// Refuses what means nothing to a measurement of every variant.
    pub(crate) fn check_tuned(&self) -> Result<(), Failure> {
        let idle = [
            (
                "--gemv-rows",
                self.gemv_rows.is_some(),
                "-t says what is measured",
            ),
            ("--exact", self.exact, "exact runs take no measured variant"),
        ];
        match idle.into_iter().find(|(_, given, _)| *given) {
            None => Ok(()),
            Some((flag, _, why)) => Err(Failure::Usage(format!(
                "{flag} means nothing to tune: {why}; leave it out"
            ))),
        }
    }
}

/// Where and how a model runs.
#[derive(Args)]
pub(crate) struct DeviceFlags {
    #[command(flatten)]
    place: PlaceFlags,
    /// How kernels reach a GPU: auto (a graph, or eager where none can be built), eager, graph or
    /// capture; a named one is never replaced by the CPU [default: GANNET_EXECUTOR, else auto]
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
    /// Element type of a GPU's key/value cache: f16, bf16, f32 or int8 (bytes, a scale for each head
    /// of a position) [default: f16]
    #[arg(long, value_name = "TYPE")]
    kv_type: Option<KvType>,
    /// Do not compare a GPU with the CPU before it first serves a model [default: GANNET_GATE, else
    /// compare]
    #[arg(long)]
    no_gate: bool,
}

impl DeviceFlags {
    /// What these flags give.
    pub(crate) fn given(&self) -> Given {
        Given {
            executor: self.executor,
            sampler_on: self.sampler_on,
            gemv: self.gemv,
            kv_type: self.kv_type,
            gate: self.no_gate.then_some(false),
            ..self.place.given()
        }
    }

    /// The settings that count with these flags.
    pub(crate) fn settings(&self) -> Result<Settings, Failure> {
        resolve(&self.given())
    }
}

/// Rules of lowering to do without.
#[derive(Args)]
pub(crate) struct WithoutFlag {
    /// Leave out rules by which operations share a launch: matmul+add, norm+add,
    /// norm+add+norm, embed+scale, gated, rotate-keys, rotate-queries
    #[arg(long, value_name = "RULE", value_delimiter = ',')]
    without: Vec<FusionRule>,
}

impl WithoutFlag {
    /// The rules; `None` where none was named.
    pub(crate) fn rules(&self) -> Option<RuleSet> {
        let rules = self.without.iter().copied();
        (!self.without.is_empty()).then(|| rules.collect())
    }
}

/// The settings that count, with the environment of this process.
pub(crate) fn resolve(given: &Given) -> Result<Settings, Failure> {
    if given.precision == Some(Precision::Exact) && given.gemv.is_some() {
        let why = "--gemv means nothing with --exact, which has one variant; leave one of them out";
        return Err(Failure::Usage(why.to_owned()));
    }
    Ok(Settings::resolve(&Environment::read()?, given)?)
}

/// Refuses a value above the most that there may be.
pub(crate) fn at_most(name: &str, value: usize, most: usize) -> Result<(), Failure> {
    if value <= most {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "{name} {value} is too large; at most {most}"
    )))
}

/// Refuses positions of a cache that there cannot be.
pub(crate) fn check_context(name: &str, positions: Option<usize>) -> Result<(), Failure> {
    match positions {
        Some(0) => Err(Failure::Usage(format!("{name} must be at least 1"))),
        Some(positions) => at_most(name, positions, MAX_CONTEXT),
        None => Ok(()),
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
    use gannet_engine::internals::lower::PATTERNS;

    use super::*;

    #[test]
    fn the_help_names_every_rule_of_lowering() {
        let command = WithoutFlag::augment_args(clap::Command::new("gannet"));
        let flag = command.get_arguments().find(|a| a.get_id() == "without");
        let help = flag.and_then(|f| f.get_help()).unwrap().to_string();
        for pattern in PATTERNS {
            assert!(help.contains(pattern.name), "{}: {help}", pattern.name);
        }
    }

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
