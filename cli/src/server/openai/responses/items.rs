//! The items of a reply as they come: thoughts, a text, calls. Each part yields the events that tell of it, and
//! the items are there at the end with the ids that the events had.

use std::sync::Arc;

use gannet_engine::tool_calls::ReplyPart;
use serde_json::{Value, json};

use crate::server::generation::Token;
use crate::server::loaded::Loaded;
use crate::server::openai::{log_probs, new_id};

/// An event: its kind, and its data without the number.
type Event = (&'static str, Value);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Thoughts,
    Text,
    Call,
}

/// An item, as far as it has come.
#[derive(Debug)]
struct Item {
    kind: Kind,
    id: String,
    /// Of a call.
    call_id: String,
    name: String,
    /// The text, or a call's arguments.
    text: String,
    log_probs: Vec<Value>,
    status: &'static str,
}

impl Item {
    fn new(kind: Kind) -> Item {
        let prefix = match kind {
            Kind::Thoughts => "rs_",
            Kind::Text => "msg_",
            Kind::Call => "fc_",
        };
        Item {
            kind,
            id: new_id(prefix),
            call_id: String::new(),
            name: String::new(),
            text: String::new(),
            log_probs: Vec::new(),
            status: "in_progress",
        }
    }

    /// The part of its content that there is.
    fn part(&self) -> Value {
        match self.kind {
            Kind::Thoughts => json!({"type": "reasoning_text", "text": self.text}),
            _ => {
                json!({"type": "output_text", "text": self.text, "annotations": [], "logprobs": self.log_probs})
            }
        }
    }

    fn json(&self) -> Value {
        let has_begun = self.status != "in_progress";
        let content: Vec<Value> = has_begun.then(|| self.part()).into_iter().collect();
        match self.kind {
            Kind::Thoughts => json!({
                "id": self.id, "type": "reasoning", "summary": [], "content": content, "status": self.status,
            }),
            Kind::Text => json!({
                "id": self.id, "type": "message", "role": "assistant", "content": content, "status": self.status,
            }),
            Kind::Call => json!({
                "id": self.id, "type": "function_call", "call_id": self.call_id, "name": self.name,
                "arguments": self.text, "status": self.status,
            }),
        }
    }
}

/// The items of a reply.
pub(super) struct Items {
    items: Vec<Item>,
    /// Whether the last one goes on.
    is_open: bool,
    /// Tokens that no event has told of.
    tokens: Vec<Token>,
    model: Option<Arc<Loaded>>,
}

impl Items {
    pub(super) fn new(model: Arc<Loaded>) -> Items {
        Items {
            model: Some(model),
            ..Items::empty()
        }
    }

    fn empty() -> Items {
        Items {
            items: Vec::new(),
            is_open: false,
            tokens: Vec::new(),
            model: None,
        }
    }

    /// All items.
    pub(super) fn output(&self) -> Vec<Value> {
        self.items.iter().map(Item::json).collect()
    }

    /// The text of all thoughts.
    pub(super) fn reasoning(&self) -> &str {
        let thoughts = self.items.iter().find(|item| item.kind == Kind::Thoughts);
        thoughts.map_or("", |item| &item.text)
    }

    /// A token with log-probabilities, in front of what it says.
    pub(super) fn token(&mut self, token: Token) {
        self.tokens.push(token);
    }

    fn log_probs(&mut self) -> Vec<Value> {
        let Some(model) = &self.model else {
            return Vec::new();
        };
        let tokenizer = model.model().tokenizer();
        let tokens = std::mem::take(&mut self.tokens);
        tokens
            .iter()
            .filter_map(|token| log_probs::of_chat(tokenizer, token))
            .collect()
    }

    /// What events of the last item say of where they belong.
    fn place(&self) -> (usize, String) {
        let index = self.items.len().saturating_sub(1);
        (
            index,
            self.items
                .last()
                .map_or_else(String::new, |item| item.id.clone()),
        )
    }

    /// Goes on with an item of a kind, or begins one.
    fn go_on(&mut self, kind: Kind, events: &mut Vec<Event>) {
        if self.is_open && self.items.last().is_some_and(|item| item.kind == kind) {
            return;
        }
        self.close("completed", events);
        self.begin(Item::new(kind), events);
    }

    fn begin(&mut self, item: Item, events: &mut Vec<Event>) {
        let added = item.json();
        let part = (item.kind != Kind::Call).then(|| item.part());
        self.items.push(item);
        self.is_open = true;
        let (index, id) = self.place();
        events.push((
            "response.output_item.added",
            json!({"output_index": index, "item": added}),
        ));
        if let Some(part) = part {
            let event =
                json!({"item_id": id, "output_index": index, "content_index": 0, "part": part});
            events.push(("response.content_part.added", event));
        }
    }

    /// Ends the item that goes on.
    fn close(&mut self, status: &'static str, events: &mut Vec<Event>) {
        if !std::mem::take(&mut self.is_open) {
            return;
        }
        let (index, id) = self.place();
        let Some(item) = self.items.last_mut() else {
            return;
        };
        item.status = status;
        let at = |more: Value| {
            let mut event = json!({"item_id": id, "output_index": index});
            for (name, value) in more.as_object().into_iter().flatten() {
                event[name] = value.clone();
            }
            event
        };
        match item.kind {
            Kind::Call => events.push((
                "response.function_call_arguments.done",
                at(json!({"name": item.name, "arguments": item.text})),
            )),
            Kind::Text => events.push((
                "response.output_text.done",
                at(json!({"content_index": 0, "text": item.text, "logprobs": item.log_probs})),
            )),
            Kind::Thoughts => events.push((
                "response.reasoning_text.done",
                at(json!({"content_index": 0, "text": item.text})),
            )),
        }
        if item.kind != Kind::Call {
            let done = at(json!({"content_index": 0, "part": item.part()}));
            events.push(("response.content_part.done", done));
        }
        let done = json!({"output_index": index, "item": item.json()});
        events.push(("response.output_item.done", done));
    }

    fn add(&mut self, more: &str, log_probs: &[Value]) {
        if let Some(item) = self.items.last_mut() {
            item.text.push_str(more);
            item.log_probs.extend_from_slice(log_probs);
        }
    }

    /// The events of a part.
    pub(super) fn part(&mut self, part: ReplyPart) -> Vec<Event> {
        let mut events = Vec::new();
        match part {
            ReplyPart::Text(text) => {
                self.go_on(Kind::Text, &mut events);
                let log_probs = self.log_probs();
                self.add(&text, &log_probs);
                let (index, id) = self.place();
                events.push((
                    "response.output_text.delta",
                    json!({
                        "item_id": id, "output_index": index, "content_index": 0, "delta": text,
                        "logprobs": log_probs,
                    }),
                ));
            }
            ReplyPart::Reasoning(text) => {
                self.go_on(Kind::Thoughts, &mut events);
                self.tokens.clear();
                self.add(&text, &[]);
                let (index, id) = self.place();
                events.push((
                    "response.reasoning_text.delta",
                    json!({
                        "item_id": id, "output_index": index, "content_index": 0, "delta": text,
                    }),
                ));
            }
            ReplyPart::CallStart { id, name, .. } => {
                self.close("completed", &mut events);
                self.begin(
                    Item {
                        call_id: id,
                        name,
                        ..Item::new(Kind::Call)
                    },
                    &mut events,
                );
            }
            ReplyPart::CallArguments { delta, .. } => {
                self.tokens.clear();
                self.add(&delta, &[]);
                let (index, id) = self.place();
                events.push((
                    "response.function_call_arguments.delta",
                    json!({
                        "item_id": id, "output_index": index, "delta": delta,
                    }),
                ));
            }
            ReplyPart::CallEnd { .. } => self.close("completed", &mut events),
            // Whatever else there will be is no part of an item.
            _ => {}
        }
        events
    }

    /// The events of the end. A call that goes on then was cut off, and so is a text of a reply that was.
    pub(super) fn end(&mut self, is_cut: bool) -> Vec<Event> {
        let mut events = Vec::new();
        let is_call = self
            .items
            .last()
            .is_some_and(|item| item.kind == Kind::Call);
        let status = if is_cut || is_call {
            "incomplete"
        } else {
            "completed"
        };
        self.close(status, &mut events);
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_the_same_in_events_and_at_the_end() {
        let mut items = Items::empty();
        let mut events = Vec::new();
        for part in [
            ReplyPart::Reasoning("hm".into()),
            ReplyPart::Text("a".into()),
            ReplyPart::Text("b".into()),
            ReplyPart::CallStart {
                index: 0,
                id: "call_0".into(),
                name: "look".into(),
            },
            ReplyPart::CallArguments {
                index: 0,
                delta: "{}".into(),
            },
            ReplyPart::CallEnd { index: 0 },
        ] {
            events.extend(items.part(part));
        }
        events.extend(items.end(false));
        let kinds: Vec<&str> = events
            .iter()
            .map(|(kind, _)| kind.trim_start_matches("response."))
            .collect();
        assert_eq!(
            kinds,
            [
                "output_item.added",
                "content_part.added",
                "reasoning_text.delta",
                "reasoning_text.done",
                "content_part.done",
                "output_item.done",
                "output_item.added",
                "content_part.added",
                "output_text.delta",
                "output_text.delta",
                "output_text.done",
                "content_part.done",
                "output_item.done",
                "output_item.added",
                "function_call_arguments.delta",
                "function_call_arguments.done",
                "output_item.done",
            ]
        );
        let done = events
            .iter()
            .filter(|(kind, _)| *kind == "response.output_item.done");
        let done: Vec<Value> = done.map(|(_, event)| event["item"].clone()).collect();
        assert_eq!(done, items.output());
        for (_, event) in events
            .iter()
            .filter(|(_, event)| event.get("item_id").is_some())
        {
            let index = event["output_index"].as_u64().unwrap() as usize;
            assert_eq!(event["item_id"], done[index]["id"]);
        }
        assert_eq!(done[1]["content"][0]["text"], "ab");
        assert_eq!(done[2]["arguments"], "{}");
        assert_eq!(items.reasoning(), "hm");
    }

    #[test]
    fn what_is_cut_off_is_not_complete() {
        let mut items = Items::empty();
        items.part(ReplyPart::CallStart {
            index: 0,
            id: "c".into(),
            name: "n".into(),
        });
        items.end(true);
        assert_eq!(items.output()[0]["status"], "incomplete");
        let mut items = Items::empty();
        items.part(ReplyPart::Text("a".into()));
        items.end(true);
        assert_eq!(items.output()[0]["status"], "incomplete");
    }
}
