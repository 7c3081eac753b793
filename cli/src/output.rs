//! Files that commands write.
//!
//! A file is written beside its target and then renamed, so that half a file never has its name and what
//! stood there stays until the new one is whole. A link is followed: what it points to is replaced. Pipes,
//! devices and `-`, which is standard output, are written through. What a command reads, it never
//! writes: an output that is one of its inputs, by whichever name, is refused.

use std::fs::{File, Metadata};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use gannet_gguf::{Error as GgufError, shown_path};

use crate::failure::Failure;
use crate::input::is_dash;
use crate::partial::Partial;

/// Bytes that are gathered before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// A file that is being written.
pub(crate) struct Output {
    out: Box<dyn Write>,
    /// The half-written file and where it goes; `None` where bytes go through.
    partial: Option<(Partial, PathBuf)>,
    path: PathBuf,
    /// Whether what is at its path may go.
    replaces: bool,
}

impl Output {
    /// Begins a file at `path`; the command reads `inputs`.
    pub(crate) fn create<P: AsRef<Path>>(path: &Path, inputs: &[P]) -> Result<Output, Failure> {
        if is_dash(path) {
            return Ok(Output::through(path, io::stdout()));
        }
        let fail = |e: io::Error| Failure::file(path, "create", &e);
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_dir() => Err(refuse(path, "a folder", "name a file in it")),
            Ok(meta) if !meta.is_file() || is_of_the_system(path) => {
                if is_block_device(&meta) {
                    return Err(refuse(path, "a block device", "name a file"));
                }
                let device = File::options().write(true).open(path).map_err(fail)?;
                Ok(Output::through(path, device))
            }
            Ok(meta) => {
                for input in inputs {
                    if is_same_file(&meta, input.as_ref()) {
                        let what = match path == input.as_ref() {
                            true => "read by this command".to_owned(),
                            false => format!(
                                "the same file as {}, which this command reads",
                                shown_path(input.as_ref())
                            ),
                        };
                        return Err(refuse(path, &what, "write to another file"));
                    }
                }
                // What may not be written is not replaced either.
                File::options().write(true).open(path).map_err(fail)?;
                let target = std::fs::canonicalize(path).map_err(fail)?;
                Output::beside(path, target)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if std::fs::symlink_metadata(path).is_ok() {
                    return Err(refuse(path, "a link to nothing", "name the file itself"));
                }
                Output::beside(path, path.to_owned())
            }
            Err(e) => Err(fail(e)),
        }
    }

    fn through(path: &Path, out: impl Write + 'static) -> Output {
        Output {
            out: Box::new(BufWriter::with_capacity(BUFFER_BYTES, out)),
            partial: None,
            path: path.to_owned(),
            replaces: true,
        }
    }

    fn beside(path: &Path, target: PathBuf) -> Result<Output, Failure> {
        let mut name = target.clone().into_os_string();
        name.push(format!(".{}.part", std::process::id()));
        let created = Partial::create(PathBuf::from(name));
        let (partial, file) = created.map_err(|e| Failure::file(path, "create", &e))?;
        Ok(Output {
            out: Box::new(BufWriter::with_capacity(BUFFER_BYTES, file)),
            partial: Some((partial, target)),
            path: path.to_owned(),
            replaces: true,
        })
    }

    /// Ends the file: it is at its path, or there was an error and nothing is changed.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        if !self.replaces {
            refuse_existing(&self.path)?;
        }
        let done = self.out.flush();
        let fail = |e: io::Error| Failure::output(&self.path, &e);
        done.map_err(fail)?;
        let Some((partial, target)) = self.partial else {
            return Ok(());
        };
        // What replaces a file is as readable as it was.
        if let Ok(meta) = std::fs::metadata(&target) {
            let _ = partial.set_permissions(meta.permissions());
        }
        partial.finish(&target).map_err(fail)
    }

    /// Why a container was not written into it, or not made.
    pub(crate) fn failed(path: &Path, error: GgufError) -> Failure {
        match error {
            // The output has no name in the container's errors.
            GgufError::Io {
                action: "write",
                source,
                ..
            } => Failure::output(path, &source),
            error => Failure::of(error),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// As [`Output::create`], and a file that exists, or has come to be when it is finished, is replaced only by
/// `force`.
pub(crate) fn create_new<P: AsRef<Path>>(
    path: &Path,
    inputs: &[P],
    force: bool,
) -> Result<Output, Failure> {
    let out = Output::create(path, inputs)?;
    if !force {
        refuse_existing(path)?;
    }
    Ok(Output {
        replaces: force,
        ..out
    })
}

/// Refuses `--json` beside an output that is standard output; `named` is what names the output.
pub(crate) fn refuse_json(json: bool, path: &Path, named: &str) -> Result<(), Failure> {
    match json && is_dash(path) {
        true => Err(Failure::Usage(format!(
            "--json and {named} - both print to standard output; name a file"
        ))),
        false => Ok(()),
    }
}

/// Refuses a file that exists; pipes and devices are not replaced.
pub(crate) fn refuse_existing(path: &Path) -> Result<(), Failure> {
    let exists = std::fs::metadata(path).is_ok_and(|meta| meta.is_file());
    match exists && !is_dash(path) && !is_of_the_system(path) {
        true => Err(Failure::Work(format!(
            "{}: exists; name another file, or replace it with --force",
            shown_path(path)
        ))),
        false => Ok(()),
    }
}

fn refuse(path: &Path, what: &str, instead: &str) -> Failure {
    Failure::Work(format!(
        "{}: cannot create: it is {what}; {instead}",
        shown_path(path)
    ))
}

/// Names of files that are open elsewhere, such as `/dev/stdout` where a shell sends it to a file: a new
/// file by that name would not be what is open.
fn is_of_the_system(path: &Path) -> bool {
    path.starts_with("/dev") || path.starts_with("/proc")
}

#[cfg(unix)]
fn is_block_device(meta: &Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    meta.file_type().is_block_device()
}

#[cfg(not(unix))]
fn is_block_device(_: &Metadata) -> bool {
    false
}

/// Whether a file is the one at a path, by whichever name.
#[cfg(unix)]
fn is_same_file(meta: &Metadata, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(other).is_ok_and(|o| (o.dev(), o.ino()) == (meta.dev(), meta.ino()))
}

#[cfg(not(unix))]
fn is_same_file(meta: &Metadata, other: &Path) -> bool {
    std::fs::metadata(other)
        .is_ok_and(|o| o.len() == meta.len() && o.modified().ok() == meta.modified().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_INPUTS: &[&Path] = &[];

    #[test]
    fn what_has_come_to_be_meanwhile_is_replaced_by_force_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new.gguf");
        for force in [false, true] {
            let mut out = output_at(&path, force).unwrap();
            out.write_all(b"mine").unwrap();
            std::fs::write(&path, "another's").unwrap();
            let finished = out.finish();
            assert_eq!(finished.is_ok(), force);
            let mine = std::fs::read(&path).unwrap() == b"mine";
            assert_eq!(mine, force);
            // What was half written is gone either way.
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
            assert!(output_at(&path, false).is_err());
            std::fs::remove_file(&path).unwrap();
        }
    }

    fn output_at(path: &Path, force: bool) -> Result<Output, Failure> {
        create_new(path, NO_INPUTS, force)
    }

    #[test]
    fn json_and_an_output_need_standard_output_both() {
        assert!(refuse_json(true, Path::new("-"), "-o").is_err());
        assert!(refuse_json(false, Path::new("-"), "-o").is_ok());
        assert!(refuse_json(true, Path::new("x"), "-o").is_ok());
    }
}
