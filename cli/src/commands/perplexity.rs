//! `gannet perplexity`: how well a model predicts a text.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use gannet_engine::tools::eval;
use gannet_engine::{Session, Settings};
use serde_json::json;

use crate::console::{self, Console};
use crate::failure::Failure;
use crate::figures::{count, counted};
use crate::flags::{DeviceFlags, ModelFlag, check_context};
use crate::input::read_text;
use crate::interrupt::{self, Telling};
use crate::progress::Progress;

/// Positions whose logits are computed at once.
const POSITIONS_AT_ONCE: usize = 64;

/// Windows done, of how many, and the value of those; `None` before the first.
type SoFar = Arc<Mutex<Option<(usize, usize, f64)>>>;

/// Measure how well a model predicts a text (the second half of each window is scored)
#[derive(Args)]
pub(crate) struct Perplexity {
    #[command(flatten)]
    model: ModelFlag,
    /// File with the text, which counts byte for byte; - is standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Tokens in a window
    #[arg(short, long, value_name = "N", default_value_t = 512)]
    context: usize,
    #[command(flatten)]
    device: DeviceFlags,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Perplexity {
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        if self.context < 4 {
            return Err(Failure::Usage("-c must be at least 4".to_owned()));
        }
        check_context("-c", Some(self.context))?;
        let options = Settings {
            context: Some(self.context),
            max_outputs: Some(POSITIONS_AT_ONCE),
            ..self.device.settings()?
        };
        let text = read_text(&self.file)?;
        let model = self.model.open(console)?;
        let tokenizer = model.tokenizer();
        // The text may go on behind the last token that is scored: nothing is added there.
        let tokens = {
            let _progress = Progress::spinner("tokenizing");
            tokenizer.encode_prompt(&[], &text, false)
        };
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let mut session = {
            let _progress = Progress::spinner("loading");
            Session::new(&model, &options)?
        };
        let windows = tokens.len() / self.context;
        let progress = Progress::bar("scoring", windows.max(1) as u64);
        let so_far = Arc::new(Mutex::new(None));
        let telling = self.tell_so_far(&so_far, progress.remover());
        let result = eval::perplexity(
            session.executor(),
            &tokens,
            bos,
            self.context,
            |done, of, value| {
                *so_far.lock().unwrap_or_else(PoisonError::into_inner) = Some((done, of, value));
                progress.set_of(done as u64, of as u64);
                progress.message(format!("perplexity {value:.4}"));
            },
        )?;
        drop(telling);
        drop(progress);
        if let Some(notice) = session.notice() {
            console.note(notice);
        }
        let device = session.executor().kind();
        if self.json {
            return console.json(&json!({
                "perplexity": result.value,
                "tokens": tokens.len(),
                "scored": result.scored,
                "chunks": result.chunks,
                "context": self.context,
                "device": device,
                "model": model.path().display().to_string(),
            }));
        }
        console.line(&format!("{:.4}", result.value))?;
        console.note(format!(
            "[{}: {} in {} of {}, {} scored; {device}]",
            self.model.name(),
            counted(tokens.len(), "token"),
            counted(result.chunks, "window"),
            self.context,
            count(result.scored as u64)
        ));
        Ok(())
    }

    /// Tells an interruption the value so far, of how many windows, once there is one.
    fn tell_so_far(&self, so_far: &SoFar, clear: impl FnOnce() + Send + 'static) -> Telling {
        let (so_far, json, context) = (Arc::clone(so_far), self.json, self.context);
        Telling::at_interruption(move || {
            clear();
            let so_far = *so_far.lock().unwrap_or_else(PoisonError::into_inner);
            let Some((done, of, value)) = so_far else {
                return console::say("[interrupted before the first window was scored]");
            };
            interrupt::print(&match json {
                true => {
                    let (chunks, windows) = (done, of);
                    let object = json!({"perplexity": value, "chunks": chunks, "windows": windows,
                        "context": context, "finish": "cancelled"});
                    format!("{object}\n")
                }
                false => format!("{value:.4}\n"),
            });
            let windows = counted(of, "window");
            console::say(&format!("[interrupted after {done} of {windows} of {context}]"));
        })
    }
}
