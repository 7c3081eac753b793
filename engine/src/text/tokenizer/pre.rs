//! The pre-tokenizer families: which `tokenizer.ggml.pre` cuts text into words how.
//!
//! One row per family. The rules are those of the models' own published tokenizers; where
//! llama.cpp had to approximate one (the case-sensitive families, whose categories its regular
//! expressions lack), the row follows the model. A name that is in no row is refused by the
//! loader: a wrong cut degrades a model silently. Rows that compose texts first are of models whose
//! tokenizers are known to.

use super::class::{Class, class_of};
use super::split::{Cased, Pass, Words};

/// A row of the table.
pub(crate) struct Family {
    /// Values of `tokenizer.ggml.pre`.
    pub(crate) names: &'static [&'static str],
    /// The cuts, in order.
    pub(crate) passes: &'static [Pass],
    /// A word that is itself a token is not merged from its bytes.
    pub(crate) ignore_merges: bool,
    /// Whether a file that does not say gets a beginning-of-sequence token.
    pub(crate) add_bos: bool,
    /// Whether texts are composed (NFC) before they are cut.
    pub(crate) composes: bool,
}

/// A family without peculiarities.
const PLAIN: Family = Family {
    names: &[],
    passes: &[],
    ignore_merges: false,
    add_bos: false,
    composes: false,
};

/// The cl100k pattern as Qwen2 varies it: one digit a word.
const QWEN2: Words = Words {
    contractions: true,
    letters: Class::LETTER,
    digits: 1,
    newlines_follow: true,
};
/// The cl100k pattern as Llama 3 has it.
const LLAMA3: Words = Words { digits: 3, ..QWEN2 };

/// All families, the most used first.
static FAMILIES: &[Family] = &[
    Family {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        passes: &[Pass::Words(LLAMA3)],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    Family {
        names: &["qwen2", "f2llmv2", "stablelm2", "hunyuan"],
        passes: &[Pass::Words(QWEN2)],
        composes: true,
        ..PLAIN
    },
    Family {
        names: &[
            "deepseek-r1-qwen",
            "megrez",
            "kormo",
            "solar-open",
            "grok-2",
            "bailingmoe",
            "bailingmoe2",
            "llada-moe",
        ],
        passes: &[Pass::Words(QWEN2)],
        ..PLAIN
    },
    Family {
        names: &["qwen35"],
        passes: &[Pass::Words(Words {
            letters: Class::LETTER.or(Class::MARK),
            ..QWEN2
        })],
        composes: true,
        ..PLAIN
    },
    Family {
        names: &["dbrx", "smaug-bpe", "chatglm-bpe", "chatglm4", "glm4"],
        passes: &[Pass::Words(LLAMA3)],
        ..PLAIN
    },
    Family {
        names: &["minicpm5"],
        passes: &[
            Pass::Runs {
                lead: false,
                set: is_number,
                max: 3,
            },
            Pass::Words(Words {
                digits: usize::MAX,
                ..QWEN2
            }),
        ],
        ignore_merges: true,
        ..PLAIN
    },
    Family {
        names: &["seed-coder"],
        passes: &[Pass::Words(Words {
            newlines_follow: false,
            ..QWEN2
        })],
        ..PLAIN
    },
    Family {
        names: &["ufakzeka"],
        passes: &[Pass::Words(Words {
            contractions: false,
            ..QWEN2
        })],
        ..PLAIN
    },
    Family {
        names: &["laguna"],
        passes: &[
            Pass::Runs {
                lead: false,
                set: is_line_feed,
                max: usize::MAX,
            },
            Pass::Words(QWEN2),
        ],
        ..PLAIN
    },
    Family {
        names: &["mpt", "olmo", "modern-bert"],
        passes: &[Pass::Gpt2],
        composes: true,
        ..PLAIN
    },
    Family {
        names: &[
            "gpt-2",
            "gpt2",
            "phi-2",
            "jais",
            "trillion",
            "granite-docling",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "exaone4",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
        ],
        passes: &[Pass::Gpt2],
        ..PLAIN
    },
    Family {
        names: &["command-r"],
        passes: &[
            Pass::Runs {
                lead: false,
                set: is_number,
                max: 1,
            },
            Pass::Gpt2,
        ],
        composes: true,
        ..PLAIN
    },
    Family {
        names: &[
            "starcoder",
            "refact",
            "smollm",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        passes: &[
            Pass::Runs {
                lead: false,
                set: is_number,
                max: 1,
            },
            Pass::Gpt2,
        ],
        ..PLAIN
    },
    Family {
        names: &["falcon"],
        passes: &[
            Pass::Runs {
                lead: false,
                set: is_falcon_punctuation,
                max: usize::MAX,
            },
            Pass::Gpt2,
            Pass::Runs {
                lead: false,
                set: is_digit,
                max: 3,
            },
        ],
        ..PLAIN
    },
    Family {
        names: &["default"],
        passes: &[
            Pass::Runs {
                lead: false,
                set: is_default_punctuation,
                max: usize::MAX,
            },
            Pass::Gpt2,
            Pass::Runs {
                lead: false,
                set: is_number,
                max: usize::MAX,
            },
            Pass::Runs {
                lead: false,
                set: is_digit,
                max: 3,
            },
        ],
        ..PLAIN
    },
    Family {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        passes: &[Pass::Cased(Cased {
            contractions: true,
            digits: 3,
        })],
        ..PLAIN
    },
    Family {
        names: &["tekken"],
        passes: &[Pass::Cased(Cased {
            contractions: false,
            digits: 1,
        })],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    Family {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        passes: &[
            Pass::Runs {
                lead: false,
                set: is_number,
                max: 3,
            },
            Pass::Runs {
                lead: false,
                set: is_han_or_kana,
                max: usize::MAX,
            },
            Pass::DeepSeek3,
        ],
        ..PLAIN
    },
    Family {
        names: &["deepseek-llm"],
        passes: &[
            Pass::Runs {
                lead: false,
                set: is_newline,
                max: 1,
            },
            Pass::Runs {
                lead: true,
                set: is_deepseek_letter,
                max: usize::MAX,
            },
            Pass::Runs {
                lead: true,
                set: is_deepseek_punctuation,
                max: usize::MAX,
            },
            Pass::TrailingSpace,
            Pass::Runs {
                lead: false,
                set: is_deepseek_caseless,
                max: usize::MAX,
            },
            Pass::Runs {
                lead: false,
                set: is_number,
                max: usize::MAX,
            },
        ],
        ..PLAIN
    },
    Family {
        names: &["deepseek-coder"],
        passes: &[
            Pass::Runs {
                lead: false,
                set: is_newline,
                max: 1,
            },
            Pass::Runs {
                lead: true,
                set: is_letter,
                max: usize::MAX,
            },
            Pass::Runs {
                lead: true,
                set: is_punctuation,
                max: usize::MAX,
            },
            Pass::Runs {
                lead: false,
                set: is_deepseek_caseless,
                max: usize::MAX,
            },
            Pass::Runs {
                lead: false,
                set: is_number,
                max: 1,
            },
        ],
        ..PLAIN
    },
    Family {
        names: &["bloom", "poro-chat", "gpt3-finnish"],
        passes: &[Pass::SpacedRuns(is_bloom_word)],
        ..PLAIN
    },
    Family {
        names: &["viking"],
        passes: &[
            Pass::SpacedRuns(is_bloom_word),
            Pass::Runs {
                lead: false,
                set: is_number,
                max: 1,
            },
        ],
        ..PLAIN
    },
];

/// The family of a `tokenizer.ggml.pre`.
pub(crate) fn find(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.names.contains(&name))
}

/// All names that [`find`] knows.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    FAMILIES
        .iter()
        .flat_map(|family| family.names.iter().copied())
}

fn is_letter(c: char) -> bool {
    class_of(c).is(Class::LETTER)
}

fn is_number(c: char) -> bool {
    class_of(c).is(Class::NUMBER)
}

fn is_punctuation(c: char) -> bool {
    class_of(c).is(Class::PUNCTUATION)
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit()
}

fn is_newline(c: char) -> bool {
    matches!(c, '\r' | '\n')
}

fn is_line_feed(c: char) -> bool {
    c == '\n'
}

/// `[\p{P}$+<=>^~|`]`
fn is_falcon_punctuation(c: char) -> bool {
    is_default_punctuation(c) || c == '`'
}

/// `[\p{P}$+<=>^~|]`
fn is_default_punctuation(c: char) -> bool {
    matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|') || is_punctuation(c)
}

/// What is neither white space, nor sentence punctuation, nor a parenthesis or bar.
fn is_bloom_word(c: char) -> bool {
    !c.is_whitespace()
        && !matches!(
            c,
            '(' | ')'
                | '|'
                | '.'
                | ','
                | '!'
                | '?'
                | '\u{2026}'
                | '\u{3002}'
                | '\u{ff0c}'
                | '\u{3001}'
                | '\u{964}'
                | '\u{6d4}'
                | '\u{60c}'
        )
}

/// Han, hiragana and katakana as DeepSeek-V3 counts them.
fn is_han_or_kana(c: char) -> bool {
    matches!(c, '\u{4e00}'..='\u{9fa5}' | '\u{3040}'..='\u{30ff}')
}

/// Scripts without case as DeepSeek's first tokenizers count them.
fn is_deepseek_caseless(c: char) -> bool {
    matches!(c, '\u{800}'..='\u{9fa5}' | '\u{ac00}'..='\u{d7ff}')
}

/// The punctuation of DeepSeek-LLM. Its second range spans the Latin letters, too.
fn is_deepseek_punctuation(c: char) -> bool {
    matches!(c,
        '!'..='/' | ':'..='~' | '\u{ff01}'..='\u{ff0f}' | '\u{ff1a}'..='\u{ff5e}'
        | '\u{2018}'..='\u{201f}' | '\u{3000}'..='\u{3002}')
}

/// The letters with case of DeepSeek-LLM: a list from an early Unicode, not a category.
fn is_deepseek_letter(c: char) -> bool {
    let after = DEEPSEEK_LETTERS.partition_point(|&(first, _)| first <= c);
    after > 0 && c <= DEEPSEEK_LETTERS[after - 1].1
}

/// First and last of each range, ascending.
#[rustfmt::skip]
const DEEPSEEK_LETTERS: &[(char, char)] = &[
    ('\u{41}', '\u{5a}'), ('\u{61}', '\u{7a}'), ('\u{b5}', '\u{b5}'), ('\u{c0}', '\u{d6}'),
    ('\u{d8}', '\u{f6}'), ('\u{f8}', '\u{1ba}'), ('\u{1bc}', '\u{1bf}'), ('\u{1c4}', '\u{293}'),
    ('\u{295}', '\u{2af}'), ('\u{370}', '\u{373}'), ('\u{376}', '\u{376}'),
    ('\u{377}', '\u{377}'), ('\u{37b}', '\u{37d}'), ('\u{37f}', '\u{37f}'),
    ('\u{386}', '\u{386}'), ('\u{388}', '\u{38a}'), ('\u{38c}', '\u{38c}'),
    ('\u{38e}', '\u{3a1}'), ('\u{3a3}', '\u{3f5}'), ('\u{3f7}', '\u{481}'),
    ('\u{48a}', '\u{52f}'), ('\u{531}', '\u{556}'), ('\u{10a0}', '\u{10c5}'),
    ('\u{13a0}', '\u{13f5}'), ('\u{13f8}', '\u{13fd}'), ('\u{1c90}', '\u{1cba}'),
    ('\u{1cbd}', '\u{1cbf}'), ('\u{1d00}', '\u{1d2b}'), ('\u{1d6b}', '\u{1d77}'),
    ('\u{1d79}', '\u{1d9a}'), ('\u{1e00}', '\u{1f15}'), ('\u{1f18}', '\u{1f1d}'),
    ('\u{1f20}', '\u{1f45}'), ('\u{1f48}', '\u{1f4d}'), ('\u{1f50}', '\u{1f57}'),
    ('\u{1f59}', '\u{1f59}'), ('\u{1f5b}', '\u{1f5b}'), ('\u{1f5d}', '\u{1f5d}'),
    ('\u{1f5f}', '\u{1f7d}'), ('\u{1f80}', '\u{1fb4}'), ('\u{1fb6}', '\u{1fbc}'),
    ('\u{1fbe}', '\u{1fbe}'), ('\u{1fc2}', '\u{1fc4}'), ('\u{1fc6}', '\u{1fcc}'),
    ('\u{1fd0}', '\u{1fd3}'), ('\u{1fd6}', '\u{1fdb}'), ('\u{1fe0}', '\u{1fec}'),
    ('\u{1ff2}', '\u{1ff4}'), ('\u{1ff6}', '\u{1ffc}'), ('\u{2102}', '\u{2102}'),
    ('\u{2107}', '\u{2107}'), ('\u{210a}', '\u{2113}'), ('\u{2115}', '\u{2115}'),
    ('\u{2119}', '\u{211d}'), ('\u{2124}', '\u{2124}'), ('\u{2126}', '\u{2126}'),
    ('\u{2128}', '\u{2128}'), ('\u{212a}', '\u{212d}'), ('\u{212f}', '\u{2134}'),
    ('\u{2139}', '\u{2139}'), ('\u{213c}', '\u{213f}'), ('\u{2145}', '\u{2149}'),
    ('\u{214e}', '\u{214e}'), ('\u{2183}', '\u{2183}'), ('\u{2184}', '\u{2184}'),
    ('\u{2c00}', '\u{2c7b}'), ('\u{2c7e}', '\u{2ce4}'), ('\u{2ceb}', '\u{2cee}'),
    ('\u{2cf2}', '\u{2cf2}'), ('\u{2cf3}', '\u{2cf3}'), ('\u{a640}', '\u{a66d}'),
    ('\u{a680}', '\u{a69b}'), ('\u{a722}', '\u{a76f}'), ('\u{a771}', '\u{a787}'),
    ('\u{a78b}', '\u{a78e}'), ('\u{ab70}', '\u{abbf}'), ('\u{fb00}', '\u{fb06}'),
    ('\u{fb13}', '\u{fb17}'), ('\u{ff21}', '\u{ff3a}'), ('\u{ff41}', '\u{ff5a}'),
    ('\u{10400}', '\u{1044f}'), ('\u{104b0}', '\u{104d3}'), ('\u{104d8}', '\u{104fb}'),
    ('\u{10c80}', '\u{10cb2}'), ('\u{10cc0}', '\u{10cf2}'), ('\u{118a0}', '\u{118df}'),
    ('\u{1e900}', '\u{1e943}'),
];
