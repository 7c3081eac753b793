//! `tokenizer.json` and `tokenizer_config.json` as they are written, read without copies of texts.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// `tokenizer.json`.
#[derive(Deserialize)]
pub(super) struct TokenizerFile<'a> {
    #[serde(default, borrow)]
    pub(super) added_tokens: Vec<Added<'a>>,
    pub(super) normalizer: Option<Value>,
    pub(super) pre_tokenizer: Option<Value>,
    pub(super) post_processor: Option<Value>,
    pub(super) decoder: Option<Value>,
    #[serde(borrow)]
    pub(super) model: Model<'a>,
}

/// A token beside what merging gives.
#[derive(Deserialize)]
pub(super) struct Added<'a> {
    pub(super) id: u32,
    #[serde(borrow)]
    pub(super) content: Cow<'a, str>,
    #[serde(default)]
    pub(super) special: bool,
    #[serde(default)]
    pub(super) single_word: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
}

/// How words become tokens.
#[derive(Deserialize)]
pub(super) struct Model<'a> {
    #[serde(rename = "type")]
    pub(super) kind: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    pub(super) vocab: Tokens<'a>,
    #[serde(default, borrow)]
    pub(super) merges: Merges<'a>,
    pub(super) dropout: Option<f64>,
    pub(super) unk_token: Option<Cow<'a, str>>,
    pub(super) continuing_subword_prefix: Option<Cow<'a, str>>,
    pub(super) end_of_word_suffix: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(super) byte_fallback: bool,
    #[serde(default)]
    pub(super) ignore_merges: bool,
}

/// Texts with their ids, in the order of the file; none where the file has a list in their place.
#[derive(Default)]
pub(super) struct Tokens<'a>(pub(super) Vec<(Cow<'a, str>, u32)>);

/// A text that is borrowed where nothing in it is escaped.
struct Text<'a>(Cow<'a, str>);

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Text<'a>, D::Error> {
        json.deserialize_str(TextVisitor)
    }
}

struct TokensVisitor;

impl<'de> Visitor<'de> for TokensVisitor {
    type Value = Tokens<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of ids by their texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tokens<'de>, A::Error> {
        let mut tokens = Vec::new();
        while let Some((text, id)) = map.next_entry::<Text<'de>, u32>()? {
            tokens.push((text.0, id));
        }
        Ok(Tokens(tokens))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tokens<'de>, A::Error> {
        // Those of models of other kinds, which are refused by their kind.
        while list.next_element::<serde::de::IgnoredAny>()?.is_some() {}
        Ok(Tokens::default())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Tokens<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Tokens<'a>, D::Error> {
        json.deserialize_any(TokensVisitor)
    }
}

/// Pairs of texts that merge, the first one first.
#[derive(Default)]
pub(super) struct Merges<'a>(pub(super) Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// A pair: a list of two, or a text with a space between.
struct Pair<'a>(Cow<'a, str>, Cow<'a, str>);

struct PairVisitor;

impl<'de> Visitor<'de> for PairVisitor {
    type Value = Pair<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a pair of texts, as a list or with a space between them")
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Pair<'de>, E> {
        let (left, right) = halves(text)?;
        Ok(Pair(Cow::Borrowed(left), Cow::Borrowed(right)))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Pair<'de>, E> {
        let (left, right) = halves(text)?;
        Ok(Pair(
            Cow::Owned(left.to_owned()),
            Cow::Owned(right.to_owned()),
        ))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Pair<'de>, A::Error> {
        let (left, right) = (
            list.next_element::<Text<'de>>()?,
            list.next_element::<Text<'de>>()?,
        );
        let more = list.next_element::<serde::de::IgnoredAny>()?;
        match (left, right, more) {
            (Some(left), Some(right), None) => Ok(Pair(left.0, right.0)),
            _ => Err(A::Error::custom("a merge is not of two texts")),
        }
    }
}

fn halves<E: serde::de::Error>(text: &str) -> Result<(&str, &str), E> {
    match text.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => Ok((left, right)),
        _ => Err(E::custom(
            "a merge is not of two texts with one space between them",
        )),
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Pair<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Pair<'a>, D::Error> {
        json.deserialize_any(PairVisitor)
    }
}

struct MergesVisitor;

impl<'de> Visitor<'de> for MergesVisitor {
    type Value = Merges<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of pairs")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merges<'de>, A::Error> {
        let mut merges = Vec::new();
        while let Some(Pair(left, right)) = list.next_element()? {
            merges.push((left, right));
        }
        Ok(Merges(merges))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Merges<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Merges<'a>, D::Error> {
        json.deserialize_seq(MergesVisitor)
    }
}

/// What is read of `tokenizer_config.json`.
#[derive(Default, Deserialize)]
pub(super) struct TokenizerConfig {
    pub(super) add_bos_token: Option<bool>,
    pub(super) add_eos_token: Option<bool>,
    pub(super) bos_token: Option<Named>,
    pub(super) eos_token: Option<Named>,
    pub(super) unk_token: Option<Named>,
    pub(super) pad_token: Option<Named>,
    pub(super) chat_template: Option<Templates>,
}

/// A token by its text, or by an object with it.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Named {
    Text(String),
    Object { content: String },
}

impl Named {
    pub(super) fn text(&self) -> &str {
        match self {
            Named::Text(text) => text,
            Named::Object { content } => content,
        }
    }
}

/// A template, or several by name.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Templates {
    One(String),
    Several(Vec<Template>),
}

#[derive(Deserialize)]
pub(super) struct Template {
    pub(super) name: String,
    pub(super) template: String,
}

/// `chat_template.json` of models with images.
#[derive(Deserialize)]
pub(super) struct TemplateFile {
    pub(super) chat_template: Templates,
}

/// What is read of `generation_config.json`.
#[derive(Default, Deserialize)]
pub(super) struct GenerationConfig {
    pub(super) bos_token_id: Option<Value>,
    pub(super) eos_token_id: Option<Value>,
    pub(super) pad_token_id: Option<Value>,
}
