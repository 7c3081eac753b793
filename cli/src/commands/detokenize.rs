//! `gannet detokenize`: token ids to the bytes that they stand for.
//!
//! Only the vocabulary is read, so a file without weights serves. The bytes are those that `gannet
//! tokenize` read: nothing is added at the end, special tokens give their text, and what is not UTF-8
//! stays as it is; WordPiece alone forgets case, accents and white space, and gives words with single
//! spaces between them. The space that SentencePiece puts in front of a text is left out again, unless the
//! ids go on after others.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use gannet_engine::internals::text::tokenizer::from_metadata;
use gannet_engine::tokenizer::{DecodeOptions, Tokenizer, TokenizerOptions};

use crate::console::Console;
use crate::failure::Failure;
use crate::flags::{ModelFlag, vocabulary};
use crate::input::{name_of, read_text};

/// Print the bytes that token ids stand for
#[derive(Args)]
pub(crate) struct Detokenize {
    #[command(flatten)]
    model: ModelFlag,
    #[command(flatten)]
    input: Input,
    /// The ids go on after others: print the tokens' own bytes, a space in front included
    #[arg(long = "continue")]
    goes_on: bool,
    /// Print one JSON string; an error where the bytes are not UTF-8
    #[arg(long)]
    json: bool,
}

/// The ids: one of the two.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Input {
    /// The ids, with commas or spaces between them, or as a JSON array
    #[arg(long, value_name = "IDS")]
    ids: Option<String>,
    /// File with the ids, written the same way; - reads standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Detokenize {
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        let ids = self.input.ids()?;
        let gguf = self.model.open_container()?;
        let tokenizer = from_metadata(gguf.metadata(), &TokenizerOptions::default())
            .map_err(|source| vocabulary(&gguf, source))?;
        for warning in tokenizer.warnings() {
            console.note(format!("warning: {warning}"));
        }
        let bytes = bytes(&tokenizer, &ids, self.goes_on)?;
        if self.json {
            return console.json(&serde_json::Value::from(self.text(&tokenizer, &ids, bytes)?));
        }
        let mut out = io::stdout().lock();
        let written = out.write_all(&bytes).and_then(|()| out.flush());
        written.map_err(|e| Failure::stdout(&e))
    }
}

impl Input {
    fn ids(&self) -> Result<Vec<u32>, Failure> {
        if let Some(ids) = &self.ids {
            return parse(ids).map_err(|e| Failure::Usage(format!("--ids {ids:?}: {e}")));
        }
        let file = self.file.as_deref().unwrap_or(Path::new("-"));
        let (name, text) = (name_of(file), read_text(file)?);
        parse(&text).map_err(|e| Failure::Work(format!("{name}: {e}")))
    }
}

/// Ids with commas or white space between them, or a JSON array; what is wrong with them, if anything.
fn parse(text: &str) -> Result<Vec<u32>, String> {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text)
            .map_err(|e| format!("not a JSON array of token ids, such as [1, 2, 3]: {e}"));
    }
    text.split(|c: char| c == ',' || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .map(|word| {
            // A word of a file that was not meant can be long.
            let shown: String = word.chars().take(40).collect();
            word.parse()
                .map_err(|_| format!("{shown:?} is not a token id"))
        })
        .collect()
}

/// The bytes of some tokens of a vocabulary.
fn bytes(tokenizer: &Tokenizer, ids: &[u32], goes_on: bool) -> Result<Vec<u8>, Failure> {
    let size = tokenizer.vocab_size();
    if let Some((i, id)) = (0..).zip(ids).find(|&(_, &id)| id as usize >= size) {
        let range = format!("the vocabulary has 0 to {}", size.saturating_sub(1));
        return Err(Failure::Work(format!("token {id} (number {i}): {range}")));
    }
    Ok(written(tokenizer, ids, goes_on))
}

/// The bytes of tokens that the vocabulary has.
fn written(tokenizer: &Tokenizer, ids: &[u32], goes_on: bool) -> Vec<u8> {
    if !goes_on {
        return tokenizer.decode_bytes(ids, DecodeOptions { special: true });
    }
    let mut bytes = Vec::new();
    for &id in ids {
        tokenizer.append_bytes(id, &mut bytes);
    }
    bytes
}

impl Detokenize {
    /// The bytes as text, or which token breaks it.
    fn text(&self, tokenizer: &Tokenizer, ids: &[u32], bytes: Vec<u8>) -> Result<String, Failure> {
        String::from_utf8(bytes).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            let numbers: Vec<usize> = (1..=ids.len()).collect();
            let ends_before = |&n: &usize| written(tokenizer, &ids[..n], self.goes_on).len() <= at;
            let token = ids.get(numbers.partition_point(ends_before)).unwrap_or(&0);
            Failure::Work(format!(
                "not UTF-8 text at byte {at}, in token {token}; without --json the bytes are printed as they are"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_however_they_are_written() {
        for text in ["1,2,3", "1 2 3\n", " 1, 2,\n3", "[1, 2, 3]", "\n[1,2,3]\n"] {
            assert_eq!(parse(text).unwrap(), [1, 2, 3], "{text:?}");
        }
        for text in ["", " \n", "[]"] {
            assert!(parse(text).unwrap().is_empty(), "{text:?}");
        }
        for text in ["1,x", "-1", "4294967296", "1.0", "[1, -2]", "[1", "[1] 2"] {
            let line = parse(text).unwrap_err();
            assert!(line.contains("token id"), "{text:?}: {line}");
        }
    }
}
