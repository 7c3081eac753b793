//! A reply as Anthropic's events: a message that begins, blocks one after the other, and its end.

use std::time::Duration;

use gannet_engine::tool_calls::ReplyPart;
use serde_json::{Value, json};

use super::answer::{SIGNATURE, message, stop_reason, usage};
use crate::server::conversation::{Replies, Reply};
use crate::server::error::Dialect;
use crate::server::sse::{Gone, Sink};

/// Silence after which a ping says that the server is still there.
const PING: Duration = Duration::from_secs(10);

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Thinking,
    /// The call of this number.
    ToolUse(usize),
}

/// Events of blocks: one block is open at a time.
#[derive(Debug, Default)]
struct Blocks {
    open: Option<Kind>,
    /// Blocks that were begun.
    begun: usize,
    hide_thoughts: bool,
}

impl Blocks {
    fn delta(&self, delta: &Value) -> Value {
        json!({"type": "content_block_delta", "index": self.begun - 1, "delta": delta})
    }

    /// Ends the block that is open.
    fn end(&mut self, events: &mut Vec<Value>) {
        let Some(kind) = self.open.take() else {
            return;
        };
        if kind == Kind::Thinking {
            events.push(self.delta(&json!({"type": "signature_delta", "signature": SIGNATURE})));
        }
        events.push(json!({"type": "content_block_stop", "index": self.begun - 1}));
    }

    /// Goes on with a block of a kind, or begins one.
    fn go_on(&mut self, kind: Kind, block: Value, events: &mut Vec<Value>) {
        if self.open == Some(kind) {
            return;
        }
        self.end(events);
        self.open = Some(kind);
        events.push(
            json!({"type": "content_block_start", "index": self.begun, "content_block": block}),
        );
        self.begun += 1;
    }

    /// The events of a part.
    fn part(&mut self, part: ReplyPart) -> Vec<Value> {
        let mut events = Vec::new();
        match part {
            ReplyPart::Text(text) => {
                self.go_on(Kind::Text, json!({"type": "text", "text": ""}), &mut events);
                events.push(self.delta(&json!({"type": "text_delta", "text": text})));
            }
            ReplyPart::Reasoning(text) => {
                let block = json!({"type": "thinking", "thinking": "", "signature": ""});
                self.go_on(Kind::Thinking, block, &mut events);
                if !self.hide_thoughts {
                    events.push(self.delta(&json!({"type": "thinking_delta", "thinking": text})));
                }
            }
            ReplyPart::CallStart { index, id, name } => {
                let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                self.go_on(Kind::ToolUse(index), block, &mut events);
            }
            ReplyPart::CallArguments { delta, .. } => {
                events
                    .push(self.delta(&json!({"type": "input_json_delta", "partial_json": delta})));
            }
            ReplyPart::CallEnd { .. } => self.end(&mut events),
            // Whatever else there will be is no part of a message.
            _ => {}
        }
        events
    }
}

async fn event(sink: &Sink, event: &Value) -> Result<(), Gone> {
    let name = event["type"].as_str().unwrap_or_default();
    sink.event(name, event).await
}

/// Writes a reply.
pub(super) async fn stream(
    sink: &Sink,
    mut replies: Replies,
    id: &str,
    model: &str,
    hide_thoughts: bool,
) -> Result<(), Gone> {
    let prompt = replies.prompt_tokens();
    // What of the prompt was known already is known at the end.
    let begun = message(id, model, &usage(prompt, 0, 0));
    event(sink, &json!({"type": "message_start", "message": begun})).await?;
    event(sink, &json!({"type": "ping"})).await?;
    let mut blocks = Blocks {
        hide_thoughts,
        ..Blocks::default()
    };
    let mut calls = false;
    loop {
        let next = match tokio::time::timeout(PING, replies.next()).await {
            Ok(Some(next)) => next,
            Ok(None) => return Ok(()),
            Err(_) => {
                event(sink, &json!({"type": "ping"})).await?;
                continue;
            }
        };
        match next {
            // Nothing follows: no end that looks like a good one.
            Err(error) => {
                sink.fail();
                return event(sink, &error.body(Dialect::Anthropic)).await;
            }
            Ok((_, Reply::Token(_))) => {}
            Ok((_, Reply::Part(part))) => {
                calls |= matches!(part, ReplyPart::CallStart { .. });
                for each in blocks.part(part) {
                    event(sink, &each).await?;
                }
            }
            Ok((_, Reply::End(generation))) => {
                let mut events = Vec::new();
                blocks.end(&mut events);
                let (reason, sequence) = stop_reason(&generation, calls);
                events.push(json!({
                    "type": "message_delta",
                    "delta": {"stop_reason": reason, "stop_sequence": sequence, "stop_details": null},
                    "usage": usage(prompt, generation.cached_tokens, generation.tokens.len()),
                }));
                events.push(json!({"type": "message_stop"}));
                for each in events {
                    event(sink, &each).await?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(events: &[Value]) -> Vec<String> {
        let word = |event: &Value| {
            let kind = event["type"]
                .as_str()
                .unwrap()
                .trim_start_matches("content_block_");
            format!("{kind} {}", event["index"])
        };
        events.iter().map(word).collect()
    }

    #[test]
    fn one_block_is_open_at_a_time() {
        let mut blocks = Blocks::default();
        let mut events = Vec::new();
        let call = |index: usize| ReplyPart::CallStart {
            index,
            id: "i".into(),
            name: "n".into(),
        };
        for part in [
            ReplyPart::Reasoning("a".into()),
            ReplyPart::Text("b".into()),
            ReplyPart::Text("c".into()),
            call(0),
            ReplyPart::CallArguments {
                index: 0,
                delta: "{}".into(),
            },
            ReplyPart::CallEnd { index: 0 },
            call(1),
        ] {
            events.extend(blocks.part(part));
        }
        blocks.end(&mut events);
        let expected = [
            "start 0", "delta 0", "delta 0", "stop 0", "start 1", "delta 1", "delta 1", "stop 1",
            "start 2", "delta 2", "stop 2", "start 3", "stop 3",
        ];
        assert_eq!(kinds(&events), expected);
        assert_eq!(events[2]["delta"]["signature"], SIGNATURE);
        assert_eq!(
            events[9]["delta"],
            json!({"type": "input_json_delta", "partial_json": "{}"})
        );
    }

    #[test]
    fn thoughts_that_are_left_out_have_a_block_of_no_text() {
        let mut blocks = Blocks {
            hide_thoughts: true,
            ..Blocks::default()
        };
        let mut events = blocks.part(ReplyPart::Reasoning("a".into()));
        blocks.end(&mut events);
        assert_eq!(kinds(&events), ["start 0", "delta 0", "stop 0"]);
        assert_eq!(events[1]["delta"]["type"], "signature_delta");
    }
}
