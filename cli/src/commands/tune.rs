//! `gannet tune`: which variant of each product is fastest on this GPU?

use clap::Args;
use gannet_engine::tools::tune::{self, TuneOptions, TuneReport, TunedShape, VariantTime};
use gannet_gguf::shown_path;
use serde_json::json;

use crate::console::Console;
use crate::failure::Failure;
use crate::figures;
use crate::flags::{ModelFlag, PlaceFlags};
use crate::progress::Progress;
use crate::table::Table;

/// Measure every variant of a model's products on a GPU and keep what is fastest
#[derive(Args)]
pub(crate) struct Tune {
    #[command(flatten)]
    model: ModelFlag,
    /// Rows of activations to tune for: 1, 2, 4 or 8. GPUs from sm_80 on take what 8 rows gave with
    /// --gemv-rows alone
    #[arg(
        short,
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "1,2,4,8"
    )]
    tokens: Vec<usize>,
    /// Allow variants that round activations to 8 bits (dp4a): faster, less exact
    #[arg(long)]
    int8: bool,
    /// Timings of each variant; the median counts
    #[arg(short, long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    /// List every variant, not only the fastest
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    device: PlaceFlags,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Variants listed of each shape unless all are wanted.
const LISTED: usize = 3;

impl Tune {
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        let options = TuneOptions {
            tokens: self.tokens.clone(),
            repeats: self.repeats as usize,
            int8: self.int8,
            ..TuneOptions::default()
        };
        self.device.check_tuned()?;
        let settings = self.device.settings()?;
        let model = self.model.open(console)?;
        let report = {
            let progress = Progress::spinner("measuring");
            let mut on_shape =
                |shape: &TunedShape| progress.message(format!("{} done", shape.shape.name()));
            tune::run(&model, &settings, &options, &mut on_shape)?
        };
        if self.json {
            console.json(&as_json(&report))
        } else {
            console.print(&as_text(
                &report,
                if self.all { usize::MAX } else { LISTED },
            ))
        }
    }
}

fn as_json(report: &TuneReport) -> serde_json::Value {
    let variant = |t: &VariantTime| {
        json!({
            "variant": t.variant.to_string(),
            "microseconds": t.refused.is_none().then_some(t.seconds * 1e6),
            "nmse": t.nmse.is_finite().then_some(t.nmse),
            "limit": t.limit,
            "local_bytes": t.local_bytes,
            "pass": t.passes(),
            "refused": t.refused,
        })
    };
    let shape = |s: &TunedShape| {
        json!({
            "shape": s.shape.name(),
            "launches": s.launches,
            "bytes": s.bytes,
            "chosen": s.chosen.to_string(),
            "built_in": s.built_in.to_string(),
            "over_best": s.over_best,
            "variants": s.times.iter().map(variant).collect::<Vec<_>>(),
        })
    };
    json!({
        "device": report.device,
        "file": report.file,
        "shapes": report.shapes.iter().map(shape).collect::<Vec<_>>(),
    })
}

fn as_text(report: &TuneReport, listed: usize) -> String {
    let mut table = Table::new(&[
        "shape",
        "variant",
        "",
        ">us",
        ">GB/s",
        ">NMSE",
        ">limit",
        ">of built-in",
        ">over best",
    ]);
    for shape in &report.shapes {
        let built_in = shape
            .time_of(shape.built_in)
            .map_or(f64::NAN, |t| t.seconds);
        let mark = |t: &VariantTime| match (t.variant == shape.chosen, t.passes()) {
            (true, _) => "chosen".to_owned(),
            (false, true) if t.variant == shape.built_in => "built-in".to_owned(),
            (false, true) if t.local_bytes > 0 => format!("spills {} B", t.local_bytes),
            (false, true) => String::new(),
            (false, false) if t.refused.is_some() => "refused".to_owned(),
            (false, false) => "FAILS".to_owned(),
        };
        let rows = shape.times.iter().enumerate().filter(|(i, t)| {
            *i < listed || t.variant == shape.chosen || t.variant == shape.built_in || !t.passes()
        });
        for (_, t) in rows {
            let chosen = t.variant == shape.chosen;
            table.row([
                shape.shape.name(),
                t.variant.to_string(),
                mark(t),
                format!("{:.2}", t.seconds * 1e6),
                figures::rate(shape.bytes as f64 / t.seconds / 1e9),
                format!("{:.1e}", t.nmse),
                format!("{:.0e}", t.limit),
                figures::percent(t.seconds / built_in),
                if chosen {
                    figures::percent(shape.over_best)
                } else {
                    String::new()
                },
            ]);
        }
    }
    let count: usize = report.shapes.iter().map(|s| s.times.len()).sum();
    let failed = report
        .shapes
        .iter()
        .flat_map(|s| &s.times)
        .filter(|t| !t.passes())
        .count();
    let kept = match &report.file {
        Some(file) => format!("written to {}", shown_path(file)),
        None => "not kept: no cache folder".to_owned(),
    };
    format!(
        "{}: {} shapes, {count} variants, {failed} refused or past their limit; {kept}\n{}",
        report.device,
        report.shapes.len(),
        table.render()
    )
}
