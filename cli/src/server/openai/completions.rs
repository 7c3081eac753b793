//! `/v1/completions`: text continued as it is.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{StreamOptions, Usage, finish_reason, log_probs, new_id};
use crate::server::app::App;
use crate::server::body::Object;
use crate::server::controls::{Controls, MOST_TOP, out_of_range};
use crate::server::error::{ApiError, Dialect};
use crate::server::generation::{Choice, Job, Part, Running, Token, finished};
use crate::server::loaded::Loaded;
use crate::server::sse::{self, Gone, Sink};
use crate::times::unix_seconds;

/// Tokens to generate where nobody said how many.
const DEFAULT_TOKENS: usize = 16;

/// Prompts that a request may have.
const MOST_PROMPTS: usize = 128;

/// Text or tokens, one prompt or several.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Prompts {
    /// One, as text.
    Text(String),
    /// Several, as text.
    Texts(Vec<String>),
    /// One, as tokens.
    Tokens(Vec<u32>),
    /// Several, as tokens.
    ManyTokens(Vec<Vec<u32>>),
}

/// A request; it also has the parameters of `Controls`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CompletionRequest {
    /// The model's name; the only one by default.
    model: Option<String>,
    /// What to continue.
    prompt: Prompts,
    /// Send the text as it comes.
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    /// How many of the most likely tokens to report with each token.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 20)]
    logprobs: Option<u64>,
    /// Not supported but false.
    #[serde(default)]
    echo: Option<bool>,
    /// Not supported but empty.
    #[serde(default)]
    suffix: Option<String>,
    /// Only what `n` says.
    #[serde(default)]
    best_of: Option<u64>,
}

impl CompletionRequest {
    fn check(&self, n: usize) -> Result<(), ApiError> {
        if self.echo == Some(true) {
            return Err(ApiError::unsupported(
                "echo",
                "the prompt is not sent back; leave it out",
            ));
        }
        if self
            .suffix
            .as_deref()
            .is_some_and(|suffix| !suffix.is_empty())
        {
            return Err(ApiError::unsupported(
                "suffix",
                "text is only continued; leave it out",
            ));
        }
        if self.best_of.is_some_and(|best| best != n as u64) {
            return Err(ApiError::unsupported(
                "best_of",
                "every answer is sent; leave it out",
            ));
        }
        match self.logprobs {
            Some(most) if most > MOST_TOP => Err(out_of_range("logprobs", most, "0 to 20")),
            _ => Ok(()),
        }
    }

    fn prompts(self, model: &Loaded) -> Result<Vec<Vec<u32>>, ApiError> {
        let tokenizer = model.model().tokenizer();
        let encode = |text: &str| tokenizer.encode_prompt(&[], text, true);
        let prompts = match self.prompt {
            Prompts::Text(text) => vec![encode(&text)],
            Prompts::Texts(texts) => {
                check_count(texts.len())?;
                texts.iter().map(|text| encode(text)).collect()
            }
            Prompts::Tokens(tokens) => vec![tokens],
            Prompts::ManyTokens(many) => many,
        };
        check_count(prompts.len())?;
        match prompts.iter().any(Vec::is_empty) {
            true => Err(ApiError::param(
                "prompt",
                "prompt is empty; give some text to continue",
            )),
            false => Ok(prompts),
        }
    }
}

fn check_count(prompts: usize) -> Result<(), ApiError> {
    match prompts {
        1..=MOST_PROMPTS => Ok(()),
        _ => Err(out_of_range(
            "prompt",
            format!("{prompts} prompts"),
            "1 to 128",
        )),
    }
}

/// What every chunk and the whole answer begin with.
struct Head {
    id: String,
    created: u64,
    model: Arc<Loaded>,
    log_probs: bool,
    n: usize,
}

impl Head {
    fn json(&self, choices: Value) -> Value {
        json!({
            "id": self.id, "object": "text_completion", "created": self.created,
            "model": self.model.id(), "choices": choices,
        })
    }

    fn log_probs(&self, tokens: &[Token], offset: usize) -> Value {
        match self.log_probs {
            true => log_probs::of_completion(self.model.model().tokenizer(), tokens, offset),
            false => Value::Null,
        }
    }

    fn choice(&self, index: usize, text: &str, log_probs: Value, finish: Option<&str>) -> Value {
        json!({"index": index, "text": text, "logprobs": log_probs, "finish_reason": finish})
    }
}

/// Text continued.
#[utoipa::path(post, path = "/v1/completions", tag = "openai", request_body = CompletionBody, responses(
    (status = 200, description = "The text, whole or as events", body = Value),
))]
pub(crate) async fn create(State(app): State<App>, mut body: Object) -> Result<Response, ApiError> {
    let controls: Controls = body.part(Controls::NAMES)?;
    let request: CompletionRequest = body.rest()?;
    let n = controls.choices()?;
    request.check(n)?;
    let mut options = controls.options(DEFAULT_TOKENS)?;
    let model = app.models.get(request.model.as_deref()).await?;
    options.max_tokens = options.max_tokens.min(model.engine().context());
    let (streams, stream_options) = (request.stream, request.stream_options);
    let log_probs = request.logprobs.map(|most| most as usize);
    let job = Job {
        n,
        logit_bias: controls.logit_bias(model.model())?,
        log_probs,
        min_tokens: controls.min_tokens(),
        priority: controls.priority(),
        prompts: request.prompts(&model)?,
        deadline: app.config.timeout,
        options,
        ..Job::default()
    };
    let head = Head {
        id: new_id("cmpl-"),
        created: unix_seconds(),
        log_probs: log_probs.is_some(),
        n,
        model: Arc::clone(&model),
    };
    if stream_options.is_some() && streams != Some(true) {
        let why = "stream_options means nothing without stream";
        return Err(ApiError::param("stream_options", why));
    }
    let running = job.start(&model).await?;
    let usage = Usage::new(running.prompt_tokens());
    if streams == Some(true) {
        let with_usage = stream_options.and_then(|o| o.include_usage) == Some(true);
        return Ok(sse::events(move |sink| async move {
            stream(&sink, running, &head, usage, with_usage).await
        }));
    }
    let choices = running.collect().await?;
    Ok(Json(whole(&head, &choices, usage)).into_response())
}

/// The answer in one piece.
fn whole(head: &Head, choices: &[Choice], mut usage: Usage) -> Value {
    let mut shown = Vec::new();
    for (i, choice) in choices.iter().enumerate() {
        let Some(generation) = &choice.generation else {
            continue;
        };
        usage.add(generation, i % head.n == 0);
        let log_probs = head.log_probs(&choice.tokens, 0);
        let finish = finish_reason(generation.finish);
        shown.push(head.choice(i, &choice.text(), log_probs, Some(finish)));
    }
    let mut answer = head.json(Value::Array(shown));
    answer["usage"] = usage.json();
    answer
}

/// The answer piece by piece.
async fn stream(
    sink: &Sink,
    mut running: Running,
    head: &Head,
    mut usage: Usage,
    with_usage: bool,
) -> Result<(), Gone> {
    let mut offsets: Vec<usize> = Vec::new();
    while let Some(part) = running.next().await {
        match part {
            Part::Prompt => {}
            Part::Token { choice, token } => {
                if offsets.len() <= choice {
                    offsets.resize(choice + 1, 0);
                }
                let characters = token.text.chars().count();
                let tokens = std::slice::from_ref(&token);
                let log_probs = head.log_probs(tokens, offsets[choice]);
                offsets[choice] += characters;
                if token.text.is_empty() && !head.log_probs {
                    continue;
                }
                let piece = head.choice(choice, &token.text, log_probs, None);
                sink.data(&head.json(json!([piece]))).await?;
            }
            Part::Ended { choice, result } => match result.and_then(finished) {
                Ok(generation) => {
                    usage.add(&generation, choice % head.n == 0);
                    let finish = finish_reason(generation.finish);
                    let last = head.choice(choice, "", Value::Null, Some(finish));
                    sink.data(&head.json(json!([last]))).await?;
                }
                // Nothing follows: no end that looks like a good one.
                Err(error) => {
                    sink.fail();
                    return sink.data(&error.body(Dialect::OpenAi)).await;
                }
            },
        }
    }
    if with_usage {
        let mut last = head.json(json!([]));
        last["usage"] = usage.json();
        sink.data(&last).await?;
    }
    sink.done().await
}

/// The whole body of a request, for the document.
#[derive(ToSchema)]
#[expect(dead_code, reason = "read in two parts")]
pub(crate) struct CompletionBody {
    #[schema(inline)]
    #[serde(flatten)]
    request: CompletionRequest,
    #[schema(inline)]
    #[serde(flatten)]
    controls: Controls,
}
