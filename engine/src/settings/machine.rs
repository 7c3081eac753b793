//! What something that was found out about a device is valid for: the GPU, its driver and this build.
//!
//! None of the three may change under a measurement or a passed check; whoever keeps one on disk
//! keeps it under this.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// A GPU, its driver and this build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Name of the GPU.
    pub device: String,
    /// What tells it from others of that name.
    pub uuid: String,
    /// Newest CUDA that the driver serves: major, minor.
    pub driver: (u32, u32),
    /// The driver's release: [`driver_release`].
    pub release: String,
    /// The program: [`build`].
    pub build: String,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine {
            device,
            uuid,
            driver: (major, minor),
            release,
            build,
        } = self;
        writeln!(f, "device {device} {uuid}")?;
        writeln!(f, "driver {release}, CUDA {major}.{minor}")?;
        writeln!(f, "build {build}")
    }
}

/// The version, and the running program's size and time: it holds every kernel's text and how they
/// are put together, so that a build that may differ in either is a new one.
#[must_use]
pub fn build() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let Ok(path) = std::env::current_exe() else {
        return format!("{version} unknown");
    };
    let bytes = fs::metadata(&path).map_or(0, |m| m.len());
    format!("{version} {bytes} bytes{}", modified(&path))
}

/// The release of the loaded driver, such as `library 580.159.03, module 580.159.03`: its library
/// compiles kernels, its module runs them, and each can be replaced alone. Many releases serve the
/// same version of CUDA. What the system does not tell is left out.
#[must_use]
pub fn driver_release() -> String {
    let text = |path| {
        let bytes = fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    release(
        &text("/proc/self/maps"),
        &text("/proc/driver/nvidia/version"),
    )
}

/// The release, by the files that the process has mapped and by what the module says of itself.
fn release(maps: &str, module: &str) -> String {
    let library = maps.lines().find_map(|line| {
        let (_, file) = line.rsplit_once('/')?;
        file.strip_prefix("libcuda.so.")
    });
    let is_release = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
    let first_line = module.lines().next().unwrap_or_default();
    let module = first_line
        .split_whitespace()
        .find(|word| is_release(word) && word.contains('.'));
    let parts = [("library", library), ("module", module)];
    let known = parts.map(|(part, release)| release.map(|r| format!("{part} {r}")));
    let known: Vec<String> = known.into_iter().flatten().collect();
    known.join(", ")
}

/// When a file was last written, where there is one: ` of 1700000000.000000000`.
pub(crate) fn modified(path: &Path) -> String {
    let time = fs::metadata(path).and_then(|m| m.modified());
    let since = time.ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    since.map_or_else(String::new, |t| {
        format!(" of {}.{:09}", t.as_secs(), t.subsec_nanos())
    })
}

/// FNV-1a with 64 bits: tiny, and the same on every build, which `std`'s hasher does not promise.
/// Parameters: <http://www.isthe.com/chongo/tech/comp/fnv/>.
pub(crate) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Bytes and their length, so that the border between two parts counts.
    pub(crate) fn part(&mut self, bytes: &[u8]) {
        for &byte in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// The hash of the parts so far.
    pub(crate) fn value(&self) -> u64 {
        self.0
    }
}

/// Every way in which a machine can be another one.
#[cfg(test)]
pub(crate) fn changes() -> [fn(&mut Machine); 5] {
    [
        |m| m.device += " NVL",
        |m| m.uuid += "2",
        |m| m.driver.1 += 1,
        |m| m.release += ".1",
        |m| m.build += " more",
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
7f00-7f01 r--p 00000000 08:01 11 /usr/lib/x86_64-linux-gnu/libc.so.6
7f01-7f02 r--p 00000000 08:01 12 /usr/lib/x86_64-linux-gnu/libcuda.so.580.159.03
7f02-7f03 r-xp 00001000 08:01 12 /usr/lib/x86_64-linux-gnu/libcuda.so.580.159.03
7f03-7f04 rw-p 00000000 00:00 0
";

    #[test]
    fn the_release_is_that_of_the_library_and_of_the_module() {
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23\n\
                      GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n";
        let open =
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.1.2  Release Build";
        let both = "library 580.159.03, module 580.95.05";
        assert_eq!(release(MAPS, closed), both);
        assert_eq!(release("", open), "module 570.1.2");
        assert_eq!(release(MAPS, ""), "library 580.159.03");
        assert_eq!(release("", ""), "");
    }

    #[test]
    fn a_build_is_itself() {
        assert_eq!(build(), build());
        assert!(build().contains(" bytes of "), "{}", build());
    }

    #[test]
    fn machines_that_differ_read_differently() {
        let machine = Machine {
            device: "NVIDIA H200".to_owned(),
            uuid: "GPU-1".to_owned(),
            driver: (13, 0),
            release: "library 580.159.03".to_owned(),
            build: build(),
        };
        for change in changes() {
            let mut other = machine.clone();
            change(&mut other);
            assert_ne!(other.to_string(), machine.to_string());
        }
    }
}
