//! Reads a tokenizer from the metadata of a GGUF file.
//!
//! Every array is checked against the number of tokens before anything is built; what is merely
//! odd (a special id the vocabulary lacks, two tokens alike) becomes a warning. Defaults are
//! llama.cpp's, but for one: a BPE file that names no end-of-sequence token has none, where
//! llama.cpp assumes id 11, a full stop or comma in most vocabularies.

use gannet_gguf::Metadata;

use super::bpe::{Bpe, NO_TOKEN};
use super::special::Specials;
use super::spm::Spm;
use super::vocab::{Index, TokenKind, Vocab};
use super::{Algorithm, Error, Model, Tokenizer, TokenizerOptions, pre};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const EOT: &str = "tokenizer.ggml.eot_token_id";
const EOM: &str = "tokenizer.ggml.eom_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";

/// Texts of tokens that end a generation whatever the file's ids say: many files name one such
/// token and their model ends its turns with another.
const END_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|return|>",
    "<|call|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "</s>",
    "<eos>",
];

/// Whether a text can only be meant as a control token, even when its type says otherwise.
/// (`</s>` is also a tag of HTML, and an ordinary token of several vocabularies.)
fn is_unmistakable(text: &str) -> bool {
    text.starts_with("<|") || text.starts_with("<\u{ff5c}") || text == "<end_of_turn>"
}

impl Tokenizer {
    /// Reads the tokenizer of a model file.
    pub(super) fn read(meta: &Metadata, options: &TokenizerOptions) -> Result<Tokenizer, Error> {
        let mut warnings = Vec::new();
        let kind = match meta.str(MODEL)? {
            "gpt2" => Algorithm::ByteLevelBpe,
            "llama" => Algorithm::SentencePiece,
            other => {
                return Err(Error::UnsupportedModel {
                    model: shown(other),
                });
            }
        };
        let pre = match (
            &options.pre_override,
            meta.opt_str(PRE)?.filter(|s| !s.is_empty()),
        ) {
            (Some(name), _) => name.clone(),
            (None, Some(name)) => name.to_owned(),
            (None, None) => {
                if kind == Algorithm::ByteLevelBpe {
                    warnings.push(format!(
                        "{PRE} is missing: words are split by the rule 'default', which may not \
                         be this model's"
                    ));
                }
                "default".to_owned()
            }
        };
        let (vocab, index) = read_vocab(meta, kind, &mut warnings)?;
        let bos = special_id(meta, BOS, default_id(kind, 1), &vocab, &mut warnings);
        let eos = special_id(meta, EOS, default_id(kind, 2), &vocab, &mut warnings);
        let unknown = special_id(meta, UNKNOWN, default_id(kind, 0), &vocab, &mut warnings);

        let mut add_bos_default = kind == Algorithm::SentencePiece;
        let model = match kind {
            Algorithm::ByteLevelBpe => {
                let family =
                    pre::find(&pre).ok_or_else(|| Error::UnknownPre { pre: shown(&pre) })?;
                add_bos_default = family.add_bos;
                let texts = meta.strings(MERGES)?.iter();
                let (bpe, ignored) =
                    Bpe::new(&vocab, &index, texts, family.passes, family.ignore_merges);
                if ignored > 0 {
                    warnings.push(format!(
                        "{MERGES}: ignored {ignored}, not two tokens that give a third"
                    ));
                }
                warn_of_missing_bytes(bpe.missing_bytes(), &mut warnings);
                Model::Bpe(bpe)
            }
            Algorithm::SentencePiece => {
                let scores = read_scores(meta, vocab.len())?;
                let spm = Spm::new(&vocab, &index, scores, byte_tokens(&vocab), unknown);
                warn_of_missing_bytes(spm.missing_bytes(), &mut warnings);
                Model::Spm(spm)
            }
        };
        let is_phi3 = meta
            .opt_str("general.name")
            .ok()
            .flatten()
            .is_some_and(|name| {
                let name = name.to_ascii_lowercase();
                name.contains("phi-3") || name.contains("phi3")
            });
        // Phi-3's own tokenizer says so of each token; GGUF has no place for it.
        let strips = |text: &[u8]| is_phi3 && !matches!(text, b"<unk>" | b"<s>" | b"<|endoftext|>");
        let flag = |key, default| Ok::<bool, Error>(meta.opt_bool(key)?.unwrap_or(default));
        let mut tokenizer = Tokenizer {
            kind,
            pre,
            add_space_prefix: flag(ADD_SPACE_PREFIX, kind == Algorithm::SentencePiece)?
                && kind == Algorithm::SentencePiece,
            add_bos: flag(ADD_BOS, add_bos_default)?,
            add_eos: flag(ADD_EOS, false)?,
            specials: Specials::new(&vocab, strips),
            vocab,
            index,
            model,
            bos,
            eos,
            ends: Vec::new(),
            warnings,
        };
        tokenizer.check_added(ADD_BOS, BOS);
        tokenizer.find_ends(meta);
        Ok(tokenizer)
    }

    /// A flag to add a token that does not exist is dropped.
    fn check_added(&mut self, add_bos_key: &str, bos_key: &str) {
        if self.add_bos && self.bos.is_none() {
            self.add_bos = false;
            self.warnings
                .push(format!("{add_bos_key}: ignored, {bos_key} names no token"));
        }
        if self.add_eos && self.eos.is_none() {
            self.add_eos = false;
            self.warnings
                .push(format!("{ADD_EOS}: ignored, {EOS} names no token"));
        }
    }

    /// Collects the tokens that end a generation.
    fn find_ends(&mut self, meta: &Metadata) {
        let mut ends: Vec<u32> = self.eos.into_iter().collect();
        for key in [EOT, EOM] {
            ends.extend(special_id(meta, key, None, &self.vocab, &mut self.warnings));
        }
        let special = |text: &&str| self.specials.get(&self.vocab, text.as_bytes());
        let end = special(&"<|end|>");
        ends.extend(END_TEXTS.iter().filter_map(special));
        // In the harmony format <|end|> ends a message, of which one turn has several.
        let ends_message = special(&"<|return|>").is_some() && special(&"<|call|>").is_some();
        if ends_message && self.eos != end {
            ends.retain(|&id| Some(id) != end);
        }
        ends.sort_unstable();
        ends.dedup();
        self.ends = ends;
    }
}

/// Text from the file as a message may show it.
fn shown(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_debug).collect()
}

/// The id that SentencePiece gives a special token unless told otherwise.
fn default_id(kind: Algorithm, id: u32) -> Option<u32> {
    (kind == Algorithm::SentencePiece).then_some(id)
}

fn warn_of_missing_bytes(missing: usize, warnings: &mut Vec<String>) {
    if missing > 0 {
        warnings.push(format!(
            "{TOKENS}: {missing} of 256 bytes have no token and are left out of texts"
        ));
    }
}

/// The tokens, and the index of those that merging can give.
fn read_vocab(
    meta: &Metadata,
    kind: Algorithm,
    warnings: &mut Vec<String>,
) -> Result<(Vocab, Index), Error> {
    let texts = meta.strings(TOKENS)?;
    let len = texts.len();
    if len == 0 || len >= NO_TOKEN as usize {
        return Err(Error::Length {
            key: TOKENS,
            found: format!("{len} tokens"),
            expected: "at least one and fewer than 2^32 - 1".to_owned(),
        });
    }
    let types = meta.i32s(TOKEN_TYPE)?;
    check_len(TOKEN_TYPE, types.len(), len)?;

    let mut vocab = Vocab::with_capacity(kind, len);
    let mut odd_bytes = 0;
    for (text, &ty) in texts.iter().zip(&types) {
        let mut kind = TokenKind::from_id(ty);
        let may_end = text.starts_with(['<', '[', '_']) && END_TEXTS.contains(&text);
        if may_end && (kind.is_special() || is_unmistakable(text)) {
            kind = TokenKind::Control;
        }
        odd_bytes += usize::from(!vocab.push(text, kind));
    }
    if odd_bytes > 0 {
        warnings.push(format!(
            "{TOKENS}: byte tokens not written <0xHH>: {odd_bytes}"
        ));
    }

    let mut index = Index::with_capacity(vocab.len());
    // Tokens of users can also come from merging, but only where no ordinary token does.
    let tiers: [fn(TokenKind) -> bool; 2] = [
        |kind| matches!(kind, TokenKind::Normal | TokenKind::Unused),
        |kind| kind == TokenKind::UserDefined,
    ];
    let (mut twice, mut example) = (0, None);
    for tier in tiers {
        for id in vocab.ids(tier).filter(|&id| !vocab.bytes(id).is_empty()) {
            let Some(first) = index.insert(&vocab, id) else {
                continue;
            };
            // Two spellings of the same bytes are not the same token.
            if vocab.text(first) == vocab.text(id) {
                twice += 1;
                example.get_or_insert((first, id));
            }
        }
    }
    if let Some((first, second)) = example {
        warnings.push(format!(
            "{TOKENS}: duplicate tokens: {twice} (id {second} is the same text as id {first}); \
             the lower id is used"
        ));
    }
    Ok((vocab, index))
}

fn check_len(key: &'static str, len: usize, tokens: usize) -> Result<(), Error> {
    if len >= tokens {
        return Ok(());
    }
    Err(Error::Length {
        key,
        found: format!("{len} elements"),
        expected: format!("one for each of the {tokens} tokens"),
    })
}

fn read_scores(meta: &Metadata, tokens: usize) -> Result<Vec<f32>, Error> {
    let scores = meta.f32s(SCORES)?;
    check_len(SCORES, scores.len(), tokens)?;
    match scores.iter().position(|score| score.is_nan()) {
        Some(id) => Err(Error::Score { id }),
        None => Ok(scores),
    }
}

/// The byte tokens by byte; of several the lowest id.
fn byte_tokens(vocab: &Vocab) -> [u32; 256] {
    let mut ids = [NO_TOKEN; 256];
    for id in vocab.ids(|kind| kind == TokenKind::Byte) {
        if let Some(&byte) = vocab.bytes(id).first() {
            let slot = &mut ids[usize::from(byte)];
            *slot = (*slot).min(id);
        }
    }
    ids
}

/// The id under a key, or the default; either only if the vocabulary has it.
fn special_id(
    meta: &Metadata,
    key: &str,
    default: Option<u32>,
    vocab: &Vocab,
    warnings: &mut Vec<String>,
) -> Option<u32> {
    let has = |id: &u32| (*id as usize) < vocab.len();
    match meta.opt_u32(key) {
        Ok(Some(id)) if has(&id) => return Some(id),
        Ok(Some(id)) => {
            let len = vocab.len();
            warnings.push(format!(
                "{key}: {id} ignored, the vocabulary has {len} tokens"
            ));
        }
        Ok(None) => {
            if let Some(id) = default.filter(|id| !has(id)) {
                warnings.push(format!(
                    "{key} is missing and its default {id} is not a token"
                ));
            }
        }
        Err(error) => warnings.push(format!("{key}: ignored: {error}")),
    }
    default.filter(has)
}
