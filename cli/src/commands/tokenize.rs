//! `gannet tokenize`: text to token ids.
//!
//! Only the vocabulary is read, so a file without weights serves. The text is taken as it is, its last
//! newline included; a byte order mark at the start of a file or of standard input is no part of it.

use std::path::PathBuf;

use clap::Args;
use gannet_engine::internals::text::tokenizer::from_metadata;
use gannet_engine::tokenizer::{Algorithm, EncodeOptions, TokenizerOptions};

use crate::console::Console;
use crate::failure::Failure;
use crate::input::read_text;
use crate::flags::{ModelFlag, vocabulary};

/// Print the token ids of a text
#[derive(Args)]
pub(crate) struct Tokenize {
    #[command(flatten)]
    model: ModelFlag,
    #[command(flatten)]
    input: Input,
    /// Add the tokens that the model wants at the start and end of a text
    #[arg(long)]
    add_special: bool,
    /// Take the text of special tokens, such as <|im_end|>, for the tokens
    #[arg(long)]
    parse_special: bool,
    /// Split words by the rules of this name instead of the file's tokenizer.ggml.pre
    #[arg(long, value_name = "NAME")]
    pre: Option<String>,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

/// The text: one of the two.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Input {
    /// File with the text, which counts byte for byte; - is standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The text itself
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
}

impl Tokenize {
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        let gguf = self.model.open_container()?;
        let options = TokenizerOptions {
            pre_override: self.pre.clone(),
        };
        let tokenizer =
            from_metadata(gguf.metadata(), &options).map_err(|source| vocabulary(&gguf, source))?;
        let splits = tokenizer.kind() == Algorithm::ByteLevelBpe;
        if let Some(pre) = self.pre.filter(|_| !splits) {
            return Err(Failure::Usage(format!(
                "--pre {pre}: rules by which byte-level tokenizers split, and this file's is none"
            )));
        }
        for warning in tokenizer.warnings() {
            console.note(format!("warning: {warning}"));
        }
        let text = match (self.input.text, self.input.file) {
            (Some(text), _) => text,
            (None, Some(file)) => read_text(&file)?,
            (None, None) => String::new(),
        };
        let encode = EncodeOptions {
            add_special: self.add_special,
            parse_special: self.parse_special,
        };
        let ids = tokenizer.encode(&text, encode);
        if self.json {
            return console.json(&serde_json::Value::from(ids));
        }
        let words: Vec<String> = ids.iter().map(u32::to_string).collect();
        console.line(&words.join(" "))
    }
}
