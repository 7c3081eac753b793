//! `gannet convert`: a folder as models are published in, written as one GGUF file.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use gannet_engine::settings::MAX_THREADS;
use gannet_engine::tools::convert::{self, ConvertSummary, ConvertType};
use gannet_gguf::shown_path;
use serde_json::json;

use super::quantize::{Input, write};
use crate::console::{self, Console};
use crate::failure::Failure;
use crate::figures::{self, counted};
use crate::output;

/// Write a folder of config.json, tokenizer.json and safetensors as one GGUF file
#[derive(Args)]
pub(crate) struct Convert {
    /// Folder to read; also a GGUF file, or the first of its shards
    #[arg(value_name = "FOLDER")]
    input: PathBuf,
    /// File to write; - writes to standard output
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// What matrices become; vectors are f32
    #[arg(long = "type", value_name = "TYPE", value_parser = types(), ignore_case = true,
          default_value = "keep")]
    to: ConvertType,
    /// Write a model whose folder has keys or tensors that nothing here uses, with a warning that names
    /// them
    #[arg(long)]
    ignore_unknown: bool,
    /// Replace FILE if it exists
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

fn types() -> impl TypedValueParser<Value = ConvertType> {
    let names = ConvertType::ALL.iter().map(|t| t.name());
    PossibleValuesParser::new(names).try_map(|name| name.parse::<ConvertType>())
}

impl Convert {
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        output::refuse_json(self.json, &self.out, "-o")?;
        let Input { source, files } = Input::open(&self.input, self.ignore_unknown, console)?;
        let out = output::create_new(&self.out, &files, self.force)?;
        let summary = write(out, &self.out, "converting", |out, on_bytes| {
            convert::convert(source.as_ref(), self.to, out, on_bytes)
        })?;
        self.report(console, &summary)
    }

    fn report(&self, console: &mut Console, summary: &ConvertSummary) -> Result<(), Failure> {
        if self.json {
            return console.json(&json!({
                "file": self.out.display().to_string(),
                "model": self.input.display().to_string(),
                "type": self.to.name(),
                "tensors": summary.tensors,
                "converted": summary.converted,
                "bytes": summary.bytes,
            }));
        }
        console.show_notes();
        console::say(&format!(
            "[{}: {}, type {}, {} converted, {}]",
            shown_path(&self.out),
            counted(summary.tensors, "tensor"),
            self.to,
            summary.converted,
            figures::bytes(summary.bytes)
        ));
        Ok(())
    }
}
