//! One place in a reply where calls begin: what is behind a marker, read character by character.

use super::json::{Json, NotJson};
use super::{ReplyPart, ToolFormat};

/// What a call in the making gives.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) parts: Vec<ReplyPart>,
    /// The next call's number.
    pub(super) index: usize,
}

/// What another character means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fed {
    /// More may come.
    More,
    /// All so far has been given out.
    Settled,
    /// The last of it, all settled.
    Done,
    /// It is no call; the character is none of it.
    Malformed,
}

/// What is behind a marker.
#[derive(Debug)]
pub(super) struct Call {
    stage: Stage,
    format: ToolFormat,
    /// Calls come in a list.
    in_list: bool,
    /// What closes it.
    closing: &'static str,
    /// Whether a call without arguments is none.
    needs_arguments: bool,
    /// Only whole calls are given out.
    whole: bool,
}

#[derive(Debug)]
enum Stage {
    /// What begins the calls.
    Open,
    /// A call as an object.
    Object(Object),
    /// Behind an item of the list.
    Behind,
    /// The next item of the list.
    Item,
    /// The name of a call that is no object.
    Name(String),
    /// A tag between a name, an id and the arguments.
    Tag { head: Head, tag: String },
    /// An id.
    Id { head: Head },
    /// Arguments by themselves.
    Arguments { head: Head, json: Json },
    /// What closes the calls: how much of it has come.
    Closing(usize),
}

/// What is known in front of arguments.
#[derive(Debug, Default, Clone)]
struct Head {
    name: String,
    id: String,
}

impl Call {
    pub(super) fn new(format: ToolFormat, closing: &'static str, whole: bool) -> Call {
        let is_tagged = !matches!(format, ToolFormat::Llama3 | ToolFormat::Gemma);
        Call {
            stage: Stage::Open,
            format,
            in_list: false,
            closing,
            needs_arguments: !is_tagged,
            whole,
        }
    }

    /// Takes a character.
    pub(super) fn push(&mut self, c: char, given: &mut Given) -> Fed {
        let is_space = matches!(c, ' ' | '\n' | '\r' | '\t');
        match &mut self.stage {
            Stage::Open | Stage::Item | Stage::Behind if is_space => Fed::More,
            Stage::Open => self.open(c),
            Stage::Item => match c {
                '{' => self.begin_object(),
                _ => Fed::Malformed,
            },
            Stage::Behind => match c {
                ',' => self.go_to(Stage::Item),
                ']' => self.close(),
                _ => Fed::Malformed,
            },
            Stage::Object(object) => match object.push(c, self.needs_arguments, given) {
                Err(NotJson) => Fed::Malformed,
                Ok(Read::More) => Fed::More,
                Ok(Read::Streams) if self.whole => Fed::More,
                Ok(Read::Streams) => Fed::Settled,
                Ok(Read::Ends) if self.in_list => {
                    self.stage = Stage::Behind;
                    Fed::Settled
                }
                Ok(Read::Ends) => self.close(),
            },
            Stage::Closing(0) if is_space => Fed::More,
            Stage::Closing(matched) => {
                let rest = &self.closing[*matched..];
                if !rest.starts_with(c) {
                    return Fed::Malformed;
                }
                *matched += c.len_utf8();
                match *matched == self.closing.len() {
                    true => Fed::Done,
                    false => Fed::More,
                }
            }
            Stage::Name(_) | Stage::Tag { .. } | Stage::Id { .. } | Stage::Arguments { .. } => {
                self.push_named(c, given)
            }
        }
    }

    fn open(&mut self, c: char) -> Fed {
        let has_lists = !matches!(self.format, ToolFormat::Hermes);
        match c {
            '{' => self.begin_object(),
            '[' if has_lists => {
                self.in_list = true;
                self.go_to(Stage::Item)
            }
            c if self.takes_names() && is_of_name(c) => self.go_to(Stage::Name(c.to_string())),
            _ => Fed::Malformed,
        }
    }

    fn takes_names(&self) -> bool {
        matches!(self.format, ToolFormat::Mistral | ToolFormat::MistralArgs)
    }

    fn begin_object(&mut self) -> Fed {
        self.go_to(Stage::Object(Object::new()))
    }

    fn go_to(&mut self, stage: Stage) -> Fed {
        self.stage = stage;
        Fed::More
    }

    /// The calls are complete, but for what closes them.
    fn close(&mut self) -> Fed {
        if self.closing.is_empty() {
            return Fed::Done;
        }
        self.stage = Stage::Closing(0);
        Fed::Settled
    }

    /// `name[CALL_ID]id[ARGS]{...}`; the id may be missing, and so may the tag in front of the arguments.
    fn push_named(&mut self, c: char, given: &mut Given) -> Fed {
        let whole = self.whole;
        let stage = match &mut self.stage {
            Stage::Name(name) => match c {
                c if is_of_name(c) => {
                    name.push(c);
                    return Fed::More;
                }
                '[' | '{' => {
                    let head = Head {
                        name: std::mem::take(name),
                        id: String::new(),
                    };
                    behind_head(c, head, given)
                }
                _ => return Fed::Malformed,
            },
            Stage::Id { head } => match c {
                '[' | '{' if !head.id.is_empty() => behind_head(c, std::mem::take(head), given),
                c if is_of_name(c) => {
                    head.id.push(c);
                    return Fed::More;
                }
                _ => return Fed::Malformed,
            },
            Stage::Tag { head, tag } => {
                tag.push(c);
                let (head, tag) = (head.clone(), tag.as_str());
                match tag {
                    "[ARGS]" => Stage::Arguments {
                        head,
                        json: Json::new(),
                    },
                    "[CALL_ID]" if head.id.is_empty() => Stage::Id { head },
                    _ if "[ARGS]".starts_with(tag) || "[CALL_ID]".starts_with(tag) => {
                        return Fed::More;
                    }
                    _ => return Fed::Malformed,
                }
            }
            Stage::Arguments { head, json } => {
                let begins = json.depth() == 0;
                if begins && matches!(c, ' ' | '\n' | '\r' | '\t') {
                    return Fed::More;
                }
                if begins && c != '{' || json.push(c).is_err() {
                    return Fed::Malformed;
                }
                if begins {
                    let (id, name) = (std::mem::take(&mut head.id), std::mem::take(&mut head.name));
                    given.start(id, name);
                }
                given.arguments(c);
                if json.depth() > 0 {
                    return match whole {
                        true => Fed::More,
                        false => Fed::Settled,
                    };
                }
                given.end();
                return self.close();
            }
            Stage::Open | Stage::Object(_) | Stage::Behind | Stage::Item | Stage::Closing(_) => {
                return Fed::Malformed;
            }
        };
        let settled = matches!(&stage, Stage::Arguments { json, .. } if json.depth() > 0) && !whole;
        self.stage = stage;
        match settled {
            true => Fed::Settled,
            false => Fed::More,
        }
    }
}

/// A tag or the arguments begin behind a name or an id.
fn behind_head(c: char, head: Head, given: &mut Given) -> Stage {
    if c == '[' {
        let tag = c.to_string();
        return Stage::Tag { head, tag };
    }
    let mut json = Json::new();
    // An object begins so.
    let begun = json.push(c);
    debug_assert!(begun.is_ok());
    given.start(head.id, head.name);
    given.arguments(c);
    Stage::Arguments {
        head: Head::default(),
        json,
    }
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

impl Given {
    fn start(&mut self, id: String, name: String) {
        let index = self.index;
        let id = match id.is_empty() {
            true => format!("call_{index}"),
            false => id,
        };
        self.parts.push(ReplyPart::CallStart { index, id, name });
    }

    fn arguments(&mut self, c: char) {
        match self.parts.last_mut() {
            Some(ReplyPart::CallArguments { delta, .. }) => delta.push(c),
            _ => self.parts.push(ReplyPart::CallArguments {
                index: self.index,
                delta: c.to_string(),
            }),
        }
    }

    fn end(&mut self) {
        self.parts.push(ReplyPart::CallEnd { index: self.index });
        self.index += 1;
    }
}

/// A call as an object: `{"name": ..., "arguments": {...}}`.
#[derive(Debug)]
struct Object {
    json: Json,
    /// The latest key, with its quotes.
    key: String,
    field: Option<Field>,
    /// The value of a field under way.
    value: String,
    name: Option<String>,
    id: Option<String>,
    arguments: Arguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Id,
    Kind,
    Arguments,
}

#[derive(Debug, PartialEq, Eq)]
enum Arguments {
    /// None has come.
    Missing,
    /// They came in front of the name.
    Held(String),
    /// They are given out.
    Given,
}

/// How far an object is.
enum Read {
    More,
    /// All of it has been given out.
    Streams,
    Ends,
}

impl Object {
    /// Behind its brace.
    fn new() -> Object {
        let mut json = Json::new();
        let begun = json.push('{');
        debug_assert!(begun.is_ok());
        Object {
            json,
            key: String::new(),
            field: None,
            value: String::new(),
            name: None,
            id: None,
            arguments: Arguments::Missing,
        }
    }

    fn push(&mut self, c: char, needs_arguments: bool, given: &mut Given) -> Result<Read, NotJson> {
        let (was_in_key, awaited) = (self.json.is_in_key(), self.json.awaits_value());
        let is_outer = self.json.depth() == 1;
        self.json.push(c)?;
        if is_outer && (was_in_key || self.json.is_in_key()) {
            if !was_in_key {
                self.key.clear();
            }
            self.key.push(c);
            return Ok(Read::More);
        }
        if is_outer && awaited && !matches!(c, ' ' | '\n' | '\r' | '\t') {
            self.begin_value(c, given)?;
        }
        if self.field.is_some() {
            self.push_value(c, given);
            if self.json.depth() == 1 && self.json.is_behind_value() {
                self.end_value()?;
            } else if self.field == Some(Field::Arguments) && self.arguments == Arguments::Given {
                return Ok(Read::Streams);
            }
            return Ok(match self.arguments {
                Arguments::Given => Read::Streams,
                Arguments::Missing | Arguments::Held(_) => Read::More,
            });
        }
        match self.json.depth() {
            0 => self.end(needs_arguments, given).map(|()| Read::Ends),
            _ => Ok(Read::More),
        }
    }

    fn begin_value(&mut self, c: char, given: &mut Given) -> Result<(), NotJson> {
        let key: String = serde_json::from_str(&self.key).map_err(|_| NotJson)?;
        let (field, is_new, opens) = match key.as_str() {
            "name" => (Field::Name, self.name.is_none(), '"'),
            "id" => (Field::Id, self.id.is_none(), '"'),
            "type" => (Field::Kind, true, '"'),
            "arguments" | "parameters" => {
                let is_new = self.arguments == Arguments::Missing;
                (Field::Arguments, is_new, '{')
            }
            _ => return Err(NotJson),
        };
        if !is_new || c != opens {
            return Err(NotJson);
        }
        self.field = Some(field);
        self.value.clear();
        if field == Field::Arguments {
            self.arguments = match self.name.clone() {
                Some(name) => {
                    given.start(self.id.clone().unwrap_or_default(), name);
                    Arguments::Given
                }
                None => Arguments::Held(String::new()),
            };
        }
        Ok(())
    }

    fn push_value(&mut self, c: char, given: &mut Given) {
        match (self.field, &mut self.arguments) {
            (Some(Field::Arguments), Arguments::Given) => given.arguments(c),
            (Some(Field::Arguments), Arguments::Held(text)) => text.push(c),
            _ => self.value.push(c),
        }
    }

    fn end_value(&mut self) -> Result<(), NotJson> {
        let text = || serde_json::from_str::<String>(&self.value).map_err(|_| NotJson);
        match self.field.take() {
            Some(Field::Name) => {
                let name = text()?;
                if name.is_empty() {
                    return Err(NotJson);
                }
                self.name = Some(name);
            }
            Some(Field::Id) => self.id = Some(text()?),
            Some(Field::Kind | Field::Arguments) | None => {}
        }
        Ok(())
    }

    fn end(&mut self, needs_arguments: bool, given: &mut Given) -> Result<(), NotJson> {
        let name = self.name.take().ok_or(NotJson)?;
        let held = match std::mem::replace(&mut self.arguments, Arguments::Given) {
            Arguments::Missing if needs_arguments => return Err(NotJson),
            Arguments::Missing => "{}".to_owned(),
            Arguments::Held(text) => text,
            Arguments::Given => String::new(),
        };
        if !held.is_empty() {
            given.start(self.id.take().unwrap_or_default(), name);
            held.chars().for_each(|c| given.arguments(c));
        }
        given.end();
        Ok(())
    }
}
