//! Random schemas of which every value is short.

use serde_json::{Map, Value, json};

/// The same numbers every time.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % n as u64) as usize
    }

    pub(crate) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

const NAMES: &[&str] = &[
    "id", "name", "a b", "tags", "größe", "x/y", "q\"uote", "value", "is_ok", "n", "items", "$ref",
    "~",
];
const PATTERNS: &[&str] = &[
    "^[a-z]{1,5}$",
    "^\\d{2}-\\d{2}$",
    "^(yes|no|maybe)$",
    "^.{2,4}$",
    "^\\w+@x\\.de$",
    "^#[0-9A-F]{3}$",
    "^a.c/d$",
    "^[^\"\\\\]{1,4}$",
    "^(a|b){2,3}c?$",
];
const FORMATS: &[&str] = &[
    "date",
    "time",
    "date-time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
];

/// A schema.
pub(crate) fn schema(random: &mut Random) -> Value {
    let mut schema = part(random, 3, true);
    let Some(root) = schema.as_object_mut() else {
        return schema;
    };
    let mut defs = Map::new();
    defs.insert("small".into(), part(random, 1, false));
    defs.insert("a/b~c".into(), part(random, 1, false));
    // A list of lists that ends.
    defs.insert(
        "tree".into(),
        json!({"type": "object", "properties": {"leaf": {"type": "integer", "minimum": 0, "maximum": 99},
               "next": {"anyOf": [{"$ref": "#/$defs/small"}, {"type": "null"}, {"$ref": "#/$defs/tree"}]}},
               "required": ["leaf"], "additionalProperties": false}),
    );
    root.insert("$defs".into(), defs.into());
    if random.once_in(4) {
        root.insert(
            "$schema".into(),
            "https://json-schema.org/draft/2020-12/schema".into(),
        );
    }
    root.insert("description".into(), "Of a test.".into());
    schema
}

fn part(random: &mut Random, depth: usize, refers: bool) -> Value {
    let leaf = depth == 0;
    match random.below(match leaf {
        true => 7,
        false => 13,
    }) {
        0 => json!({"type": "boolean"}),
        1 => json!({"type": ["null", "integer"], "minimum": -5, "maximum": 5}),
        2 => constants(random),
        3 => integer(random),
        4 => number(random),
        5 | 6 => text(random),
        7 if refers => {
            let name = ["small", "a~1b~0c", "a~1b%7E0c", "tree"][random.below(4)];
            json!({"$ref": format!("#/$defs/{name}")})
        }
        8 => {
            let options: Vec<Value> = (0..2 + random.below(2))
                .map(|_| part(random, depth - 1, refers))
                .collect();
            json!({"anyOf": options})
        }
        9 => list(random, depth, refers),
        10 => {
            let first: Vec<Value> = (0..1 + random.below(2))
                .map(|_| part(random, depth - 1, refers))
                .collect();
            let n = first.len();
            json!({"type": "array", "prefixItems": first, "items": false, "minItems": random.below(n + 1)})
        }
        _ => object(random, depth, refers),
    }
}

fn constants(random: &mut Random) -> Value {
    let all = [
        json!("a"),
        json!("né\n\t\"\\"),
        json!(3),
        json!(-7.25),
        json!(null),
        json!(true),
        json!([1, "x"]),
        json!({"k": [false]}),
        json!(""),
        json!(1e3),
    ];
    match random.once_in(3) {
        true => json!({"const": all[random.below(all.len())]}),
        false => {
            let n = 1 + random.below(4);
            let from = random.below(all.len() - n);
            json!({"enum": &all[from..from + n]})
        }
    }
}

fn integer(random: &mut Random) -> Value {
    let mut schema = json!({"type": "integer"});
    let low = random.below(200) as i64 - 100;
    let span = 3 + random.below(1000) as i64;
    match random.below(3) {
        0 => {
            schema["minimum"] = low.into();
            schema["maximum"] = (low + span).into();
        }
        1 => {
            schema["exclusiveMinimum"] = low.into();
            schema["exclusiveMaximum"] = (low + span).into();
        }
        _ => {
            schema["minimum"] = (i64::MAX - 5000).into();
            schema["maximum"] = i64::MAX.into();
        }
    }
    if schema.get("minimum") == Some(&low.into()) && span > 40 && random.once_in(3) {
        schema["multipleOf"] = (1 + random.below(9)).into();
    }
    schema
}

fn number(random: &mut Random) -> Value {
    let low = random.below(100) as f64 / 8.0 - 4.0;
    let high = low + 0.5 + random.below(80) as f64 / 4.0;
    match random.once_in(2) {
        true => json!({"type": "number", "minimum": low, "maximum": high}),
        false => json!({"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": high}),
    }
}

fn text(random: &mut Random) -> Value {
    match random.below(3) {
        0 => {
            let least = random.below(4);
            json!({"type": "string", "minLength": least, "maxLength": least + random.below(8)})
        }
        1 if random.once_in(4) => {
            let pattern = ["b", "^a|c$", "^\\S", "\\d\\d", "^$", "x*$"][random.below(6)];
            json!({"type": "string", "pattern": pattern, "maxLength": 6})
        }
        1 => json!({"type": "string", "pattern": PATTERNS[random.below(PATTERNS.len())]}),
        _ => json!({"type": "string", "format": FORMATS[random.below(FORMATS.len())]}),
    }
}

fn list(random: &mut Random, depth: usize, refers: bool) -> Value {
    let least = random.below(3);
    json!({"type": "array", "items": part(random, depth - 1, refers), "minItems": least,
           "maxItems": least + random.below(3)})
}

fn object(random: &mut Random, depth: usize, refers: bool) -> Value {
    let mut properties = Map::new();
    for _ in 0..random.below(5) {
        let name = NAMES[random.below(NAMES.len())];
        properties.insert(name.to_owned(), part(random, depth - 1, refers));
    }
    let names: Vec<String> = properties.keys().cloned().collect();
    let required: Vec<&String> = names.iter().filter(|_| !random.once_in(3)).collect();
    let mut schema = json!({"type": "object", "properties": properties, "required": required});
    match random.below(12) {
        // Open, with few more.
        0 => {
            schema["additionalProperties"] = part(random, 0, false);
            schema["maxProperties"] = (names.len() + 1).into();
            schema["required"] = json!(names);
        }
        1 => {
            schema["patternProperties"] = json!({"^x-[a-z]{1,2}$": part(random, 0, false)});
            schema["additionalProperties"] = false.into();
            schema["maxProperties"] = (names.len() + 2).into();
            schema["required"] = json!(names);
        }
        _ => schema["additionalProperties"] = false.into(),
    }
    schema
}
