//! `gannet ptx`: the kernels that Gannet writes, as text.
//!
//! Without a model: the library's representative kernels. With one: exactly those that its steps
//! are lowered to.

use std::sync::Arc;

use clap::Args;
use gannet_engine::internals::kv::{BLOCK_TOKENS, KvType};
use gannet_engine::Model;
use gannet_engine::internals::lower::DeviceProfile;
use gannet_engine::internals::lower::{LowerOptions, Lowered, Shape, StepKind, lower};
use gannet_engine::settings::Buffers;
use gannet_engine::settings::Overrides;
use gannet_ptx_gen::ir::Kernel;
use gannet_ptx_gen::kernels;
use gannet_ptx_gen::target::Target;
use serde_json::{Value, json};

use crate::console::Console;
use crate::failure::Failure;
use crate::figures;
use crate::flags::{ModelFlag, WithoutFlag, check_context, precision};
use crate::table::Table;

/// Multiprocessors assumed for a model's kernels: some texts depend on how much work there must be
/// to fill a GPU. An H200's.
const MULTIPROCESSORS: usize = 132;

/// Rows of the prompt chunk whose kernels are shown.
const PROMPT_ROWS: usize = 512;

/// List the kernels, or print one as PTX
#[derive(Args)]
pub(crate) struct Ptx {
    /// Kernel to print, by name
    #[arg(value_name = "KERNEL")]
    kernel: Option<String>,
    /// GPU to write for
    #[arg(long, value_name = "TARGET", default_value = "sm_90a", value_parser = target)]
    target: Target,
    #[command(flatten)]
    model: ModelFlag,
    /// With a model: positions of the cache [default: the model's, at most 4096]
    #[arg(long, value_name = "N")]
    ctx: Option<usize>,
    /// With a model: the kernels of f32 activations
    #[arg(long)]
    exact: bool,
    /// With a model: the kernels that compute every row alike however many there are
    #[arg(long)]
    batch_invariant: bool,
    #[command(flatten)]
    without: WithoutFlag,
    /// With a model: print its steps, from operations to launches, instead of the kernels
    #[arg(long, requires = "model", conflicts_with = "kernel")]
    steps: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn target(name: &str) -> Result<Target, String> {
    Target::from_name(name).ok_or_else(|| {
        let names: Vec<_> = Target::ALL.iter().map(|t| t.name()).collect();
        format!("expected one of {}", names.join(", "))
    })
}

impl Ptx {
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        check_context("--ctx", self.ctx)?;
        let kernels = if self.model.is_given() {
            let model = self.model.open(console)?;
            let steps = self.of_model(&model)?;
            if self.steps {
                let listings = steps.iter().map(|step| step.listing(model.plan()).to_string());
                let listings: Vec<String> = listings.collect();
                return match self.json {
                    true => console.json(&json!({ "target": self.target.name(), "steps": listings })),
                    false => console.print(&listings.join("\n")),
                };
            }
            once(&steps)
        } else if self.without.rules().is_some() {
            let why = "--without means nothing without a model; name one with -m";
            return Err(Failure::Usage(why.to_owned()));
        } else {
            kernels::library(self.target)
        };
        match &self.kernel {
            None if self.json => {
                let kernels: Vec<_> = kernels.iter().map(as_json).collect();
                console.json(&json!({ "target": self.target.name(), "kernels": kernels }))
            }
            None => console.print(&listing(&kernels)),
            Some(name) => match kernels.iter().find(|k| k.name == *name) {
                Some(kernel) => {
                    let text = kernel.ptx().map_err(Failure::of)?;
                    if !self.json {
                        return console.print(&text);
                    }
                    let mut object = as_json(kernel);
                    object["target"] = json!(self.target.name());
                    object["ptx"] = json!(text);
                    console.json(&object)
                }
                None => Err(Failure::Work(format!(
                    "no kernel {name:?} for {}; `gannet ptx` lists them",
                    self.target
                ))),
            },
        }
    }

    /// A token and a prompt chunk, lowered.
    fn of_model(&self, model: &Model) -> Result<Vec<Lowered>, Failure> {
        let context = self.ctx.unwrap_or(
            model
                .hparams()
                .context_length
                .min(gannet_engine::settings::DEFAULT_CONTEXT),
        );
        let options = LowerOptions {
            target: self.target,
            precision: precision(self.exact),
            batch_invariant: self.batch_invariant,
            multiprocessors: MULTIPROCESSORS,
            max_blocks: context.div_ceil(BLOCK_TOKENS),
            kv_type: KvType::F16,
            buffers: Buffers::Shared,
            profile: Arc::new(DeviceProfile::built_in(Overrides {
                without: self.without.rules().unwrap_or_default(),
                ..Overrides::default()
            })),
        };
        let rows = PROMPT_ROWS.min(context);
        let shapes = [(1, StepKind::Batch), (rows, StepKind::Prompt)];
        let lowered = shapes.map(|(rows, kind)| {
            let shape = Shape {
                rows,
                outputs: 1,
                kind,
            };
            lower(model.plan(), shape, &options)
        });
        Ok(lowered.into_iter().collect::<Result<_, _>>()?)
    }
}

/// The kernels of some steps, each once.
fn once(steps: &[Lowered]) -> Vec<Kernel> {
    let mut kernels: Vec<Kernel> = Vec::new();
    for spec in steps.iter().flat_map(|step| &step.kernels) {
        let kernel = spec.kernel();
        if kernels.iter().all(|k| k.name != kernel.name) {
            kernels.push(kernel);
        }
    }
    kernels
}

/// The first line of what a kernel's author says of it.
fn about(kernel: &Kernel) -> &str {
    let mut lines = kernel.doc.lines().map(str::trim);
    lines.find(|l| !l.is_empty()).unwrap_or("")
}

fn as_json(kernel: &Kernel) -> Value {
    let (_, shared) = kernel.shared_offsets();
    json!({
        "name": kernel.name,
        "threads": kernel.threads(),
        "shared_bytes": shared,
        "parameters": kernel.params.len(),
        "about": about(kernel),
    })
}

fn listing(kernels: &[Kernel]) -> String {
    let mut table = Table::new(&[
        "kernel",
        ">threads",
        ">shared",
        ">parameters",
        "what it does",
    ]);
    for kernel in kernels {
        let (_, shared) = kernel.shared_offsets();
        table.row([
            kernel.name.clone(),
            kernel.threads().to_string(),
            figures::bytes(u64::from(shared)),
            kernel.params.len().to_string(),
            about(kernel).to_owned(),
        ]);
    }
    table.render()
}
