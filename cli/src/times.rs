//! Where the time of a load and of a generation went, for people; and what time it is.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gannet_engine::times::{GenerationTimes, LoadReport, PhaseTime, Times};

use crate::figures;
use crate::table::Table;

/// Seconds since 1970; 0 where the clock stands before that.
pub(crate) fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// What was moved and how fast: `loaded 938 MiB in 41 ms, 24 GB/s`. `None` where weights stay in
/// the file.
pub(crate) fn moved(load: &LoadReport) -> Option<String> {
    let rate = load.gb_per_second?;
    Some(format!(
        "loaded {} in {}, {} GB/s",
        figures::bytes(load.bytes),
        figures::seconds(load.bytes as f64 / 1e9 / rate.max(1e-9)),
        figures::rate(rate)
    ))
}

/// The phases in one line: `driver 180 ms, file 3.1 ms, ...`. Some of them overlap.
pub(crate) fn phases(load: &LoadReport) -> String {
    let name = |p: &PhaseTime| format!("{} {}", p.phase, figures::seconds(p.seconds));
    load.phases.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// A table of the phases, with when each began after the program did, down to the first token.
pub(crate) fn table(load: &LoadReport, start: Instant, first_token: Option<Instant>) -> String {
    let mut table = Table::new(&["phase", ">start", ">time"]);
    let since = |at: Instant| at.saturating_duration_since(start).as_secs_f64();
    let origin = load.origin.map_or(0.0, since);
    for p in &load.phases {
        table.row([
            p.phase.to_string(),
            figures::seconds(origin + p.start_seconds),
            figures::seconds(p.seconds),
        ]);
    }
    if let Some(first_token) = first_token {
        let ready = origin + load.seconds;
        table.row([
            "first token".to_owned(),
            figures::seconds(ready),
            figures::seconds((since(first_token) - ready).max(0.0)),
        ]);
    }
    if load.kernels > 0 {
        let (kernels, compiled) = (load.kernels, load.compiled);
        table.row([format!("{kernels} kernels, {compiled} of them compiled")]);
    }
    table.render()
}

/// A table of a generation's phases: those before its tokens, and what each token took.
pub(crate) fn tokens(times: &GenerationTimes) -> String {
    let seconds = |time: Duration| figures::seconds(time.as_secs_f64());
    let mut before = Table::new(&["before tokens", ">time"]);
    before.row(["prompt given".to_owned(), seconds(times.prompt)]);
    before.row(["first choice".to_owned(), seconds(times.first_choice)]);
    let mut each = Table::new(&["each token", ">count", ">mean", ">max", ">total"]);
    for (name, times) in [
        ("computed or waited", times.wait),
        ("text", times.text),
        ("printed", times.callback),
    ] {
        each.row([
            name.to_owned(),
            times.count.to_string(),
            seconds(times.mean()),
            seconds(times.max),
            seconds(times.total),
        ]);
    }
    format!("{}{}", before.render(), each.render())
}

/// A table of what the lines of a file took together.
pub(crate) fn lines(first: &Times, rest: &Times) -> String {
    let seconds = |time: Duration| figures::seconds(time.as_secs_f64());
    let mut each = Table::new(&["each line", ">count", ">mean", ">max"]);
    for (name, times) in [("first token after", first), ("tokens after it", rest)] {
        let (mean, max) = (seconds(times.mean()), seconds(times.max));
        each.row([name.to_owned(), times.count.to_string(), mean, max]);
    }
    each.render()
}

#[cfg(all(test, feature = "embedded-model"))]
mod tests {
    use super::*;
    use gannet_engine::{DeviceChoice, ModelOptions, Session, Settings};
    use std::sync::Arc;

    /// On the CPU weights stay in the file: phases of opening it, and nothing moved.
    #[test]
    fn a_load_on_the_cpu_has_the_phases_of_a_file() {
        let start = Instant::now();
        let model = crate::embedded::model(&ModelOptions::default()).unwrap();
        let model = Arc::new(model);
        let options = Settings {
            device: DeviceChoice::Cpu,
            ..Settings::default()
        };
        let session = Session::new(&model, &options).unwrap();
        let load = session.load_report();
        assert_eq!(moved(&load), None);
        assert!(
            phases(&load).starts_with("vocabulary "),
            "{}",
            phases(&load)
        );
        let text = table(&load, start, Some(Instant::now()));
        let first: Vec<&str> = text
            .lines()
            .filter_map(|l| l.split_whitespace().next())
            .collect();
        assert_eq!(first, ["phase", "vocabulary", "plan", "first"]);
    }
}
