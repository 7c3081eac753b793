//! `gannet synth`: a model of random weights in a real shape, to measure speed without a download.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use gannet_engine::tools::synth::{self, ShapeName, Summary, SynthOptions, TypeMix};

use crate::console::{self, Console};
use crate::failure::Failure;
use crate::figures;
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
    /// File to write
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
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
        let options = SynthOptions {
            shape: self.shape,
            mix: self.mix,
            seed: self.seed,
            vocab_from: self.vocab_from,
        };
        // Beside the file and then in its place: half a model never has its name, and a vocabulary
        // may come from the file that is replaced.
        let mut partial = self.out.clone().into_os_string();
        partial.push(".part");
        let partial = PathBuf::from(partial);
        let written = write(&options, &partial).and_then(|summary| {
            let renamed = std::fs::rename(&partial, &self.out);
            renamed.map_err(|e| Failure::file(&self.out, "create", &e))?;
            Ok(summary)
        });
        let summary = written.inspect_err(|_| {
            // What failed first is what is reported.
            let _ = std::fs::remove_file(&partial);
        })?;
        console.show_notes();
        console::say(&format!(
            "[{}: {} tensors, {} weights, {}]",
            self.out.display(),
            summary.tensors,
            figures::count(summary.weights),
            figures::bytes(summary.file_bytes)
        ));
        Ok(())
    }
}

fn write(options: &SynthOptions, path: &Path) -> Result<Summary, Failure> {
    let file = File::create(path).map_err(|e| Failure::file(path, "create", &e))?;
    let progress = Progress::bytes("writing", 1);
    let mut on_bytes = |done, total| progress.set_of(done, total);
    synth::write(
        options,
        BufWriter::with_capacity(1 << 20, file),
        &mut on_bytes,
    )
    .map_err(|e| Failure::Work(format!("{}: {e}", path.display())))
}
