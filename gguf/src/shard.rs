//! Split models: `NAME-00001-of-0000N.gguf` and the keys that tie the files together.
//!
//! The first shard carries the model's metadata; each shard carries its number, how many there are,
//! and how many tensors they have together. All of them are checked, because a mix of two downloads
//! would otherwise run and be wrong.

use std::path::{Path, PathBuf};

use crate::error::{Error, quoted, shown_path};
use crate::metadata::Metadata;

/// This shard's number, from 0.
pub const SPLIT_NO_KEY: &str = "split.no";
/// How many shards there are.
pub const SPLIT_COUNT_KEY: &str = "split.count";
/// Which model it is.
const ARCHITECTURE_KEY: &str = "general.architecture";
/// How many tensors all shards have together.
pub const SPLIT_TENSORS_KEY: &str = "split.tensors.count";

/// The path of shard `no` (from 0) of `count`, beside and named like `base`:
/// `dir/model.gguf` gives `dir/model-00001-of-00003.gguf`.
pub fn shard_path(base: &Path, no: usize, count: usize) -> PathBuf {
    let stem = base
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    ShardName {
        folder: base.parent().unwrap_or(Path::new("")).to_owned(),
        stem,
        no,
        count,
    }
    .path(no)
}

/// The parts of a shard's path.
pub(crate) struct ShardName {
    folder: PathBuf,
    stem: String,
    no: usize,
    pub(crate) count: usize,
}

impl ShardName {
    /// `None` when the path is not named like a shard.
    pub(crate) fn parse(path: &Path) -> Option<ShardName> {
        let five = |digits: &str| {
            let all = digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit());
            all.then(|| digits.parse::<usize>().ok()).flatten()
        };
        let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = name.rsplit_once("-of-")?;
        let (stem, no) = rest.rsplit_once('-')?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let no = five(no)?.checked_sub(1)?;
        Some(ShardName {
            folder,
            stem: stem.to_owned(),
            no,
            count: five(count)?,
        })
    }

    /// The parts of the first shard's path, which must agree with its keys.
    pub(crate) fn of_first(path: &Path, split: &Split) -> Result<ShardName, Error> {
        match ShardName::parse(path) {
            Some(name) if name.no == 0 && name.count == split.count => Ok(name),
            _ => Err(Error::Split {
                file: shown_path(path),
                found: format!(
                    "the file name does not match {SPLIT_COUNT_KEY} {}",
                    split.count
                ),
                expected: format!("NAME-00001-of-{:05}.gguf", split.count),
            }),
        }
    }

    /// The path of shard `no`, from 0.
    pub(crate) fn path(&self, no: usize) -> PathBuf {
        let name = format!("{}-{:05}-of-{:05}.gguf", self.stem, no + 1, self.count);
        self.folder.join(name)
    }
}

/// Refuses a shard that says something else about the model than the first one, whose metadata is the
/// model's: the architecture, a key under its prefix or one of the vocabulary that the first lacks or
/// has with another value would be passed over. Other keys may differ.
pub(crate) fn check_metadata(file: &str, first: &Metadata, shard: &Metadata) -> Result<(), Error> {
    let arch = first.opt_str(ARCHITECTURE_KEY)?.unwrap_or_default();
    let is_under_arch =
        |key: &str| (key.strip_prefix(arch)).is_some_and(|rest| rest.starts_with('.'));
    let is_of_model =
        |key: &str| key == ARCHITECTURE_KEY || key.starts_with("tokenizer.") || is_under_arch(key);
    let differs =
        (shard.iter()).find(|(key, value)| is_of_model(key) && first.get(key) != Some(*value));
    let Some((key, value)) = differs else {
        return Ok(());
    };
    let expected = match first.get(key) {
        Some(value) => format!("{}, as the first shard says", value.describe()),
        None => "absent, as in the first shard".to_owned(),
    };
    Err(Error::Split {
        file: file.to_owned(),
        found: format!("metadata key {} is {}", quoted(key), value.describe()),
        expected,
    })
}

/// What the keys of a split model say.
pub(crate) struct Split {
    /// At least 2.
    pub(crate) count: usize,
    tensors: Option<usize>,
}

impl Split {
    /// The keys of a first shard; `None` for a model in one file.
    pub(crate) fn of(file: &str, metadata: &Metadata) -> Result<Option<Split>, Error> {
        let Some(count) = metadata.opt_usize(SPLIT_COUNT_KEY)?.filter(|&n| n > 1) else {
            return Ok(None);
        };
        if let no @ 1.. = metadata.opt_usize(SPLIT_NO_KEY)?.unwrap_or(0) {
            return Err(Error::Split {
                file: file.to_owned(),
                found: format!(
                    "{SPLIT_NO_KEY} {no}, which is shard {} of {count}",
                    no.saturating_add(1)
                ),
                expected: "opened through the first shard".into(),
            });
        }
        Ok(Some(Split {
            count,
            tensors: metadata.opt_usize(SPLIT_TENSORS_KEY)?,
        }))
    }

    /// Checks the keys of shard `no` against those of the first.
    pub(crate) fn check_member(
        &self,
        file: &str,
        metadata: &Metadata,
        no: usize,
    ) -> Result<(), Error> {
        let expect = |key: &str, found: usize, expected: usize| {
            if found == expected {
                return Ok(());
            }
            Err(Error::Split {
                file: file.to_owned(),
                found: format!("{key} {found}"),
                expected: format!("{expected}, as the first shard and the file name say"),
            })
        };
        expect(SPLIT_NO_KEY, metadata.usize(SPLIT_NO_KEY)?, no)?;
        expect(
            SPLIT_COUNT_KEY,
            metadata.usize(SPLIT_COUNT_KEY)?,
            self.count,
        )?;
        match (metadata.opt_usize(SPLIT_TENSORS_KEY)?, self.tensors) {
            (Some(found), Some(expected)) => expect(SPLIT_TENSORS_KEY, found, expected),
            _ => Ok(()),
        }
    }

    /// Checks the number of tensors found in all shards.
    pub(crate) fn check_total(&self, file: &str, found: usize) -> Result<(), Error> {
        match self.tensors {
            Some(expected) if expected != found => Err(Error::Split {
                file: file.to_owned(),
                found: format!("{found} tensors in {} shards", self.count),
                expected: format!("{expected}, as {SPLIT_TENSORS_KEY} says"),
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let path = shard_path(Path::new("dir/model.gguf"), 1, 3);
        assert_eq!(path, Path::new("dir/model-00002-of-00003.gguf"));
        let name = ShardName::parse(&path).unwrap();
        assert_eq!((name.no, name.count, name.stem.as_str()), (1, 3, "model"));
        for other in [
            "model.gguf",
            "m-00000-of-00002.gguf",
            "m-1-of-2.gguf",
            "m-0000x-of-00002.gguf",
        ] {
            assert!(ShardName::parse(Path::new(other)).is_none(), "{other}");
        }
    }
}
