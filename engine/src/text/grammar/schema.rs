//! Schemas, before they are compiled.

use serde_json::{Value, json};

use super::{GrammarError, refused};

/// The longest schema, in bytes.
const LONGEST: usize = 1 << 20;

/// A schema's text as a value.
pub(super) fn read(text: &str) -> Result<Value, GrammarError> {
    if text.len() > LONGEST {
        let len = text.len();
        return refused(format!(
            "the schema has {len} bytes; at most {LONGEST} are compiled"
        ));
    }
    serde_json::from_str(text).or_else(|e| refused(format!("the schema is no JSON: {e}")))
}

/// The schema as it is compiled.
pub(super) fn prepare(schema: &Value) -> Result<Value, GrammarError> {
    let mut prepared = match schema {
        Value::Object(_) => schema.clone(),
        other => json!({"allOf": [other]}),
    };
    if let Value::Object(root) = &mut prepared {
        let options = json!({
            "json_allowed_escapes": "nrbtf\\\"",
            "whitespace_pattern": " |\\n( {0,40}|\\t{0,10})",
        });
        root.insert("x-guidance".to_owned(), options);
    }
    Ok(prepared)
}
