//! Which known pre-tokenizer a `tokenizer.json` has: by its steps and their regular expressions.
//!
//! Expressions are compared as text, but for marks that change nothing of what matches (possessive
//! quantifiers in front of what they cannot match). One that is not on the list is refused: words that
//! are cut otherwise than in training degrade a model silently.

use serde_json::Value;

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const MINICPM5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const UFAKZEKA: &str =
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const DEEPSEEK3_HAN: &str = "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
const BLOOM: &str = " ?[^(\\s|[.,!?\u{2026}\u{3002}\u{ff0c}\u{3001}\u{964}\u{6d4}\u{60c}])]+";
const BLOOM_FLAT: &str = " ?[^(\\s|.,!?\u{2026}\u{3002}\u{ff0c}\u{3001}\u{964}\u{6d4}\u{60c})]+";

/// A step of a pre-tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Matches of an expression, and what lies between them.
    Split(String),
    Digits {
        single: bool,
    },
    Punctuation,
    /// Bytes become characters; before that, words of GPT-2.
    Bytes {
        words: bool,
    },
}

/// A pre-tokenizer: its name in GGUF files and its steps.
struct Known {
    name: &'static str,
    steps: Vec<Step>,
    composes: bool,
    ignores_merges: bool,
}

fn known() -> Vec<Known> {
    let split = |rule: &str| Step::Split(rule.to_owned());
    let bytes = |words| Step::Bytes { words };
    let digits = |single| Step::Digits { single };
    let one = |rule| vec![split(rule), bytes(false)];
    let row = |name, steps, composes, ignores_merges| Known {
        name,
        steps,
        composes,
        ignores_merges,
    };
    let numbers = |rule| vec![split(r"\p{N}{1,3}"), split(rule), bytes(false)];
    vec![
        row("llama-bpe", one(LLAMA3), false, true),
        row("dbrx", one(LLAMA3), false, false),
        row("qwen2", one(QWEN2), true, false),
        row("deepseek-r1-qwen", one(QWEN2), false, false),
        row("qwen35", one(QWEN35), true, false),
        row("seed-coder", one(SEED_CODER), false, false),
        row("ufakzeka", one(UFAKZEKA), false, false),
        row("minicpm5", numbers(MINICPM5), false, true),
        row("gpt-4o", one(GPT4O), false, false),
        row("tekken", one(TEKKEN), false, true),
        row("gpt-2", vec![bytes(true)], false, false),
        row("mpt", vec![bytes(true)], true, false),
        row("starcoder", vec![digits(true), bytes(true)], false, false),
        row("command-r", vec![digits(true), bytes(true)], true, false),
        row(
            "falcon",
            vec![
                Step::Punctuation,
                bytes(true),
                digits(false),
                split("[0-9][0-9][0-9]"),
            ],
            false,
            false,
        ),
        row(
            "deepseek-v3",
            vec![
                split(r"\p{N}{1,3}"),
                split(DEEPSEEK3_HAN),
                split(DEEPSEEK3),
                bytes(false),
            ],
            false,
            false,
        ),
        row(
            "deepseek-coder",
            vec![
                split("[\r\n]"),
                split(r"\s?\p{L}+"),
                split(r"\s?\p{P}+"),
                split("[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+"),
                digits(true),
                bytes(false),
            ],
            false,
            false,
        ),
        row("bloom", one(BLOOM), false, false),
        row("bloom", one(BLOOM_FLAT), false, false),
    ]
}

/// The name of a byte-level pre-tokenizer.
///
/// # Errors
/// What of it is known to none.
pub(super) fn recognise(
    pre_tokenizer: Option<&Value>,
    composes: bool,
    ignores_merges: bool,
) -> Result<&'static str, String> {
    let mut steps = Vec::new();
    collect(pre_tokenizer.unwrap_or(&Value::Null), 0, &mut steps)?;
    // A digit a word, either way.
    for step in &mut steps {
        if *step == Step::Split(r"\p{N}".to_owned()) {
            *step = Step::Digits { single: true };
        }
    }
    let known = known();
    let alike: Vec<&Known> = known.iter().filter(|k| k.steps == steps).collect();
    let is_same = |k: &&&Known| k.composes == composes && k.ignores_merges == ignores_merges;
    match (alike.iter().find(is_same), alike.first()) {
        (Some(found), _) => Ok(found.name),
        (None, Some(near)) => Err(format!(
            "its words are those of {:?}, but that with{} NFC and with ignore_merges {}; no \
             pre-tokenizer here is both",
            near.name,
            if composes { "" } else { "out" },
            ignores_merges
        )),
        (None, None) => Err(format!(
            "no pre-tokenizer here cuts words by {}",
            shown(&steps)
        )),
    }
}

/// The steps of a pre-tokenizer, in order.
fn collect(value: &Value, depth: usize, steps: &mut Vec<Step>) -> Result<(), String> {
    let flag = |key: &str, default: bool| value[key].as_bool().unwrap_or(default);
    match value["type"].as_str() {
        Some("Sequence") if depth < 4 => {
            let inner = value["pretokenizers"].as_array();
            for step in inner.into_iter().flatten() {
                collect(step, depth + 1, steps)?;
            }
            return Ok(());
        }
        Some("ByteLevel") => {
            if flag("add_prefix_space", true) {
                return Err("it puts a space in front of texts (add_prefix_space)".to_owned());
            }
            steps.push(Step::Bytes {
                words: flag("use_regex", true),
            });
        }
        Some("Digits") => steps.push(Step::Digits {
            single: flag("individual_digits", false),
        }),
        Some("Punctuation") if value["behavior"].as_str() == Some("Contiguous") => {
            steps.push(Step::Punctuation);
        }
        Some("Split") => steps.push(Step::Split(split(value)?)),
        Some(other) => return Err(format!("its step {} is unknown here", cut(other))),
        None => return Err("it has none".to_owned()),
    }
    Ok(())
}

/// The expression of a step whose matches and gaps are words.
fn split(value: &Value) -> Result<String, String> {
    let (behavior, invert) = (value["behavior"].as_str(), value["invert"].as_bool());
    // Where matches alone are kept, the expressions here leave nothing else.
    let keeps_all =
        behavior == Some("Isolated") || (behavior, invert) == (Some("Removed"), Some(true));
    let rule = value["pattern"]["Regex"].as_str();
    match rule.filter(|_| keeps_all) {
        Some(rule) => Ok(plain(rule)),
        None => Err(format!(
            "it splits by {} and behavior {}",
            cut(&value["pattern"].to_string()),
            cut(behavior.unwrap_or("none"))
        )),
    }
}

/// An expression without what changes nothing.
fn plain(rule: &str) -> String {
    let rule = rule
        .replace("]?+\\p", "]?\\p")
        .replace("]++[", "]+[")
        .replace("]*+|", "]*|");
    rule.replace("'(?i:[sdmt]|ll|ve|re)", "(?i:'s|'t|'re|'ve|'m|'ll|'d)")
}

fn shown(steps: &[Step]) -> String {
    let each = steps.iter().map(|step| match step {
        Step::Split(rule) => format!("the expression {}", cut(rule)),
        Step::Digits { single: true } => "single digits".to_owned(),
        Step::Digits { single: false } => "digits".to_owned(),
        Step::Punctuation => "punctuation".to_owned(),
        Step::Bytes { words: true } => "the words of GPT-2".to_owned(),
        Step::Bytes { words: false } => "bytes".to_owned(),
    });
    each.collect::<Vec<_>>().join(", ")
}

/// Text of a file as a message may show it.
fn cut(text: &str) -> String {
    let shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    format!("{shown:?}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::text::tokenizer::pre_tokenizers;

    fn sequence(steps: Value) -> Value {
        json!({"type": "Sequence", "pretokenizers": steps})
    }

    fn by(rule: &str) -> Value {
        sequence(json!([
            {"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]))
    }

    #[test]
    fn every_name_is_one_that_files_can_have() {
        for row in known() {
            assert!(
                pre_tokenizers().any(|name| name == row.name),
                "{}",
                row.name
            );
        }
    }

    #[test]
    fn expressions_and_flags_say_which() {
        let name = |value: &Value, composes, ignores| recognise(Some(value), composes, ignores);
        assert_eq!(name(&by(LLAMA3), false, true), Ok("llama-bpe"));
        assert_eq!(name(&by(LLAMA3), false, false), Ok("dbrx"));
        assert_eq!(name(&by(QWEN2), true, false), Ok("qwen2"));
        assert_eq!(name(&by(QWEN2), false, false), Ok("deepseek-r1-qwen"));
        let old = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        assert_eq!(name(&by(old), false, false), Ok("dbrx"));
        let gpt2 = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true});
        assert_eq!(name(&gpt2, false, false), Ok("gpt-2"));
        let smollm = sequence(json!([{"type": "Digits", "individual_digits": true}, gpt2]));
        assert_eq!(name(&smollm, false, false), Ok("starcoder"));
        let removed = json!({"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Removed",
            "invert": true});
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false});
        let phi4 = sequence(json!([removed, bytes]));
        assert_eq!(name(&phi4, false, false), Ok("dbrx"));
    }

    #[test]
    fn what_is_not_known_is_named() {
        let refused = |value: Value, part: &str| {
            let line = recognise(Some(&value), false, false).unwrap_err();
            assert!(
                line.contains(part) && !line.contains('\n'),
                "{part:?} is not in {line:?}"
            );
        };
        refused(by("x+\n"), "x+\\\\n");
        refused(by(TEKKEN), "\"tekken\"");
        refused(json!({"type": "ByteLevel"}), "add_prefix_space");
        refused(sequence(json!([{"type": "Whitespace"}])), "Whitespace");
        refused(Value::Null, "none");
        let mut merged = by(LLAMA3);
        merged["pretokenizers"][0]["behavior"] = json!("MergedWithNext");
        refused(merged, "MergedWithNext");
    }
}
