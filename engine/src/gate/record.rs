//! What the gate remembers: one small text file for each (model, device, build) that passed.
//!
//! The text says what was checked; its hash is the file's name, and a record counts only if its text
//! is the expected one. A record that cannot be written costs time later, never the run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use crate::exec::Precision;
use crate::model::Model;

/// The folder of records, in the cache folder.
const FOLDER: &str = "gate";

/// Bytes of each tensor that count: an edited file is noticed even where its time was set back.
const HEAD: usize = 64;

/// What a check is valid for.
pub(crate) struct Identity {
    device: String,
    text: String,
    file: PathBuf,
}

impl Identity {
    /// A model on a device: `device` is its name and identity, `driver` the version of CUDA that it
    /// serves.
    pub(crate) fn new(
        cache_dir: &Path,
        model: &Model,
        (device, uuid): (&str, &str),
        driver: (u32, u32),
        precision: Precision,
    ) -> Identity {
        let gguf = model.gguf();
        let text = format!(
            "model {}\ndevice {device}\nmodel file {} bytes{}, contents {:016x}\ndevice {uuid}, \
             CUDA {}.{}\nprecision {precision:?}\nbuild {} {}\n",
            gguf.path().display(),
            gguf.file_bytes(),
            modified(gguf.path()),
            contents(model),
            driver.0,
            driver.1,
            env!("CARGO_PKG_VERSION"),
            executable(),
        );
        let mut hash = Fnv::default();
        hash.part(text.as_bytes());
        Identity {
            device: device.to_owned(),
            file: cache_dir.join(FOLDER).join(format!("{:016x}.txt", hash.0)),
            text,
        }
    }

    /// The device's name.
    pub(crate) fn device(&self) -> &str {
        &self.device
    }

    /// Whether a check has passed.
    pub(crate) fn has_passed(&self) -> bool {
        fs::read_to_string(&self.file).is_ok_and(|text| text == self.text)
    }

    /// Remembers that one has.
    pub(crate) fn remember(&self) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Unique among processes and in this one: several may check at once.
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let extension = format!("{}-{unique}.tmp", std::process::id());
        let temporary = self.file.with_extension(extension);
        let written = (self.file.parent().map_or(Ok(()), fs::create_dir_all))
            .and_then(|()| fs::write(&temporary, &self.text))
            .and_then(|()| fs::rename(&temporary, &self.file));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
    }
}

/// A model that has passed on a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Passed {
    /// The model's file.
    pub model: String,
    /// The device's name.
    pub device: String,
}

/// What has passed, by whatever build, according to the records of a cache folder.
#[must_use]
pub fn passed(cache_dir: &Path) -> Vec<Passed> {
    let entries = fs::read_dir(cache_dir.join(FOLDER));
    let files = entries.into_iter().flatten().flatten().map(|e| e.path());
    let records = files.filter(|path| path.extension().is_some_and(|e| e == "txt"));
    let mut found: Vec<Passed> = records
        .filter_map(|path| {
            let text = fs::read_to_string(path).ok()?;
            let mut lines = text.lines();
            Some(Passed {
                model: lines.next()?.strip_prefix("model ")?.to_owned(),
                device: lines.next()?.strip_prefix("device ")?.to_owned(),
            })
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// When a file was last written, where there is one.
fn modified(path: &Path) -> String {
    let time = fs::metadata(path).and_then(|m| m.modified());
    let since = time.ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    since.map_or_else(String::new, |t| {
        format!(" of {}.{:09}", t.as_secs(), t.subsec_nanos())
    })
}

/// A hash of a model's tensors: names, types, shapes, and the first bytes of each.
fn contents(model: &Model) -> u64 {
    let mut hash = Fnv::default();
    for tensor in model.gguf().tensors() {
        hash.part(tensor.name.as_bytes());
        hash.part(&tensor.ty.id().to_le_bytes());
        for dim in &tensor.dims {
            hash.part(&dim.to_le_bytes());
        }
        let data = model.gguf().data(tensor);
        hash.part(&data[..data.len().min(HEAD)]);
    }
    hash.0
}

/// The running program's size and time: it holds every kernel's text and how they are put together,
/// so that a build that may differ in either is a new one.
fn executable() -> String {
    let Ok(path) = std::env::current_exe() else {
        return "unknown".to_owned();
    };
    let bytes = fs::metadata(&path).map_or(0, |m| m.len());
    format!("{bytes} bytes{}", modified(&path))
}

/// FNV-1a with 64 bits: tiny, and the same on every build, which `std`'s hasher does not promise.
/// Parameters: <http://www.isthe.com/chongo/tech/comp/fnv/>.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Bytes and their length, so that the border between two parts counts.
    fn part(&mut self, bytes: &[u8]) {
        for &byte in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(folder: &Path, text: &str) -> Identity {
        Identity {
            device: "a GPU".to_owned(),
            text: text.to_owned(),
            file: folder.join(FOLDER).join("0.txt"),
        }
    }

    #[test]
    fn a_record_counts_for_its_own_text_only() {
        let folder = tempfile::tempdir().unwrap();
        let first = identity(folder.path(), "model m.gguf\ndevice a GPU\nand more\n");
        assert!(!first.has_passed() && passed(folder.path()).is_empty());
        first.remember();
        assert!(first.has_passed());
        let other = identity(folder.path(), "model m.gguf\ndevice a GPU\nand less\n");
        assert!(!other.has_passed());
        let expected = Passed {
            model: "m.gguf".to_owned(),
            device: "a GPU".to_owned(),
        };
        assert_eq!(passed(folder.path()), [expected]);
        // No temporary file is left behind.
        assert_eq!(fs::read_dir(folder.path().join(FOLDER)).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_cannot_be_written_remembers_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let identity = identity(file.path(), "model\n");
        identity.remember();
        assert!(!identity.has_passed());
    }
}
