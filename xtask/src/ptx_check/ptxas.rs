//! Finds `ptxas`, NVIDIA's assembler: the judge of every kernel we emit.
//!
//! In order: `$PTXAS`; `ptxas` on `PATH`, where it is new enough for every target; the copy that
//! an earlier run fetched into `target/tools`; the published Python wheel, fetched with pip and
//! checked against a pinned hash. None of them is an error in itself: the caller says *skipped*.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::workspace;

/// The wheel's version, which the baseline's figures are of. It is the first that knows every target and every PTX version we emit.
pub(super) const VERSION: &str = "13.0.88";
const PACKAGE: &str = "nvidia-cuda-nvcc";
/// SHA-256 of the Linux x86-64 wheel; the wheels of other platforms are not pinned.
const WHEEL_SHA256: &str = "56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03";

/// Fetches the wheel into a temporary folder, checks it and takes the one file out of it.
///
/// Arguments: package, version, hash, destination. Everything is in Python's standard library
/// plus pip, so that a machine with Rust and Python 3 alone can do it.
const FETCH: &str = r#"
import glob, hashlib, os, subprocess, sys, tempfile, zipfile
package, version, pinned, destination = sys.argv[1:5]
with tempfile.TemporaryDirectory() as folder:
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                    "--dest", folder, f"{package}=={version}"], check=True)
    wheel = glob.glob(os.path.join(folder, "*.whl"))[0]
    with open(wheel, "rb") as file:
        found = hashlib.sha256(file.read()).hexdigest()
    if "x86_64" in wheel and "linux" in wheel and found != pinned:
        sys.exit(f"the wheel's SHA-256 is {found}, expected {pinned}")
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if n.endswith(("bin/ptxas", "bin/ptxas.exe"))]
        content = archive.read(names[0])
partial = destination + ".partial"
with open(partial, "wb") as file:
    file.write(content)
os.chmod(partial, 0o755)
os.replace(partial, destination)
"#;

/// An assembler that runs.
#[derive(Debug)]
pub(super) struct Ptxas {
    pub(super) path: PathBuf,
    /// The line in which it names its release.
    pub(super) version: String,
}

impl Ptxas {
    /// Whether this is release `version`, as in `release 13.0, V13.0.88`.
    pub(super) fn is(&self, version: &str) -> bool {
        let own = self.version.rsplit_once(", V");
        own.is_some_and(|(_, number)| number == version)
    }
}

/// The assembler to use, or why there is none.
pub(super) fn find() -> Result<Ptxas, String> {
    if let Some(path) = std::env::var_os("PTXAS") {
        return open(Path::new(&path)).ok_or_else(|| format!("{path:?} in $PTXAS does not run"));
    }
    if let Some(found) = open(Path::new("ptxas"))
        && is_new_enough(&found.version)
    {
        return Ok(found);
    }
    pinned()
}

/// The assembler that is on this machine already; fetches nothing.
pub(crate) fn local() -> Option<PathBuf> {
    let on_path = || open(Path::new("ptxas")).filter(|found| is_new_enough(&found.version));
    let found = match std::env::var_os("PTXAS") {
        Some(path) => open(Path::new(&path)),
        None => on_path().or_else(|| open(&cached())),
    };
    found.map(|ptxas| ptxas.path)
}

/// Where the pinned release is kept.
fn cached() -> PathBuf {
    let name = if cfg!(windows) { "ptxas.exe" } else { "ptxas" };
    workspace::target_dir()
        .join("tools")
        .join(format!("ptxas-{VERSION}"))
        .join(name)
}

/// The pinned release from the wheel, whatever else is here.
pub(super) fn pinned() -> Result<Ptxas, String> {
    let cached = cached();
    if let Some(found) = open(&cached) {
        return Ok(found);
    }
    fetch(&cached)?;
    open(&cached).ok_or_else(|| "the ptxas that was fetched does not run here".to_string())
}

fn open(path: &Path) -> Option<Ptxas> {
    let output = Command::new(path).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text
        .lines()
        .find(|line| line.contains("release"))?
        .trim()
        .to_string();
    output.status.success().then(|| Ptxas {
        path: path.to_path_buf(),
        version,
    })
}

/// Whether a `release 12.9, V12.9.86` line is of 12.9 or later, which know every target.
fn is_new_enough(version: &str) -> bool {
    let release = version
        .split("release ")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    let Some((major, minor)) = release.and_then(|r| r.split_once('.')) else {
        return false;
    };
    let number = |text: &str| text.trim().parse::<u32>().unwrap_or(0);
    (number(major), number(minor)) >= (12, 9)
}

fn fetch(destination: &Path) -> Result<(), String> {
    if let Some(folder) = destination.parent() {
        std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    println!("fetching {PACKAGE} {VERSION} for its ptxas");
    let output = Command::new(if cfg!(windows) { "python" } else { "python3" })
        .args(["-c", FETCH, PACKAGE, VERSION, WHEEL_SHA256])
        .arg(destination)
        .output()
        .map_err(|e| format!("no ptxas here, and no Python to fetch it: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("no message");
    Err(format!(
        "no ptxas here, and fetching {PACKAGE} {VERSION} failed: {last}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_releases_are_not_used() {
        let line = |r: &str| format!("Cuda compilation tools, release {r}, V{r}.1");
        assert!(is_new_enough(&line("12.9")));
        assert!(is_new_enough(&line("13.0")));
        assert!(!is_new_enough(&line("12.8")));
        assert!(!is_new_enough(&line("11.10")));
        assert!(!is_new_enough("no such line"));
    }

    #[test]
    fn a_release_is_known_by_all_of_its_number() {
        let ptxas = Ptxas {
            path: "ptxas".into(),
            version: "Cuda compilation tools, release 13.0, V13.0.88".into(),
        };
        assert!(ptxas.is("13.0.88"));
        assert!(!ptxas.is("13.0.8"));
        assert!(!ptxas.is("13.0"));
    }

    #[test]
    fn a_program_that_is_absent_or_another_is_none() {
        assert!(open(Path::new("no-such-program-at-all")).is_none());
        assert!(open(Path::new("cargo")).is_none());
    }
}
