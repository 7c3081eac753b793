//! The conformance table as Markdown: what was compared, by which rule, with which result.
//!
//! A document is prose, then one line a case. What a case *is* fills the first four columns; the last holds what a
//! run on a GPU found. [`render`] makes the whole document from cases and results, and [`results`] reads the results
//! back from one, so that the first four columns can be brought up to date on a machine that has no GPU.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Case, Outcome, Rule};

/// Stands for the result of a form that no GPU has run since it was added.
pub const NOT_RUN: &str = "not run yet";

const HEAD: &str = "| Form | PTX ISA section | Inputs | Rule | Result |";

/// A table cell: no bar may end it early.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// What a comparison found, as the table says it.
#[must_use]
pub fn result(case: &Case, outcome: &Outcome) -> String {
    if !outcome.passes() {
        return format!("DIFFERS: {} of {}", outcome.mismatches, outcome.values);
    }
    match (&case.rule, outcome.max_ulp) {
        (Rule::Traps, _) => "launch failed".into(),
        (Rule::Bits | Rule::BitsOrBothNan, _) | (_, 0) => "equal".into(),
        (Rule::Ulp(_), ulp) => format!("at most {ulp} ulp"),
        // Near zero an absolute bound is any number of units.
        (_, 0..=999) => format!(
            "at most {} ulp, {:.2} of the bound",
            outcome.max_ulp, outcome.worst
        ),
        (_, _) => format!("at most {:.2} of the bound", outcome.worst),
    }
}

/// The document. `results` is by form.
#[must_use]
pub fn render(cases: &[Case], device: &str, results: &BTreeMap<String, String>) -> String {
    let mut out = String::from(PROSE);
    let _ = writeln!(out, "\nResults are from: {device}.\n");
    let _ = writeln!(out, "{HEAD}\n| --- | --- | --- | --- | --- |");
    for case in cases {
        let note = if case.note.is_empty() {
            String::new()
        } else {
            format!(" ({})", case.note)
        };
        let result = results.get(&case.name).map_or(NOT_RUN, String::as_str);
        let _ = writeln!(
            out,
            "| `{}` | {} | {}{} | {} | {} |",
            cell(&case.name),
            cell(case.section),
            cell(&case.coverage),
            cell(&note),
            cell(&case.rule.to_string()),
            cell(result),
        );
    }
    out
}

/// The device and the results by form that a document holds.
#[must_use]
pub fn results(document: &str) -> (String, BTreeMap<String, String>) {
    let device = document
        .lines()
        .find_map(|line| line.strip_prefix("Results are from: "))
        .map_or("", |device| device.trim_end_matches('.'));
    let row = |line: &str| {
        let form = line.strip_prefix("| `")?.split('`').next()?.to_owned();
        let result = line.trim_end_matches(" |").rsplit(" | ").next()?.to_owned();
        Some((form, result))
    };
    (
        device.to_owned(),
        document.lines().filter_map(row).collect(),
    )
}

const PROSE: &str = "\
# Conformance of the interpreter

Every instruction form of `ptx-gen` runs in a small kernel of its own, in the interpreter and on a GPU, on the same
inputs; the results are compared by the form's rule. This file is generated: `cargo test -p gannet-engine --test
gpu_conformance` on a machine with a GPU fails on any disagreement and writes it to `GANNET_CONFORMANCE_OUT`;
`cargo xtask bless` brings all columns but the last up to date without a GPU.

Rules:

* *bits*: every bit is equal.
* *bits, any NaN*: as above, but a NaN may be any NaN. The PTX ISA leaves open which NaN an arithmetic instruction
  gives.
* *n ulp*, *abs*, *rel*: the error that the PTX ISA 9.1 states for an approximate instruction, in units in the last
  place, absolutely or relative to the value, in sections 9.7.3.8 (div), 9.7.3.13 (rcp), 9.7.3.15 (sqrt), 9.7.3.16
  (rsqrt), 9.7.3.18 (sin), 9.7.3.19 (cos), 9.7.3.22 (tanh), 9.7.4.9 (tanh of halves) and 9.7.4.10 (ex2 of halves). Two
  are held to less than it allows: lg2 (9.7.3.20 states 2^-22) and ex2 (9.7.3.21 states 2 ulp). The interpreter gives
  the correctly rounded value, whose own rounding, at most half a unit, is added to the bound.
* *(K + 1) 2^-23 (sum abs(a b) + abs(c))*: tensor cores add floats in an order and with a width that the PTX ISA does
  not state. The bound is that of cutting K products and the addend off at 24 bits below the largest of them. Products
  of integers are exact.
* *launch fails*: the interpreter reports a trap, the GPU an error.

Special inputs are zeros and infinities of both signs, the least and largest subnormal and normal numbers, NaNs quiet
and signalling with payloads, bounds of the integer types and their neighbours, ties, shifts up to and past the width.
";
