//! Files that are half written, and what becomes of them when the command is interrupted.
//!
//! A command that is interrupted or told to end removes what it has begun and then ends as anyone does
//! who is interrupted. What always holds: a name leaves the list and its file gets its final name in one
//! step, so that nothing finished is ever removed.

use std::fs::{File, Permissions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, Once};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::interrupt;

static BEGUN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn begun() -> MutexGuard<'static, Vec<PathBuf>> {
    // A list of names is sound whoever panicked.
    BEGUN
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A file that is removed unless it is finished.
pub(crate) struct Partial(PathBuf);

impl Partial {
    /// Begins a new file at `path`, which is removed when this ends or the command is interrupted.
    pub(crate) fn create(path: PathBuf) -> io::Result<(Partial, File)> {
        watch();
        // Held until the file is on the list: an interruption waits for that.
        let mut begun = begun();
        let file = File::options().write(true).create_new(true).open(&path)?;
        begun.push(path.clone());
        Ok((Partial(path), file))
    }

    /// Sets who may read the file.
    pub(crate) fn set_permissions(&self, permissions: Permissions) -> io::Result<()> {
        std::fs::set_permissions(&self.0, permissions)
    }

    /// Gives the file its final name.
    pub(crate) fn finish(self, target: &Path) -> io::Result<()> {
        let mut begun = begun();
        std::fs::rename(&self.0, target)?;
        begun.retain(|path| *path != self.0);
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let mut begun = begun();
        if begun.contains(&self.0) {
            // What failed first is what is reported.
            let _ = std::fs::remove_file(&self.0);
            begun.retain(|path| *path != self.0);
        }
    }
}

/// Waits for an interruption, once for the whole process. Where that cannot be, an interruption leaves
/// the file behind and tells nothing.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) else {
            return;
        };
        let wait = move || {
            if let Some(signal) = signals.forever().next() {
                // Held to the end: nothing new begins.
                let begun = begun();
                for path in begun.iter() {
                    let _ = std::fs::remove_file(path);
                }
                let _told = (signal == SIGINT).then(interrupt::tell);
                let _ = emulate_default_handler(signal);
            }
        };
        let _ = std::thread::Builder::new()
            .name("interruptions".to_owned())
            .spawn(wait);
    });
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_not_finished_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (half, whole) = (folder.path().join("half"), folder.path().join("whole"));
        drop(Partial::create(half.clone()).unwrap());
        assert!(!half.exists());
        let (partial, mut file) = Partial::create(half.clone()).unwrap();
        file.write_all(b"b").unwrap();
        // What is there is not begun again, nor removed.
        assert!(Partial::create(half.clone()).is_err() && half.exists());
        partial.finish(&whole).unwrap();
        assert!(!half.exists());
        assert_eq!(std::fs::read_to_string(&whole).unwrap(), "b");
        assert!(!begun().contains(&half));
    }
}
