//! `gannet synth`: a model of random weights in a real shape, to measure speed without a download.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use gannet_engine::tools::synth::{self, ShapeName, Summary, SynthOptions, TypeMix};

use gannet_gguf::shown_path;
use serde_json::json;

use crate::console::{self, Console};
use crate::failure::Failure;
use crate::figures;
use crate::flags::refuse_no_file;
use crate::output::{self, Output};
use crate::progress::Progress;

/// Write a GGUF model of random weights in a named shape
#[derive(Args)]
pub(crate) struct Synth {
    /// Dimensions of the model
    #[arg(long, value_name = "NAME", value_parser = shapes())]
    shape: ShapeName,
    /// Types of its tensors
    #[arg(long = "type", value_name = "TYPE", default_value = "q4_k_m", value_parser = mixes())]
    mix: TypeMix,
    /// Another seed, other weights
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// GGUF file whose vocabulary is copied [default: one is made up]
    #[arg(long, value_name = "FILE")]
    vocab_from: Option<PathBuf>,
    /// File to write; - writes to standard output
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// Print one JSON object about what was written
    #[arg(long)]
    json: bool,
}

fn shapes() -> impl TypedValueParser<Value = ShapeName> {
    let names = ShapeName::ALL.iter().map(|s| s.name());
    PossibleValuesParser::new(names).try_map(|name| name.parse::<ShapeName>())
}

fn mixes() -> impl TypedValueParser<Value = TypeMix> {
    let names = TypeMix::ALL.iter().map(|m| m.name());
    PossibleValuesParser::new(names).try_map(|name| name.parse::<TypeMix>())
}

impl Synth {
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        output::refuse_json(self.json, &self.out, "--out")?;
        self.vocab_from.as_deref().map_or(Ok(()), refuse_no_file)?;
        let options = SynthOptions {
            shape: self.shape,
            mix: self.mix,
            seed: self.seed,
            vocab_from: self.vocab_from,
        };
        let summary = write(&options, &self.out)?;
        if self.json {
            return console.json(&json!({
                "file": self.out.display().to_string(),
                "shape": options.shape.name(),
                "type": options.mix.name(),
                "seed": options.seed,
                "tensors": summary.tensors,
                "weights": summary.weights,
                "bytes": summary.file_bytes,
            }));
        }
        console.show_notes();
        console::say(&format!(
            "[{}: {} tensors, {} weights, {}]",
            shown_path(&self.out),
            summary.tensors,
            figures::count(summary.weights),
            figures::bytes(summary.file_bytes)
        ));
        Ok(())
    }
}

fn write(options: &SynthOptions, path: &Path) -> Result<Summary, Failure> {
    let inputs: Vec<&PathBuf> = options.vocab_from.iter().collect();
    let mut out = Output::create(path, &inputs)?;
    let progress = Progress::bytes("writing", 1);
    let mut on_bytes = |done, total| progress.set_of(done, total);
    let summary = synth::write(options, &mut out, &mut on_bytes).map_err(|e| match e {
        synth::Error::Gguf(error) => Output::failed(path, error),
        e => Failure::of(e),
    })?;
    drop(progress);
    out.finish()?;
    Ok(summary)
}
