//! What to say when PTX does not compile: the kernel, the log, and the numbered lines it names.
//!
//! Always holds: pure text; any log and any PTX, however malformed, gives a report.

use std::collections::BTreeSet;
use std::fmt;

use crate::error::DriverError;

/// A failed compilation.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct JitError {
    /// The module's name, as given in [`crate::ModuleSource`].
    pub name: String,
    /// The architecture the PTX was written for, as given.
    pub target: String,
    /// What the driver returned.
    pub driver: DriverError,
    /// The compiler's error log.
    pub log: String,
    /// The PTX lines the log names: number counted from 1, and text.
    pub lines: Vec<(usize, String)>,
}

impl JitError {
    pub(crate) fn new(
        name: &str,
        target: &str,
        ptx: &str,
        driver: DriverError,
        log: String,
    ) -> JitError {
        let text: Vec<&str> = ptx.lines().collect();
        let lines = named_lines(&log)
            .into_iter()
            .filter_map(|n| {
                text.get(n.checked_sub(1)?)
                    .map(|line| (n, (*line).to_owned()))
            })
            .collect();
        JitError {
            name: name.to_owned(),
            target: target.to_owned(),
            driver,
            log,
            lines,
        }
    }
}

impl fmt::Display for JitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PTX of {} for {} does not compile: {}",
            self.name, self.target, self.driver
        )?;
        for line in self.log.lines().filter(|line| !line.trim().is_empty()) {
            write!(f, "\n  {}", line.trim_end())?;
        }
        for (number, line) in &self.lines {
            write!(f, "\n{number:>6} | {line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for JitError {}

/// The numbers that follow the word `line` in the log, ascending. The driver writes
/// `ptxas application ptx input, line 9; fatal : ...`.
fn named_lines(log: &str) -> BTreeSet<usize> {
    log.match_indices("line ")
        .filter_map(|(at, word)| {
            let rest = &log[at + word.len()..];
            let end = rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len());
            rest[..end].parse().ok()
        })
        .collect()
}

/// The text a log buffer holds: up to the first NUL, or all of it.
pub(crate) fn log_text(buffer: &[u8]) -> String {
    let end = buffer
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(buffer.len());
    String::from_utf8_lossy(&buffer[..end]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(ptx: &str, log: &str) -> JitError {
        let driver = DriverError {
            code: 218,
            name: "CUDA_ERROR_INVALID_PTX".into(),
            text: "a PTX JIT compilation failed".into(),
            call: "cuLinkAddData",
        };
        JitError::new("add", "sm_90a", ptx, driver, log.to_owned())
    }

    #[test]
    fn names_kernel_log_and_line() {
        let ptx = ".version 7.0\n.target sm_80\nadd.f33 x, y, z;\nret;\n";
        let log = "ptxas application ptx input, line 3; error   : Unknown modifier '.f33'";
        let error = error(ptx, log);
        assert_eq!(error.lines, [(3, "add.f33 x, y, z;".to_owned())]);
        let text = error.to_string();
        for part in [
            "add",
            "sm_90a",
            "218",
            "Unknown modifier",
            "     3 | add.f33 x, y, z;",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn any_log_is_fine() {
        for log in [
            "",
            "line",
            "line ",
            "line x",
            "line 0;",
            "line 99999999999999999999999",
            "line 7",
        ] {
            assert!(error("one\ntwo", log).lines.is_empty(), "{log}");
        }
        assert_eq!(error("one\ntwo", "line 2, line 1, line 2").lines.len(), 2);
    }

    #[test]
    fn log_buffers() {
        assert_eq!(log_text(b"abc\0def"), "abc");
        assert_eq!(log_text(b"abc \n"), "abc");
        assert_eq!(log_text(b""), "");
    }
}
