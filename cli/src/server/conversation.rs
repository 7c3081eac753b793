//! A turn of a conversation, in no dialect: messages to a prompt, and a reply to text, thoughts and calls.
//!
//! Every chat route reads its own words into a [`Turn`] and writes what [`Replies`] yields in its own words.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use gannet_engine::chat::{Message, TemplateOptions, Tool};
use gannet_engine::requests::Grammar;
use gannet_engine::tool_calls::{ReplyParser, ReplyPart, ToolChoice, ToolFormat, tool_grammar};
use gannet_engine::{GenerateOptions, Generation};
use serde_json::{Map, Value};

use super::error::ApiError;
use super::generation::{Job, Part, Running, Token, finished};
use super::loaded::Loaded;
use super::openai::new_id;

/// What is asked of a model in a conversation.
#[derive(Default)]
pub(crate) struct Turn {
    pub(crate) messages: Vec<Message>,
    pub(crate) tools: Vec<Tool>,
    /// How tools are to be used; `None`: as the model likes, unless there are none.
    pub(crate) tool_choice: Option<ToolChoice>,
    /// Whether several calls may come at once.
    pub(crate) parallel: bool,
    /// Whether calls come only once they are complete: what breaks off is text then.
    pub(crate) whole_calls: bool,
    /// What the text must match.
    pub(crate) format: Option<Grammar>,
    /// The parameter that said so.
    pub(crate) format_param: Option<&'static str>,
    /// Whether the model is to think, where it can.
    pub(crate) thinking: Option<bool>,
    /// Whether the last message, an assistant's, is the beginning of the reply.
    pub(crate) continues: bool,
    /// Variables of the template: names and JSON.
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) options: GenerateOptions,
    pub(crate) n: usize,
    pub(crate) logit_bias: Vec<(u32, f32)>,
    pub(crate) log_probs: Option<usize>,
    pub(crate) min_tokens: usize,
    pub(crate) priority: u8,
    /// Prefixes are shared among turns of equal numbers.
    pub(crate) salt: u64,
    pub(crate) deadline: Option<Duration>,
}

/// A prompt, and how its reply is to be read.
pub(crate) struct Prompt {
    pub(crate) tokens: Vec<u32>,
    pub(crate) text: String,
    format: Option<ToolFormat>,
    thinks: bool,
    in_thought: bool,
    whole_calls: bool,
}

impl Prompt {
    fn parser(&self) -> ReplyParser {
        let parser = ReplyParser::new(self.format, self.thinks, self.in_thought);
        match self.whole_calls {
            true => parser.whole_calls(),
            false => parser,
        }
    }
}

impl Turn {
    /// The prompt of the turn.
    pub(crate) fn prompt(&self, model: &Loaded) -> Result<Prompt, ApiError> {
        let template = model.template()?;
        if !self.tools.is_empty() && !template.takes_tools() {
            let why = format!(
                "the chat template {} has no place for tools; leave them out, or start the server with \
                 --chat-template",
                template.name()
            );
            return Err(ApiError::param("tools", why).code("unsupported_parameter"));
        }
        let options = TemplateOptions {
            add_generation_prompt: !self.continues,
            continue_final_message: self.continues,
            thinking: self.thinking,
            variables: self.variables.clone(),
            ..TemplateOptions::default()
        };
        let text = template.render(&self.messages, &self.tools, &options);
        let text = text.map_err(|e| ApiError::param("messages", e.to_string()))?;
        let tokens = template.prompt_tokens(model.model().tokenizer(), &text);
        let format = match self.tools.is_empty() {
            true => None,
            false => model.tool_format(),
        };
        let in_thought = text.trim_end().ends_with("<think>");
        Ok(Prompt {
            tokens,
            format,
            thinks: template.thinks(),
            in_thought,
            whole_calls: self.whole_calls,
            text,
        })
    }

    /// What the whole reply must match: thoughts, calls that must come or must be exact, and the format of
    /// its text.
    fn grammar(&self, model: &Loaded, prompt: &Prompt) -> Result<Option<Grammar>, ApiError> {
        let thinks = prompt.thinks && self.thinking != Some(false);
        let must = match &self.tool_choice {
            Some(ToolChoice::Required | ToolChoice::Named(_)) => true,
            Some(ToolChoice::Auto) | None => self.tools.iter().any(|t| t.strict == Some(true)),
        };
        let has_answer = self.format.is_some() && (!self.tools.is_empty() || thinks);
        if !must && !has_answer {
            return Ok(self.format.clone());
        }
        let format = match model.tool_format() {
            Some(format) => format,
            // Nothing of it is looked for.
            None if self.tools.is_empty() => ToolFormat::Hermes,
            None => {
                let why = "the template of this model has no calls of tools; leave tool_choice and tools out";
                return Err(ApiError::param("tool_choice", why));
            }
        };
        let tools: Vec<(String, String)> = (self.tools.iter())
            .map(|tool| {
                let schema = tool.parameters.clone();
                let any = || r#"{"type": "object"}"#.to_owned();
                (tool.name.clone(), schema.unwrap_or_else(any))
            })
            .collect();
        let choice = self.tool_choice.clone().unwrap_or_default();
        let answer = self.format.clone();
        let grammar = tool_grammar(format, &tools, choice, self.parallel, thinks, answer);
        Ok(Some(match prompt.in_thought {
            true => grammar.in_thinking(),
            false => grammar,
        }))
    }

    /// Starts it.
    pub(crate) async fn start(self, model: &Arc<Loaded>) -> Result<Replies, ApiError> {
        let prompt = self.prompt(model)?;
        let grammar = self.grammar(model, &prompt)?;
        self.begin(prompt, grammar, model).await
    }

    /// Starts it with a text instead of messages, which is gone on with as it is.
    pub(crate) async fn start_bare(
        self,
        text: &str,
        model: &Arc<Loaded>,
    ) -> Result<Replies, ApiError> {
        let prompt = Prompt {
            tokens: model.model().tokenizer().encode_prompt(&[], text, true),
            text: text.to_owned(),
            format: None,
            thinks: false,
            in_thought: false,
            whole_calls: false,
        };
        let grammar = self.format.clone();
        self.begin(prompt, grammar, model).await
    }

    async fn begin(
        self,
        prompt: Prompt,
        grammar: Option<Grammar>,
        model: &Arc<Loaded>,
    ) -> Result<Replies, ApiError> {
        let n = self.n.max(1);
        let parsers = (0..n).map(|_| prompt.parser()).collect();
        let mut options = self.options;
        // A reply has no end of its own but the context's.
        options.max_tokens = options.max_tokens.min(model.engine().context());
        if prompt.format.is_some() || prompt.thinks {
            let tokenizer = model.model().tokenizer();
            options.shown_tokens = ToolFormat::shown_tokens(prompt.format, tokenizer);
        }
        let job = Job {
            prompts: vec![prompt.tokens],
            n,
            options,
            logit_bias: self.logit_bias,
            log_probs: self.log_probs,
            min_tokens: self.min_tokens,
            priority: self.priority,
            salt: self.salt,
            deadline: self.deadline,
            grammar,
        };
        let running = job.start(model).await.map_err(|error| match error.code {
            Some("invalid_grammar") => error.about(self.format_param.unwrap_or("response_format")),
            _ => error,
        })?;
        Ok(Replies {
            running,
            parsers,
            ready: VecDeque::new(),
        })
    }
}

/// What comes of a turn.
#[derive(Debug)]
pub(crate) enum Reply {
    /// A token with its log-probabilities, in front of what it says.
    Token(Token),
    /// Part of the text, of thoughts, or of a call.
    Part(ReplyPart),
    /// The end.
    End(Generation),
}

/// Replies as they come, `n` of them.
pub(crate) struct Replies {
    running: Running,
    parsers: Vec<ReplyParser>,
    ready: VecDeque<(usize, Reply)>,
}

impl Replies {
    /// Tokens of the prompt.
    pub(crate) fn prompt_tokens(&self) -> usize {
        self.running.prompt_tokens()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.parsers.len()
    }

    /// What comes next, and of which reply; `None` after the end of all.
    pub(crate) async fn next(&mut self) -> Option<Result<(usize, Reply), ApiError>> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(Ok(ready));
            }
            match self.running.next().await? {
                Part::Prompt => {}
                Part::Token { choice, token } => {
                    let parts = self.parsers[choice].push(&token.text);
                    if token.log_probs.is_some() {
                        self.ready.push_back((choice, Reply::Token(token)));
                    }
                    self.add(choice, parts);
                }
                Part::Ended { choice, result } => match result.and_then(finished) {
                    Ok(generation) => {
                        let parts = self.parsers[choice].finish();
                        self.add(choice, parts);
                        self.ready.push_back((choice, Reply::End(generation)));
                    }
                    Err(error) => return Some(Err(error)),
                },
            }
        }
    }

    fn add(&mut self, choice: usize, parts: Vec<ReplyPart>) {
        let named = parts.into_iter().map(|part| match part {
            // Calls of one conversation are told apart by their ids.
            ReplyPart::CallStart { index, name, .. } => ReplyPart::CallStart {
                index,
                id: new_id("call_"),
                name,
            },
            part => part,
        });
        self.ready
            .extend(named.map(|part| (choice, Reply::Part(part))));
    }

    /// Waits for the ends of all replies.
    pub(crate) async fn collect(mut self) -> Result<Vec<Whole>, ApiError> {
        let mut wholes: Vec<Whole> = Vec::new();
        wholes.resize_with(self.parsers.len(), Whole::default);
        while let Some(next) = self.next().await {
            let (choice, reply) = next?;
            wholes[choice].add(reply);
        }
        Ok(wholes)
    }
}

/// A call of a tool.
#[derive(Debug, Default, Clone)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) name: String,
    /// JSON.
    pub(crate) arguments: String,
}

impl Call {
    /// The arguments of a call that is complete.
    pub(crate) fn object(&self) -> Value {
        let arguments = serde_json::from_str::<Value>(&self.arguments).ok();
        let arguments = arguments.filter(Value::is_object);
        arguments.unwrap_or_else(|| Value::Object(Map::new()))
    }
}

/// A reply that has ended.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    pub(crate) text: String,
    pub(crate) reasoning: String,
    pub(crate) calls: Vec<Call>,
    /// Tokens with log-probabilities, where they were asked for.
    pub(crate) tokens: Vec<Token>,
    pub(crate) generation: Option<Generation>,
}

impl Whole {
    fn add(&mut self, reply: Reply) {
        match reply {
            Reply::Token(token) => self.tokens.push(token),
            Reply::Part(ReplyPart::Text(text)) => self.text.push_str(&text),
            Reply::Part(ReplyPart::Reasoning(text)) => self.reasoning.push_str(&text),
            Reply::Part(ReplyPart::CallStart { id, name, .. }) => self.calls.push(Call {
                id,
                name,
                arguments: String::new(),
            }),
            Reply::Part(ReplyPart::CallArguments { index, delta }) => {
                if let Some(call) = self.calls.get_mut(index) {
                    call.arguments.push_str(&delta);
                }
            }
            // An end says nothing, and what else there will be is no part of this.
            Reply::Part(_) => {}
            Reply::End(generation) => self.generation = Some(generation),
        }
    }
}
