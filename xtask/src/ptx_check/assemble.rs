//! Assembles many kernels: several ptxas processes at once, and none for text it has seen before.
//!
//! The cache holds what ptxas printed and how many instructions it made, named by a hash of
//! everything that decides it: the assembler's release, the target and the text. A repeat run
//! reads small files only.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::cubin;
use super::ptxas::Ptxas;
use super::report::{self, Report};

/// A kernel's text and the target to assemble it for.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) name: String,
    /// As in `-arch`: `sm_90a`.
    pub(super) target: String,
    pub(super) ptx: String,
    /// Bytes of shared memory that a launch adds to what the text declares.
    pub(super) dynamic_shared: u32,
}

/// What ptxas says of each source, in the order of `sources`.
pub(super) fn all(ptxas: &Ptxas, cache: &Path, sources: &[Source]) -> Result<Vec<Report>, String> {
    std::fs::create_dir_all(cache).map_err(|e| format!("{}: {e}", cache.display()))?;
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(source) = sources.get(index) else {
                return done;
            };
            done.push((index, one(ptxas, cache, source)));
        }
    };
    let workers = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .min(8);
    let mut done: Vec<(usize, Result<Report, String>)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap_or_default())
            .collect()
    });
    if done.len() != sources.len() {
        return Err("a thread that runs ptxas died".to_string());
    }
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, report)| report).collect()
}

/// The report on one source, from the cache or from ptxas.
///
/// The text stays in the cache folder as a file when ptxas has a complaint, to be looked at.
fn one(ptxas: &Ptxas, cache: &Path, source: &Source) -> Result<Report, String> {
    let entry = cache.join(format!("{}-{:016x}", source.target, key(ptxas, source)));
    let (stored, text) = (entry.with_extension("txt"), entry.with_extension("ptx"));
    // Read and removed at once, so two runs side by side must not share it.
    let binary = entry.with_extension(format!("{}.cubin", std::process::id()));
    if let Ok(content) = std::fs::read_to_string(&stored)
        && let Some((first, output)) = content.split_once('\n')
    {
        let instructions = first.strip_prefix("accepted ").and_then(|n| n.parse().ok());
        return Ok(report::read(instructions, output));
    }
    let at = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
    std::fs::write(&text, &source.ptx).map_err(|e| at(&text, e))?;
    let run = Command::new(&ptxas.path)
        .args(["-v", "-warn-spills", "-arch", &source.target, "-o"])
        .args([&binary, &text])
        .output()
        .map_err(|e| at(&ptxas.path, e))?;
    let mut output = String::from_utf8_lossy(&run.stderr).into_owned();
    output.push_str(&String::from_utf8_lossy(&run.stdout));
    let instructions = if run.status.success() {
        let content = std::fs::read(&binary).map_err(|e| at(&binary, e))?;
        let count = cubin::instructions(&content);
        Some(count.map_err(|e| format!("ptxas output for {} is no cubin: {e}", source.name))?)
    } else {
        None
    };
    // Failing to tidy up is no reason to fail the check; a refused text left nothing.
    let _ = std::fs::remove_file(&binary);
    let report = report::read(instructions, &output);
    if report.complaints.is_empty() {
        let _ = std::fs::remove_file(&text);
    }
    // Only what ptxas decided is kept: a process that was killed says nothing about the text.
    if run.status.code().is_some() {
        let first = match instructions {
            Some(count) => format!("accepted {count}"),
            None => "refused".to_string(),
        };
        std::fs::write(&stored, format!("{first}\n{output}")).map_err(|e| at(&stored, e))?;
    }
    Ok(report)
}

/// Names a cache entry. Collisions of 64 bits among some thousand texts are not a worry.
fn key(ptxas: &Ptxas, source: &Source) -> u64 {
    let mut hasher = DefaultHasher::new();
    (
        "with a count of instructions",
        &ptxas.version,
        &source.target,
        &source.ptx,
    )
        .hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(target: &str, ptx: &str) -> Source {
        Source {
            name: "k".into(),
            target: target.into(),
            ptx: ptx.into(),
            dynamic_shared: 0,
        }
    }

    /// A stand-in for ptxas that counts its runs in a file and refuses texts with `bad` in them.
    #[cfg(unix)]
    fn stand_in(folder: &Path) -> Ptxas {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.join("ptxas");
        let script = format!(
            "#!/bin/sh\nfor last; do :; done\necho run >> {}/runs\n\
             if grep -q bad \"$last\"; then echo 'ptxas error : bad' >&2; exit 255; fi\n\
             cp {}/cubin \"$6\"\necho 'ptxas info : Used 7 registers' >&2\n",
            folder.display(),
            folder.display()
        );
        std::fs::write(folder.join("cubin"), cubin::sample(&[(6, 128)])).unwrap();
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Ptxas {
            path,
            version: "release 13.0".into(),
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_repeat_does_not_run_the_assembler() {
        let folder = tempfile::tempdir().unwrap();
        let ptxas = stand_in(folder.path());
        let cache = folder.path().join("cache");
        let sources = [
            source("sm_80", "good"),
            source("sm_75", "good"),
            source("sm_80", "bad"),
        ];
        let first = all(&ptxas, &cache, &sources).unwrap();
        assert_eq!((first[0].registers, first[0].instructions), (7, Some(8)));
        assert_eq!(first[2].instructions, None);
        assert_eq!(first[2].complaints, ["ptxas error : bad"]);
        assert_eq!(all(&ptxas, &cache, &sources).unwrap(), first);
        let runs = std::fs::read_to_string(folder.path().join("runs")).unwrap();
        assert_eq!(runs.lines().count(), 3);
        let left = std::fs::read_dir(&cache).unwrap().flatten();
        let binaries = left.filter(|e| e.path().extension().is_some_and(|x| x == "cubin"));
        assert_eq!(binaries.count(), 0);
    }

    #[test]
    fn the_key_depends_on_all_that_decides() {
        let ptxas = |version: &str| Ptxas {
            path: "ptxas".into(),
            version: version.into(),
        };
        let base = key(&ptxas("1"), &source("sm_80", "x"));
        assert_ne!(base, key(&ptxas("2"), &source("sm_80", "x")));
        assert_ne!(base, key(&ptxas("1"), &source("sm_86", "x")));
        assert_ne!(base, key(&ptxas("1"), &source("sm_80", "y")));
        assert_eq!(base, key(&ptxas("1"), &source("sm_80", "x")));
    }
}
