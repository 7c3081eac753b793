//! `gannet parity`: do two executors compute the same, buffer by buffer?

use clap::Args;
use gannet_engine::internals::lower::BATCH_MAX_ROWS;
use gannet_engine::settings::{DeviceChoice, GemvVariant, Given, KvType, Precision};
use gannet_engine::tokenizer::EncodeOptions;
use gannet_engine::tools::parity::{self, ParityOptions, Report, BufferRow, Side};
use serde_json::json;

use crate::console::{self, Console};
use crate::failure::Failure;
use crate::figures::counted;
use crate::flags::{ModelFlag, WithoutFlag, at_most, resolve, token_ids};
use crate::progress::Progress;
use crate::table::Table;

/// The reference where nobody named one.
const LEFT: Side = Side::Cpu;

/// The most tokens that are generated and compared, each in every buffer.
const MOST_TOKENS: usize = 1 << 16;

/// The most sequences that are compared at once: as many as the kernels of a batch take.
const MOST_SEQUENCES: usize = BATCH_MAX_ROWS;

/// Rows of the table: the largest errors against their limits.
const WORST: usize = 16;

/// What is compared on where nobody said: a text long enough for a chunk of a prompt.
const TEXT: &str = "Ownership is a set of rules that govern how a program manages memory. All \
                    programs have to manage the way they use a computer's memory while running.";

/// Compare two executors of a model, buffer by buffer; exit code 1 where they differ
#[derive(Args)]
pub(crate) struct Parity {
    #[command(flatten)]
    model: ModelFlag,
    /// Reference: cpu, cpu-fast, interp, cuda-eager, cuda-graph or cuda-capture [default: cpu]
    #[arg(long, value_name = "EXECUTOR")]
    left: Option<Side>,
    /// What is held against it
    #[arg(long, value_name = "EXECUTOR")]
    right: Side,
    /// Token ids: 1,2,3, or @FILE with a JSON array [default: a short English text]
    #[arg(long, value_name = "IDS")]
    tokens: Option<String>,
    /// Tokens to generate after them, each compared
    #[arg(short = 'n', long, value_name = "N", default_value_t = 8)]
    generate: usize,
    /// Sequences at once: sequence i has the tokens rotated by i, less the last 3i modulo half of
    /// them
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// Give the right side each prompt in chunks of M tokens, the left one the whole
    #[arg(long, value_name = "M")]
    chunk: Option<usize>,
    /// Hold what each sequence gives in the batch against what it gives alone, both on the right
    /// side
    #[arg(long)]
    alone: bool,
    /// Which GPU [default: 0]
    #[arg(long, value_name = "N")]
    gpu: Option<usize>,
    /// Element type of the cache of sides that run kernels: f16, bf16, f32 or int8 [default: f16]
    #[arg(long, value_name = "TYPE")]
    kv_type: Option<KvType>,
    /// Variant of every matrix-vector product that has it, such as f32-l32-w16-r2-b4, on sides that
    /// run kernels [default: GANNET_GEMV, else what `gannet tune` measured, else built in]
    #[arg(long, value_name = "VARIANT")]
    gemv: Option<GemvVariant>,
    /// Rows up to which a step of these runs on matrix-vector kernels, 1 to 8 [default:
    /// GANNET_GEMV_ROWS, else built in]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
    gemv_rows: Option<u8>,
    /// Have sides that run kernels compute every row alike however many there are; with --alone no
    /// bit may differ then
    #[arg(long)]
    batch_invariant: bool,
    #[command(flatten)]
    without: WithoutFlag,
    /// Compute with f32 activations
    #[arg(long)]
    exact: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Parity {
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        self.check()?;
        let settings = resolve(&Given {
            device: Some(DeviceChoice::Cuda(self.gpu.unwrap_or_default())),
            precision: self.exact.then_some(Precision::Exact),
            gemv: self.gemv,
            gemv_rows: self.gemv_rows.map(usize::from),
            kv_type: self.kv_type,
            batch_invariant: self.batch_invariant.then_some(true),
            without: self.without.rules(),
            ..Given::default()
        })?;
        let given = self.tokens.as_deref().map(token_ids).transpose()?;
        let model = self.model.open(console)?;
        let encode = EncodeOptions {
            add_special: true,
            parse_special: false,
        };
        let tokens = given.unwrap_or_else(|| model.tokenizer().encode(TEXT, encode));
        let options = ParityOptions {
            left: self.left.unwrap_or(LEFT),
            right: self.right,
            settings,
            tokens,
            generate: self.generate,
            batch: self.batch,
            chunk: self.chunk,
            alone: self.alone,
        };
        let reports = {
            let _progress = Progress::spinner("comparing");
            parity::compare(&model, &options)?
        };
        let pass = !reports.is_empty() && reports.iter().all(Report::passes);
        if self.json {
            console.json(&json!({ "pass": pass, "reports": reports }))?;
        } else {
            console.print(&as_text(&reports))?;
        }
        console.flush()?;
        if pass {
            console::say(&format!(
                "[{} buffers within their limits]",
                buffers(&reports)
            ));
            return Ok(());
        }
        Err(difference(&reports))
    }

    /// Refuses sizes that no comparison ends with, and flags that mean nothing for the sides.
    fn check(&self) -> Result<(), Failure> {
        at_most("-n", self.generate, MOST_TOKENS)?;
        at_most("--batch", self.batch, MOST_SEQUENCES)?;
        if self.alone && self.left.is_some() {
            let why = "--left means nothing with --alone, which looks at the right side only";
            return Err(Failure::Usage(why.to_owned()));
        }
        let left = self.left.unwrap_or(LEFT);
        let sides = [Some(self.right), (!self.alone).then_some(left)];
        let any = |is: fn(Side) -> bool| sides.into_iter().flatten().any(is);
        let (on_gpu, kernels) = (any(Side::is_gpu), any(Side::runs_kernels));
        let idle = [
            ("--gpu", self.gpu.is_some() && !on_gpu, "a GPU"),
            ("--kv-type", self.kv_type.is_some() && !kernels, "kernels"),
            ("--gemv", self.gemv.is_some() && !kernels, "kernels"),
            (
                "--gemv-rows",
                self.gemv_rows.is_some() && !kernels,
                "kernels",
            ),
            ("--without", self.without.rules().is_some() && !kernels, "kernels"),
        ];
        match idle.into_iter().find(|(_, idle, _)| *idle) {
            None => Ok(()),
            Some((name, _, what)) => Err(Failure::Usage(format!(
                "{name} means nothing here: no side runs {what}"
            ))),
        }
    }
}

/// The first thing that is wrong, in the order of the computation: what follows inherits it.
fn difference(reports: &[Report]) -> Failure {
    for report in reports {
        let (left, right) = (&report.left, &report.right);
        if let Some(row) = report.first_failure() {
            return Failure::Work(format!(
                "{left} and {right} differ at position {} ({}): {} of {} has NMSE {:.2e}, limit \
                 {:.0e}",
                report.position, report.step, row.buffer, row.unit, row.nmse, row.limit
            ));
        }
        if !report.passes() {
            return Failure::Work(format!(
                "{left} and {right} have no buffer in common at position {} ({})",
                report.position, report.step
            ));
        }
    }
    Failure::Work("nothing was compared; give at least one token".to_owned())
}

fn buffers(reports: &[Report]) -> usize {
    reports.iter().map(|r| r.buffers.len()).sum()
}

fn as_text(reports: &[Report]) -> String {
    let mut rows: Vec<(&Report, &BufferRow)> = reports
        .iter()
        .flat_map(|r| r.buffers.iter().map(move |row| (r, row)))
        .collect();
    let failed = rows.iter().filter(|(_, row)| !row.pass).count();
    rows.sort_by(|(_, a), (_, b)| share(b).total_cmp(&share(a)));
    let mut table = Table::new(&[
        "",
        "step",
        ">position",
        ">rows",
        "unit",
        "buffer",
        ">NMSE",
        ">limit",
        ">max difference",
    ]);
    for (report, row) in rows.into_iter().take(WORST) {
        table.row([
            if row.pass { "ok" } else { "FAIL" }.to_owned(),
            report.step.clone(),
            report.position.to_string(),
            report.rows.to_string(),
            row.unit.clone(),
            row.buffer.clone(),
            format!("{:.2e}", row.nmse),
            format!("{:.0e}", row.limit),
            format!("{:.2e}", row.max_abs),
        ]);
    }
    let names = reports.first().map_or(String::new(), |r| {
        format!("{} against {}: ", r.left, r.right)
    });
    format!(
        "{names}{}, {} buffers, {failed} past their limit; the worst:\n{}",
        counted(reports.len(), "step"),
        buffers(reports),
        table.render()
    )
}

/// An error as a share of its limit; failures first.
fn share(row: &BufferRow) -> f64 {
    let share = if row.nmse.is_nan() {
        f64::INFINITY
    } else {
        row.nmse / row.limit.max(1e-300)
    };
    if row.pass {
        share.min(1.0)
    } else {
        2.0 + share
    }
}
