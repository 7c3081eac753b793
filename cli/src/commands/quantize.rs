//! `gannet quantize`: a GGUF file with smaller weights, from a GGUF file or a folder.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use gannet_engine::internals::files::Source;
use gannet_engine::internals::model::hf::HfFolder;
use gannet_engine::settings::MAX_THREADS;
use gannet_engine::tools::imatrix::Imatrix;
use gannet_engine::tools::quantize::{self, QuantType, QuantizeOptions, QuantizeSummary};
use gannet_gguf::{Gguf, shown_path};
use serde_json::json;

use crate::console::{self, Console};
use crate::failure::Failure;
use crate::figures::{self, counted};
use crate::flags::refuse_no_file;
use crate::output::{self, Output};
use crate::progress::Progress;

/// Write a GGUF file with its matrices rounded to fewer bits, in the mixes of the field
#[derive(Args)]
pub(crate) struct Quantize {
    /// GGUF file to read, or the first of its shards, or a folder as models are published in
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// File to write; - writes to standard output
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Types of its tensors, by their names
    #[arg(long = "type", value_name = "TYPE", value_parser = types(), ignore_case = true)]
    to: QuantType,
    /// What the errors of each column count: a file of `gannet imatrix` or llama-imatrix
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Replace OUT if it exists
    #[arg(long)]
    force: bool,
    /// Threads that compute [default: RAYON_NUM_THREADS, else as many as the CPU runs at once]
    #[arg(short, long, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=MAX_THREADS as i64))]
    threads: Option<u16>,
    /// Print one JSON object about what was written
    #[arg(long)]
    json: bool,
}

fn types() -> impl TypedValueParser<Value = QuantType> {
    let names = QuantType::ALL.iter().map(|t| t.name());
    PossibleValuesParser::new(names).try_map(|name| name.parse::<QuantType>())
}

impl Quantize {
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        output::refuse_json(self.json, &self.out, "OUT")?;
        let Input { source, files } = Input::open(&self.input, false, console)?;
        let mut inputs = files;
        inputs.extend(self.imatrix.clone());
        let out = output::create_new(&self.out, &inputs, self.force)?;
        let imatrix = self.imatrix.as_ref().map(Imatrix::open).transpose();
        let imatrix = imatrix.map_err(Failure::of)?;
        let options = QuantizeOptions {
            to: self.to,
            imatrix: imatrix.as_ref(),
        };
        let summary = write(out, &self.out, "quantising", |out, on_bytes| {
            quantize::quantize(source.as_ref(), options, out, on_bytes)
        })?;
        if summary.requantized > 0 {
            console.note(format!(
                "warning: {} of {} were quantised before and lost a second time; start from an F16, \
                 BF16 or F32 file where there is one",
                summary.requantized,
                counted(summary.converted, "converted tensor")
            ));
        }
        if summary.fallbacks > 0 {
            console.note(format!(
                "[{} with rows that are no whole blocks of {}: in types of smaller blocks]",
                counted(summary.fallbacks, "tensor"),
                self.to.base()
            ));
        }
        self.report(console, &summary)
    }

    fn report(&self, console: &mut Console, summary: &QuantizeSummary) -> Result<(), Failure> {
        let (before, now) = summary.bytes;
        if self.json {
            return console.json(&json!({
                "file": self.out.display().to_string(),
                "model": self.input.display().to_string(),
                "type": self.to.name(),
                "tensors": summary.tensors,
                "converted": summary.converted,
                "requantized": summary.requantized,
                "fallbacks": summary.fallbacks,
                "bytes_before": before,
                "bytes": now,
            }));
        }
        console.show_notes();
        console::say(&format!(
            "[{}: {}, {} of {} converted, {} to {}]",
            shown_path(&self.out),
            self.to,
            summary.converted,
            counted(summary.tensors, "tensor"),
            figures::bytes(before),
            figures::bytes(now)
        ));
        Ok(())
    }
}

/// Makes the file at `path`, and shows meanwhile how far that is; `doing` says what is done.
pub(super) fn write<T>(
    mut out: Output,
    path: &Path,
    doing: &'static str,
    make: impl FnOnce(&mut Output, &mut dyn FnMut(u64, u64)) -> Result<T, quantize::Error>,
) -> Result<T, Failure> {
    let progress = Progress::bytes(doing, 1);
    let mut on_bytes = |done, total| progress.set_of(done, total);
    let made = make(&mut out, &mut on_bytes).map_err(|error| match error {
        quantize::Error::Gguf(error) => Output::failed(path, error),
        error => Failure::of(error),
    })?;
    drop(progress);
    out.finish()?;
    Ok(made)
}

/// A model whose tensors are written anew.
pub(super) struct Input {
    pub(super) source: Box<dyn Source>,
    pub(super) files: Vec<PathBuf>,
}

impl Input {
    /// Opens a GGUF file or a folder, and notes what is odd about it.
    pub(super) fn open(
        path: &Path,
        ignore_unknown: bool,
        console: &mut Console,
    ) -> Result<Input, Failure> {
        refuse_no_file(path)?;
        let mut note = |warnings: &[String]| {
            for warning in warnings {
                console.note(format!("warning: {warning}"));
            }
        };
        if path.is_dir() {
            let folder = HfFolder::open(path, ignore_unknown)?;
            note(folder.warnings());
            let files = folder.files().to_vec();
            let source: Box<dyn Source> = Box::new(folder);
            return Ok(Input { source, files });
        }
        let gguf = Gguf::open(path)?;
        note(gguf.warnings());
        let files = gguf.files().to_vec();
        let source: Box<dyn Source> = Box::new(gguf);
        Ok(Input { source, files })
    }
}
