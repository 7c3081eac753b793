//! What templates find around them: the globals and filters of `transformers`, the methods of Python's
//! strings and lists, and limits.
//!
//! A template is a program of a stranger's. Each step, each item and each byte that it makes costs fuel,
//! also of values on the way, so that fuel bounds time and memory; recursion is bounded too, and a
//! rendering has a thread of its own with a stack that those bounds cannot exhaust.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State};

use super::time;
use super::{filters, globals, guard, methods, python};

/// How deep macros, loops and blocks may stand in each other.
const MOST_RECURSION: usize = 120;

/// A template's refusal of its messages.
#[derive(Debug)]
pub(super) struct Raised(pub(super) String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// An error of a value that cannot be used so.
pub(super) fn invalid(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.into())
}

/// The environment of all templates, which has none yet.
pub(super) fn environment() -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_recursion_limit(MOST_RECURSION);
    env.set_formatter(|out, state, value| {
        match value.as_str() {
            Some(text) => out.write_str(text),
            None => out.write_str(&python::str(state, value)?),
        }
        .map_err(Error::from)
    });
    env.set_unknown_method_callback(methods::call);
    env.add_function("raise_exception", raise_exception);
    env.remove_global("debug");
    env.add_filter("tojson", tojson);
    env.add_filter(guard::FILTER, guard::kept);
    filters::add(&mut env);
    globals::add(&mut env);
    Ok(env)
}

fn raise_exception(state: &State, message: Value) -> Result<Value, Error> {
    let message = python::str(state, &message)?;
    Err(invalid("refused").with_source(Raised(message)))
}

/// `strftime_now` at a moment: seconds since the epoch, or the clock's.
pub(super) fn strftime_now(now: Option<i64>) -> Value {
    Value::from_function(move |format: &str| time::format(now, format).map_err(invalid))
}

/// The filter `tojson` of `transformers`, which is Python's `json.dumps` with characters as they are.
fn tojson(
    state: &State,
    value: Value,
    indent: Option<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    // The first positional argument is `ensure_ascii`, too.
    let ascii = ascii.or(indent.map(|value| value.is_true()));
    let indent: Option<Value> = options.get("indent")?;
    let indent = indent.filter(|value| !value.is_none());
    let separators: Option<Value> = options.get("separators")?;
    let sorted: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let mut dump = python::Dump {
        ascii: ascii.unwrap_or(false),
        sorted: sorted.unwrap_or(false),
        ..python::Dump::default()
    };
    if let Some(indent) = &indent {
        dump.comma = ",".to_owned();
        dump.indent = Some(indentation(indent)?);
    }
    if let Some(pair) = separators.filter(|value| !value.is_none()) {
        dump.comma = python::str(state, &pair.get_item_by_index(0)?)?;
        dump.colon = python::str(state, &pair.get_item_by_index(1)?)?;
    }
    dump.write(Some(state), &value).map(Value::from)
}

/// The most spaces of an indentation.
const MOST_INDENT: i64 = 64;

/// What a level is indented by: so many spaces, or a text.
pub(super) fn indentation(indent: &Value) -> Result<String, Error> {
    if let Some(text) = indent.as_str() {
        return Ok(text.to_owned());
    }
    let spaces = i64::try_from(indent.clone())?;
    match spaces <= MOST_INDENT {
        true => Ok(" ".repeat(spaces.max(0) as usize)),
        false => Err(invalid(format!(
            "indent={spaces} is more than {MOST_INDENT}"
        ))),
    }
}
