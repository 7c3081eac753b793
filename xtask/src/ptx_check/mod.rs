//! `cargo xtask ptx-check`: assembles every kernel of the library for every target.
//!
//! The verifier of ptx-gen knows its own rules; ptxas knows NVIDIA's. A kernel passes when ptxas
//! accepts it with no spill and no notice that a directive was ignored. Without ptxas, and without
//! a way to get it, the check says *skipped* and succeeds, unless `REQUIRE_PTXAS=1`.

use std::collections::BTreeMap;

use crate::{Outcome, workspace};

mod assemble;
mod kernels;
mod ptxas;
mod report;

use assemble::Source;
use report::Report;

/// How a check that did not fail ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// It looked at everything and found nothing.
    Passed,
    /// It could not look, for this reason.
    Skipped(String),
}

pub(crate) fn run(arguments: &[String]) -> Outcome {
    if let Verdict::Skipped(why) = check(arguments)? {
        println!("skipped: ptx-check: {why}");
    }
    Ok(())
}

/// Assembles every kernel, or the one named.
pub(crate) fn check(arguments: &[String]) -> Result<Verdict, String> {
    if arguments.len() > 1 {
        return Err("takes one kernel name at most".into());
    }
    let wanted = arguments.first().map(String::as_str);
    let ptxas = match ptxas::find() {
        Ok(ptxas) => ptxas,
        Err(why) if std::env::var_os("REQUIRE_PTXAS").is_some_and(|v| v == "1") => return Err(why),
        Err(why) => return Ok(Verdict::Skipped(why)),
    };
    println!("{} ({})", ptxas.path.display(), ptxas.version);
    let mut sources = kernels::all()?;
    sources.retain(|s| wanted.is_none_or(|name| s.name == name));
    if sources.is_empty() {
        return Err(format!(
            "no kernel{}",
            wanted.map_or(String::new(), |n| format!(" '{n}'"))
        ));
    }
    let cache = workspace::target_dir().join("ptx-check");
    let reports = assemble::all(&ptxas, &cache, &sources)?;
    print!("{}", table(&sources, &reports, &kernels::targets()));
    let mut bad = 0;
    for (source, report) in sources.iter().zip(&reports) {
        for complaint in &report.complaints {
            println!("{} for {}: {complaint}", source.name, source.target);
        }
        bad += usize::from(!report.complaints.is_empty());
    }
    let spilling = reports.iter().filter(|r| r.spills > 0).count();
    println!(
        "ptx-check: {} texts, {bad} refused, {spilling} with spills",
        sources.len()
    );
    if bad == 0 {
        Ok(Verdict::Passed)
    } else {
        Err(format!("{bad} of {} texts refused", sources.len()))
    }
}

/// One row a kernel: registers for each target (`-` where the kernel does not exist), the most
/// spilled bytes and the most static shared memory on any target.
fn table(sources: &[Source], reports: &[Report], targets: &[&str]) -> String {
    let mut rows: BTreeMap<&str, Vec<(&str, &Report)>> = BTreeMap::new();
    for (source, report) in sources.iter().zip(reports) {
        rows.entry(&source.name)
            .or_default()
            .push((&source.target, report));
    }
    let width = rows
        .keys()
        .map(|name| name.len())
        .max()
        .unwrap_or(0)
        .max("registers on".len());
    let mut text = format!("{:<width$}", "registers on");
    for target in targets {
        text.push_str(&format!(" {target:>6}"));
    }
    text.push_str("  spills  shared\n");
    for (name, cells) in &rows {
        text.push_str(&format!("{name:<width$}"));
        for target in targets {
            let found = cells.iter().find(|(t, _)| t == target);
            let cell = found.map_or("-".to_string(), |(_, r)| r.registers.to_string());
            text.push_str(&format!(" {cell:>6}"));
        }
        let most = |of: fn(&Report) -> u32| cells.iter().map(|(_, r)| of(r)).max().unwrap_or(0);
        text.push_str(&format!(
            "  {:>6}  {:>6}\n",
            most(|r| r.spills),
            most(|r| r.shared)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_a_kernel_and_a_column_a_target() {
        let source = |name: &str, target: &str| Source {
            name: name.into(),
            target: target.into(),
            ptx: String::new(),
        };
        let report = |registers, spills, shared| Report {
            registers,
            spills,
            shared,
            complaints: vec![],
        };
        let sources = [
            source("gemm", "sm_80"),
            source("add", "sm_75"),
            source("add", "sm_80"),
        ];
        let reports = [report(128, 8, 4096), report(10, 0, 0), report(12, 0, 0)];
        let expected = "\
registers on  sm_75  sm_80  spills  shared
add              10     12       0       0
gemm              -    128       8    4096
";
        assert_eq!(table(&sources, &reports, &["sm_75", "sm_80"]), expected);
    }
}
