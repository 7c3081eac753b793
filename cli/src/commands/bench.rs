//! `gannet bench`: prompt and generation speed, next to what the memory gives in the same run.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use gannet_engine::Opening;
use gannet_engine::settings::{Given, MAX_CONTEXT, MAX_SLOTS, Settings};
use gannet_engine::tools::bench::{self, BenchOptions, BenchReport, BenchKind, BenchRow};
use gannet_gguf::shown_path;
use serde_json::json;

use crate::clients;
use crate::console::{self, Console};
use crate::failure::Failure;
use crate::figures;
use crate::flags::{DeviceFlags, ModelFlag, WithoutFlag, at_most, resolve};
use crate::input;
use crate::interrupt::{self, Telling};
use crate::launches;
use crate::output::Output;
use crate::progress::Progress;
use crate::requests;
use crate::table::Table;
use crate::times;

/// Measure prompt and generation speed, GB/s and the share of the measured read ceiling
#[derive(Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    model: ModelFlag,
    /// Lengths of prompts
    #[arg(
        short,
        long,
        value_name = "TOKENS",
        value_delimiter = ',',
        default_value = "512"
    )]
    prompt: Vec<usize>,
    /// Tokens to generate; 0: none
    #[arg(
        short = 'n',
        long = "generate",
        value_name = "TOKENS",
        default_value_t = 128
    )]
    generate: usize,
    /// Tokens in the cache before generation
    #[arg(
        short,
        long,
        value_name = "TOKENS",
        value_delimiter = ',',
        default_value = "0"
    )]
    depth: Vec<usize>,
    /// Sequences at once
    #[arg(
        short,
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "1"
    )]
    batch: Vec<usize>,
    /// Also time that many requests of 128 + 128 tokens which arrive at once
    #[arg(long, value_name = "N")]
    requests: Option<usize>,
    /// Also measure a server that many clients ask over sockets: at once, while a long prompt joins, and
    /// with one long prefix
    #[arg(long, value_name = "N")]
    clients: Option<usize>,
    /// Tokens of prompts in a step while others get their next tokens, of the server of --clients
    #[arg(long, value_name = "N", requires = "clients",
          value_parser = clap::value_parser!(u32).range(1..))]
    prompt_budget: Option<u32>,
    /// Show what every kernel of a generating step takes
    #[arg(long)]
    profile: bool,
    /// Write the launches of a generating step to a file that chrome://tracing and Perfetto open;
    /// implies --profile
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Timed repeats of each test, after one that is not; the median counts
    #[arg(short, long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    #[command(flatten)]
    device: DeviceFlags,
    #[command(flatten)]
    without: WithoutFlag,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        for (name, sizes, most) in [
            ("-p", &self.prompt[..], MAX_CONTEXT),
            ("-n", &[self.generate], MAX_CONTEXT),
            ("-d", &self.depth, MAX_CONTEXT),
            ("-b", &self.batch, MAX_SLOTS),
            ("--requests", self.requests.as_slice(), MAX_SLOTS),
            ("--clients", self.clients.as_slice(), MAX_SLOTS - 1),
        ] {
            sizes
                .iter()
                .try_for_each(|&size| at_most(name, size, most))?;
        }
        if self.trace.as_deref().is_some_and(input::is_dash) {
            let why = "--trace writes a file; standard output has the table, or the object of --json";
            return Err(Failure::Usage(why.to_owned()));
        }
        let options = BenchOptions {
            // 0 is how a list says "none".
            prompts: self.prompt.iter().copied().filter(|&p| p > 0).collect(),
            generate: self.generate,
            depths: self.depth.clone(),
            batches: self.batch.clone(),
            repeats: self.repeats as usize,
            profile: self.profile || self.trace.is_some(),
        };
        let settings = resolve(&Given {
            without: self.without.rules(),
            ..self.device.given()
        })?;
        let opening = Opening::start(&settings);
        let model = self.model.open(console)?;
        let trace = self.trace.as_deref();
        let trace = trace.map(|path| Output::create(path, model.files()));
        let trace = trace.transpose()?;
        let report = {
            let progress = Progress::spinner("loading");
            let so_far = Arc::new(Mutex::new(Vec::new()));
            let _telling = self.tell_so_far(&so_far, progress.remover());
            let mut on_row = |row: &BenchRow| {
                let mut rows = so_far.lock().unwrap_or_else(PoisonError::into_inner);
                rows.push(row.clone());
                progress.message(format!("{} done", row.name()));
            };
            bench::run_on(&model, &settings, &opening, &options, &mut on_row)?
        };
        if let Some(notice) = &report.notice {
            console.note(notice.as_str());
        }
        let requests = self.requests.filter(|&n| n > 0).map(|n| {
            let _progress = Progress::spinner("requests");
            requests::measure(&model, &settings, n, options.repeats, &report)
        });
        let requests = requests.transpose()?;
        let clients = self.clients.filter(|&n| n > 0).map(|n| {
            let _progress = Progress::spinner("clients");
            let settings = Settings {
                prompt_budget: self.prompt_budget.map(|tokens| tokens as usize),
                ..settings.clone()
            };
            let path = self.model.path().map(Path::to_owned);
            let trained = model.hparams().context_length;
            clients::measure(path, &settings, n, trained, model.tokenizer().vocab_size())
        });
        let clients = clients.transpose()?;
        let file = shown_path(model.path());
        if let (Some(mut out), Some(path)) = (trace, &self.trace) {
            let written = serde_json::to_writer(&mut out, &launches::chrome_trace(&report));
            written.map_err(|e| Failure::output(path, &e.into()))?;
            out.finish()?;
        }
        if self.json {
            let mut json = as_json(&report, &file);
            json["requests"] = json!(requests.as_ref().map(requests::RequestsReport::as_json));
            json["clients"] = json!(clients.as_ref().map(|clients| clients.as_json(&report)));
            console.json(&json)
        } else {
            console.print(&as_text(&report, &file))?;
            if let Some(requests) = &requests {
                console.print(&requests::as_text(requests))?;
            }
            if let Some(clients) = &clients {
                console.print(&clients.as_text(&report))?;
            }
            console.print(&launches::as_text(&report))
        }
    }

    /// Tells an interruption the results that there are.
    fn tell_so_far(&self, so_far: &SoFar, clear: impl FnOnce() + Send + 'static) -> Telling {
        let (so_far, json) = (Arc::clone(so_far), self.json);
        Telling::at_interruption(move || {
            clear();
            let rows = so_far.lock().unwrap_or_else(PoisonError::into_inner);
            if rows.is_empty() {
                return console::say("[interrupted before the first result]");
            }
            interrupt::print(&match json {
                true => {
                    let object = json!({"rows": rows_as_json(&rows, None), "finish": "cancelled"});
                    format!("{object}\n")
                }
                false => rows_as_text(&rows),
            });
            console::say("[interrupted; these are the results until then]");
        })
    }
}

/// The results that are there already.
type SoFar = Arc<Mutex<Vec<BenchRow>>>;

fn rows_as_json(rows: &[BenchRow], ceiling: Option<f64>) -> Vec<serde_json::Value> {
    rows.iter()
        .map(|row| {
            json!({
                "test": row.name(),
                "kind": row.kind,
                "tokens": row.tokens,
                "depth": row.depth,
                "batch": row.batch,
                "tokens_per_second": row.tokens_per_second,
                "median_seconds": row.median(),
                "spread": row.spread,
                "seconds": row.seconds,
                "bytes_per_token": row.bytes_per_step.map(|bytes| bytes / row.batch as u64),
                "bytes_per_step": row.bytes_per_step,
                "gb_per_second": row.gb_per_second,
                "share_of_ceiling": row.share_of_ceiling,
                "device_step_seconds": row.device_step_seconds,
                "share_of_default": row.share_of_default,
                "synchronizations_per_token": row.synchronizations_per_token,
                "launches": ceiling.map(|ceiling| launches::as_json(row, ceiling)),
            })
        })
        .collect()
}

fn as_json(report: &BenchReport, file: &str) -> serde_json::Value {
    json!({
        "model": file,
        "device": report.executor,
        "weight_bytes": report.weight_bytes,
        "load_seconds": report.load_seconds,
        "load": report.load,
        "cold_first_token_seconds": report.cold_first_token_seconds,
        "ceiling_gb_per_second": report.ceiling_gb_per_second,
        "batch_invariant": report.batch_invariant,
        "without": report.without,
        "fallbacks": report.fallbacks,
        "rows": rows_as_json(&report.rows, Some(report.ceiling_gb_per_second)),
    })
}

fn rows_as_text(rows: &[BenchRow]) -> String {
    let compared = rows.iter().any(|row| row.share_of_default.is_some());
    let mut columns = vec![
        "test",
        ">tok/s",
        ">time",
        ">spread",
        ">bytes/step",
        ">GB/s",
        ">of ceiling",
        ">step",
        ">on device",
        ">waits/token",
    ];
    columns.extend(compared.then_some(">of default"));
    let mut table = Table::new(&columns);
    for row in rows {
        let rate = match row.kind {
            BenchKind::FirstToken => String::new(),
            _ => figures::rate(row.tokens_per_second),
        };
        let mut cells = vec![
            row.name(),
            rate,
            figures::seconds(row.median()),
            figures::percent(row.spread),
            row.bytes_per_step.map_or(String::new(), figures::bytes),
            row.gb_per_second.map_or(String::new(), figures::rate),
            row.share_of_ceiling.map_or(String::new(), figures::percent),
            row.device_step_seconds
                .map_or(String::new(), |_| figures::seconds(row.step_seconds())),
            row.device_step_seconds
                .map_or(String::new(), figures::seconds),
            row.synchronizations_per_token
                .map_or(String::new(), |n| format!("{n:.2}")),
        ];
        cells.extend(row.share_of_default.map(figures::percent));
        table.row(cells);
    }
    table.without_empty_columns().render()
}

fn as_text(report: &BenchReport, file: &str) -> String {
    let invariant = match report.batch_invariant {
        true => "; the same kernels for any number of rows",
        false => "",
    };
    let without = match report.without.as_slice() {
        [] => String::new(),
        rules => format!("; without {}", rules.join(", ")),
    };
    let fallbacks = match report.fallbacks {
        0 => String::new(),
        n => format!(
            "; {} ran without the graph that was wanted",
            figures::counted(n as usize, "step")
        ),
    };
    format!(
        "{file} on {}: {} of weights, loaded in {}, first token {} after loading began\n\
         {}; {}\n\
         reading memory: {} GB/s{fallbacks}{without}{invariant}\n\n{}",
        report.executor,
        figures::bytes(report.weight_bytes),
        figures::seconds(report.load_seconds),
        figures::seconds(report.cold_first_token_seconds),
        times::moved(&report.load).unwrap_or_else(|| "weights stay in the file".to_owned()),
        times::phases(&report.load),
        figures::rate(report.ceiling_gb_per_second),
        rows_as_text(&report.rows)
    )
}
