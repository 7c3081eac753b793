//! The open model: one file, or all shards of a split one, as a single list of tensors.
//!
//! Opening reads and validates headers only; tensor data is touched when somebody looks at it.
//! A model that opens has unique tensor names whose data lies inside its shard.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Error;
use crate::error::{quoted, shown_path};
use crate::metadata::Metadata;
use crate::parse::{MAX_TENSORS, Parsed, parse};
use crate::shard::{self, ShardName};
use crate::source::Source;
use crate::tensor::TensorInfo;

/// A model file, open for reading.
pub struct Gguf {
    path: PathBuf,
    /// Where the shards were read from; empty for bytes in memory.
    files: Vec<PathBuf>,
    shards: Vec<Arc<Source>>,
    version: u32,
    alignment: u64,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, u32>,
    warnings: Vec<String>,
}

impl Gguf {
    /// Opens the model at `path`; for a split model, the first shard
    /// (`...-00001-of-0000N.gguf`), which the others lie beside.
    ///
    /// The files are mapped into memory, or read where the file system cannot map. They must not be
    /// rewritten or shortened while the model is open; [`exit_on_fault`](crate::exit_on_fault) says
    /// what becomes of one that is.
    ///
    /// # Errors
    /// Whatever is wrong with the file, in one line; the first problem found.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf, Error> {
        let path = path.as_ref();
        let source = Arc::new(Source::open(path)?);
        let first = parse(&source, 0)?;
        let split = shard::Split::of(source.name(), &first.metadata)?;
        let mut model = Gguf::new(path.to_owned(), source, first)?;
        model.files.push(path.to_owned());
        if let Some(split) = split {
            let name = ShardName::of_first(path, &split)?;
            for no in 1..split.count {
                model.add_shard(&name.path(no), no, &split)?;
            }
            split.check_total(&shown_path(&model.path), model.tensors.len())?;
        } else if ShardName::parse(path).is_some_and(|name| name.count > 1) {
            let name = shown_path(&model.path);
            model.warnings.push(format!(
                "{name}: named like a shard but has no key \"split.count\""
            ));
        }
        Ok(model)
    }

    /// Opens a model that is part of the program. `name` stands for the file in messages.
    ///
    /// # Errors
    /// As [`Gguf::open`]; shards of a split model are refused.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Gguf, Error> {
        Gguf::from_source(name, Source::from_static(name, bytes))
    }

    /// Opens a model that is in memory. `name` stands for the file in messages.
    ///
    /// # Errors
    /// As [`Gguf::open`]; shards of a split model are refused.
    pub fn from_vec(name: &str, bytes: Vec<u8>) -> Result<Gguf, Error> {
        Gguf::from_source(name, Source::from_vec(name, bytes))
    }

    fn from_source(name: &str, source: Source) -> Result<Gguf, Error> {
        let source = Arc::new(source);
        let parsed = parse(&source, 0)?;
        if let Some(split) = shard::Split::of(name, &parsed.metadata)? {
            return Err(Error::Split {
                file: name.to_owned(),
                found: format!("the first of {} shards, in memory", split.count),
                expected: "opened from its folder, or merged into one file".into(),
            });
        }
        Gguf::new(PathBuf::from(name), source, parsed)
    }

    fn new(path: PathBuf, source: Arc<Source>, parsed: Parsed) -> Result<Gguf, Error> {
        let mut model = Gguf {
            path,
            files: Vec::new(),
            shards: Vec::new(),
            version: parsed.version,
            alignment: parsed.alignment,
            metadata: parsed.metadata,
            tensors: Vec::new(),
            by_name: HashMap::new(),
            warnings: parsed.warnings,
        };
        model.add_tensors(source, parsed.tensors)?;
        Ok(model)
    }

    fn add_shard(&mut self, path: &Path, no: usize, split: &shard::Split) -> Result<(), Error> {
        let missing = |source: &Error| Error::Split {
            file: shown_path(&self.path),
            found: format!(
                "shard {} of {} cannot be read ({source})",
                no + 1,
                split.count
            ),
            expected: "beside the first shard".into(),
        };
        let source = Source::open(path).map_err(|e| missing(&e))?;
        let source = Arc::new(source);
        let parsed = parse(&source, no)?;
        split.check_member(source.name(), &parsed.metadata, no)?;
        shard::check_metadata(source.name(), &self.metadata, &parsed.metadata)?;
        self.warnings.extend(parsed.warnings);
        self.files.push(path.to_owned());
        self.add_tensors(source, parsed.tensors)
    }

    fn add_tensors(&mut self, source: Arc<Source>, tensors: Vec<TensorInfo>) -> Result<(), Error> {
        let total = self.tensors.len() + tensors.len();
        if total as u64 > MAX_TENSORS {
            return Err(Error::Split {
                file: source.name().to_owned(),
                found: format!("{total} tensors in the shards so far"),
                expected: format!("at most {MAX_TENSORS}"),
            });
        }
        self.by_name.reserve(tensors.len());
        for tensor in &tensors {
            // At most MAX_TENSORS entries, so that the index fits.
            let index = self.by_name.len() as u32;
            if self.by_name.insert(tensor.name.clone(), index).is_some() {
                return Err(Error::Tensor {
                    file: source.name().to_owned(),
                    tensor: quoted(&tensor.name),
                    field: "its name",
                    found: "a duplicate".into(),
                    expected: "unique".into(),
                });
            }
        }
        self.tensors.extend(tensors);
        self.shards.push(source);
        Ok(())
    }

    /// The version of the format, 2 or 3; of the first shard.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What tensor data is aligned to, in bytes; of the first shard.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// The metadata; of a split model, that of its first shard.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in file order, shard after shard.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(*self.by_name.get(name)? as usize)
    }

    /// The bytes of one of this model's [`tensors`](Self::tensors); always `t.bytes` long.
    /// Empty for a description that is not from this model and does not fit it.
    pub fn data(&self, t: &TensorInfo) -> &[u8] {
        let range = || {
            let start = usize::try_from(t.offset).ok()?;
            let end = start.checked_add(usize::try_from(t.bytes).ok()?)?;
            self.shards.get(t.shard)?.bytes().get(start..end)
        };
        range().unwrap_or_default()
    }

    /// The path the model was opened with, or the name given for bytes in memory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that the model was read from, shard after shard; none for bytes in memory.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Oddities that do not prevent using the model, one line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The size of all shards together.
    pub fn file_bytes(&self) -> u64 {
        self.shards.iter().map(|s| s.bytes().len() as u64).sum()
    }

    /// The number of files the model is made of.
    pub fn num_shards(&self) -> usize {
        self.shards.len()
    }
}

impl fmt::Debug for Gguf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gguf")
            .field("path", &self.path)
            .field("version", &self.version)
            .field("keys", &self.metadata.len())
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}
