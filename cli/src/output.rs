//! Files that commands write.
//!
//! A file is written beside its target and then renamed, so that half a file never has its name and what
//! stood there stays until the new one is whole. A link is followed: what it points to is replaced. Pipes,
//! devices and `-`, which is standard output, are written through. What a command reads, it never
//! writes: an output that is one of its inputs, by whichever name, is refused.

use std::fs::{File, Metadata};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use gannet_gguf::shown_path;

use crate::failure::Failure;
use crate::partial::Partial;

/// Bytes that are gathered before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// A file that is being written.
pub(crate) struct Output {
    out: Box<dyn Write>,
    /// The half-written file and where it goes; `None` where bytes go through.
    partial: Option<(Partial, PathBuf)>,
    path: PathBuf,
}

impl Output {
    /// Begins a file at `path`; the command reads `inputs`.
    pub(crate) fn create<P: AsRef<Path>>(path: &Path, inputs: &[P]) -> Result<Output, Failure> {
        if path == Path::new("-") {
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
        })
    }

    /// Ends the file: it is at its path, or there was an error and nothing is changed.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
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
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// As [`Output::create`], and a file that exists is replaced only by `force`.
pub(crate) fn create_new<P: AsRef<Path>>(
    path: &Path,
    inputs: &[P],
    force: bool,
) -> Result<Output, Failure> {
    let out = Output::create(path, inputs)?;
    if !force {
        refuse_existing(path)?;
    }
    Ok(out)
}

/// Ends what [`create_new`] began: a file that has come to be meanwhile is replaced only by `force`.
pub(crate) fn finish_new(out: Output, path: &Path, force: bool) -> Result<(), Failure> {
    if !force {
        refuse_existing(path)?;
    }
    out.finish()
}

/// Refuses a file that exists; pipes and devices are not replaced.
pub(crate) fn refuse_existing(path: &Path) -> Result<(), Failure> {
    let exists = std::fs::metadata(path).is_ok_and(|meta| meta.is_file());
    match exists && path != Path::new("-") && !is_of_the_system(path) {
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
