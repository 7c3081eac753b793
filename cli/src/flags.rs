//! Flags that several commands share, and what they make.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use gannet_engine::error::TokenizerError;
use gannet_engine::internals::lower::FusionRule;
use gannet_engine::internals::model::hf::HfFolder;
use gannet_engine::settings::{
    DeviceChoice, Environment, ExecutorChoice, GemvVariant, Given, KvType, MAX_CONTEXT,
    MAX_THREADS, Precision, RuleSet, SamplerOn, Settings,
};
use gannet_engine::{Model, ModelOptions};
use gannet_gguf::{Gguf, shown_path};

use crate::console::Console;
use crate::embedded;
use crate::failure::Failure;
use crate::input;
use crate::progress::Progress;

/// The model to work with.
#[derive(Args)]
pub(crate) struct ModelFlag {
    /// GGUF file, or the first of its shards, or a folder of config.json, tokenizer.json and safetensors
    /// [default: the embedded demonstration model]
    #[arg(short, long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Run a model whose file has keys or tensors that nothing here uses, with a warning that names
    /// them: what it computes may be something else than was meant
    #[arg(long)]
    ignore_unknown: bool,
}

impl ModelFlag {
    /// Opens and checks the model.
    pub(crate) fn open(&self, console: &mut Console) -> Result<Arc<Model>, Failure> {
        let mut options = ModelOptions::default();
        options.ignore_unknown = self.ignore_unknown;
        let model = match &self.model {
            Some(path) => {
                refuse_no_file(path)?;
                let _progress = Progress::spinner(format!("opening {}", shown_path(path)));
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
    pub(crate) fn open_container(&self) -> Result<Arc<Gguf>, Failure> {
        if self.ignore_unknown {
            let why =
                "--ignore-unknown means nothing where only the vocabulary is read; leave it out";
            return Err(Failure::Usage(why.to_owned()));
        }
        match &self.model {
            Some(path) => {
                refuse_no_file(path)?;
                match path.is_dir() {
                    true => Ok(Arc::clone(HfFolder::open(path, false)?.header())),
                    false => Ok(Arc::new(Gguf::open(path)?)),
                }
            }
            None => embedded::container().map(Arc::new),
        }
    }

    /// The file that was named.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.model.as_deref()
    }

    /// Whether what nothing uses is to be ignored.
    pub(crate) fn ignores_unknown(&self) -> bool {
        self.ignore_unknown
    }

    /// Takes a file that was named otherwise.
    pub(crate) fn set(&mut self, path: PathBuf) {
        self.model = Some(path);
    }

    /// What the model is called in notices.
    pub(crate) fn name(&self) -> String {
        match &self.model {
            Some(path) => shown_path(path),
            None => format!("{}, the embedded demonstration model", embedded::FILE),
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
    /// Threads that compute on the CPU [default: RAYON_NUM_THREADS, else as many as it runs at once]
    #[arg(short, long, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=MAX_THREADS as i64))]
    threads: Option<u16>,
    /// How kernels reach a GPU: auto (a graph, or eager where none can be built), eager, graph or
    /// capture; a named one is never replaced by the CPU [default: GANNET_EXECUTOR, else auto]
    #[arg(long, value_name = "EXECUTOR")]
    executor: Option<ExecutorChoice>,
    /// Where a GPU's tokens are chosen: device, or cpu (the CPU's own code, for equality with it)
    /// [default: GANNET_SAMPLER_ON, else device]
    #[arg(long, value_name = "WHERE")]
    sampler_on: Option<SamplerOn>,
    /// Variant of every matrix-vector product that has it, such as f32-l32-w16-r2-b4; those of dp4a
    /// round activations to 8 bits [default: GANNET_GEMV, else what `gannet tune` measured (of dp4a
    /// with its --int8), else built in]
    #[arg(long, value_name = "VARIANT")]
    gemv: Option<GemvVariant>,
    /// Element type of a GPU's key/value cache: f16, bf16, f32 or int8 (bytes, a scale for each head
    /// of a position); layers whose keys have large biases have f16 instead of bf16 or int8 [default:
    /// f16]
    #[arg(long, value_name = "TYPE")]
    kv_type: Option<KvType>,
    /// Tokens of a prompt in one step, at most; fewer take less memory and more time [default: 512 on a
    /// GPU, 256 on the CPU, 16 of interpreted kernels]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    chunk: Option<u32>,
    /// Have a GPU compute the same bits of a sequence whatever runs beside it: alone, batched, in
    /// chunks, with a known prefix; slower, as `gannet bench --batch-invariant` shows. Always so on
    /// the CPU
    #[arg(long)]
    batch_invariant: bool,
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
            chunk: self.chunk.map(|tokens| tokens as usize),
            batch_invariant: self.batch_invariant.then_some(true),
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

/// Token ids: `1,2,3`, or `@FILE` for a file with a JSON array of them, `@-` for standard input.
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
    let json = input::bytes_of(path)?;
    serde_json::from_slice(&json).map_err(|e| {
        let file = input::name_of(path);
        Failure::Work(format!(
            "{file}: not a JSON array of token ids, such as [1, 2, 3]: {e}"
        ))
    })
}

/// Refuses standard input and addresses as a model.
pub(crate) fn refuse_no_file(path: &Path) -> Result<(), Failure> {
    if input::is_dash(path) {
        let why =
            "a model is mapped from a file, not read from standard input; give the file's name";
        return Err(Failure::Usage(why.to_owned()));
    }
    let name = path.to_string_lossy();
    let scheme = name.split_once("://").map_or("", |(scheme, _)| scheme);
    let is_address = !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric());
    match is_address && !path.exists() {
        true => Err(Failure::Usage(format!(
            "{}: nothing is downloaded; fetch the GGUF file and give its name",
            shown_path(path)
        ))),
        false => Ok(()),
    }
}

/// A vocabulary that cannot be used.
pub(crate) fn vocabulary(gguf: &Gguf, source: TokenizerError) -> Failure {
    if let TokenizerError::Metadata(e) = source {
        // It names the file itself.
        return Failure::of(e);
    }
    let file = gguf.path().to_owned();
    Failure::of(gannet_engine::Error::Tokenizer {
        file,
        source: Box::new(source),
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
    fn one_byte_order_mark_is_no_text() {
        let text = |text: &str| input::text(text.as_bytes().to_vec(), "x").unwrap();
        assert_eq!(text("\u{feff}ab\n"), "ab\n");
        assert_eq!(text("\u{feff}\u{feff}"), "\u{feff}");
        assert_eq!(text("a\u{feff}"), "a\u{feff}");
        let line = |bytes: &[u8]| match input::text(bytes.to_vec(), "x") {
            Err(Failure::Work(line)) => line,
            _ => panic!("{bytes:?}"),
        };
        let wide = "x: not UTF-8 text but UTF-16 at byte 0; convert it first";
        assert_eq!(line(b"\xff\xfea\0"), wide);
        assert_eq!(line(b"\xfe\xff\0a"), wide);
        assert_eq!(
            line(b"a\xff"),
            "x: not UTF-8 text at byte 1; convert it first"
        );
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
