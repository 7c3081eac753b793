//! Where in a schema an error is: the smallest part that has it by itself.

use std::panic::AssertUnwindSafe;

use llguidance::panic_utils::catch_unwind;
use llguidance::{GrammarBuilder, JsonCompileOptions};
use serde_json::{Map, Value};

use super::compile::{limits, one_line};
use super::schema;

/// Parts that are compiled to find the place, at most.
const MOST: usize = 200;

/// The place of the smallest part of a schema that has the error of the whole, as `#/properties/a`.
pub(super) fn failing(whole: &Value) -> Option<String> {
    let error = error_of(whole)?;
    let (mut path, mut part, mut left) = ("#".to_owned(), whole, MOST);
    'deeper: loop {
        for (step, child) in schema::parts(part) {
            if left == 0 {
                break 'deeper;
            }
            left -= 1;
            if error_of(&by_itself(child, whole)).as_ref() == Some(&error) {
                path.push_str(&step);
                part = child;
                continue 'deeper;
            }
        }
        break;
    }
    Some(path)
}

/// A part with the definitions that it may refer to.
fn by_itself(part: &Value, whole: &Value) -> Value {
    let mut part = part.clone();
    let (Some(object), Some(root)) = (part.as_object_mut(), whole.as_object()) else {
        return part;
    };
    let lacking = |object: &Map<String, Value>, key: &str| !object.contains_key(key);
    for key in ["$defs", "definitions", "$schema"] {
        if let Some(value) = root.get(key).filter(|_| lacking(object, key)) {
            object.insert(key.to_owned(), value.clone());
        }
    }
    part
}

fn error_of(schema: &Value) -> Option<String> {
    let prepared = schema::prepare(schema).ok()?;
    let built = catch_unwind(AssertUnwindSafe(|| {
        let builder = GrammarBuilder::new(None, limits());
        JsonCompileOptions::default().json_to_llg_with_overrides(builder, prepared)
    }));
    built.err().map(|e| one_line(&e.to_string()))
}
