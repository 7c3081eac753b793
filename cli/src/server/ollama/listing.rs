//! What models there are, what is known of one, and which are loaded.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use gannet_engine::tool_calls::ToolFormat;
use gannet_gguf::{Gguf, Value as Known};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::embedded;
use crate::server::app::App;
use crate::server::body::Untyped;
use crate::server::error::ApiError;
use crate::server::folder::Source;
use crate::server::models::Listed;

/// The version of Ollama's interface that these routes follow: clients look for what they need by it.
const VERSION: &str = "0.12.6";

/// The version.
#[utoipa::path(get, path = "/api/version", tag = "ollama", responses(
    (status = 200, description = "The version of Ollama's interface that is spoken, and the program's own", body = Value),
))]
pub(crate) async fn version() -> Json<Value> {
    Json(json!({"version": VERSION, "gannet": env!("CARGO_PKG_VERSION")}))
}

/// What is known of a model's file.
struct About {
    gguf: Option<Gguf>,
    bytes: u64,
    changed: jiff::Timestamp,
    digest: String,
}

/// What a name with Ollama's tag looks like.
fn tagged(id: &str) -> String {
    match id.contains(':') {
        true => id.to_owned(),
        false => format!("{id}:latest"),
    }
}

impl About {
    /// Reads the head of a file. One that cannot be read has no details.
    fn of(id: &str, source: &Source) -> About {
        let (gguf, changed) = match source {
            Source::Embedded => (embedded::container().ok(), None),
            Source::File(path) => (Gguf::open(path).ok(), modified(path)),
        };
        let bytes = match (&gguf, source) {
            (Some(gguf), _) => gguf.file_bytes(),
            (None, Source::File(path)) => folder_bytes(path),
            (None, Source::Embedded) => 0,
        };
        let changed = changed.unwrap_or(SystemTime::UNIX_EPOCH);
        About {
            digest: digest(id, bytes, changed),
            changed: jiff::Timestamp::try_from(changed).unwrap_or_default(),
            bytes,
            gguf,
        }
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.gguf.as_ref()?.metadata().opt_str(key).ok().flatten()
    }

    fn details(&self) -> Value {
        let family = self.text("general.architecture").unwrap_or("unknown");
        let (size, level) = match &self.gguf {
            Some(gguf) => (parameters(gguf), level(gguf)),
            None => (String::new(), String::new()),
        };
        json!({
            "parent_model": "",
            "format": if self.gguf.is_some() { "gguf" } else { "safetensors" },
            "family": family,
            "families": [family],
            "parameter_size": size,
            "quantization_level": level,
        })
    }

    fn listed(&self, id: &str) -> Value {
        let name = tagged(id);
        json!({
            "name": name, "model": name, "modified_at": self.changed.to_string(), "size": self.bytes,
            "digest": self.digest, "details": self.details(),
        })
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}

fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| entry.metadata().ok());
    sizes
        .filter(std::fs::Metadata::is_file)
        .map(|data| data.len())
        .sum()
}

/// What tells versions of a model apart: its name, size and time. Reading all of a large file would take
/// longer than clients wait for a list.
fn digest(id: &str, bytes: u64, changed: SystemTime) -> String {
    let word = |i: u64| {
        let mut hasher = DefaultHasher::new();
        (i, id, bytes, changed).hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    };
    (0..4).map(word).collect()
}

/// How many weights: `12.1M`, `8.0B`.
fn parameters(gguf: &Gguf) -> String {
    let weights: u64 = gguf.tensors().iter().map(|tensor| tensor.elements()).sum();
    let weights = weights as f64;
    match weights {
        _ if weights >= 1e9 => format!("{:.1}B", weights / 1e9),
        _ if weights >= 1e6 => format!("{:.1}M", weights / 1e6),
        _ => format!("{:.1}K", weights / 1e3),
    }
}

/// The format of most weights.
fn level(gguf: &Gguf) -> String {
    let mut counts = std::collections::BTreeMap::<&str, u64>::new();
    for tensor in gguf.tensors() {
        *counts.entry(tensor.ty.name()).or_default() += tensor.elements();
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    most.map_or_else(String::new, |(name, _)| name.to_owned())
}

/// Looks at files on a thread that may wait for them.
async fn about(all: Vec<(String, Source)>) -> Result<Vec<(String, About)>, ApiError> {
    let look = move || {
        let each = all.into_iter().map(|(id, source)| {
            let about = About::of(&id, &source);
            (id, about)
        });
        each.collect()
    };
    let looked = tokio::task::spawn_blocking(look).await;
    looked.map_err(|e| ApiError::internal(e.to_string()))
}

fn owned(listed: &Listed<'_>) -> (String, Source) {
    (listed.id.to_owned(), listed.source.clone())
}

/// All models.
#[utoipa::path(get, path = "/api/tags", tag = "ollama", responses(
    (status = 200, description = "The models, loaded or not", body = Value),
))]
pub(crate) async fn tags(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let all = about(app.models.list().map(|listed| owned(&listed)).collect()).await?;
    let models: Vec<Value> = all.iter().map(|(id, about)| about.listed(id)).collect();
    Ok(Json(json!({"models": models})))
}

/// Models that are loaded.
#[utoipa::path(get, path = "/api/ps", tag = "ollama", responses(
    (status = 200, description = "The models that are loaded, and until when", body = Value),
))]
pub(crate) async fn ps(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let loaded: Vec<_> = app
        .models
        .list()
        .filter_map(|l| Some((owned(&l), l.loaded?)))
        .collect();
    let all = about(loaded.iter().map(|(listed, _)| listed.clone()).collect()).await?;
    let for_ever = Duration::from_secs(100 * 365 * 86_400);
    let models: Vec<Value> = (all.iter().zip(&loaded))
        .map(|((id, about), (_, loaded))| {
            let left = app
                .models
                .idle()
                .map_or(for_ever, |idle| loaded.goes_in(idle));
            let expires = jiff::Timestamp::now()
                .checked_add(left)
                .unwrap_or(jiff::Timestamp::MAX);
            let mut shown = about.listed(id);
            shown["expires_at"] = json!(expires.to_string());
            shown["size_vram"] = json!(if loaded.on_gpu() { about.bytes } else { 0 });
            shown["context_length"] = json!(loaded.engine().context());
            shown
        })
        .collect();
    Ok(Json(json!({"models": models})))
}

/// A model by name.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShowRequest {
    /// Its name.
    model: Option<String>,
    /// An older name of `model`.
    name: Option<String>,
    /// Whether long arrays are told too.
    verbose: Option<bool>,
}

/// Longest array that is told without `verbose`.
const SHORT: usize = 16;

fn known_json(value: &Known<'_>, verbose: bool) -> Value {
    if let Some(array) = value.as_array() {
        return match verbose || array.len() <= SHORT {
            true => array
                .iter()
                .map(|value| known_json(&value, verbose))
                .collect(),
            false => Value::Null,
        };
    }
    if let Some(text) = value.as_str() {
        return json!(text);
    }
    if let Some(is) = value.as_bool() {
        return json!(is);
    }
    match value.as_int() {
        Some(int) => i64::try_from(int).map_or_else(|_| json!(int as f64), |int| json!(int)),
        None => json!(value.as_float()),
    }
}

/// Whether a key names a matrix of Jinja's, which has a field of its own.
fn is_told(key: &str) -> bool {
    !key.starts_with("tokenizer.chat_template")
}

/// What is known of a model.
#[utoipa::path(post, path = "/api/show", tag = "ollama", request_body = ShowRequest, responses(
    (status = 200, description = "The model's metadata, template and capabilities", body = Value),
))]
pub(crate) async fn show(
    State(app): State<App>,
    Untyped(body): Untyped,
) -> Result<Json<Value>, ApiError> {
    let request: ShowRequest = body.rest()?;
    let Some(name) = request.model.or(request.name) else {
        let missing = ApiError::param("model", "model is missing");
        return Err(missing.code("missing_required_parameter"));
    };
    let listed = app.models.find(&name)?;
    let template = listed
        .loaded
        .as_ref()
        .and_then(|loaded| Some(loaded.template().ok()?.source().to_owned()));
    let mut all = about(vec![owned(&listed)]).await?;
    let Some((_, about)) = all.pop() else {
        return Err(ApiError::internal("nothing was looked at"));
    };
    let of_file = about.text("tokenizer.chat_template").map(str::to_owned);
    let template = template.or(of_file).unwrap_or_default();
    let verbose = request.verbose == Some(true);
    let mut info = Map::new();
    if let Some(gguf) = &about.gguf {
        let told = gguf.metadata().iter().filter(|(key, _)| is_told(key));
        info.extend(told.map(|(key, value)| (key.to_owned(), known_json(&value, verbose))));
        let weights: u64 = gguf.tensors().iter().map(|tensor| tensor.elements()).sum();
        info.insert("general.parameter_count".to_owned(), json!(weights));
    }
    Ok(Json(json!({
        "modelfile": format!("# served by gannet\nFROM {}\n", listed.id),
        "parameters": "",
        "template": template,
        "license": about.text("general.license").unwrap_or_default(),
        "modified_at": about.changed.to_string(),
        "details": about.details(),
        "model_info": info,
        "capabilities": capabilities(&template, &about),
    })))
}

/// What a model can do, in Ollama's words.
fn capabilities(template: &str, about: &About) -> Vec<&'static str> {
    let mut can = vec!["completion"];
    if ToolFormat::of_template(template).is_some() {
        can.push("tools");
    }
    if template.contains("<think>") || template.contains("enable_thinking") {
        can.push("thinking");
    }
    let family = about.text("general.architecture").unwrap_or_default();
    let pools = about
        .gguf
        .as_ref()
        .and_then(|gguf| gguf.metadata().get(&format!("{family}.pooling_type")));
    if matches!(pools.and_then(|value| value.as_int()), Some(1 | 3)) {
        can.push("embedding");
    }
    can
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_tags() {
        assert_eq!(tagged("a"), "a:latest");
        assert_eq!(tagged("a:7b"), "a:7b");
    }

    #[cfg(feature = "embedded-model")]
    #[test]
    fn the_embedded_model_is_described() {
        let about = About::of("rustdoc-tiny", &Source::Embedded);
        let listed = about.listed("rustdoc-tiny");
        assert_eq!(listed["details"]["family"], "llama");
        assert_eq!(listed["details"]["quantization_level"], "Q4_K");
        assert_eq!(listed["digest"].as_str().unwrap().len(), 64);
        assert!(listed["size"].as_u64().unwrap() > 7_000_000);
        assert!(
            listed["details"]["parameter_size"]
                .as_str()
                .unwrap()
                .ends_with('M')
        );
        assert_eq!(capabilities("", &about), ["completion"]);
    }

    #[test]
    fn digests_differ_by_what_they_are_of() {
        let at = SystemTime::UNIX_EPOCH;
        assert_ne!(digest("a", 1, at), digest("b", 1, at));
        assert_ne!(digest("a", 1, at), digest("a", 2, at));
        assert_eq!(digest("a", 1, at), digest("a", 1, at));
    }
}
