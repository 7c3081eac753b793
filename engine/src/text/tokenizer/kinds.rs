//! What kind each token is: as the file says, or, where it does not, as its text says.

use gannet_gguf::Metadata;

use super::vocab::{TokenKind, parse_byte};
use super::{Algorithm, Error, ends};

const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";

/// Control tokens by text, in vocabularies that do not say what their tokens are.
const CONTROL_TEXTS: &[&str] = &[
    "<s>",
    "</s>",
    "<bos>",
    "<eos>",
    "<pad>",
    "<mask>",
    "<cls>",
    "<sep>",
    "<start_of_turn>",
    "[BOS]",
    "[PAD]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "[INST]",
    "[/INST]",
];

/// Reads the kinds of a vocabulary's tokens.
pub(super) struct Kinds {
    kind: Algorithm,
    /// As in the file, by id.
    types: Option<Vec<i32>>,
    unknown: Option<u32>,
    /// Tokens that keys of the file name for what they do.
    named: Vec<u32>,
}

impl Kinds {
    /// `named` are the tokens that keys of the file name; `len` is the number of tokens.
    ///
    /// # Errors
    /// The array is too short, or none of numbers.
    pub(super) fn read(
        meta: &Metadata,
        kind: Algorithm,
        len: usize,
        unknown: Option<u32>,
        named: Vec<u32>,
        warnings: &mut Vec<String>,
    ) -> Result<Kinds, Error> {
        let types = meta.opt_i32s(TOKEN_TYPE)?;
        match &types {
            Some(types) => super::load::check_len(TOKEN_TYPE, types.len(), len)?,
            None => warnings.push(format!(
                "{TOKEN_TYPE} is missing: control tokens are told by how they are written"
            )),
        }
        Ok(Kinds {
            kind,
            types,
            unknown,
            named,
        })
    }

    /// The kind of a token.
    pub(super) fn of(&self, id: u32, text: &str) -> TokenKind {
        let types = self.types.as_ref();
        let kind = match types.map(|types| types.get(id as usize).copied()) {
            Some(ty) => TokenKind::from_id(ty.unwrap_or(1)),
            None => self.told_by(id, text),
        };
        let is_named = self.named.contains(&id);
        let is_tag = text == "</s>" && kind == TokenKind::UserDefined && !is_named;
        let ends = ends::is_end(text) && (kind.is_special() || ends::is_unmistakable(text));
        let acts = is_named && kind != TokenKind::Byte && looks_special(text);
        if (ends && !is_tag) || (acts && kind != TokenKind::Unknown) {
            TokenKind::Control
        } else {
            kind
        }
    }

    /// The kind of a token by its text.
    fn told_by(&self, id: u32, text: &str) -> TokenKind {
        let is_byte = self.kind == Algorithm::SentencePiece && parse_byte(text).is_some();
        if is_byte {
            TokenKind::Byte
        } else if text == "<unk>" || (Some(id) == self.unknown && looks_special(text)) {
            TokenKind::Unknown
        } else if CONTROL_TEXTS.contains(&text) || is_barred(text) {
            TokenKind::Control
        } else {
            TokenKind::Normal
        }
    }
}

/// Whether a text is written like a control token: `<|...|>`, in either width.
fn is_barred(text: &str) -> bool {
    let between = |first: &str, last: &str| {
        text.len() > first.len() + last.len() && text.starts_with(first) && text.ends_with(last)
    };
    between("<|", "|>") || between("<\u{ff5c}", "\u{ff5c}>")
}

/// Whether a text is written like no word: in brackets.
fn looks_special(text: &str) -> bool {
    let between = |first, last| text.len() > 2 && text.starts_with(first) && text.ends_with(last);
    between('<', '>') || between('[', ']')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(types: Option<Vec<i32>>) -> Kinds {
        Kinds {
            kind: Algorithm::SentencePiece,
            types,
            unknown: Some(0),
            named: vec![1, 2, 5],
        }
    }

    #[test]
    fn without_types_the_text_says() {
        let kinds = kinds(None);
        let texts = [
            "<unk>", "<s>", "</s>", "<0x0A>", "<|x|>", "a", "<b>", "<||>",
        ];
        let found: Vec<TokenKind> = (0..).zip(texts).map(|(i, t)| kinds.of(i, t)).collect();
        use TokenKind::{Byte, Control, Normal, Unknown};
        let expected = [
            Unknown, Control, Control, Byte, Control, Normal, Normal, Normal,
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_tag_that_users_defined_is_text_unless_it_is_named() {
        let kinds = kinds(Some(vec![4, 4, 4, 4, 1]));
        assert_eq!(kinds.of(3, "</s>"), TokenKind::UserDefined);
        assert_eq!(kinds.of(2, "</s>"), TokenKind::Control);
        assert_eq!(kinds.of(3, "<|im_end|>"), TokenKind::Control);
        assert_eq!(kinds.of(4, "</s>"), TokenKind::Normal);
        assert_eq!(kinds.of(1, "a"), TokenKind::UserDefined);
    }
}
