//! `cargo xtask ptx-check`: assembles every kernel of the library for every target.
//!
//! The verifier of ptx-gen knows its own rules; ptxas knows NVIDIA's. A kernel passes when ptxas
//! accepts it with no spill and no notice that a directive was ignored, and when it costs what the
//! committed baseline says. Without ptxas, and without a way to get it, the check says *skipped*
//! and succeeds, unless `REQUIRE_PTXAS=1`.

use crate::{Outcome, workspace};

mod assemble;
mod baseline;
mod cubin;
mod kernels;
mod ptxas;
mod report;

use assemble::Source;
use baseline::{Baseline, Compare, Cost, Costs};
use ptxas::Ptxas;
use report::Report;

pub(crate) use ptxas::local as local_ptxas;

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

/// Assembles every kernel, or the one named, and holds its cost to the baseline.
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
    let reports = assemble(&ptxas, &sources)?;
    let today = costs(&sources, &reports);
    print!("{}", baseline::table(&today));
    let bad = complain(&sources, &reports);
    let spilling = reports.iter().filter(|r| r.spills > 0).count();
    println!(
        "ptx-check: {} texts, {bad} refused, {spilling} with spills",
        sources.len()
    );
    let compared = compare(&ptxas, wanted, &sources, &today);
    if bad == 0 {
        compared.map(|()| Verdict::Passed)
    } else {
        let also = compared.err().map_or(String::new(), |e| format!("; {e}"));
        Err(format!("{bad} of {} texts refused{also}", sources.len()))
    }
}

/// Writes the baseline from what the library costs now, with the pinned release of ptxas.
pub(crate) fn bless() -> Result<Verdict, String> {
    let ptxas = match ptxas::find() {
        Ok(ptxas) if ptxas.is(ptxas::VERSION) => ptxas,
        _ => match ptxas::pinned() {
            Ok(ptxas) => ptxas,
            Err(why) => return Ok(Verdict::Skipped(why)),
        },
    };
    let sources = kernels::all()?;
    let reports = assemble(&ptxas, &sources)?;
    let bad = complain(&sources, &reports);
    if bad > 0 {
        return Err(format!("{bad} of {} texts refused", sources.len()));
    }
    let baseline = Baseline {
        version: ptxas::VERSION.to_string(),
        costs: costs(&sources, &reports),
    };
    baseline.write().map(|()| Verdict::Passed)
}

fn assemble(ptxas: &Ptxas, sources: &[Source]) -> Result<Vec<Report>, String> {
    assemble::all(ptxas, &workspace::target_dir().join("ptx-check"), sources)
}

/// What each text that was not refused costs.
fn costs(sources: &[Source], reports: &[Report]) -> Costs {
    let cost = |(source, report): (&Source, &Report)| {
        let cost = Cost {
            registers: report.registers,
            spills: report.spills,
            shared: report.shared.saturating_add(source.dynamic_shared),
            instructions: report.instructions?,
        };
        Some(((source.name.clone(), source.target.clone()), cost))
    };
    sources.iter().zip(reports).filter_map(cost).collect()
}

/// Prints every complaint; the number of texts that have one.
fn complain(sources: &[Source], reports: &[Report]) -> usize {
    for (source, report) in sources.iter().zip(reports) {
        for complaint in &report.complaints {
            println!("{} for {}: {complaint}", source.name, source.target);
        }
    }
    reports.iter().filter(|r| !r.complaints.is_empty()).count()
}

/// Holds `today` to the baseline and lists what differs.
fn compare(
    ptxas: &Ptxas,
    wanted: Option<&str>,
    sources: &[Source],
    today: &Costs,
) -> Result<(), String> {
    let mut baseline = Baseline::read()?;
    let what = if ptxas.is(&baseline.version) {
        Compare::All
    } else {
        println!(
            "the figures of {} are of ptxas {}: only spills are compared",
            baseline::NAME,
            baseline.version
        );
        Compare::Spills
    };
    let refused = |name: &str, target: &str| {
        let listed = sources.iter().any(|s| s.name == name && s.target == target);
        listed && !today.contains_key(&(name.to_string(), target.to_string()))
    };
    baseline.costs.retain(|(name, target), _| {
        wanted.is_none_or(|wanted| wanted == name) && !refused(name, target)
    });
    let listing = baseline::differences(&baseline.costs, today, what);
    if listing.is_empty() {
        return Ok(());
    }
    print!("--- {}\n+++ now\n{listing}", baseline::NAME);
    Err(format!(
        "costs differ from {}; if they should, {}",
        baseline::NAME,
        baseline::hint()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_has_all_shared_memory_and_a_refused_text_none() {
        let source = |name: &str| Source {
            name: name.into(),
            target: "sm_80".into(),
            ptx: String::new(),
            dynamic_shared: 4096,
        };
        let report = |instructions| Report {
            registers: 128,
            spills: 8,
            shared: 64,
            instructions,
            complaints: vec![],
        };
        let found = costs(
            &[source("gemm"), source("bad")],
            &[report(Some(900)), report(None)],
        );
        let expected = Cost {
            registers: 128,
            spills: 8,
            shared: 4160,
            instructions: 900,
        };
        let key = ("gemm".to_string(), "sm_80".to_string());
        assert_eq!(found, Costs::from([(key, expected)]));
    }
}
