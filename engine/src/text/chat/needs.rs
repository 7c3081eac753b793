//! In which form a template wants what messages say, found out by asking it.
//!
//! Interfaces give the arguments of a tool call as text, most templates expect the object and some the
//! text; an assistant that only calls a tool says nothing, which some templates must have as empty text;
//! and some want a content as a list of parts. Each form is tried on a small conversation, and the first
//! one that shows in the text as it should is taken.

use super::message::{Message, ToolCall};
use super::{Inner, TemplateOptions, context};

/// Forms that a template wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    /// Contents are lists of parts.
    pub(super) typed_content: bool,
    /// The arguments of tool calls are JSON text, not objects.
    pub(super) text_arguments: bool,
    /// A content that is missing is empty text.
    pub(super) empty_content: bool,
    /// The field of an assistant's thoughts.
    pub(super) reasoning: &'static str,
}

impl Default for Needs {
    fn default() -> Needs {
        Needs {
            typed_content: false,
            text_arguments: false,
            empty_content: false,
            reasoning: "reasoning_content",
        }
    }
}

/// Steps of a trial: conversations are small.
const FUEL: u64 = 20_000;

/// Words that no template has.
const SAID: &str = "gannetsaid";
const KEY: &str = "gannetkey";
const VALUE: &str = "gannetvalue";

impl Needs {
    /// The forms that a template wants; the usual ones where none shows.
    pub(super) fn of(template: &Inner) -> Needs {
        let mut needs = Needs {
            reasoning: reasoning_field(&template.source),
            ..Needs::default()
        };
        let said = [Message::new("user", SAID)];
        let shows = |needs| asked(template, needs, &said).is_some_and(|text| text.contains(SAID));
        let typed = Needs {
            typed_content: true,
            ..needs
        };
        if !shows(needs) && shows(typed) {
            needs = typed;
        }
        if template.source.contains("tool_calls") {
            needs = of_calls(template, needs);
        }
        needs
    }
}

/// The field of thoughts that a template reads.
fn reasoning_field(source: &str) -> &'static str {
    let reads = |name: &str| {
        [
            format!(".{name}"),
            format!("'{name}'"),
            format!("\"{name}\""),
        ]
        .iter()
        .any(|form| source.contains(form.as_str()))
    };
    let fields = ["reasoning_content", "thinking", "reasoning"];
    fields
        .into_iter()
        .find(|name| reads(name))
        .unwrap_or(fields[0])
}

/// What the template makes of a small conversation in some form.
fn asked(template: &Inner, needs: Needs, messages: &[Message]) -> Option<String> {
    let trial = Inner {
        name: template.name.clone(),
        source: template.source.clone(),
        env: template.env.clone(),
        tokens: template.tokens.clone(),
        needs,
    };
    let options = TemplateOptions {
        add_generation_prompt: false,
        now: Some(0),
        ..TemplateOptions::default()
    };
    context::render(&trial, messages, &[], &options, FUEL).ok()
}

fn of_calls(template: &Inner, needs: Needs) -> Needs {
    let call = ToolCall {
        // Some templates insist on nine characters.
        id: "gannetid0".to_owned(),
        name: "gannettool".to_owned(),
        arguments: format!("{{\"{KEY}\": \"{VALUE}\"}}"),
    };
    let calling = Message {
        role: "assistant".to_owned(),
        tool_calls: vec![call],
        ..Message::default()
    };
    let answer = Message {
        tool_call_id: Some("gannetid0".to_owned()),
        name: Some("gannettool".to_owned()),
        ..Message::new("tool", SAID)
    };
    let messages = [Message::new("user", SAID), calling, answer];
    let forms = [(false, false), (false, true), (true, false), (true, true)];
    let wanted = forms
        .into_iter()
        .map(|(text_arguments, empty_content)| Needs {
            text_arguments,
            empty_content,
            ..needs
        });
    let fits = |needs: &Needs| {
        let text = asked(template, *needs, &messages).unwrap_or_default();
        // An object that is printed as Python prints it is none that was wanted.
        let is_python = text.contains(&format!("'{KEY}'"));
        text.contains(VALUE) && !text.contains("None") && !is_python && !text.contains("\\\"")
    };
    let mut wanted = wanted;
    wanted.find(fits).unwrap_or(needs)
}
