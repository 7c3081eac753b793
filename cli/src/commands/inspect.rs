//! `gannet inspect`: what is in a model file, and what it would take to run it.
//!
//! Opens every sound container, also those of families that Gannet cannot run, vocabularies without
//! weights, and safetensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use gannet_engine::internals::files::Source;
use gannet_engine::internals::files::safetensors::{SafeTensors, weights_of};
use gannet_engine::internals::model::hf::HfFolder;
use gannet_engine::settings::DEFAULT_CONTEXT;
use gannet_engine::{Model, ModelOptions};
use gannet_gguf::{Gguf, Value, shown_path};
use serde_json::{Map, Value as Json, json};

use crate::console::{self, Console};
use crate::failure::Failure;
use crate::flags::refuse_no_file;
use crate::figures;
use crate::table::Table;

/// Arrays up to this long are shown whole.
const SHORT_ARRAY: usize = 8;
/// Elements shown of longer ones.
const SHOWN_ELEMENTS: usize = 4;
/// Characters shown of a text, outside JSON.
const SHOWN_CHARS: usize = 80;

/// Show metadata, tensors and what is needed to run a model (GGUF, safetensors or a folder of them)
#[derive(Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    file: Named,
    /// Judge a model whose file has keys or tensors that nothing here uses as if it had none
    #[arg(long)]
    ignore_unknown: bool,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Positions of the cache to compute the memory for [default: the model's, at most 4096]
    #[arg(long, value_name = "N")]
    ctx: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The file: named either way.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Named {
    /// Model file
    #[arg(value_name = "MODEL")]
    named: Option<PathBuf>,
    /// The same, as other commands take it
    #[arg(short, long = "model", value_name = "FILE")]
    model: Option<PathBuf>,
}

impl Inspect {
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        let path = self.file.named.or(self.file.model).unwrap_or_default();
        refuse_no_file(&path)?;
        let found = if path.is_dir() {
            of_folder(&path, self.ignore_unknown)?
        } else if is_safetensors(&path) {
            of_safetensors(&SafeTensors::open(&path).map_err(Failure::of)?)
        } else {
            of_gguf(&Gguf::open(&path)?)
        };
        let mut options = ModelOptions::default();
        options.ignore_unknown = self.ignore_unknown;
        let verdict = Verdict::of(&path, &options, self.ctx);
        if self.json {
            return console.json(&found.json(&verdict, self.tensors));
        }
        console.print(&found.text(&verdict, self.tensors))?;
        console.flush()?;
        for warning in found.warnings.iter().chain(&verdict.warnings(&found.warnings)) {
            console::say(&format!("warning: {warning}"));
        }
        Ok(())
    }
}

/// By name first: a damaged file is then refused by the reader that it was meant for.
fn is_safetensors(path: &Path) -> bool {
    let name = path.to_string_lossy().to_ascii_lowercase();
    name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")
}

/// What a container holds, whichever it is.
struct Found {
    file: PathBuf,
    format: String,
    bytes: u64,
    files: usize,
    /// Alignment of tensor data, where the format has one.
    alignment: Option<u64>,
    /// Keys, with values as text and as JSON.
    metadata: Vec<(String, String, Json)>,
    tensors: Vec<Tensor>,
    warnings: Vec<String>,
}

struct Tensor {
    name: String,
    /// Row-major: the last one is contiguous.
    shape: Vec<u64>,
    ty: String,
    bytes: u64,
}

impl Tensor {
    fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

fn of_gguf(gguf: &Gguf) -> Found {
    let tensors = gguf.tensors().iter().map(|t| Tensor {
        name: t.name.clone(),
        shape: t.dims.iter().rev().copied().collect(),
        ty: t.ty.name().to_owned(),
        bytes: t.bytes,
    });
    Found {
        file: gguf.path().to_owned(),
        format: format!("GGUF v{}", gguf.version()),
        bytes: gguf.file_bytes(),
        files: gguf.num_shards(),
        alignment: Some(gguf.alignment()),
        metadata: metadata(gguf),
        tensors: tensors.collect(),
        warnings: gguf.warnings().to_vec(),
    }
}

/// A folder as the file that it would be; of one that cannot be run, its tensors.
fn of_folder(path: &Path, ignore_unknown: bool) -> Result<Found, Failure> {
    let Ok(folder) = HfFolder::open(path, ignore_unknown) else {
        let weights = weights_of(path).map_err(Failure::of)?;
        let found = of_safetensors(&SafeTensors::open(&weights).map_err(Failure::of)?);
        return Ok(Found {
            file: path.to_owned(),
            ..found
        });
    };
    let tensor = |index| {
        let t = folder.tensor(index);
        Tensor {
            name: t.name.to_owned(),
            shape: t.dims.iter().rev().copied().collect(),
            ty: t.ty.name().to_owned(),
            bytes: t.bytes(),
        }
    };
    Ok(Found {
        file: path.to_owned(),
        format: "a folder of safetensors, as GGUF".to_owned(),
        bytes: folder.file_bytes(),
        files: folder.files().len(),
        metadata: metadata(folder.header()),
        tensors: (0..folder.num_tensors()).map(tensor).collect(),
        alignment: None,
        warnings: folder.warnings().to_vec(),
    })
}

/// The keys of a GGUF file, with their values as text and as JSON.
fn metadata(gguf: &Gguf) -> Vec<(String, String, Json)> {
    let all = gguf.metadata().iter();
    all.map(|(key, value)| (key.to_owned(), value_text(&value), value_json(&value)))
        .collect()
}

fn of_safetensors(model: &SafeTensors) -> Found {
    let tensors = model.tensors().iter().map(|t| Tensor {
        name: t.name.clone(),
        shape: t.shape.clone(),
        ty: t.dtype.name().to_owned(),
        bytes: t.bytes.end - t.bytes.start,
    });
    let size = |file: &PathBuf| std::fs::metadata(file).map_or(0, |m| m.len());
    Found {
        file: model.path().to_owned(),
        format: "safetensors".to_owned(),
        bytes: model.files().iter().map(size).sum(),
        files: model.files().len(),
        alignment: None,
        metadata: model
            .metadata()
            .map(|(key, value)| (key.to_owned(), quoted(value), Json::from(value)))
            .collect(),
        tensors: tensors.collect(),
        warnings: Vec::new(),
    }
}

/// Whether Gannet runs the model, and the memory that it takes; or why not.
enum Verdict {
    Runs { model: Box<Model>, context: usize },
    No(String),
}

impl Verdict {
    fn of(path: &Path, options: &ModelOptions, context: Option<usize>) -> Verdict {
        match Model::open_with(path, options) {
            Ok(model) => {
                let usual = model.hparams().context_length.min(DEFAULT_CONTEXT);
                Verdict::Runs {
                    model: Box::new(model),
                    context: context.unwrap_or(usual).max(1),
                }
            }
            Err(error) => {
                let (line, file) = (error.to_string(), format!("{}: ", shown_path(path)));
                // The file was named already.
                let why = line.strip_prefix(&file).map(str::to_owned);
                Verdict::No(why.unwrap_or(line))
            }
        }
    }

    /// What is odd about a model that runs, its file's own oddities aside.
    fn warnings(&self, of_file: &[String]) -> Vec<String> {
        match self {
            Verdict::Runs { model, .. } => {
                let all = model.warnings().map(str::to_owned);
                all.filter(|warning| !of_file.contains(warning)).collect()
            }
            Verdict::No(_) => Vec::new(),
        }
    }

    fn text(&self) -> String {
        match self {
            Verdict::Runs { model, context } => {
                let (weights, gpu, cpu) = memory(model, *context);
                let h = model.hparams();
                format!(
                    "runs: yes, as {}: {} layers, hidden size {}, {} heads over {} KV heads of {}, \
                     ffn size {}, vocabulary {}, trained for {} positions\n\
                     memory: weights {}; keys and values of {context} positions {} on a GPU, {} on \
                     the CPU\n",
                    h.arch,
                    h.num_layers,
                    h.hidden_size,
                    h.num_heads,
                    h.num_kv_heads,
                    h.head_dim,
                    h.ffn_size,
                    model.plan().vocab_size,
                    h.context_length,
                    figures::bytes(weights),
                    figures::bytes(gpu),
                    figures::bytes(cpu),
                )
            }
            Verdict::No(why) => format!("runs: no: {why}\n"),
        }
    }

    fn json(&self) -> Json {
        match self {
            Verdict::Runs { model, context } => {
                let (weights, gpu, cpu) = memory(model, *context);
                let h = model.hparams();
                json!({
                    "supported": true,
                    "family": h.arch,
                    "num_layers": h.num_layers,
                    "hidden_size": h.hidden_size,
                    "num_heads": h.num_heads,
                    "num_kv_heads": h.num_kv_heads,
                    "head_dim": h.head_dim,
                    "ffn_size": h.ffn_size,
                    "vocab_size": model.plan().vocab_size,
                    "context_length": h.context_length,
                    "memory": {
                        "context": context,
                        "weight_bytes": weights,
                        "kv_bytes_cuda": gpu,
                        "kv_bytes_cpu": cpu,
                    },
                })
            }
            Verdict::No(why) => json!({ "supported": false, "reason": why }),
        }
    }
}

/// Bytes of the weights, and of the cache in f16 (GPU) and in f32 (CPU).
fn memory(model: &Model, context: usize) -> (u64, u64, u64) {
    let caches = &model.plan().caches;
    let position = caches
        .iter()
        .map(|cache| 2 * cache.width() as u64)
        .sum::<u64>();
    let elements = position.saturating_mul(context as u64);
    (
        model.weight_total(),
        elements.saturating_mul(2),
        elements.saturating_mul(4),
    )
}

/// Tensors of one type.
#[derive(Default)]
struct OfType {
    tensors: u64,
    elements: u64,
    bytes: u64,
}

impl Found {
    fn types(&self) -> BTreeMap<&str, OfType> {
        let mut types = BTreeMap::<&str, OfType>::new();
        for t in &self.tensors {
            let of = types.entry(&t.ty).or_default();
            of.tensors += 1;
            of.elements = of.elements.saturating_add(t.elements());
            of.bytes = of.bytes.saturating_add(t.bytes);
        }
        types
    }

    fn text(&self, verdict: &Verdict, list: bool) -> String {
        let mut out = format!(
            "{}: {}, {}, {}, {} metadata keys, {} tensors\n",
            shown_path(&self.file),
            self.format,
            figures::bytes(self.bytes),
            if self.files == 1 {
                "one file".to_owned()
            } else {
                format!("{} files", self.files)
            },
            self.metadata.len(),
            self.tensors.len()
        );
        out.push_str(&verdict.text());
        if !self.metadata.is_empty() {
            out.push_str("\nmetadata\n");
        }
        for (key, text, _) in &self.metadata {
            out.push_str(&format!("  {} = {text}\n", key.escape_debug()));
        }
        if !self.tensors.is_empty() {
            let mut table = Table::new(&["type", ">tensors", ">elements", ">bytes"]);
            for (ty, of) in self.types() {
                let numbers = [of.tensors, of.elements, of.bytes].map(figures::count);
                table.row(std::iter::once(ty.to_owned()).chain(numbers));
            }
            out.push_str(&format!("\n{}", table.render()));
        }
        if list && !self.tensors.is_empty() {
            let mut table = Table::new(&["tensor", "shape", "type", ">bytes"]);
            for t in &self.tensors {
                let name = t.name.escape_debug().to_string();
                table.row([
                    name,
                    format!("{:?}", t.shape),
                    t.ty.clone(),
                    figures::count(t.bytes),
                ]);
            }
            out.push_str(&format!("\n{}", table.render()));
        }
        out
    }

    fn json(&self, verdict: &Verdict, list: bool) -> Json {
        let types: Vec<_> = self
            .types()
            .into_iter()
            .map(|(ty, of)| {
                let OfType {
                    tensors,
                    elements,
                    bytes,
                } = of;
                json!({ "type": ty, "tensors": tensors, "elements": elements, "bytes": bytes })
            })
            .collect();
        let metadata: Map<String, Json> = self
            .metadata
            .iter()
            .map(|(key, _, value)| (key.clone(), value.clone()))
            .collect();
        let mut object = json!({
            "file": self.file.display().to_string(),
            "format": self.format,
            "bytes": self.bytes,
            "files": self.files,
            "alignment": self.alignment,
            "runs": verdict.json(),
            "metadata": metadata,
            "tensor_count": self.tensors.len(),
            "types": types,
            "warnings": self.warnings.iter().chain(&verdict.warnings(&self.warnings)).collect::<Vec<_>>(),
        });
        if list {
            let tensor = |t: &Tensor| json!({ "name": t.name, "shape": t.shape, "type": t.ty, "bytes": t.bytes });
            object["tensors"] = self.tensors.iter().map(tensor).collect();
        }
        object
    }
}

/// A metadata value on one line.
fn value_text(value: &Value<'_>) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(array) => {
            let long = array.len() > SHORT_ARRAY;
            let shown = if long { SHOWN_ELEMENTS } else { SHORT_ARRAY };
            let mut parts: Vec<_> = array.iter().take(shown).map(|v| value_text(&v)).collect();
            if long {
                let len = figures::count(array.len() as u64);
                parts.push(format!("... {len} {}", array.ty().name()));
            }
            format!("[{}]", parts.join(", "))
        }
        Value::Bool(b) => b.to_string(),
        Value::F32(v) => v.to_string(),
        _ => match value.as_int() {
            Some(int) => int.to_string(),
            None => match value.as_float() {
                Some(float) => float.to_string(),
                None => value.describe(),
            },
        },
    }
}

/// A metadata value as JSON; a long array as its type, length and first elements.
fn value_json(value: &Value<'_>) -> Json {
    match *value {
        Value::String(text) => Json::from(text),
        Value::Bool(b) => Json::from(b),
        Value::U64(n) => Json::from(n),
        // By its shortest decimal form: 1e-5 and not what the nearest f32 is as an f64.
        Value::F32(v) => v.to_string().parse::<f64>().map_or(Json::Null, Json::from),
        Value::Array(array) => {
            let long = array.len() > SHORT_ARRAY;
            let shown = if long { SHOWN_ELEMENTS } else { SHORT_ARRAY };
            let elements: Vec<Json> = array.iter().take(shown).map(|v| value_json(&v)).collect();
            if long {
                json!({ "type": array.ty().name(), "len": array.len(), "first": elements })
            } else {
                Json::from(elements)
            }
        }
        // What is left fits 64 bits with a sign, or is a float; JSON has no NaN: null.
        _ => match value.as_int().and_then(|int| i64::try_from(int).ok()) {
            Some(int) => Json::from(int),
            None => Json::from(value.as_float()),
        },
    }
}

/// A text from a file, quoted, escaped and cut, so that it stays on one line.
fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(SHOWN_CHARS).collect();
    let more = if cut.len() < text.len() { "..." } else { "" };
    format!("{cut:?}{more}")
}
