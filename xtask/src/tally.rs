//! Reads what test executables print and counts passed, failed and skipped tests.
//!
//! The test harness knows no skipped tests: one that finds its data or its device missing returns
//! early and reads as passed. Tests of this workspace print a line `skipped: <why>` when they do,
//! and this module takes them out of the passed ones. It reads the output of
//! `cargo test -- --show-output`, in which the lines of a passing test stand under a heading with
//! its name. A test that printed at least one such line counts as skipped, whatever else it did;
//! one marked `ignore` too. `skipped:` lines outside any heading (a child process, a raw write to
//! standard error) count one each.

/// Counts and reasons over any number of test executables.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    harness_passed: usize,
    failed: usize,
    ignored: usize,
    skipped_tests: usize,
    skipped_outside: usize,
    skipped_steps: usize,
    /// One line for each reason, in the order of printing.
    pub(crate) reasons: Vec<String>,
    /// Names of failed tests, in the order of printing.
    pub(crate) failures: Vec<String>,
    section: Section,
    /// Names of tests that were skipped since they were last taken.
    skipped_names: Vec<String>,
}

/// Which part of an executable's report the next line belongs to.
#[derive(Debug, Default, PartialEq)]
enum Section {
    #[default]
    Outside,
    /// In the list of outputs, before the first heading.
    Outputs { of_failures: bool },
    /// Under the heading of a test.
    Test {
        name: String,
        of_failures: bool,
        skipped: bool,
    },
}

/// What to do with the line just read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Show {
    /// Worth a reader's time.
    Yes,
    /// The output of a passing test.
    No,
}

impl Tally {
    /// Takes one line of an executable's standard output.
    pub(crate) fn line(&mut self, line: &str) -> Show {
        if let Some(rest) = line.strip_prefix("test result: ") {
            self.close_test();
            self.section = Section::Outside;
            self.result(rest);
            return Show::Yes;
        }
        if line == "successes:" || line == "failures:" {
            self.close_test();
            self.section = Section::Outputs {
                of_failures: line == "failures:",
            };
            return self.shown();
        }
        if self.section != Section::Outside
            && let Some(name) = heading(line)
        {
            self.close_test();
            let of_failures = self.in_failures();
            self.section = Section::Test {
                name: name.into(),
                of_failures,
                skipped: false,
            };
            return self.shown();
        }
        if let Some(why) = line.trim_start().strip_prefix("skipped:") {
            self.skip(why.trim());
        }
        if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|l| l.strip_suffix(" ... ignored"))
            && self.section == Section::Outside
        {
            self.reasons.push(format!("{name}: ignored"));
        }
        if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|l| l.strip_suffix(" ... FAILED"))
            && self.section == Section::Outside
        {
            self.failures.push(name.into());
        }
        self.shown()
    }

    /// Takes one line of standard error, where cargo and uncaptured tests write.
    pub(crate) fn error_line(&mut self, line: &str) {
        if let Some(why) = line.trim_start().strip_prefix("skipped:") {
            self.skipped_outside += 1;
            self.reasons.push(why.trim().into());
        }
    }

    /// Counts a check that is no test and could not run.
    pub(crate) fn skipped_step(&mut self, name: &str, why: &str) {
        self.skipped_steps += 1;
        self.reasons.push(format!("{name}: {why}"));
    }

    /// Counts something that failed without being a test: a build, an executable that died.
    pub(crate) fn failure(&mut self, what: &str) {
        self.failed += 1;
        self.failures.push(what.into());
    }

    /// Names of the tests that were skipped since this was last asked.
    pub(crate) fn take_skipped(&mut self) -> Vec<String> {
        std::mem::take(&mut self.skipped_names)
    }

    /// Tests that ran to their end and verified something.
    pub(crate) fn passed(&self) -> usize {
        self.harness_passed
            .saturating_sub(self.skipped_tests + self.skipped_outside)
    }

    /// Failed tests.
    pub(crate) fn failed(&self) -> usize {
        self.failed
    }

    /// Tests that verified nothing.
    pub(crate) fn skipped(&self) -> usize {
        self.skipped_tests + self.skipped_outside + self.skipped_steps + self.ignored
    }

    /// The line that closes a run; build servers read it.
    pub(crate) fn closing_line(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed(),
            self.failed(),
            self.skipped()
        )
    }

    fn in_failures(&self) -> bool {
        matches!(
            self.section,
            Section::Outputs { of_failures: true }
                | Section::Test {
                    of_failures: true,
                    ..
                }
        )
    }

    fn shown(&self) -> Show {
        if self.section == Section::Outside || self.in_failures() {
            Show::Yes
        } else {
            Show::No
        }
    }

    fn skip(&mut self, why: &str) {
        match &mut self.section {
            Section::Test { name, skipped, .. } => {
                *skipped = true;
                let short = name.rsplit("::").next().unwrap_or(name);
                let named = why.starts_with(name.as_str()) || why.starts_with(short);
                self.reasons.push(if named {
                    why.into()
                } else {
                    format!("{name}: {why}")
                });
            }
            _ => {
                self.skipped_outside += 1;
                self.reasons.push(why.into());
            }
        }
    }

    fn close_test(&mut self) {
        // A failed test is failed, also when it said that it skipped a part.
        if let Section::Test {
            skipped: true,
            of_failures: false,
            name,
        } = &self.section
        {
            self.skipped_tests += 1;
            self.skipped_names.push(name.clone());
        }
    }

    /// `ok. 3 passed; 0 failed; 1 ignored; ...`
    fn result(&mut self, rest: &str) {
        let counts = rest.split_once(". ").map_or(rest, |(_, counts)| counts);
        for part in counts.split("; ") {
            let Some((number, what)) = part.split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<usize>() else {
                continue;
            };
            match what {
                "passed" => self.harness_passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

/// The test's name in `---- module::name stdout ----`.
fn heading(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Tally {
        let mut tally = Tally::default();
        for line in text.lines() {
            tally.line(line);
        }
        tally
    }

    const MIXED: &str = "
running 4 tests
test bytes::reads ... ok
test golden::matches ... ok
test model::loads ... FAILED
test src/lib.rs - (line 3) ... ignored

successes:

---- golden::matches stdout ----
skipped: golden::matches: no reference data
skipped: no models either

---- bytes::reads stdout ----
a line of its own

successes:
    bytes::reads
    golden::matches

failures:

---- model::loads stdout ----
skipped: the optional part
thread 'model::loads' panicked at src/model.rs:3:5

failures:
    model::loads

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    #[test]
    fn a_skipped_test_is_not_passed() {
        let tally = read(MIXED);
        assert_eq!(tally.closing_line(), "1 passed, 1 failed, 2 skipped");
        assert_eq!(tally.failures, ["model::loads"]);
        assert_eq!(
            tally.reasons,
            [
                "src/lib.rs - (line 3): ignored",
                "golden::matches: no reference data",
                "golden::matches: no models either",
                "model::loads: the optional part",
            ]
        );
    }

    #[test]
    fn counts_add_up_over_executables() {
        let ok = "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; \
                  finished in 0.00s\n";
        let mut tally = read(&ok.repeat(3));
        assert_eq!(tally.closing_line(), "15 passed, 0 failed, 0 skipped");
        tally.error_line("skipped: gpu_launch: no driver");
        assert_eq!(tally.closing_line(), "14 passed, 0 failed, 1 skipped");
        tally.failure("the build");
        tally.skipped_step("ptx-check", "no ptxas");
        assert_eq!(tally.closing_line(), "14 passed, 1 failed, 2 skipped");
    }

    #[test]
    fn output_of_passing_tests_is_hidden_and_of_failing_ones_shown() {
        let mut tally = Tally::default();
        let shown: Vec<&str> = MIXED
            .lines()
            .filter(|l| tally.line(l) == Show::Yes)
            .collect();
        assert!(!shown.contains(&"a line of its own"));
        assert!(shown.contains(&"thread 'model::loads' panicked at src/model.rs:3:5"));
        assert!(shown.contains(&"test bytes::reads ... ok"));
    }

    #[test]
    fn a_test_that_prints_a_heading_word_outside_the_lists_changes_nothing() {
        let tally =
            read("---- x stdout ----\nskipped: here\ntest result: ok. 1 passed; 0 failed\n");
        assert_eq!(tally.closing_line(), "0 passed, 0 failed, 1 skipped");
    }
}
