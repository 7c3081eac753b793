//! Replies as Anthropic's clients read them: blocks of content, why they ended, and what they took.

use gannet_engine::{Finish, Generation};
use serde_json::{Value, json};

use crate::server::conversation::Whole;

/// What stands for a signature of thoughts. Clients send thoughts back only where they have one.
pub(super) const SIGNATURE: &str = "unsigned";

/// Why a reply ended: the reason, and the text that ended it.
pub(super) fn stop_reason(generation: &Generation, calls: bool) -> (&'static str, Option<&str>) {
    let stop = generation.stop.as_deref();
    match generation.finish {
        Finish::Length => ("max_tokens", None),
        Finish::Context => ("model_context_window_exceeded", None),
        _ if calls => ("tool_use", None),
        Finish::StopString if stop.is_some() => ("stop_sequence", stop),
        Finish::StopString | Finish::EndOfText | Finish::Stopped | Finish::Deadline => {
            ("end_turn", None)
        }
    }
}

/// Tokens that a reply took. Those of the prompt that were known already count apart from the others.
pub(super) fn usage(prompt: usize, cached: usize, output: usize) -> Value {
    json!({
        "input_tokens": prompt.saturating_sub(cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": output,
    })
}

/// A message without content, whose reply has not ended.
pub(super) fn message(id: &str, model: &str, usage: &Value) -> Value {
    json!({
        "id": id, "type": "message", "role": "assistant", "model": model, "content": [],
        "stop_reason": null, "stop_sequence": null, "stop_details": null, "usage": usage,
    })
}

/// A reply in one piece.
pub(super) fn whole(
    id: &str,
    model: &str,
    reply: &Whole,
    prompt: usize,
    hide_thoughts: bool,
) -> Value {
    let Some(generation) = &reply.generation else {
        return message(id, model, &usage(prompt, 0, 0));
    };
    let used = usage(prompt, generation.cached_tokens, generation.tokens.len());
    let mut answer = message(id, model, &used);
    let mut content = Vec::new();
    if !reply.reasoning.is_empty() {
        let shown = if hide_thoughts { "" } else { &reply.reasoning };
        content.push(json!({"type": "thinking", "thinking": shown, "signature": SIGNATURE}));
    }
    if !reply.text.is_empty() {
        content.push(json!({"type": "text", "text": reply.text, "citations": null}));
    }
    for call in &reply.calls {
        let input = call.object();
        content.push(json!({"type": "tool_use", "id": call.id, "name": call.name, "input": input}));
    }
    let (reason, sequence) = stop_reason(generation, !reply.calls.is_empty());
    answer["content"] = Value::Array(content);
    answer["stop_reason"] = json!(reason);
    answer["stop_sequence"] = json!(sequence);
    answer
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::server::conversation::Call;

    fn generation(finish: Finish, stop: Option<&str>) -> Generation {
        Generation {
            prompt_tokens: 40,
            cached_tokens: 32,
            tokens: vec![1, 2, 3],
            text: String::new(),
            finish,
            stop: stop.map(str::to_owned),
            prompt_time: Duration::ZERO,
            decode_time: Duration::ZERO,
        }
    }

    #[test]
    fn replies_are_blocks() {
        let reply = Whole {
            text: "I look.".to_owned(),
            reasoning: "hm".to_owned(),
            calls: vec![Call {
                id: "t1".into(),
                name: "look".into(),
                arguments: r#"{"at": 1}"#.into(),
            }],
            tokens: Vec::new(),
            generation: Some(generation(Finish::EndOfText, None)),
        };
        let answer = whole("msg_1", "m", &reply, 40, false);
        assert_eq!(
            answer["content"],
            json!([
                {"type": "thinking", "thinking": "hm", "signature": SIGNATURE},
                {"type": "text", "text": "I look.", "citations": null},
                {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": 1}},
            ])
        );
        assert_eq!(answer["stop_reason"], "tool_use");
        assert_eq!(
            answer["usage"],
            json!({
                "input_tokens": 8, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 32, "output_tokens": 3,
            })
        );
        let hidden = whole("msg_1", "m", &reply, 40, true);
        assert_eq!(hidden["content"][0]["thinking"], "");
    }

    #[test]
    fn ends_have_their_reasons() {
        let reason = |finish, stop, calls| {
            let generation = generation(finish, stop);
            let (reason, stop) = stop_reason(&generation, calls);
            (reason, stop.map(str::to_owned))
        };
        assert_eq!(reason(Finish::EndOfText, None, false), ("end_turn", None));
        assert_eq!(reason(Finish::Length, None, true), ("max_tokens", None));
        assert_eq!(
            reason(Finish::StopString, Some("\n"), false),
            ("stop_sequence", Some("\n".to_owned()))
        );
        assert_eq!(reason(Finish::StopString, None, false), ("end_turn", None));
        assert_eq!(
            reason(Finish::Context, None, false).0,
            "model_context_window_exceeded"
        );
    }
}
