//! The list of an executable's tests, as a reader should see it: a test that was skipped says so where it
//! stands.
//!
//! The harness prints `ok` for every test that returns, before it prints what the tests said. So the
//! lines of passing tests wait until it is known which of them verified nothing; those of failed tests,
//! which are worth a reader's time at once, do not.

use crate::tally::{Show, Tally};

/// Lines that wait.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    held: Vec<String>,
    /// Tests of this executable that were skipped.
    skipped: usize,
}

/// The end of a line about a test that returned.
const OK: &str = " ... ok";

impl Listing {
    /// Takes a line that the tally has read, and returns what is to be printed now.
    pub(crate) fn line(&mut self, line: &str, shown: Show, tally: &mut Tally) -> Vec<String> {
        if shown == Show::No {
            return Vec::new();
        }
        if line.starts_with("test ") && line.ends_with(OK) {
            self.held.push(line.to_owned());
            return Vec::new();
        }
        let result = line.strip_prefix("test result: ");
        let mut now = match result.is_some() || line == "failures:" {
            true => self.release(tally),
            false => Vec::new(),
        };
        now.push(match result {
            Some(result) => corrected(result, std::mem::take(&mut self.skipped)),
            None => line.to_owned(),
        });
        now
    }

    /// The lines that wait, with what became of their tests.
    pub(crate) fn release(&mut self, tally: &mut Tally) -> Vec<String> {
        let skipped = tally.take_skipped();
        self.skipped += skipped.len();
        let told = |line: String| {
            let name = line.strip_prefix("test ").and_then(|l| l.strip_suffix(OK));
            match name.filter(|name| skipped.iter().any(|s| s == name)) {
                Some(name) => format!("test {name} ... skipped"),
                None => line,
            }
        };
        self.held.drain(..).map(told).collect()
    }
}

/// An executable's counts, with those that were skipped out of the passed ones.
fn corrected(result: &str, skipped: usize) -> String {
    let plain = format!("test result: {result}");
    let counts = |text: &str| -> Option<String> {
        let (verdict, rest) = text.split_once(". ")?;
        let (passed, rest) = rest.split_once(" passed; ")?;
        let (failed, rest) = rest.split_once(" failed; ")?;
        let passed = passed.parse::<usize>().ok()?.checked_sub(skipped)?;
        Some(format!(
            "test result: {verdict}. {passed} passed; {failed} failed; {skipped} skipped; {rest}"
        ))
    };
    match skipped {
        0 => plain,
        _ => counts(result).unwrap_or(plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(text: &str) -> Vec<String> {
        let (mut listing, mut tally) = (Listing::default(), Tally::default());
        let mut all = Vec::new();
        for line in text.lines() {
            let shown = tally.line(line);
            all.extend(listing.line(line, shown, &mut tally));
        }
        all.extend(listing.release(&mut tally));
        all.retain(|line| !line.is_empty());
        all
    }

    #[test]
    fn a_skipped_test_is_not_ok_where_it_stands() {
        let text = "
running 4 tests
test a::reads ... ok
test b::needs_data ... ok
test c::breaks ... FAILED
test d::also_needs ... ok

successes:

---- b::needs_data stdout ----
skipped: no reference data

---- a::reads stdout ----
a line

---- d::also_needs stdout ----
skipped: no GPU

successes:
    a::reads
    b::needs_data
    d::also_needs

failures:

---- c::breaks stdout ----
thread panicked

failures:
    c::breaks

test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
";
        assert_eq!(
            printed(text),
            [
                "running 4 tests",
                "test c::breaks ... FAILED",
                "test a::reads ... ok",
                "test b::needs_data ... skipped",
                "test d::also_needs ... skipped",
                "failures:",
                "---- c::breaks stdout ----",
                "thread panicked",
                "failures:",
                "    c::breaks",
                "test result: FAILED. 1 passed; 1 failed; 2 skipped; 0 ignored; 0 measured; 0 filtered \
                 out; finished in 0.01s",
            ]
        );
    }

    /// A skip of one executable is none of the next, and where nothing is skipped nothing changes.
    #[test]
    fn executables_are_told_apart() {
        let ok = "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured";
        let first = format!(
            "test a ... ok\n\nsuccesses:\n\n---- a stdout ----\nskipped: x\n\nsuccesses:\n    a\n\n{ok}\n"
        );
        let second = format!("test a ... ok\n\nsuccesses:\n\nsuccesses:\n    a\n\n{ok}\n");
        assert_eq!(
            printed(&(first + &second)),
            [
                "test a ... skipped",
                "test result: ok. 0 passed; 0 failed; 1 skipped; 0 ignored; 0 measured",
                "test a ... ok",
                ok,
            ]
        );
    }

    /// An executable that dies leaves no counts; what it passed is not lost.
    #[test]
    fn lines_of_an_executable_that_dies_are_printed() {
        assert_eq!(
            printed("running 2 tests\ntest a ... ok\n"),
            ["running 2 tests", "test a ... ok"]
        );
    }
}
