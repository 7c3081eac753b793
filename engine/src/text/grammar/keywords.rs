//! The keywords of schemas: which hold schemas, which restrict nothing, which cannot be followed, and what
//! their values are.

use serde_json::Value;

/// Keywords that restrict values in ways that cannot be followed.
pub(super) const UNSUPPORTED: &[&str] = &[
    "not",
    "if",
    "contains",
    "minContains",
    "maxContains",
    "propertyNames",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$recursiveRef",
];
/// Keywords that restrict nothing, and are dropped.
pub(super) const ANNOTATIONS: &[&str] = &[
    "title",
    "description",
    "default",
    "examples",
    "example",
    "$comment",
    "readOnly",
    "writeOnly",
    "deprecated",
    "contentMediaType",
    "contentEncoding",
    "contentSchema",
    "discriminator",
    "$anchor",
    "$dynamicAnchor",
    "then",
    "else",
];
/// Keywords of one schema.
pub(super) const OF_ONE: &[&str] = &["items", "additionalProperties", "additionalItems"];
/// Keywords of a list of schemas.
pub(super) const OF_LIST: &[&str] = &["prefixItems", "items", "allOf", "anyOf", "oneOf"];
/// Keywords of schemas by name.
pub(super) const OF_MAP: &[&str] = &["properties", "patternProperties", "$defs", "definitions"];
/// The drafts that are read, by address.
pub(super) const DRAFTS: &[&str] = &[
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
    "http://json-schema.org/draft-06/schema",
    "http://json-schema.org/draft-04/schema",
];

/// What the value of a keyword is.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Count,
    Number,
    Bound,
    Text,
    Texts,
    Types,
    List,
    Map,
}

impl Kind {
    pub(super) fn holds(self, value: &Value) -> bool {
        let is_text = Value::is_string;
        match self {
            Kind::Count => value.is_u64(),
            Kind::Number => value.is_number(),
            Kind::Bound => value.is_number() || value.is_boolean(),
            Kind::Text => is_text(value),
            Kind::Texts => value
                .as_array()
                .is_some_and(|list| list.iter().all(is_text)),
            Kind::Types => {
                let is_type = |kind: &Value| kind.as_str().is_some_and(|k| TYPES.contains(&k));
                is_type(value)
                    || value
                        .as_array()
                        .is_some_and(|list| list.iter().all(is_type))
            }
            Kind::List => value.is_array(),
            Kind::Map => value.is_object(),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Count => "a count: a whole number from 0",
            Kind::Number => "a number",
            Kind::Bound => "a number, or true or false",
            Kind::Text => "a string",
            Kind::Texts => "a list of strings",
            Kind::Types => {
                "a type: null, boolean, integer, number, string, array, object, or a list of them"
            }
            Kind::List => "a list",
            Kind::Map => "an object of schemas by name",
        }
    }
}

const TYPES: &[&str] = &[
    "null", "boolean", "integer", "number", "string", "array", "object",
];

/// What the value of a keyword is, where that is checked.
pub(super) fn kind_of(key: &str) -> Option<Kind> {
    Some(match key {
        "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties" => {
            Kind::Count
        }
        "minimum" | "maximum" | "multipleOf" => Kind::Number,
        "exclusiveMinimum" | "exclusiveMaximum" => Kind::Bound,
        "pattern" | "format" | "$ref" | "$schema" => Kind::Text,
        "required" => Kind::Texts,
        "type" => Kind::Types,
        "enum" | "anyOf" | "allOf" | "oneOf" | "prefixItems" => Kind::List,
        "properties" | "patternProperties" | "$defs" | "definitions" => Kind::Map,
        _ => return None,
    })
}
