//! The weights of a folder, mapped: one file, or the files of an index.

use std::path::{Path, PathBuf};

use gannet_gguf::MappedFile;

use super::error::quoted;
use super::{EXTENSION, Error, SafeTensorInfo, SafeTensors, has_ending};

/// The usual names, the first that is there.
const NAMES: [&str; 2] = ["model.safetensors.index.json", "model.safetensors"];

/// Open files whose tensors are read in place.
pub struct MappedTensors {
    model: SafeTensors,
    maps: Vec<MappedFile>,
}

impl MappedTensors {
    /// Opens the weights of a folder: those that `model.safetensors.index.json` names, else
    /// `model.safetensors`, else its only `.safetensors` file. They must not be rewritten or shortened
    /// while this lives.
    ///
    /// # Errors
    /// None or several of them; those of [`SafeTensors::open`]; a file that cannot be mapped.
    pub fn open(folder: &Path) -> Result<MappedTensors, Error> {
        let model = SafeTensors::open(&weights_of(folder)?)?;
        let mut maps = Vec::with_capacity(model.files().len());
        for path in model.files() {
            let map = MappedFile::open(path).map_err(|source| Error::Io {
                file: path.clone(),
                action: "map",
                source: std::io::Error::other(source),
            })?;
            maps.push(map);
        }
        let mapped = MappedTensors { model, maps };
        for (index, tensor) in mapped.tensors().iter().enumerate() {
            let len = mapped.maps[tensor.file].bytes().len() as u64;
            if tensor.bytes.end > len {
                return Err(Error::Tensor {
                    file: mapped.file_of(index).to_owned(),
                    tensor: quoted(&tensor.name),
                    field: "data_offsets",
                    found: format!("end at byte {} of the file", tensor.bytes.end),
                    expected: format!("at most {len}: the file has shrunk since it was opened"),
                });
            }
        }
        Ok(mapped)
    }

    /// What was opened: a file, or the index.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.model.path()
    }

    /// The files.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        self.model.files()
    }

    /// Every tensor, in the order of the data.
    #[must_use]
    pub fn tensors(&self) -> &[SafeTensorInfo] {
        self.model.tensors()
    }

    /// The file of a tensor.
    #[must_use]
    pub fn file_of(&self, index: usize) -> &Path {
        &self.model.files()[self.tensors()[index].file]
    }

    /// The bytes of a tensor, little-endian and row-major.
    #[must_use]
    pub fn bytes(&self, index: usize) -> &[u8] {
        let tensor = &self.tensors()[index];
        let range = tensor.bytes.start as usize..tensor.bytes.end as usize;
        // It was inside when this was made, and a map keeps its length.
        self.maps[tensor.file]
            .bytes()
            .get(range)
            .unwrap_or_default()
    }
}

/// The file or index of a folder's weights, by the rule of [`MappedTensors::open`].
///
/// # Errors
/// There is none, or several without an index; the folder cannot be read.
pub fn weights_of(folder: &Path) -> Result<PathBuf, Error> {
    let usual = NAMES.iter().map(|name| folder.join(name));
    if let Some(path) = usual.into_iter().find(|path| path.exists()) {
        return Ok(path);
    }
    let io = |source| Error::Io {
        file: folder.to_owned(),
        action: "read",
        source,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if has_ending(&path, EXTENSION) {
            found.push(path);
        }
    }
    found.sort();
    if found.len() == 1 {
        return Ok(found.remove(0));
    }
    let found = match found.first() {
        Some(first) => format!(
            "it has {} of them and no index, such as {}",
            found.len(),
            quoted(&first.file_name().unwrap_or_default().to_string_lossy())
        ),
        None if folder.join("pytorch_model.bin").exists()
            || folder.join("pytorch_model.bin.index.json").exists() =>
        {
            "it has pytorch_model.bin alone, which is a program and not read".to_owned()
        }
        None => "it has none".to_owned(),
    };
    Err(Error::Weights {
        folder: folder.to_owned(),
        found,
    })
}
