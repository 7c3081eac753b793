//! The header of the GGUF file that a folder would be, while it is written.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gannet_gguf::{Value, Writer};

use super::config::Config;
use crate::Error;

/// What the files of a folder call the keys of its header, so that messages name what the user can see.
#[derive(Default)]
pub(crate) struct Origins {
    /// By the key of the header: the file and its own key.
    keys: BTreeMap<String, (PathBuf, String)>,
}

impl Origins {
    /// The same error in the words of the folder's files.
    pub(crate) fn name(&self, error: Error) -> Error {
        match error {
            Error::HyperParameter {
                file,
                key,
                found,
                expected,
            } => {
                let (file, key) = self.keys.get(&key).cloned().unwrap_or((file, key));
                Error::HyperParameter {
                    file,
                    key,
                    found,
                    expected,
                }
            }
            other => other,
        }
    }
}

/// A header on its way.
pub(super) struct Head {
    pub(super) writer: Writer,
    /// `general.architecture`.
    pub(super) arch: &'static str,
    pub(super) origins: Origins,
    /// Tensors that no file holds: names and values.
    pub(super) made: Vec<(&'static str, Vec<f32>)>,
    pub(super) warnings: Vec<String>,
}

impl Head {
    pub(super) fn new(arch: &'static str) -> Result<Head, Error> {
        let mut writer = Writer::new();
        writer.set("general.architecture", arch)?;
        Ok(Head {
            writer,
            arch,
            origins: Origins::default(),
            made: Vec::new(),
            warnings: Vec::new(),
        })
    }

    /// Sets `ARCH.SUFFIX`, which comes from a key of `config`.
    pub(super) fn set<'v>(
        &mut self,
        suffix: &str,
        value: impl Into<Value<'v>>,
        config: &Config,
        key: &str,
    ) -> Result<(), Error> {
        let whole = self.origin(suffix, config, key);
        Ok(self.writer.set(&whole, value)?)
    }

    /// Sets `ARCH.SUFFIX` to a flag for each layer.
    pub(super) fn set_flags(
        &mut self,
        suffix: &str,
        flags: &[bool],
        config: &Config,
        key: &str,
    ) -> Result<(), Error> {
        let whole = self.origin(suffix, config, key);
        Ok(self.writer.set_array(&whole, flags)?)
    }

    fn origin(&mut self, suffix: &str, config: &Config, key: &str) -> String {
        let whole = format!("{}.{suffix}", self.arch);
        let origin = (config.file().to_owned(), config.key(key));
        self.origins.keys.insert(whole.clone(), origin);
        whole
    }
}
