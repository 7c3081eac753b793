//! Filters and tests of jinja2 that the interpreter has not, or has otherwise.

use std::sync::Arc;

use minijinja::value::{Kwargs, Object, Rest, Tuple, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};

use super::environment::invalid;
use super::globals::Cycle;
use super::{methods, python};

/// Gives an environment what is here.
pub(super) fn add(env: &mut Environment<'static>) {
    env.add_filter("string", |state: &State, value: Value| {
        python::str(state, &value)
    });
    env.add_filter("trim", trim);
    env.add_filter("default", default);
    env.add_filter("d", default);
    env.add_filter("dictsort", dictsort);
    env.add_filter("unique", unique);
    env.add_filter("indent", indent);
    env.add_filter("int", int);
    env.add_filter("float", float);
    env.add_filter("groupby", groupby);
    env.add_filter("center", center);
    env.add_filter("truncate", truncate);
    env.add_filter("wordcount", wordcount);
    env.add_filter("striptags", striptags);
    env.add_filter("forceescape", |state: &mut State, value: Value| {
        state.apply_filter("escape", &[value])
    });
    env.add_filter("filesizeformat", minijinja_contrib::filters::filesizeformat);
    // Those that jinja2 has not.
    for name in ["split", "lines", "bool", "chain", "zip"] {
        env.remove_filter(name);
    }
    env.add_test("callable", |value: Value| {
        value.kind() == ValueKind::Plain && value.to_string().contains("function")
            || value.downcast_object_ref::<Cycle>().is_some()
            || format!("{value:?}").starts_with("<macro")
    });
    env.add_test("sequence", |value: Value| {
        matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::Map | ValueKind::String
        )
    });
    env.add_test("iterable", |value: Value| {
        value.is_undefined() || (!value.is_none() && value.try_iter().is_ok())
    });
    for name in ["escape", "e"] {
        env.add_filter(name, escape);
    }
}

/// Markup as text, which is what `markupsafe` makes of it.
fn escape(state: &State, value: Value) -> Result<String, Error> {
    let text = python::str(state, &value)?;
    let text = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    Ok(text.replace('\'', "&#39;").replace('"', "&#34;"))
}

/// Digits in a row that no width of a format has.
const MOST_DIGITS: usize = 4;

/// Refuses a format that asks for more columns than any text has.
pub(super) fn check_format(format: &str) -> Result<(), Error> {
    let mut digits = format.split(|c: char| !c.is_ascii_digit());
    match digits.any(|run| run.len() > MOST_DIGITS) {
        true => Err(invalid("a width of the format has too many digits")),
        false => Ok(()),
    }
}

fn trim(state: &State, value: Value, chars: Option<Value>) -> Result<String, Error> {
    let text = python::str(state, &value)?;
    let chars = chars.filter(|value| !value.is_none());
    let chars = chars.map(|value| python::str(state, &value)).transpose()?;
    Ok(methods::strip(&text, &chars, true, true).to_owned())
}

/// Arguments that have positions and names, behind a filter's value.
struct Arguments {
    names: &'static [&'static str],
    positional: Vec<Value>,
    options: Kwargs,
}

impl Arguments {
    /// Those given, of those that there are.
    fn of(
        given: Rest<Value>,
        options: Kwargs,
        names: &'static [&'static str],
    ) -> Result<Arguments, Error> {
        let positional = given.to_vec();
        if positional.len() > names.len() {
            return Err(Error::from(ErrorKind::TooManyArguments));
        }
        if let Some(unknown) = options.args().find(|name| !names.contains(name)) {
            return Err(invalid(format!(
                "got an unexpected keyword argument {unknown:?}"
            )));
        }
        Ok(Arguments {
            names,
            positional,
            options,
        })
    }

    /// One of them, by its position or its name.
    fn value(&self, name: &str) -> Option<Value> {
        let place = self.names.iter().position(|known| *known == name)?;
        let named = || self.options.get::<Value>(name).ok();
        self.positional.get(place).cloned().or_else(named)
    }

    fn get<T: TryFrom<Value, Error = Error>>(&self, name: &str) -> Result<Option<T>, Error> {
        self.value(name).map(T::try_from).transpose()
    }

    /// Whether something that is false by default is true.
    fn flag(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| value.is_true())
    }

    fn text(&self, name: &str, default: &str) -> Result<String, Error> {
        match self.value(name) {
            None => Ok(default.to_owned()),
            Some(value) => match value.as_str() {
                Some(text) => Ok(text.to_owned()),
                None => Err(invalid(format!("{name} must be a string"))),
            },
        }
    }
}

fn default(value: Value, given: Rest<Value>, options: Kwargs) -> Result<Value, Error> {
    let given = Arguments::of(given, options, &["default_value", "boolean"])?;
    let other = given.value("default_value");
    let boolean = given.flag("boolean");
    let is_missing = value.is_undefined() || (boolean && !value.is_true());
    Ok(match is_missing {
        true => other.unwrap_or_else(|| Value::from("")),
        false => value,
    })
}

/// What values are sorted and compared by: text without case, unless it counts.
fn plain(value: &Value, case_sensitive: bool) -> Value {
    match value.as_str() {
        Some(text) if !case_sensitive => Value::from(text.to_lowercase()),
        _ => value.clone(),
    }
}

fn dictsort(
    state: &State,
    value: Value,
    given: Rest<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let given = Arguments::of(given, options, &["case_sensitive", "by", "reverse"])?;
    let case_sensitive = given.flag("case_sensitive");
    let by = given.text("by", "key")?;
    let reverse = given.flag("reverse");
    if value.kind() != ValueKind::Map {
        return Err(invalid(format!(
            "dictsort needs a mapping, not {}",
            value.kind()
        )));
    }
    let place = match by.as_str() {
        "key" => 0,
        "value" => 1,
        _ => return Err(invalid("You can only sort by either \"key\" or \"value\"")),
    };
    let mut pairs = Vec::new();
    for key in value.try_iter()? {
        state.consume_fuel(8)?;
        let item = value.get_item(&key)?;
        let pair = [key, item];
        pairs.push((plain(&pair[place], case_sensitive), pair));
    }
    pairs.sort_by(|(a, _), (b, _)| if reverse { b.cmp(a) } else { a.cmp(b) });
    let tuples = pairs
        .into_iter()
        .map(|(_, pair)| Value::from(Tuple::from(pair)));
    Ok(Value::from(tuples.collect::<Vec<_>>()))
}

/// A value's attribute, or of one, and so on: `a.b`.
fn path(value: &Value, attribute: &Option<Value>) -> Result<Value, Error> {
    let Some(attribute) = attribute else {
        return Ok(value.clone());
    };
    let Some(text) = attribute.as_str() else {
        return value.get_item(attribute);
    };
    text.split('.')
        .try_fold(value.clone(), |value, part| match part.parse::<usize>() {
            Ok(index) => value.get_item_by_index(index),
            Err(_) => value.get_attr(part),
        })
}

fn unique(
    state: &State,
    value: Value,
    given: Rest<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let given = Arguments::of(given, options, &["case_sensitive", "attribute"])?;
    let case_sensitive = given.flag("case_sensitive");
    let attribute = given.value("attribute");
    let mut seen = std::collections::BTreeSet::new();
    let mut kept = Vec::new();
    for item in value.try_iter()? {
        state.consume_fuel(8)?;
        if seen.insert(plain(&path(&item, &attribute)?, case_sensitive)) {
            kept.push(item);
        }
    }
    Ok(Value::from(kept))
}

fn groupby(
    state: &State,
    value: Value,
    given: Rest<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let given = Arguments::of(given, options, &["attribute", "default", "case_sensitive"])?;
    let attribute = given.value("attribute");
    let default = given.value("default");
    let case_sensitive = given.flag("case_sensitive");
    let mut keyed = Vec::new();
    for item in value.try_iter()? {
        state.consume_fuel(16)?;
        let mut key = path(&item, &attribute)?;
        if let Some(default) = default.as_ref().filter(|_| key.is_undefined()) {
            key = default.clone();
        }
        keyed.push((plain(&key, case_sensitive), key, item));
    }
    keyed.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    let mut groups: Vec<Value> = Vec::new();
    for chunk in keyed.chunk_by(|(a, ..), (b, ..)| a == b) {
        let items: Vec<Value> = chunk.iter().map(|(.., item)| item.clone()).collect();
        let group = Group {
            grouper: chunk[0].1.clone(),
            list: Value::from(items),
        };
        groups.push(Value::from_object(group));
    }
    Ok(Value::from(groups))
}

/// What items have in common, and the items: a pair whose parts have names.
#[derive(Debug)]
struct Group {
    grouper: Value,
    list: Value,
}

impl Object for Group {
    fn repr(self: &Arc<Self>) -> minijinja::value::ObjectRepr {
        minijinja::value::ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match (key.as_str(), key.as_usize()) {
            (Some("grouper"), _) | (None, Some(0)) => Some(self.grouper.clone()),
            (Some("list"), _) | (None, Some(1)) => Some(self.list.clone()),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> minijinja::value::Enumerator {
        minijinja::value::Enumerator::Seq(2)
    }
}

fn indent(
    state: &State,
    text: Value,
    given: Rest<Value>,
    options: Kwargs,
) -> Result<String, Error> {
    let given = Arguments::of(given, options, &["width", "first", "blank"])?;
    let width = given.value("width");
    let first = given.flag("first");
    let blank = given.flag("blank");
    let text = python::str(state, &text)?;
    let prefix = match &width {
        Some(width) => super::environment::indentation(width)?,
        None => "    ".to_owned(),
    };
    let text = text + "\n";
    let lines = methods::lines(&text, false);
    let bytes = lines.len().saturating_mul(prefix.len());
    methods::pay(state, text.len().saturating_add(bytes))?;
    let mut out = String::new();
    for (i, line) in lines.into_iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let is_moved = if i == 0 {
            first
        } else {
            blank || !line.is_empty()
        };
        out.push_str(if is_moved { &prefix } else { "" });
        out.push_str(line);
    }
    Ok(out)
}

fn int(value: Value, given: Rest<Value>, options: Kwargs) -> Result<Value, Error> {
    let given = Arguments::of(given, options, &["default", "base"])?;
    let default = given.value("default").unwrap_or_else(|| Value::from(0));
    let base = given.get::<u32>("base")?.unwrap_or(10);
    if value.kind() == ValueKind::Bool {
        return Ok(Value::from(i64::from(value.is_true())));
    }
    if value.is_integer() {
        return Ok(value);
    }
    let whole = |x: f64| (x.abs() < 1e37).then(|| Value::from(x.trunc() as i128));
    let found = match value.as_str() {
        Some(text) => {
            let text = text.trim().replace('_', "");
            let digits = match base {
                16 => text.trim_start_matches("0x").trim_start_matches("0X"),
                8 => text.trim_start_matches("0o").trim_start_matches("0O"),
                2 => text.trim_start_matches("0b").trim_start_matches("0B"),
                _ => &text,
            };
            let known = (2..=36).contains(&base);
            let parsed = known
                .then(|| i128::from_str_radix(digits, base).ok())
                .flatten();
            let float = || text.parse::<f64>().ok().and_then(whole);
            parsed.map(small).or_else(float)
        }
        None => f64::try_from(value).ok().and_then(whole),
    };
    Ok(found.unwrap_or(default))
}

fn small(number: i128) -> Value {
    i64::try_from(number).map_or_else(|_| Value::from(number), Value::from)
}

fn float(value: Value, given: Rest<Value>, options: Kwargs) -> Result<Value, Error> {
    let given = Arguments::of(given, options, &["default"])?;
    let default = given.value("default").unwrap_or_else(|| Value::from(0.0));
    let found = match value.as_str() {
        Some(text) => text.trim().replace('_', "").parse().ok(),
        None => f64::try_from(value).ok(),
    };
    Ok(found.map_or(default, Value::from))
}

fn center(state: &mut State, value: Value, width: Option<i64>) -> Result<Value, Error> {
    let text = Value::from(python::str(state, &value)?);
    methods::call(state, &text, "center", &[Value::from(width.unwrap_or(80))])
}

fn truncate(
    state: &State,
    value: Value,
    given: Rest<Value>,
    options: Kwargs,
) -> Result<String, Error> {
    let given = Arguments::of(given, options, &["length", "killwords", "end", "leeway"])?;
    let length = given.get::<usize>("length")?.unwrap_or(255);
    let killwords = given.flag("killwords");
    let end = given.text("end", "...")?;
    let leeway = given.get::<usize>("leeway")?.unwrap_or(5);
    let text = python::str(state, &value)?;
    let marks = end.chars().count();
    if length < marks {
        return Err(invalid(format!("expected length >= {marks}, got {length}")));
    }
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let kept: String = text.chars().take(length - marks).collect();
    let kept = match killwords {
        true => &kept[..],
        false => kept
            .rsplit_once(' ')
            .map_or(&kept[..], |(before, _)| before),
    };
    Ok(format!("{kept}{end}"))
}

fn wordcount(state: &State, value: Value) -> Result<usize, Error> {
    let text = python::str(state, &value)?;
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    Ok(text
        .split(|c| !is_part(c))
        .filter(|word| !word.is_empty())
        .count())
}

/// Text without tags and comments, its white space single spaces.
fn striptags(state: &State, value: Value) -> Result<String, Error> {
    let text = python::str(state, &value)?;
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find('<') {
        let end = match rest[at..].starts_with("<!--") {
            true => rest[at..].find("-->").map(|end| end + 3),
            false => rest[at..].find('>').map(|end| end + 1),
        };
        let Some(end) = end else {
            break;
        };
        out.push_str(&rest[..at]);
        rest = &rest[at + end..];
    }
    out.push_str(rest);
    let words: Vec<&str> = out
        .split(methods::is_space)
        .filter(|word| !word.is_empty())
        .collect();
    Ok(words.join(" "))
}
