//! Bounds on the values that a template keeps.
//!
//! Fuel counts steps and bytes, but a list of a list twice, again and again, is a few steps whose value
//! takes for ever to print or to compare; and a lazy sequence of one of another is as deep as a stack.
//! So wherever a value is made to be kept (`set`, `with`, arguments, lists, mappings, tuples), the
//! expression goes through a filter that walks it once: it refuses what is too large or too deep, and
//! makes lazy sequences lists. Attributes and plain names need none of it.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use super::environment::invalid;

/// The filter, by a name that no template has.
pub(super) const FILTER: &str = "_gannet_kept";

/// How deep a value may be.
const MOST_DEPTH: usize = 150;

/// The most parts of a value, 64 bytes of a text counting as one; and what the bytes of the messages add.
const MOST_PARTS: usize = 20_000;

/// The most bytes of a text that is kept, besides twice those of the messages.
const MOST_BYTES: usize = 128 << 10;

/// The variable with the bytes of the messages.
pub(super) const ROOM: &str = "_gannet_room";

/// Parts of a value that a step of fuel pays for.
const PARTS_A_STEP: usize = 16;

/// The filter: the value itself, if it is small enough to be kept.
pub(super) fn kept(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        let fits = text.len() <= MOST_BYTES || text.len() <= MOST_BYTES + 2 * room(state);
        return if fits {
            Ok(value)
        } else {
            Err(Error::from(ErrorKind::OutOfFuel))
        };
    }
    if value.as_object().is_none() {
        return Ok(value);
    }
    let mut walk = Walk {
        state,
        parts: 0,
        most: MOST_PARTS,
    };
    if value.kind() != ValueKind::Iterable {
        walk.visit(&value, 0)?;
        return Ok(value);
    }
    let mut items = Vec::new();
    for item in value.try_iter()? {
        walk.visit(&item, 1)?;
        items.push(item);
    }
    Ok(Value::from(items))
}

/// The bytes of the messages.
fn room(state: &State<'_, '_>) -> usize {
    state
        .lookup(ROOM)
        .and_then(|room| room.as_usize())
        .unwrap_or(0)
}

struct Walk<'s, 'a, 'b> {
    state: &'s State<'a, 'b>,
    parts: usize,
    most: usize,
}

impl Walk<'_, '_, '_> {
    fn visit(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.count(1 + value.as_str().map_or(0, str::len) / 64)?;
        if depth > MOST_DEPTH {
            return Err(invalid("too deep a structure"));
        }
        match value.kind() {
            ValueKind::Map => {
                for key in value.try_iter()? {
                    self.visit(&value.get_item(&key)?, depth + 1)?;
                    self.visit(&key, depth + 1)?;
                }
            }
            ValueKind::Seq | ValueKind::Iterable => {
                for item in value.try_iter()? {
                    self.visit(&item, depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, parts: usize) -> Result<(), Error> {
        let steps = |parts: usize| (parts / PARTS_A_STEP) as u64;
        let before = steps(self.parts);
        self.parts += parts;
        if self.parts > self.most && self.most == MOST_PARTS {
            self.most = MOST_PARTS + room(self.state) + 1;
        }
        if self.parts > self.most {
            return Err(Error::from(ErrorKind::OutOfFuel));
        }
        match steps(self.parts) - before {
            0 => Ok(()),
            more => self.state.consume_fuel(more),
        }
    }
}

/// What a part of an expression is.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// A name, a keyword or a number.
    Word,
    Text,
    Open,
    Close,
    Comma,
    /// `=`, of an assignment or a named argument.
    Assign,
    Other,
}

#[derive(Clone, Copy)]
struct Token<'t> {
    kind: Kind,
    /// With the white space in front of it.
    text: &'t str,
}

impl<'t> Token<'t> {
    fn word(&self) -> &'t str {
        self.text.trim_start()
    }
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut start = 0;
    while start < text.len() {
        let begins = start + (text[start..].len() - text[start..].trim_start().len());
        let rest = &text[begins..];
        let Some(first) = rest.chars().next() else {
            break;
        };
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let (kind, width) = match first {
            '"' | '\'' => (Kind::Text, text_width(rest, first)),
            '(' | '[' | '{' => (Kind::Open, 1),
            ')' | ']' | '}' => (Kind::Close, 1),
            ',' => (Kind::Comma, 1),
            c if is_word(c) => (Kind::Word, rest.find(|c| !is_word(c)).unwrap_or(rest.len())),
            _ if ["==", "!=", "<=", ">="]
                .iter()
                .any(|op| rest.starts_with(op)) =>
            {
                (Kind::Other, 2)
            }
            '=' => (Kind::Assign, 1),
            c => (Kind::Other, c.len_utf8()),
        };
        let end = begins + width;
        let text = &text[start..end];
        tokens.push(Token { kind, text });
        start = end;
    }
    tokens
}

fn text_width(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Words behind which a bracket begins a value of its own.
const KEYWORDS: &[&str] = &[
    "in",
    "is",
    "not",
    "and",
    "or",
    "if",
    "else",
    "elif",
    "set",
    "with",
    "do",
    "recursive",
];

/// What a tag says, with its kept values going through the filter.
pub(super) fn guarded(inner: &str) -> String {
    let tokens = tokens(inner);
    let mut writer = Writer {
        tokens: &tokens,
        at: 0,
        end: &inner[tokens.iter().map(|token| token.text.len()).sum::<usize>()..],
    };
    let mut out = writer.tag();
    out.push_str(writer.end);
    out
}

struct Writer<'t> {
    tokens: &'t [Token<'t>],
    at: usize,
    /// White space at the end.
    end: &'t str,
}

impl<'t> Writer<'t> {
    fn next(&mut self) -> Option<Token<'t>> {
        let token = self.tokens.get(self.at).copied();
        self.at += 1;
        token
    }

    fn tag(&mut self) -> String {
        let marks = |token: &&Token<'_>| matches!(token.word(), "-" | "+");
        let skipped = usize::from(self.tokens.first().filter(marks).is_some());
        let first = self.tokens.get(skipped).map_or("", |token| token.word());
        match first {
            "set" | "with" => self.assignments(first == "set"),
            "macro" | "call" => self.definition(first == "call"),
            "for" => self.targets(),
            _ => self.parts(false).0,
        }
    }

    /// `set` and `with`: targets, and values behind their signs.
    fn assignments(&mut self, whole: bool) -> String {
        let mut out = String::new();
        while let Some(token) = self.next() {
            out.push_str(token.text);
            if token.kind == Kind::Assign {
                let start = self.at;
                let (value, more) = match whole {
                    true => self.parts(false),
                    false => self.parts(true),
                };
                out.push_str(&kept_text(
                    &value,
                    &self.tokens[start..self.value_end(more)],
                ));
                if more {
                    out.push(',');
                }
            }
        }
        out
    }

    /// `for`: what stands in front of `in` are names.
    fn targets(&mut self) -> String {
        let mut out = String::new();
        while let Some(token) = self.next() {
            out.push_str(token.text);
            if token.word() == "in" {
                break;
            }
        }
        out + &self.parts(false).0
    }

    fn value_end(&self, more: bool) -> usize {
        (self.at - usize::from(more)).min(self.tokens.len())
    }

    /// `macro` and `call`: the first brackets name arguments.
    fn definition(&mut self, is_call: bool) -> String {
        let mut out = String::new();
        let mut before = "";
        while let Some(token) = self.next() {
            out.push_str(token.text);
            let defines = !is_call || before == "call";
            if token.word() == "(" && defines {
                let mut depth = 1;
                while depth > 0 {
                    let Some(token) = self.next() else {
                        break;
                    };
                    depth +=
                        i32::from(token.kind == Kind::Open) - i32::from(token.kind == Kind::Close);
                    out.push_str(token.text);
                }
                break;
            }
            if is_call && !matches!(token.word(), "call" | "-" | "+") {
                // No arguments: the call itself begins.
                break;
            }
            before = token.word();
        }
        out + &self.parts(false).0
    }

    /// Parts up to a comma (if it ends them) or a closing bracket, which is read; whether it was a comma.
    fn parts(&mut self, to_comma: bool) -> (String, bool) {
        let mut out = String::new();
        // In front: a `call` whose name was read.
        let mut is_value =
            self.at > 0 && self.at <= self.tokens.len() && self.ends_value(self.at - 1);
        while let Some(token) = self.next() {
            match token.kind {
                Kind::Close => return (out, false),
                Kind::Comma if to_comma => return (out, true),
                Kind::Open => out.push_str(&self.bracket(token, is_value)),
                _ => out.push_str(token.text),
            }
            is_value = token.kind == Kind::Open || self.ends_value(self.at - 1);
        }
        (out, false)
    }

    /// Whether a value ends with a token, so that a bracket behind it calls it or looks into it.
    fn ends_value(&self, at: usize) -> bool {
        self.tokens.get(at).is_some_and(|token| match token.kind {
            Kind::Word => !KEYWORDS.contains(&token.word()),
            Kind::Text | Kind::Close => true,
            _ => false,
        })
    }

    /// What a bracket holds, and its end.
    fn bracket(&mut self, open: Token<'_>, of_value: bool) -> String {
        let start = self.at;
        let space = &open.text[..open.text.len() - open.word().len()];
        let is_call = of_value && open.word() == "(";
        let mut inner = String::new();
        let mut has_comma = false;
        loop {
            let from = self.at;
            let (part, more) = self.parts(true);
            let to = self.at.saturating_sub(1).min(self.tokens.len());
            inner.push_str(&match is_call {
                true => argument(&part, &self.tokens[from.min(to)..to]),
                false => part,
            });
            if !more {
                break;
            }
            has_comma = true;
            inner.push(',');
        }
        let end = self.at.saturating_sub(1);
        let close = self.tokens.get(end).map_or("", |token| token.text);
        let text = format!("{}{inner}{close}", open.word());
        let is_literal = !of_value && (open.word() != "(" || has_comma);
        let is_number = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
        let names = |token: &Token<'_>| token.kind == Kind::Word && !is_number(token.word());
        let has_names = self.tokens[start.min(end)..end.min(self.tokens.len())]
            .iter()
            .any(names);
        match is_literal && has_names && !close.is_empty() {
            true => format!("{space}({text}|{FILTER})"),
            false => format!("{space}{text}"),
        }
    }
}

/// An argument, whose value may have a name.
fn argument(text: &str, tokens: &[Token<'_>]) -> String {
    match tokens {
        [name, sign, value @ ..] if sign.kind == Kind::Assign && name.kind == Kind::Word => {
            let named = name.text.len() + sign.text.len();
            format!("{}{}", &text[..named], kept_text(&text[named..], value))
        }
        [star, ..] if star.word() == "*" => text.to_owned(),
        _ => kept_text(text, tokens),
    }
}

/// An expression through the filter, unless it can only be a plain value or a part of one.
fn kept_text(text: &str, tokens: &[Token<'_>]) -> String {
    let makes = |token: &Token<'_>| {
        matches!(token.kind, Kind::Open | Kind::Comma) || matches!(token.word(), "+" | "*" | "|")
    };
    match tokens.iter().any(makes) {
        true => format!(" ({text})|{FILTER}"),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_goes_through_the_filter() {
        let shown = |text: &str| guarded(text).replace(FILTER, "K");
        for same in [
            " x.y ",
            "- if a == 'b' and c[0] -",
            " set x = y ",
            " for a in b ",
            "",
            " f(a, 'b', c=d) ",
            " [1, 2] ",
            " (a or b) ",
            " macro m(a, b=none) ",
            " call m() ",
            " call(x) m() ",
            " set x ",
            " x[a:b] ",
            " 'a' ~ \"(b\" ",
            " set x | upper ",
        ] {
            assert_eq!(shown(same), same);
        }
        for (text, expected) in [
            (
                " set ns.s = [ns.s, ns.s] ",
                " set ns.s = ( ([ns.s, ns.s]|K))|K ",
            ),
            (" set a, b = b, a ", " set a, b = ( b, a)|K "),
            (" with a = b+b, c = d ", " with a = ( b+b)|K, c = d "),
            (" f(a+a, k=b + b, *c) ", " f( (a+a)|K, k= (b + b)|K, *c) "),
            (" for x in (a, b) ", " for x in ((a, b)|K) "),
            (
                " for x, (y, z) in [a] if b ",
                " for x, (y, z) in ([a]|K) if b ",
            ),
            (" {'a': b}.a ", " ({'a': b}|K).a "),
            (" x is in [a] ", " x is in ([a]|K) "),
            (" call(x) m(a+a) ", " call(x) m( (a+a)|K) "),
        ] {
            assert_eq!(shown(text), expected);
        }
    }
}
