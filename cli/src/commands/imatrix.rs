//! `gannet imatrix`: how much each column of each matrix matters, found from a text.

use std::path::PathBuf;

use clap::Args;
use gannet_engine::settings::MAX_THREADS;
use gannet_engine::tools::imatrix::{self, CollectOptions};
use gannet_gguf::shown_path;
use serde_json::json;

use crate::console::{self, Console};
use crate::failure::Failure;
use crate::figures::counted;
use crate::flags::{ModelFlag, check_context, precision};
use crate::input::{name_of, read_text};
use crate::output::{self, Output};
use crate::progress::Progress;

/// Write an importance matrix for `gannet quantize --imatrix`: mean squares of what comes into each
/// matrix while the CPU reads a text
#[derive(Args)]
pub(crate) struct Imatrix {
    #[command(flatten)]
    model: ModelFlag,
    /// File with the text; - is standard input
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// File to write; - writes to standard output
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// Tokens in a window
    #[arg(short, long, value_name = "N", default_value_t = 512)]
    context: usize,
    /// The most windows [default: all of the text]
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,
    /// Compute with f32 activations: slower
    #[arg(long)]
    exact: bool,
    /// Threads that compute [default: RAYON_NUM_THREADS, else as many as the CPU runs at once]
    #[arg(short, long, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=MAX_THREADS as i64))]
    threads: Option<u16>,
    /// Replace the output if it exists
    #[arg(long)]
    force: bool,
    /// Print one JSON object about what was written
    #[arg(long)]
    json: bool,
}

impl Imatrix {
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        if self.context == 0 || self.chunks == Some(0) {
            let why = "-c and --chunks must be at least 1";
            return Err(Failure::Usage(why.to_owned()));
        }
        check_context("-c", Some(self.context))?;
        output::refuse_json(self.json, &self.out, "--out")?;
        let model = self.model.open(console)?;
        let mut inputs = model.files().to_vec();
        inputs.push(self.file.clone());
        let mut out = output::create_new(&self.out, &inputs, self.force)?;
        let text = read_text(&self.file)?;
        let tokenizer = model.tokenizer();
        let tokens = {
            let _progress = Progress::spinner("tokenizing");
            tokenizer.encode_prompt(&[], &text, false)
        };
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let options = CollectOptions {
            context: self.context,
            chunks: self.chunks,
            precision: precision(self.exact),
        };
        let progress = Progress::bar("reading", 1);
        let on_window = |done, of| progress.set_of(done as u64, of as u64);
        let collected = imatrix::collect(&model, &tokens, bos, options, on_window)?;
        drop(progress);
        let written = collected.write(&name_of(&self.file), &mut out);
        written.map_err(|e| Output::failed(&self.out, e))?;
        out.finish()?;
        let matrices = collected.sums.len();
        if self.json {
            return console.json(&json!({
                "file": self.out.display().to_string(),
                "model": model.path().display().to_string(),
                "matrices": matrices,
                "chunks": collected.chunks,
                "context": collected.context,
            }));
        }
        console.show_notes();
        console::say(&format!(
            "[{}: {matrices} matrices, {} of {}]",
            shown_path(&self.out),
            counted(collected.chunks, "window"),
            counted(collected.context, "token")
        ));
        Ok(())
    }
}
