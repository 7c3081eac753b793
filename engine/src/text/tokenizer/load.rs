//! Reads a tokenizer from the metadata of a GGUF file.
//!
//! Every array is checked against the number of tokens before anything is built; what is merely
//! odd (a special id the vocabulary lacks, two tokens alike) becomes a warning. Defaults are
//! llama.cpp's, but for one: a BPE file that names no end-of-sequence token has none, where
//! llama.cpp assumes id 11, a full stop or comma in most vocabularies.

use gannet_gguf::Metadata;

use super::bert::Folding;
use super::bpe::{Bpe, NO_TOKEN};
use super::kinds::Kinds;
use super::special::Specials;
use super::spm::Spm;
use super::vocab::{Index, TokenKind, VISIBLE_SPACE, Vocab};
use super::wordpiece::{self, WordPiece};
use super::{Algorithm, Error, Model, Tokenizer, TokenizerOptions, ends, pre, unread};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_SEP: &str = "tokenizer.ggml.add_sep_token";
const CLS: &str = "tokenizer.ggml.cls_token_id";
/// As files have it, and as it should be.
const SEP: [&str; 2] = [
    "tokenizer.ggml.seperator_token_id",
    "tokenizer.ggml.separator_token_id",
];
const LOWERCASE: &str = "tokenizer.ggml.normalizer.lowercase";
const STRIP_ACCENTS: &str = "tokenizer.ggml.normalizer.strip_accents";
const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const MERGE_SPACES: &str = "tokenizer.ggml.remove_extra_whitespaces";

impl Tokenizer {
    /// Reads the tokenizer of a model file.
    pub(super) fn read(meta: &Metadata, options: &TokenizerOptions) -> Result<Tokenizer, Error> {
        let mut warnings = Vec::new();
        let kind = match meta.str(MODEL)? {
            "gpt2" => Algorithm::ByteLevelBpe,
            "llama" => Algorithm::SentencePiece,
            "bert" => Algorithm::WordPiece,
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
        let len = num_tokens(meta)?;
        let ids = SpecialIds::read(meta, kind, len, &mut warnings);
        let SpecialIds {
            bos, eos, unknown, ..
        } = ids;
        let (vocab, index) = read_vocab(meta, kind, &ids, &mut warnings)?;

        let (mut add_bos_default, mut composes) = (kind != Algorithm::ByteLevelBpe, false);
        let model = match kind {
            Algorithm::ByteLevelBpe => {
                let family =
                    pre::find(&pre).ok_or_else(|| Error::UnknownPre { pre: shown(&pre) })?;
                add_bos_default = family.add_bos;
                composes = family.composes;
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
            Algorithm::WordPiece => {
                let folding = read_folding(meta, &vocab, &mut warnings)?;
                Model::WordPiece(WordPiece::new(&vocab, folding, unknown_word(unknown)?))
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
            add_eos: match kind {
                Algorithm::WordPiece => flag(ADD_SEP, true)?,
                _ => flag(ADD_EOS, false)?,
            },
            specials: Specials::new(&vocab, strips)?,
            composes,
            merges_spaces: kind == Algorithm::SentencePiece && flag(MERGE_SPACES, false)?,
            vocab,
            index,
            model,
            bos,
            eos,
            ends: Vec::new(),
            warnings,
        };
        if kind == Algorithm::ByteLevelBpe && flag(ADD_SPACE_PREFIX, false)? {
            tokenizer.warnings.push(format!(
                "{ADD_SPACE_PREFIX}: ignored, a byte-level tokenizer reads texts as they are"
            ));
        }
        tokenizer.check_added(ADD_BOS, BOS);
        tokenizer.warnings.extend(unread::warnings(meta, kind));
        tokenizer.find_ends(ids.ends);
        Ok(tokenizer)
    }

    /// A flag to add a token that does not exist is dropped.
    fn check_added(&mut self, add_bos_key: &str, bos_key: &str) {
        if self.add_bos && self.bos.is_none() {
            self.add_bos = false;
            self.warnings
                .push(format!("{add_bos_key}: ignored, {bos_key} names no token"));
        }
        let (add_eos_key, eos_key) = match self.kind {
            Algorithm::WordPiece => (ADD_SEP, SEP[0]),
            _ => (ADD_EOS, EOS),
        };
        if self.add_eos && self.eos.is_none() {
            self.add_eos = false;
            self.warnings
                .push(format!("{add_eos_key}: ignored, {eos_key} names no token"));
        }
        if self.add_eos && !self.is_wordpiece() {
            self.warnings.push(format!(
                "{ADD_EOS}: whole texts end with the token, prompts do not: they are continued"
            ));
        }
    }
}

/// The tokens that keys of the file name for what they do.
struct SpecialIds {
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    /// Those that end a generation.
    ends: Vec<u32>,
}

impl SpecialIds {
    fn read(
        meta: &Metadata,
        kind: Algorithm,
        len: usize,
        warnings: &mut Vec<String>,
    ) -> SpecialIds {
        if kind == Algorithm::WordPiece {
            return SpecialIds::of_words(meta, len, warnings);
        }
        let mut all =
            |key, default| special_ids(meta, key, default_id(kind, default), len, warnings);
        let (bos, eos, unknown) = (all(BOS, 1), all(EOS, 2), all(UNKNOWN, 0));
        SpecialIds {
            bos: bos.first().copied(),
            eos: eos.first().copied(),
            unknown: unknown.first().copied(),
            ends: [eos, ends::named(meta, len, warnings)].concat(),
        }
    }

    /// Those of WordPiece: the separator is the end of a text. What no key names is known by its text.
    fn of_words(meta: &Metadata, len: usize, warnings: &mut Vec<String>) -> SpecialIds {
        let mut one = |keys: &[&str], text: &str| {
            let mut ids = keys
                .iter()
                .flat_map(|key| ends::ids_of(meta, key, len, warnings));
            if let Some(id) = ids.next() {
                return Some(id);
            }
            let is_given = keys.iter().any(|key| meta.get(key).is_some());
            let mut texts = meta.strings(TOKENS).ok()?.iter();
            let at = texts.position(|token| token == text && !is_given)?;
            u32::try_from(at).ok()
        };
        SpecialIds {
            bos: one(&[BOS, CLS], "[CLS]"),
            eos: one(&[SEP[0], SEP[1], EOS], "[SEP]"),
            unknown: one(&[UNKNOWN], "[UNK]"),
            ends: ends::named(meta, len, warnings),
        }
    }
}

/// The token of words that the vocabulary cannot write.
fn unknown_word(unknown: Option<u32>) -> Result<u32, Error> {
    unknown.ok_or(Error::Words {
        key: UNKNOWN,
        why: "names no token, and none is [UNK]; there must be one for unknown words",
    })
}

/// How texts are normalised: as the file says, else as its vocabulary does.
fn read_folding(
    meta: &Metadata,
    vocab: &Vocab,
    warnings: &mut Vec<String>,
) -> Result<Folding, Error> {
    let told = wordpiece::told_by(vocab);
    let given = meta.opt_bool(LOWERCASE)?;
    let lowercase = given.unwrap_or(told.lowercase);
    let strip_accents = match meta.opt_bool(STRIP_ACCENTS)? {
        Some(strips) => strips,
        None if given.is_some() => lowercase,
        None => told.strip_accents,
    };
    if given.is_none() && !lowercase {
        warnings.push(format!(
            "{LOWERCASE} is missing: the vocabulary has capitals, texts keep theirs"
        ));
    }
    Ok(Folding {
        lowercase,
        strip_accents,
    })
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

/// The number of tokens.
fn num_tokens(meta: &Metadata) -> Result<usize, Error> {
    let len = meta.strings(TOKENS)?.len();
    if len == 0 || len >= NO_TOKEN as usize {
        return Err(Error::Length {
            key: TOKENS,
            found: format!("{len} tokens"),
            expected: "at least one and fewer than 2^32 - 1".to_owned(),
        });
    }
    Ok(len)
}

/// The tokens, and the index of those that merging can give.
fn read_vocab(
    meta: &Metadata,
    kind: Algorithm,
    ids: &SpecialIds,
    warnings: &mut Vec<String>,
) -> Result<(Vocab, Index), Error> {
    let texts = meta.strings(TOKENS)?;
    let len = texts.len();
    let named = ids.bos.iter().chain(&ids.eos).chain(&ids.ends).copied();
    let kinds = Kinds::read(meta, kind, len, ids.unknown, named.collect(), warnings)?;

    if kind == Algorithm::WordPiece && !texts.iter().any(|text| text.starts_with(VISIBLE_SPACE)) {
        return Err(Error::Words {
            key: TOKENS,
            why: "no token begins a word; those that do must have U+2581 in front",
        });
    }
    let mut vocab = Vocab::with_capacity(kind, len);
    let mut odd_bytes = 0;
    for (id, text) in (0..).zip(texts.iter()) {
        odd_bytes += usize::from(!vocab.push(text, kinds.of(id, text)));
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
        // A text outside the alphabet is no bytes that merging could give.
        let can_be_merged = |&id: &u32| {
            let can_be = match kind {
                Algorithm::ByteLevelBpe => !vocab.is_foreign(id),
                Algorithm::SentencePiece => true,
                // Words are text; what users defined is found before them.
                Algorithm::WordPiece => vocab.token_kind(id) != Some(TokenKind::UserDefined),
            };
            can_be && !vocab.bytes(id).is_empty()
        };
        for id in vocab.ids(tier).filter(can_be_merged) {
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

pub(super) fn check_len(key: &'static str, len: usize, tokens: usize) -> Result<(), Error> {
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

/// The ids under a key or its plural, or the default; those alone that the vocabulary has.
fn special_ids(
    meta: &Metadata,
    key: &str,
    default: Option<u32>,
    len: usize,
    warnings: &mut Vec<String>,
) -> Vec<u32> {
    let plural = format!("{key}s");
    let mut ids = ends::ids_of(meta, key, len, warnings);
    ids.extend(ends::ids_of(meta, &plural, len, warnings));
    let says_none = meta
        .get(key)
        .is_some_and(|value| value.as_int() == Some(-1));
    if !ids.is_empty() || says_none {
        return ids;
    }
    let is_missing = meta.get(key).is_none() && meta.get(&plural).is_none();
    if let Some(id) = default.filter(|&id| is_missing && id as usize >= len) {
        warnings.push(format!(
            "{key} is missing and its default {id} is not a token"
        ));
    }
    ids.extend(default.filter(|&id| (id as usize) < len));
    ids
}
