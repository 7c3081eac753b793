//! What the launches of a step took, as a table, as JSON and as a trace.

use std::collections::BTreeMap;

use gannet_engine::internals::exec::LaunchTime;
use gannet_engine::tools::bench::{BenchReport, BenchRow};
use serde_json::{Value, json};

use crate::figures;
use crate::table::Table;

/// The middle repeat of a launch, in seconds.
fn median(launch: &LaunchTime) -> f64 {
    let mut seconds = launch.seconds.clone();
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(0.0)
}

/// Bytes a second over the ceiling, both in `1e9`.
fn share(bytes: u64, seconds: f64, ceiling: f64) -> (f64, f64) {
    let gb = if seconds > 0.0 {
        bytes as f64 / seconds / 1e9
    } else {
        0.0
    };
    (gb, if ceiling > 0.0 { gb / ceiling } else { 0.0 })
}

/// Every launch of a row.
pub(crate) fn as_json(row: &BenchRow, ceiling: f64) -> Vec<Value> {
    let launch = |launch: &LaunchTime| {
        let (gb, share) = share(launch.bytes, median(launch), ceiling);
        json!({
            "unit": launch.unit,
            "kernel": launch.kernel,
            "grid": launch.grid,
            "microseconds": median(launch) * 1e6,
            "bytes": launch.bytes,
            "gb_per_second": gb,
            "share_of_ceiling": share,
        })
    };
    row.launches.iter().map(launch).collect()
}

/// Launches of one kernel together, the longest first; nothing for a report without a profile.
pub(crate) fn as_text(report: &BenchReport) -> String {
    let mut out = String::new();
    for row in report.rows.iter().filter(|row| !row.launches.is_empty()) {
        let mut kernels: BTreeMap<&str, (usize, f64, u64)> = BTreeMap::new();
        for launch in &row.launches {
            let sum = kernels.entry(&launch.kernel).or_default();
            *sum = (sum.0 + 1, sum.1 + median(launch), sum.2 + launch.bytes);
        }
        let total: f64 = kernels.values().map(|k| k.1).sum();
        let mut kernels: Vec<_> = kernels.into_iter().collect();
        kernels.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
        let mut table = Table::new(&[
            "kernel",
            ">launches",
            ">us",
            ">us each",
            ">of step",
            ">bytes",
            ">GB/s",
            ">of ceiling",
        ]);
        for (name, (count, seconds, bytes)) in kernels {
            let (gb, share) = share(bytes, seconds, report.ceiling_gb_per_second);
            table.row([
                name.to_owned(),
                count.to_string(),
                format!("{:.1}", seconds * 1e6),
                format!("{:.2}", seconds * 1e6 / count as f64),
                figures::percent(seconds / total.max(1e-12)),
                figures::bytes(bytes),
                figures::rate(gb),
                figures::percent(share),
            ]);
        }
        out += &format!(
            "\n{}: {} launches, {:.1} us one by one\n{}",
            row.name(),
            row.launches.len(),
            total * 1e6,
            table.render()
        );
    }
    out
}

/// The Trace Event Format: complete events, microseconds, a process for each test.
pub(crate) fn chrome_trace(report: &BenchReport) -> Value {
    let mut events = Vec::new();
    for (pid, row) in report
        .rows
        .iter()
        .enumerate()
        .filter(|(_, r)| !r.launches.is_empty())
    {
        events.push(json!({
            "name": "process_name", "ph": "M", "pid": pid, "args": { "name": row.name() },
        }));
        let mut at = 0.0;
        for launch in &row.launches {
            let micros = median(launch) * 1e6;
            let (gb, share) = share(launch.bytes, median(launch), report.ceiling_gb_per_second);
            events.push(json!({
                "name": launch.unit, "cat": launch.kernel, "ph": "X", "pid": pid, "tid": 0,
                "ts": at, "dur": micros,
                "args": {
                    "kernel": launch.kernel, "grid": launch.grid, "bytes": launch.bytes,
                    "gb_per_second": gb, "share_of_ceiling": share,
                },
            }));
            at += micros;
        }
    }
    json!({ "traceEvents": events, "displayTimeUnit": "ns" })
}
