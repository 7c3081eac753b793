//! Replies read as they come: text, thoughts and calls of tools.
//!
//! What could still become a tag is held back, so that text is never cut inside of one, and what is given
//! out does not depend on how the reply was cut: parts of a kind, joined, are always the same. What looks
//! like a call and is none comes out as text, all of it. A call is given out as soon as its name is known
//! and its arguments begin; should these break off or turn out to be no JSON, it has no
//! [`ReplyPart::CallEnd`] and what follows them is text. With [`ReplyParser::whole_calls`] a call comes
//! once it is complete, or as text.

use super::ToolFormat;
use super::call::{Call, Fed, Given};

/// A part of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplyPart {
    /// Text for the user.
    Text(String),
    /// What the model thinks before it answers.
    Reasoning(String),
    /// A call of a tool begins.
    CallStart {
        /// Which call of the reply it is, from 0.
        index: usize,
        /// The id that the model gave it, or one made of its index.
        id: String,
        /// The tool.
        name: String,
    },
    /// More of a call's arguments, which are a JSON object once they are all there.
    CallArguments {
        /// Which call.
        index: usize,
        /// Text to append.
        delta: String,
    },
    /// A call is complete.
    CallEnd {
        /// Which call.
        index: usize,
    },
}

/// Reads a reply as it comes.
///
/// ```
/// use gannet_engine::tool_calls::{ReplyParser, ReplyPart, ToolFormat};
///
/// let mut parser = ReplyParser::new(Some(ToolFormat::Hermes), true, false);
/// let mut parts = Vec::new();
/// for piece in ["<think>Hm.</think>\n\nSo: <tool", "_call>{\"name\": \"add\", \"arguments\"", ": {\"a\": 1}}</tool_call>"] {
///     parts.extend(parser.push(piece));
/// }
/// parts.extend(parser.finish());
/// assert_eq!(
///     parts,
///     [
///         ReplyPart::Reasoning("Hm.".into()),
///         ReplyPart::Text("So: ".into()),
///         ReplyPart::CallStart { index: 0, id: "call_0".into(), name: "add".into() },
///         ReplyPart::CallArguments { index: 0, delta: "{\"a\": 1}".into() },
///         ReplyPart::CallEnd { index: 0 },
///     ]
/// );
/// ```
#[derive(Debug)]
pub struct ReplyParser {
    format: Option<ToolFormat>,
    thinking: bool,
    whole: bool,
    /// What is not given out.
    pending: String,
    state: State,
    /// Whether the answer has had nothing but white space.
    at_start: bool,
    given: Given,
    /// A call was begun and has no end.
    is_open: bool,
}

#[derive(Debug)]
enum State {
    /// Text, or what may become a marker.
    Text,
    /// Thoughts begin; a line break there is none of them.
    Think,
    /// Inside of thoughts.
    Thinking,
    /// White space behind thoughts, which is dropped.
    Thought,
    /// Behind calls: white space is text only if text follows.
    Between,
    /// Behind a marker.
    Call(Box<Open>),
}

/// A call and how much of what is pending it has read.
#[derive(Debug)]
struct Open {
    call: Call,
    /// The marker's bytes.
    marker: usize,
    read: usize,
    /// Of what was read these are given out; none before the first.
    settled: bool,
}

/// What a place in a text may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marker {
    /// Thoughts.
    Think,
    /// Calls, and what closes them.
    Call(&'static str),
}

const THINK: &str = "<think>";
const THOUGHT: &str = "</think>";

impl ReplyParser {
    /// At the start of a reply. `thinking`: it may hold `<think>...</think>`; `starts_in_thinking`: the
    /// prompt ended with `<think>`. Without a format no calls are looked for.
    #[must_use]
    pub fn new(
        format: Option<ToolFormat>,
        thinking: bool,
        starts_in_thinking: bool,
    ) -> ReplyParser {
        ReplyParser {
            format,
            thinking,
            whole: false,
            pending: String::new(),
            state: match starts_in_thinking {
                true => State::Think,
                false => State::Text,
            },
            at_start: true,
            given: Given {
                parts: Vec::new(),
                index: 0,
            },
            is_open: false,
        }
    }

    /// The same, giving out calls only once they are complete: what breaks off is text.
    #[must_use]
    pub fn whole_calls(self) -> ReplyParser {
        ReplyParser {
            whole: true,
            ..self
        }
    }

    /// Takes more of the reply, and gives what is certain.
    pub fn push(&mut self, text: &str) -> Vec<ReplyPart> {
        self.pending.push_str(text);
        let mut parts = Vec::new();
        while self.advance(false, &mut parts) {}
        parts
    }

    /// The reply has ended: gives the rest.
    pub fn finish(&mut self) -> Vec<ReplyPart> {
        let mut parts = Vec::new();
        while self.advance(true, &mut parts) {}
        parts
    }

    /// Does what can be done in the present state; false where more must come, or nothing can.
    fn advance(&mut self, ended: bool, parts: &mut Vec<ReplyPart>) -> bool {
        match &mut self.state {
            State::Text => self.text(ended, parts),
            State::Think => {
                let Some(first) = self.pending.chars().next() else {
                    return false;
                };
                let dropped = usize::from(first == '\n');
                self.pending.drain(..dropped);
                self.state = State::Thinking;
                true
            }
            State::Thinking => self.thinking(ended, parts),
            State::Thought => {
                let rest = self.pending.trim_start_matches(is_space);
                let dropped = self.pending.len() - rest.len();
                self.pending.drain(..dropped);
                if self.pending.is_empty() {
                    return false;
                }
                self.state = State::Text;
                true
            }
            State::Between => self.between(ended),
            State::Call(_) => self.call(ended, parts),
        }
    }

    /// Markers that may come, and what they begin.
    fn markers(&self) -> Vec<(&'static str, Marker)> {
        let calls: &[(&str, &str)] = match self.format {
            Some(ToolFormat::Hermes) => &[("<tool_call>", "</tool_call>")],
            Some(ToolFormat::Llama3) => &[("<|python_tag|>", "")],
            Some(ToolFormat::Mistral | ToolFormat::MistralArgs) => &[("[TOOL_CALLS]", "")],
            Some(ToolFormat::Gemma) => &[("```tool_code", "```"), ("```json", "```")],
            None => &[],
        };
        let calls = calls.iter().map(|&(text, end)| (text, Marker::Call(end)));
        let think = self.thinking.then_some((THINK, Marker::Think));
        think.into_iter().chain(calls).collect()
    }

    /// The marker at the start of a text that may be a call without a tag: its bytes.
    fn bare(&self, text: &str) -> Option<usize> {
        let begins = match self.format? {
            ToolFormat::Llama3 => text.starts_with('{'),
            ToolFormat::Gemma => text.starts_with(['{', '[']),
            ToolFormat::Hermes | ToolFormat::Mistral | ToolFormat::MistralArgs => false,
        };
        begins.then_some(0)
    }

    fn text(&mut self, ended: bool, parts: &mut Vec<ReplyPart>) -> bool {
        if self.pending.is_empty() {
            return false;
        }
        if self.at_start {
            let rest = self.pending.trim_start_matches(is_space);
            let space = self.pending.len() - rest.len();
            if let Some(marker) = self.bare(rest) {
                self.open(space, marker, "");
                return true;
            }
            if rest.is_empty() && !ended {
                // White space in front of a call is none of the reply.
                return false;
            }
        }
        let markers = self.markers();
        let found = markers.iter().filter_map(|&(text, marker)| {
            let at = self.pending.find(text)?;
            Some((at, text, marker))
        });
        let found = found.min_by_key(|&(at, text, _)| (at, std::cmp::Reverse(text.len())));
        if let Some((at, text, marker)) = found {
            let is_blank = self.at_start && self.pending[..at].chars().all(is_space);
            match is_blank {
                true => drop(self.pending.drain(..at)),
                false => self.give_text(at, parts),
            }
            match marker {
                Marker::Think => {
                    self.pending.drain(..text.len());
                    self.state = State::Think;
                }
                Marker::Call(closing) => self.open(0, text.len(), closing),
            }
            return true;
        }
        let held = match ended {
            true => 0,
            false => held_back(&self.pending, markers.iter().map(|m| m.0)),
        };
        let text = self.pending.len() - held;
        if self.at_start && self.pending[..text].chars().all(is_space) && !ended {
            return false;
        }
        self.give_text(text, parts);
        false
    }

    fn thinking(&mut self, ended: bool, parts: &mut Vec<ReplyPart>) -> bool {
        let found = self.pending.find(THOUGHT);
        let held = match ended {
            true => 0,
            false => held_back(&self.pending, [THOUGHT].into_iter()),
        };
        let end = found.unwrap_or(self.pending.len() - held);
        let thought: String = self.pending.drain(..end).collect();
        if !thought.is_empty() {
            parts.push(ReplyPart::Reasoning(thought));
        }
        if found.is_some() {
            self.pending.drain(..THOUGHT.len());
            self.state = State::Thought;
        }
        found.is_some()
    }

    fn between(&mut self, ended: bool) -> bool {
        let rest = self.pending.trim_start_matches(is_space);
        let space = self.pending.len() - rest.len();
        if rest.is_empty() {
            if ended {
                self.pending.clear();
            }
            return false;
        }
        let markers = self.markers();
        if self.format == Some(ToolFormat::Llama3) && rest.starts_with(';') {
            self.open(space, 1, "");
            return true;
        }
        let may_be = |(text, _): &(&str, Marker)| text.starts_with(rest) && text.len() > rest.len();
        if !ended && markers.iter().any(may_be) {
            return false;
        }
        if markers.iter().any(|(text, _)| rest.starts_with(text)) {
            self.pending.drain(..space);
        }
        self.state = State::Text;
        true
    }

    /// A marker of so many bytes behind white space that is none of the reply.
    fn open(&mut self, space: usize, marker: usize, closing: &'static str) {
        let Some(format) = self.format else {
            return;
        };
        self.state = State::Call(Box::new(Open {
            call: Call::new(format, closing, self.whole),
            marker: space + marker,
            read: space + marker,
            settled: false,
        }));
    }

    fn call(&mut self, ended: bool, parts: &mut Vec<ReplyPart>) -> bool {
        let State::Call(open) = &mut self.state else {
            return false;
        };
        let (mut settled, mut fed) = (0, Fed::More);
        for c in self.pending[open.read..].chars() {
            fed = open.call.push(c, &mut self.given);
            if fed == Fed::Malformed {
                break;
            }
            open.read += c.len_utf8();
            if fed != Fed::More {
                settled = open.read;
                give_calls(&mut self.given, &mut self.is_open, parts);
            }
            if fed == Fed::Done {
                break;
            }
        }
        if settled > 0 {
            self.pending.drain(..settled);
            open.read -= settled;
            open.settled = true;
            self.at_start = false;
        }
        match fed {
            Fed::Done => self.state = State::Between,
            Fed::Malformed => self.break_off(parts),
            Fed::More | Fed::Settled if ended => {
                if open.settled && self.pending.chars().all(is_space) {
                    self.pending.clear();
                }
                self.break_off(parts);
            }
            Fed::More | Fed::Settled => return false,
        }
        true
    }

    /// What was taken for calls is none from here on.
    fn break_off(&mut self, parts: &mut Vec<ReplyPart>) {
        let is_end = |part: &&ReplyPart| matches!(part, ReplyPart::CallEnd { .. });
        // What was not given out is not counted.
        self.given.index -= self.given.parts.iter().filter(is_end).count();
        self.given.parts.clear();
        let was_open = std::mem::take(&mut self.is_open);
        self.given.index += usize::from(was_open);
        let state = std::mem::replace(&mut self.state, State::Text);
        let State::Call(open) = state else {
            return;
        };
        self.at_start = false;
        if open.settled {
            if !was_open {
                self.state = State::Between;
            }
            return;
        }
        // Behind the marker there may be another.
        let first = self.pending.chars().next().map_or(0, char::len_utf8);
        self.give_text(open.marker.max(first), parts);
    }

    fn give_text(&mut self, bytes: usize, parts: &mut Vec<ReplyPart>) {
        if bytes == 0 {
            return;
        }
        let text: String = self.pending.drain(..bytes).collect();
        self.at_start &= text.chars().all(is_space);
        match parts.last_mut() {
            Some(ReplyPart::Text(all)) => all.push_str(&text),
            _ => parts.push(ReplyPart::Text(text)),
        }
    }
}

/// Gives out what is known of calls.
fn give_calls(given: &mut Given, is_open: &mut bool, parts: &mut Vec<ReplyPart>) {
    for part in given.parts.drain(..) {
        match (&part, parts.last_mut()) {
            (ReplyPart::CallStart { .. }, _) => *is_open = true,
            (ReplyPart::CallEnd { .. }, _) => *is_open = false,
            (
                ReplyPart::CallArguments { index, delta },
                Some(ReplyPart::CallArguments {
                    index: last,
                    delta: all,
                }),
            ) if last == index => {
                all.push_str(delta);
                continue;
            }
            _ => {}
        }
        parts.push(part);
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\n' | '\r' | '\t')
}

/// Bytes at the end of a text that may be the beginning of one of some markers.
fn held_back(text: &str, markers: impl Iterator<Item = &'static str>) -> usize {
    let held = |marker: &str| {
        let most = text.len().min(marker.len() - 1);
        let fits = |&n: &usize| text.as_bytes().ends_with(&marker.as_bytes()[..n]);
        (1..=most).rev().find(fits)
    };
    markers.filter_map(held).max().unwrap_or(0)
}
