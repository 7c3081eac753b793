//! `gannet logits`: the logits of given tokens, as raw numbers for another program.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use gannet_engine::tools::eval;
use gannet_engine::{Error, Session, Settings};
use serde_json::json;

use crate::console::{self, Console};
use crate::failure::Failure;
use crate::figures;
use crate::flags::{DeviceFlags, ModelFlag, token_ids};
use crate::output::{self, Output};
use crate::progress::Progress;

/// Positions whose logits are computed at once: enough to fill a device, little to hold for a
/// large vocabulary.
const POSITIONS_AT_ONCE: usize = 64;

/// Write the logits of given tokens: little-endian f32, row-major [positions, vocabulary]
#[derive(Args)]
pub(crate) struct Logits {
    #[command(flatten)]
    model: ModelFlag,
    /// Token ids: 1,2,3, or @FILE with a JSON array (@- is standard input)
    #[arg(long, value_name = "IDS")]
    tokens: String,
    /// File to write; - writes to standard output
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Only the last N positions
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    #[command(flatten)]
    device: DeviceFlags,
    /// Print one JSON object about what was written
    #[arg(long)]
    json: bool,
}

impl Logits {
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        let tokens = token_ids(&self.tokens)?;
        if tokens.is_empty() {
            return Err(Failure::Usage("--tokens: give at least one id".to_owned()));
        }
        let positions = self.last.unwrap_or(tokens.len()).min(tokens.len());
        if positions == 0 {
            return Err(Failure::Usage("--last must be at least 1".to_owned()));
        }
        output::refuse_json(self.json, &self.out, "--out")?;
        let options = Settings {
            context: Some(tokens.len()),
            max_outputs: Some(POSITIONS_AT_ONCE),
            ..self.device.settings()?
        };
        let model = self.model.open(console)?;
        model.check_tokens(&tokens)?;
        let mut inputs = model.files().to_vec();
        inputs.extend(self.tokens.strip_prefix('@').map(PathBuf::from));
        let mut rows = Rows {
            path: &self.out,
            out: Output::create(&self.out, &inputs)?,
            bytes: 0,
        };
        let mut session = Session::new(&model, &options)?;
        let progress = Progress::bar("computing", tokens.len() as u64);
        let first = tokens.len() - positions;
        eval::logits(session.executor(), &tokens, first, |position, row| {
            progress.set(position as u64 + 1);
            rows.write(row)
        })?;
        drop(progress);
        let bytes = rows.finish()?;
        if let Some(notice) = session.notice() {
            console.note(notice);
        }
        console.show_notes();
        let vocab_size = model.plan().vocab_size;
        let size = figures::bytes(bytes);
        let device = session.executor().kind();
        if self.json {
            return console.json(&json!({
                "file": self.out.display().to_string(),
                "positions": positions,
                "first_position": first,
                "vocab_size": vocab_size,
                "bytes": bytes,
                "device": device,
                "model": model.path().display().to_string(),
            }));
        }
        console::say(&format!(
            "[{}: {} x {vocab_size} f32, {size}; {device}]",
            self.model.name(),
            figures::counted(positions, "position")
        ));
        Ok(())
    }
}

/// The output; its errors are the engine's, since rows are written from inside it.
struct Rows<'p> {
    path: &'p Path,
    out: Output,
    bytes: u64,
}

impl Rows<'_> {
    fn write(&mut self, row: &[f32]) -> Result<(), Error> {
        for value in row {
            let written = self.out.write_all(&value.to_le_bytes());
            written.map_err(|source| Error::Io {
                file: self.path.to_owned(),
                source,
            })?;
        }
        self.bytes += 4 * row.len() as u64;
        Ok(())
    }

    fn finish(self) -> Result<u64, Failure> {
        self.out.finish()?;
        Ok(self.bytes)
    }
}
