//! Values as Python writes them: `str`, `repr`, and `json.dumps`.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, State};
use unicode_general_category::{GeneralCategory, get_general_category};

/// How deep values that are written may stand in each other.
const MOST_DEPTH: usize = 200;

/// Text that grows within what a template may spend.
struct Out<'s, 'a, 'b> {
    text: String,
    /// Who pays, where a template spends.
    state: Option<&'s State<'a, 'b>>,
    /// Bytes that were paid for.
    paid: usize,
}

/// Bytes of text that are paid for together.
const BYTES_AT_ONCE: usize = 1024;

impl Out<'_, '_, '_> {
    fn push(&mut self, text: &str) -> Result<(), Error> {
        self.text.push_str(text);
        self.pay()
    }

    fn pay(&mut self) -> Result<(), Error> {
        match self.text.len() < self.paid + BYTES_AT_ONCE {
            true => Ok(()),
            false => self.settle(),
        }
    }

    fn settle(&mut self) -> Result<(), Error> {
        let bytes = self.text.len() - self.paid;
        self.paid = self.text.len();
        (self.state).map_or(Ok(()), |state| state.consume_fuel(bytes as u64 / 8))
    }
}

fn too_deep() -> Error {
    Error::new(ErrorKind::InvalidOperation, "too deep a structure")
}

fn items(value: &Value) -> Result<impl Iterator<Item = Result<Value, Error>>, Error> {
    Ok(value.try_iter()?.checked())
}

/// What Python's `str` gives.
pub(super) fn str(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    let mut out = Out {
        text: String::new(),
        state: Some(state),
        paid: 0,
    };
    match value.kind() {
        ValueKind::Undefined => {}
        _ => write_repr(value, &mut out, 0)?,
    }
    out.settle()?;
    Ok(out.text)
}

fn write_repr(value: &Value, out: &mut Out<'_, '_, '_>, depth: usize) -> Result<(), Error> {
    if depth == MOST_DEPTH {
        return Err(too_deep());
    }
    match value.kind() {
        ValueKind::String => {
            push_quoted(value.as_str().unwrap_or_default(), &mut out.text);
            out.pay()
        }
        ValueKind::Number => out.push(&number(value)),
        ValueKind::Map => write_map(value, out, depth),
        ValueKind::Seq | ValueKind::Iterable => write_seq(value, out, depth),
        ValueKind::Undefined => out.push("Undefined"),
        _ => out.push(&value.to_string()),
    }
}

fn write_map(value: &Value, out: &mut Out<'_, '_, '_>, depth: usize) -> Result<(), Error> {
    out.push("{")?;
    for (i, key) in items(value)?.enumerate() {
        let key = key?;
        if i > 0 {
            out.push(", ")?;
        }
        write_repr(&key, out, depth + 1)?;
        out.push(": ")?;
        write_repr(&value.get_item(&key)?, out, depth + 1)?;
    }
    out.push("}")
}

fn write_seq(value: &Value, out: &mut Out<'_, '_, '_>, depth: usize) -> Result<(), Error> {
    let is_tuple = value.is_tuple();
    out.push(if is_tuple { "(" } else { "[" })?;
    let mut count = 0;
    for item in items(value)? {
        if count > 0 {
            out.push(", ")?;
        }
        write_repr(&item?, out, depth + 1)?;
        count += 1;
    }
    out.push(match (is_tuple, count) {
        (true, 1) => ",)",
        (true, _) => ")",
        (false, _) => "]",
    })
}

/// A number as Python writes it: a float by the shortest digits that give it back.
pub(super) fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => self::float(float),
        _ => value.to_string(),
    }
}

/// `float.__repr__`: positional between 1e-4 and 1e16, else with an exponent of two digits or more.
pub(super) fn float(x: f64) -> String {
    if x.is_nan() {
        return "nan".to_owned();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let digits = format!("{x:e}");
    let (mantissa, exponent) = digits.split_once('e').unwrap_or((&digits, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let text = x.to_string();
        return if text.contains('.') {
            text
        } else {
            text + ".0"
        };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// Whether Python shows a character as it is.
pub(super) fn is_printable(c: char) -> bool {
    use GeneralCategory as G;
    c == ' '
        || !matches!(
            get_general_category(c),
            G::Control
                | G::Format
                | G::Surrogate
                | G::PrivateUse
                | G::Unassigned
                | G::LineSeparator
                | G::ParagraphSeparator
                | G::SpaceSeparator
        )
}

/// `str.__repr__`.
fn push_quoted(text: &str, out: &mut String) {
    let quote = match text.contains('\'') && !text.contains('"') {
        true => '"',
        false => '\'',
    };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if c == quote => out.extend(['\\', c]),
            _ if is_printable(c) => out.push(c),
            _ => out.push_str(&match u32::from(c) {
                code @ 0..=0xff => format!("\\x{code:02x}"),
                code @ 0x100..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    out.push(quote);
}

/// How `json.dumps` is asked to write.
pub(super) struct Dump {
    /// What a level is indented by; `None`: everything on one line.
    pub(super) indent: Option<String>,
    /// Between items.
    pub(super) comma: String,
    /// Between a key and its value.
    pub(super) colon: String,
    /// Characters beyond ASCII are escaped.
    pub(super) ascii: bool,
    /// Keys are sorted.
    pub(super) sorted: bool,
}

impl Default for Dump {
    fn default() -> Dump {
        Dump {
            indent: None,
            comma: ", ".to_owned(),
            colon: ": ".to_owned(),
            ascii: false,
            sorted: false,
        }
    }
}

impl Dump {
    /// What Python's `json.dumps` gives.
    pub(super) fn write(
        &self,
        state: Option<&State<'_, '_>>,
        value: &Value,
    ) -> Result<String, Error> {
        let mut out = Out {
            text: String::new(),
            state,
            paid: 0,
        };
        self.value(value, &mut out, 0)?;
        out.settle()?;
        Ok(out.text)
    }

    fn value(&self, value: &Value, out: &mut Out<'_, '_, '_>, depth: usize) -> Result<(), Error> {
        if depth == MOST_DEPTH {
            return Err(too_deep());
        }
        match value.kind() {
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Map => self.map(value, out, depth),
            ValueKind::Seq | ValueKind::Iterable => self.seq(value, out, depth),
            ValueKind::None | ValueKind::Bool | ValueKind::Number => out.push(&scalar(value)),
            _ => {
                let name = match value.is_undefined() {
                    true => "Undefined".to_owned(),
                    false => value.kind().to_string(),
                };
                let problem = format!("Object of type {name} is not JSON serializable");
                Err(Error::new(ErrorKind::InvalidOperation, problem))
            }
        }
    }

    fn string(&self, text: &str, out: &mut Out<'_, '_, '_>) -> Result<(), Error> {
        push_json_string(text, self.ascii, &mut out.text);
        out.pay()
    }

    fn seq(&self, value: &Value, out: &mut Out<'_, '_, '_>, depth: usize) -> Result<(), Error> {
        out.push("[")?;
        let mut is_empty = true;
        for item in items(value)? {
            self.between(is_empty, out, depth + 1)?;
            self.value(&item?, out, depth + 1)?;
            is_empty = false;
        }
        self.close(is_empty, "]", out, depth)
    }

    fn map(&self, value: &Value, out: &mut Out<'_, '_, '_>, depth: usize) -> Result<(), Error> {
        let mut pairs = Vec::new();
        for key in items(value)? {
            let key = key?;
            let name = match key.as_str() {
                Some(text) => text.to_owned(),
                None => scalar(&key),
            };
            pairs.push((name, value.get_item(&key)?));
        }
        if self.sorted {
            pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        out.push("{")?;
        let is_empty = pairs.is_empty();
        for (i, (name, item)) in pairs.iter().enumerate() {
            self.between(i == 0, out, depth + 1)?;
            self.string(name, out)?;
            out.push(&self.colon)?;
            self.value(item, out, depth + 1)?;
        }
        self.close(is_empty, "}", out, depth)
    }

    fn between(&self, first: bool, out: &mut Out<'_, '_, '_>, depth: usize) -> Result<(), Error> {
        if !first {
            out.push(&self.comma)?;
        }
        self.line(out, depth)
    }

    fn close(
        &self,
        is_empty: bool,
        end: &str,
        out: &mut Out<'_, '_, '_>,
        depth: usize,
    ) -> Result<(), Error> {
        if !is_empty {
            self.line(out, depth)?;
        }
        out.push(end)
    }

    fn line(&self, out: &mut Out<'_, '_, '_>, depth: usize) -> Result<(), Error> {
        let Some(indent) = &self.indent else {
            return Ok(());
        };
        out.push("\n")?;
        (0..depth).try_for_each(|_| out.push(indent))
    }
}

/// A value without parts, as JSON.
fn scalar(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "null".to_owned(),
        ValueKind::Bool => value.is_true().to_string(),
        _ => match number(value).as_str() {
            "nan" => "NaN".to_owned(),
            "inf" => "Infinity".to_owned(),
            "-inf" => "-Infinity".to_owned(),
            number => number.to_owned(),
        },
    }
}

fn push_json_string(text: &str, ascii: bool, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            _ if ascii || c < ' ' => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}
