//! What the gate remembers: one small text file for each model that passed as it is served: on a
//! device, driver and build, in what numbers, by which variants of kernels, launched how.
//!
//! The text says what was checked; its hash is the file's name, and a record counts only if its text
//! is the expected one. A record that cannot be written costs time later, never the run.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::Coverage;
use crate::kv::KvType;
use crate::model::Model;
use crate::settings::Precision;
use crate::settings::machine::{Fnv, Machine, modified};
use crate::settings::{ExecutorChoice, SamplerOn};

/// The folder of records, in the cache folder.
const FOLDER: &str = "gate";

/// Bytes of each tensor that count: an edited file is noticed even where its time was set back.
const HEAD: usize = 64;

/// How a model is served: everything besides the model that decides which launches run.
#[derive(Debug, Clone)]
pub(crate) struct Serving {
    pub(crate) machine: Machine,
    pub(crate) precision: Precision,
    pub(crate) batch_invariant: bool,
    pub(crate) kv_type: KvType,
    /// [`crate::lower::profile::DeviceProfile::choices`].
    pub(crate) choices: String,
    pub(crate) executor: ExecutorChoice,
    pub(crate) sampler_on: SamplerOn,
    pub(crate) coverage: Coverage,
}

impl fmt::Display for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.machine)?;
        writeln!(
            f,
            "precision {:?}, cache {:?}, executor {}, tokens chosen on {}",
            self.precision, self.kv_type, self.executor, self.sampler_on
        )?;
        if self.batch_invariant {
            writeln!(f, "the same kernels for any number of rows")?;
        }
        writeln!(f, "checked {}", self.coverage)?;
        write!(f, "{}", self.choices)
    }
}

/// What a check is valid for.
pub(crate) struct Identity {
    text: String,
    file: PathBuf,
}

impl Identity {
    /// A model as it is served.
    pub(crate) fn new(cache_dir: &Path, model: &Model, serving: &Serving) -> Identity {
        let text = format!(
            "model {}\ndevice {}\nmodel file {} bytes{}, contents {:016x}\n{serving}",
            model.path().display(),
            serving.machine.device,
            model.source().file_bytes(),
            model
                .files()
                .iter()
                .map(|f| modified(f))
                .collect::<String>(),
            contents(model),
        );
        let mut hash = Fnv::default();
        hash.part(text.as_bytes());
        let file = format!("{:016x}.txt", hash.value());
        Identity {
            file: cache_dir.join(FOLDER).join(file),
            text,
        }
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

/// A hash of a model's tensors: names, types, shapes, and the first bytes of each.
fn contents(model: &Model) -> u64 {
    let mut hash = Fnv::default();
    let source = model.source();
    for index in 0..source.num_tensors() {
        let tensor = source.tensor(index);
        hash.part(tensor.name.as_bytes());
        hash.part(&tensor.ty.id().to_le_bytes());
        for dim in tensor.dims {
            hash.part(&dim.to_le_bytes());
        }
        let data = source.bytes(index);
        hash.part(&data[..data.len().min(HEAD)]);
    }
    hash.value()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::exec::Limits;

    fn identity(folder: &Path, text: &str) -> Identity {
        Identity {
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
    fn whatever_decides_what_runs_is_part_of_it() {
        let serving = Serving {
            machine: Machine {
                device: "a GPU".to_owned(),
                uuid: "GPU-1".to_owned(),
                driver: (13, 0),
                release: "580.159.03".to_owned(),
                build: "0.1.0 1 bytes".to_owned(),
            },
            precision: Precision::Fast,
            batch_invariant: false,
            kv_type: KvType::F16,
            choices: String::new(),
            executor: ExecutorChoice::Auto,
            sampler_on: SamplerOn::Device,
            coverage: Coverage::of(Limits::default()),
        };
        let changes: [fn(&mut Serving); 8] = [
            |s| s.precision = Precision::Exact,
            |s| s.batch_invariant = true,
            |s| s.kv_type = KvType::Int8,
            |s| s.choices += "q4_k 1536x8960 t1: dp4a-l32-w16-r1-b8\n",
            |s| s.choices += "matrix-vector kernels up to 2 rows\n",
            |s| s.executor = ExecutorChoice::Eager,
            |s| s.sampler_on = SamplerOn::Cpu,
            |s| s.coverage = Coverage::of(Limits::new(4, 2048)),
        ];
        let mut texts = BTreeSet::from([serving.to_string()]);
        for change in changes {
            let mut other = serving.clone();
            change(&mut other);
            assert!(texts.insert(other.to_string()), "{other}");
        }
        for change in crate::settings::machine::changes() {
            let mut other = serving.clone();
            change(&mut other.machine);
            assert!(texts.insert(other.to_string()), "{other}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_remembers_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let identity = identity(file.path(), "model\n");
        identity.remember();
        assert!(!identity.has_passed());
    }
}
