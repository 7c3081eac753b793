//! Answers of texts and conversations: lines as they come, or one object.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::response::{IntoResponse, Response};
use gannet_engine::tool_calls::ReplyPart;
use gannet_engine::{Finish, Generation};
use serde_json::{Value, json};

use crate::server::conversation::{Call, Replies, Reply};
use crate::server::error::{ApiError, Dialect};
use crate::server::generation::Token;
use crate::server::loaded::Loaded;
use crate::server::openai::log_probs;
use crate::server::sse::{self, Gone, Sink};

/// Whose answer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Generate,
    Chat,
}

/// What all lines of an answer share.
pub(super) struct Head {
    pub(super) route: Route,
    /// The name that was asked for.
    pub(super) name: String,
    pub(super) model: Arc<Loaded>,
    pub(super) begun: Instant,
    /// What loading the model took.
    pub(super) load: Duration,
}

/// The moment, as RFC 3339 has it.
fn now() -> String {
    jiff::Timestamp::now().to_string()
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What came since the last line.
#[derive(Debug, Default)]
struct Piece {
    text: String,
    thinking: String,
    calls: Vec<Call>,
    tokens: Vec<Token>,
}

impl Piece {
    fn is_empty(&self) -> bool {
        self.text.is_empty()
            && self.thinking.is_empty()
            && self.calls.is_empty()
            && self.tokens.is_empty()
    }
}

fn call_json(call: &Call) -> Value {
    json!({"id": call.id, "function": {"name": call.name, "arguments": call.object()}})
}

impl Head {
    /// A line.
    fn line(&self, piece: &Piece, done: bool) -> Value {
        let mut line = json!({"model": self.name, "created_at": now()});
        let thinking = (!piece.thinking.is_empty()).then_some(&piece.thinking);
        match self.route {
            Route::Generate => {
                line["response"] = json!(piece.text);
                if let Some(thinking) = thinking {
                    line["thinking"] = json!(thinking);
                }
            }
            Route::Chat => {
                let mut message = json!({"role": "assistant", "content": piece.text});
                if let Some(thinking) = thinking {
                    message["thinking"] = json!(thinking);
                }
                if !piece.calls.is_empty() {
                    message["tool_calls"] = piece.calls.iter().map(call_json).collect();
                }
                line["message"] = message;
            }
        }
        let tokenizer = self.model.model().tokenizer();
        let log_probs = piece.tokens.iter();
        let log_probs: Vec<Value> = log_probs
            .filter_map(|token| log_probs::of_chat(tokenizer, token))
            .collect();
        if !log_probs.is_empty() {
            line["logprobs"] = Value::Array(log_probs);
        }
        line["done"] = json!(done);
        line
    }

    /// The last line.
    fn last(&self, piece: &Piece, generation: &Generation) -> Value {
        let mut line = self.line(piece, true);
        line["done_reason"] = json!(match generation.finish {
            Finish::Length | Finish::Context => "length",
            Finish::EndOfText | Finish::StopString | Finish::Stopped | Finish::Deadline => "stop",
        });
        for (name, value) in [
            ("total_duration", nanoseconds(self.begun.elapsed())),
            ("load_duration", nanoseconds(self.load)),
            ("prompt_eval_count", generation.prompt_tokens as u64),
            ("prompt_eval_duration", nanoseconds(generation.prompt_time)),
            ("eval_count", generation.tokens.len() as u64),
            ("eval_duration", nanoseconds(generation.decode_time)),
        ] {
            line[name] = json!(value);
        }
        line
    }

    /// The answer to who wants no text: the model was loaded, or unloaded.
    pub(super) fn nothing(&self, reason: &str) -> Value {
        let mut line = self.line(&Piece::default(), true);
        line["done_reason"] = json!(reason);
        line
    }

    /// The answer.
    pub(super) async fn answer(
        self,
        replies: Replies,
        streams: bool,
    ) -> Result<Response, ApiError> {
        if streams {
            return Ok(sse::lines(move |sink| async move {
                stream(&sink, &self, replies).await
            }));
        }
        let mut reading = Reading::new(replies);
        let mut all = Piece::default();
        loop {
            match reading.next().await? {
                Next::Piece(piece) => {
                    all.text.push_str(&piece.text);
                    all.thinking.push_str(&piece.thinking);
                    all.calls.extend(piece.calls);
                    all.tokens.extend(piece.tokens);
                }
                Next::End(generation) => {
                    return Ok(Json(self.last(&all, &generation)).into_response());
                }
            }
        }
    }
}

/// What comes next of a reply.
enum Next {
    Piece(Piece),
    End(Box<Generation>),
}

/// A reply whose calls come whole.
struct Reading {
    replies: Replies,
    /// The call that has not ended.
    open: Call,
    /// Tokens that no piece has told of.
    tokens: Vec<Token>,
    end: Option<Box<Generation>>,
}

impl Reading {
    fn new(replies: Replies) -> Reading {
        Reading {
            replies,
            open: Call::default(),
            tokens: Vec::new(),
            end: None,
        }
    }

    async fn next(&mut self) -> Result<Next, ApiError> {
        loop {
            if let Some(end) = self.end.take() {
                return Ok(Next::End(end));
            }
            let mut piece = Piece::default();
            match self.replies.next().await {
                None => return Err(ApiError::internal("the reply has no end")),
                Some(next) => match next?.1 {
                    Reply::Token(token) => self.tokens.push(token),
                    Reply::Part(part) => self.part(part, &mut piece),
                    Reply::End(generation) => {
                        self.end = Some(Box::new(generation));
                        piece.tokens = std::mem::take(&mut self.tokens);
                    }
                },
            }
            if !piece.is_empty() {
                piece.tokens.append(&mut self.tokens);
                return Ok(Next::Piece(piece));
            }
        }
    }

    fn part(&mut self, part: ReplyPart, piece: &mut Piece) {
        match part {
            ReplyPart::Text(text) => piece.text = text,
            ReplyPart::Reasoning(text) => piece.thinking = text,
            ReplyPart::CallStart { id, name, .. } => {
                self.open = Call {
                    id,
                    name,
                    arguments: String::new(),
                };
            }
            ReplyPart::CallArguments { delta, .. } => self.open.arguments.push_str(&delta),
            ReplyPart::CallEnd { .. } => piece.calls.push(std::mem::take(&mut self.open)),
            // Whatever else there will be is no part of a message.
            _ => {}
        }
    }
}

async fn stream(sink: &Sink, head: &Head, replies: Replies) -> Result<(), Gone> {
    let mut reading = Reading::new(replies);
    loop {
        match reading.next().await {
            Ok(Next::Piece(piece)) => sink.line(&head.line(&piece, false)).await?,
            Ok(Next::End(end)) => return sink.line(&head.last(&Piece::default(), &end)).await,
            // Nothing follows: no end that looks like a good one.
            Err(error) => {
                sink.fail();
                return sink.line(&error.body(Dialect::Ollama)).await;
            }
        }
    }
}
