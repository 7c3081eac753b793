//! Folders as models are published in: one translation to what a GGUF file of the same model holds.
//!
//! | of the folder | becomes |
//! |---|---|
//! | `config.json` | hyper-parameters (`family.rs`, `rope.rs`), or a refusal by the key's name |
//! | `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` | the vocabulary (`vocab/`) |
//! | `chat_template.jinja`, or what `tokenizer_config.json` has | `tokenizer.chat_template` |
//! | `model.safetensors`, or the files of its index | tensors by their names there (`names.rs`, `weights.rs`) |
//!
//! The result is a header, which is the metadata of that file, and a [`Source`] of its tensors. A model is
//! opened from it, and `gannet convert` and `gannet quantize` write it. What always holds: every key of
//! `config.json` and every tensor is used, or known to change nothing, or refused by name.

mod config;
mod family;
mod head;
mod names;
mod neutral;
mod rope;
mod vocab;
mod weights;

use std::borrow::Cow;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gannet_gguf::{Gguf, Metadata, shown_path};
use serde_json::{Map, Value};

pub(crate) use head::Origins;

use config::Config;
use family::{FAMILIES, HfFamily};
use head::Head;
use weights::Weights;

use super::ledger;
use crate::Error;
use crate::files::safetensors::MappedTensors;
use crate::files::{Source, SourceTensor};

/// The longest `config.json`: most have a few thousand bytes.
const MAX_CONFIG_BYTES: u64 = 512 << 10;

/// A folder, open and translated.
pub struct HfFolder {
    path: PathBuf,
    header: Arc<Gguf>,
    weights: Weights,
    /// All files that were read.
    files: Vec<PathBuf>,
    warnings: Vec<String>,
    origins: Arc<Origins>,
}

impl HfFolder {
    /// Opens a folder; what nothing here uses becomes a warning where it is to be ignored.
    ///
    /// # Errors
    /// A file that is missing or damaged; a model of no family here; a key or tensor that nothing uses.
    pub fn open(path: &Path, ignore_unknown: bool) -> Result<HfFolder, Error> {
        let config_file = path.join("config.json");
        let config = Config::new(&config_file, object(&config_file)?);
        let family = family_of(&config)?;
        let mut head = Head::new(family.arch)?;
        head.writer.set("general.name", &name_of(path))?;
        let shape = (family.describe)(&config, &mut head)?;
        let mapped = MappedTensors::open(path)?;
        let (weights, unread) = Weights::new(mapped, &mut head, &shape)?;
        let vocab_size = vocab::size(&config, &shape, &weights)?;
        head.set("vocab_size", vocab_size, &config, "vocab_size")?;
        let mut files = vec![config_file];
        files.extend(vocab::write(path, &config, vocab_size, &mut head)?);
        let mut all = config.unread();
        all.extend(unread);
        let unread = ledger::refuse_unread(path, family.arch, all);
        if let Some(line) = ledger::pass(unread, ignore_unknown)? {
            head.warnings.push(line);
        }
        files.extend(weights.files().iter().cloned());
        let prefix = shown_path(path);
        let name = path.to_string_lossy();
        let header = head.writer.start(Vec::new())?.finish()?;
        Ok(HfFolder {
            path: path.to_owned(),
            header: Arc::new(Gguf::from_vec(&name, header)?),
            weights,
            files,
            warnings: head
                .warnings
                .iter()
                .map(|w| format!("{prefix}: {w}"))
                .collect(),
            origins: Arc::new(head.origins),
        })
    }

    /// The metadata, as a file without tensors.
    #[must_use]
    pub fn header(&self) -> &Arc<Gguf> {
        &self.header
    }

    /// The files that it was read from.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// What is odd about it, a line each.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What its files call the keys of the header.
    pub(crate) fn origins(&self) -> &Arc<Origins> {
        &self.origins
    }
}

impl Source for HfFolder {
    fn path(&self) -> &Path {
        &self.path
    }

    fn metadata(&self) -> &Metadata {
        self.header.metadata()
    }

    fn alignment(&self) -> u64 {
        self.header.alignment()
    }

    fn file_bytes(&self) -> u64 {
        let size = |file: &PathBuf| fs::metadata(file).map_or(0, |meta| meta.len());
        self.files.iter().map(size).sum()
    }

    fn num_tensors(&self) -> usize {
        self.weights.len()
    }

    fn tensor(&self, index: usize) -> SourceTensor<'_> {
        self.weights.tensor(index)
    }

    fn find(&self, name: &str) -> Option<SourceTensor<'_>> {
        self.weights
            .find(name)
            .map(|index| self.weights.tensor(index))
    }

    fn in_place(&self, index: usize) -> Option<&[u8]> {
        self.weights.in_place(index)
    }

    fn bytes(&self, index: usize) -> Cow<'_, [u8]> {
        self.weights.bytes(index)
    }
}

/// The family that a configuration names.
fn family_of(config: &Config) -> Result<&'static HfFamily, Error> {
    let named = config.texts("architectures")?.unwrap_or_default();
    let model_type = config.text("model_type")?;
    let found = match named.first() {
        Some(name) => FAMILIES.iter().find(|f| f.architectures.contains(name)),
        None => FAMILIES
            .iter()
            .find(|f| model_type.is_some_and(|ty| f.model_types.contains(&ty))),
    };
    found.ok_or_else(|| {
        let known: Vec<&str> = FAMILIES
            .iter()
            .flat_map(|f| f.architectures)
            .copied()
            .collect();
        let (key, found) = match (named.first(), model_type) {
            (Some(name), _) => ("architectures", Value::from(*name)),
            (None, Some(ty)) => ("model_type", Value::from(ty)),
            (None, None) => ("architectures", Value::Null),
        };
        config.bad(key, &found, &format!("supported: {}", known.join(", ")))
    })
}

/// What a folder is called.
fn name_of(path: &Path) -> String {
    let whole = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let name = whole.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The object in a small JSON file.
fn object(path: &Path) -> Result<Map<String, Value>, Error> {
    let bytes = bytes_of(path, MAX_CONFIG_BYTES)?;
    parse(path, &bytes)
}

/// Reads JSON; a message names the file and stays on one line.
fn parse<'a, T: serde::Deserialize<'a>>(path: &Path, bytes: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|e| {
        let shown: String = e
            .to_string()
            .chars()
            .take(200)
            .flat_map(char::escape_debug)
            .collect();
        bad_file(path, format!("JSON: {shown}"))
    })
}

/// The bytes of a file of at most `most`.
fn bytes_of(path: &Path, most: u64) -> Result<Vec<u8>, Error> {
    let io = |source| Error::Io {
        file: path.to_owned(),
        source,
    };
    let meta = fs::metadata(path).map_err(io)?;
    if !meta.is_file() {
        return Err(bad_file(
            path,
            "not a regular file; expected one on disk".to_owned(),
        ));
    }
    if meta.len() > most {
        let len = meta.len();
        return Err(bad_file(
            path,
            format!("{len} bytes long; expected at most {most}"),
        ));
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(io)?;
    file.take(most).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

fn bad_file(path: &Path, problem: String) -> Error {
    Error::Folder {
        file: path.to_owned(),
        problem,
    }
}
