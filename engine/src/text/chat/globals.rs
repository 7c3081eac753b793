//! Globals of jinja2 that the interpreter has not, or has otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use minijinja::value::{Kwargs, Object, Rest, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State};

use super::environment::invalid;
use super::guard;

/// Gives an environment what is here.
pub(super) fn add(env: &mut Environment<'static>) {
    env.add_function("dict", dict);
    env.add_function("cycler", cycler);
    env.add_function("joiner", joiner);
}

fn dict(state: &State, given: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let mut pairs: Vec<(Value, Value)> = Vec::new();
    if let Some(given) = given {
        let is_map = given.kind() == ValueKind::Map;
        for item in given.try_iter()? {
            pairs.push(match is_map {
                true => (item.clone(), given.get_item(&item)?),
                false => (item.get_item_by_index(0)?, item.get_item_by_index(1)?),
            });
        }
    }
    for name in options.args() {
        pairs.push((Value::from(name), options.get(name)?));
    }
    guard::kept(state, Value::from_pairs(pairs))
}

/// Values in turn (`cycler`), or a separator from the second time on (`joiner`).
#[derive(Debug)]
pub(super) struct Cycle {
    items: Vec<Value>,
    at: AtomicUsize,
    joins: bool,
}

fn cycler(items: Rest<Value>) -> Result<Value, Error> {
    if items.is_empty() {
        return Err(invalid("at least one item has to be provided"));
    }
    Ok(Value::from_object(Cycle {
        items: items.to_vec(),
        at: AtomicUsize::new(0),
        joins: false,
    }))
}

fn joiner(sep: Option<Value>) -> Value {
    Value::from_object(Cycle {
        items: vec![Value::from(""), sep.unwrap_or_else(|| Value::from(", "))],
        at: AtomicUsize::new(0),
        joins: true,
    })
}

impl Cycle {
    fn current(&self) -> Value {
        self.items[self.at.load(Ordering::Relaxed) % self.items.len()].clone()
    }
}

impl Object for Cycle {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current") && !self.joins).then(|| self.current())
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let () = from_args(args)?;
        if !self.joins {
            return Err(invalid("a cycler cannot be called; its method next can"));
        }
        let value = self.current();
        self.at.store(1, Ordering::Relaxed);
        Ok(value)
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        let () = from_args(args)?;
        match method {
            "next" if !self.joins => {
                let value = self.current();
                self.at.fetch_add(1, Ordering::Relaxed);
                Ok(value)
            }
            "reset" if !self.joins => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}
