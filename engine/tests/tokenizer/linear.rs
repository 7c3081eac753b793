//! Time: linear in the text for every family, and linear in the special tokens.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use gannet_engine::tokenizer::{EncodeOptions, Tokenizer, pre_tokenizers};
use gannet_gguf::Gguf;

use crate::made::{CONTROL, Made, NORMAL, USER};
use crate::{Random, embedded, load, load_as, shared};

/// Texts of some length that would keep a scanner busy that looks at characters more than once.
fn texts(len: usize) -> Vec<String> {
    let full = |unit: &str| unit.repeat(len / unit.len());
    let mut texts: Vec<String> = [
        "a",
        "A",
        "1",
        "\n",
        "!",
        "\u{301}",
        "\u{4e2d}",
        "\u{300}\u{323}",
        "\u{4e2d}A",
        "\t ",
        " \n",
        "'",
        "<|",
        "e\u{301}",
    ]
    .map(full)
    .into();
    for last in ["1", "x", "\n", "!", "\u{4e2d}", "\u{301}", ""] {
        texts.push(full(" ") + last);
        texts.push(full(" \t\u{3000}") + last);
    }
    texts
}

/// The time that this thread has computed, or else the time of day: other processes must not count.
pub(crate) fn now() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let spent = spent.and_then(|spent| spent.split(' ').next()?.parse().ok());
    spent.map_or_else(|| START.elapsed(), Duration::from_nanos)
}

fn time(tokenizer: &Tokenizer, text: &str) -> Duration {
    let start = now();
    let ids = tokenizer.encode(text, EncodeOptions::default());
    assert!(!ids.is_empty());
    now() - start
}

/// One name of each family: names that cut a long text of everything alike are one.
fn families() -> Vec<&'static str> {
    let model = embedded();
    let probe = Random(11).text(4000) + "I'll 'LL don't 1234567 x.y(z)  \n\n a//\n/";
    let mut seen = HashSet::new();
    let mut is_new = |pre: &&str| {
        let ids = load_as(&model, pre).encode(&probe, EncodeOptions::default());
        seen.insert(ids)
    };
    pre_tokenizers().filter(&mut is_new).collect()
}

/// A scanner that is quadratic takes more than five seconds for 100 kB.
#[test]
fn every_family_is_linear() {
    let model = embedded();
    let texts = texts(100_000);
    let families = families();
    assert!(families.len() >= 18, "{families:?}");
    for pre in families {
        let tokenizer = load_as(&model, pre);
        for text in &texts {
            let took = time(&tokenizer, text);
            let begin: String = text.chars().take(4).collect();
            assert!(took.as_millis() < 1500, "{pre}: {begin:?}...: {took:?}");
        }
    }
}

#[test]
fn a_megabyte_takes_no_longer_in_proportion() {
    let model = embedded();
    let (short, long) = (texts(250_000), texts(1_000_000));
    let half = short.len() / 2;
    for (at, pre) in families().into_iter().enumerate() {
        let tokenizer = load_as(&model, pre);
        // Each has two of the texts, which are others for the next: one of white space, one of others.
        for text in [at % half, half + at % (short.len() - half)] {
            let (short, long) = (&short[text], &long[text]);
            let (few, many) = (time(&tokenizer, short), time(&tokenizer, long));
            let begin: String = short.chars().take(4).collect();
            // Four times as much, and room for a machine that does other things.
            let most = few * 12 + Duration::from_millis(500);
            assert!(many < most, "{pre}: {begin:?}...: {few:?}, {many:?}");
        }
    }
}

#[test]
fn pieces_are_linear() {
    let Some(path) = shared("vocab/ggml-vocab-phi-3.gguf") else {
        return;
    };
    let tokenizer = load(&Gguf::open(path).expect("opens")).expect("loads");
    for text in texts(1_000_000) {
        let took = time(&tokenizer, &text);
        let begin: String = text.chars().take(4).collect();
        assert!(took.as_secs() < 10, "{begin:?}...: {took:?}");
    }
}

#[test]
fn words_are_linear() {
    let Some(path) = shared("vocab/ggml-vocab-bert-bge.gguf") else {
        return;
    };
    let tokenizer = load(&Gguf::open(path).expect("opens")).expect("loads");
    let words = |word: String| word.repeat(1_000_000 / word.len());
    let mut texts = texts(1_000_000);
    // Words as long as are looked up, with much to try at each of their characters.
    texts.push(words("a".repeat(100) + " "));
    texts.push(words("telecommunications".repeat(5) + "\u{4e2d}"));
    texts.push(words("\u{1100}\u{1161}".repeat(50) + "."));
    texts.push(words("a".to_owned() + &"\u{301}".repeat(300)));
    for text in texts {
        let start = now();
        tokenizer.encode(&text, EncodeOptions::default());
        let took = now() - start;
        let begin: String = text.chars().take(4).collect();
        assert!(took.as_secs() < 5, "{begin:?}...: {took:?}");
    }
}

/// Twenty thousand tokens of users, of which a text holds all, and a text that holds their beginnings.
#[test]
fn any_number_of_special_tokens_is_linear() {
    const COUNT: usize = 20_000;
    let name = |i: usize| format!("<{}|{i}>", "x".repeat(i % 90));
    for pre in [Some("qwen2"), None] {
        let mut made = match pre {
            Some(_) => Made::bytes(),
            None => Made::pieces(),
        };
        if pre.is_none() {
            made.add("\u{2581}", NORMAL);
        }
        let first = made.texts.len() as u32;
        for i in 0..COUNT {
            made.add(&name(i), if i % 2 == 0 { USER } else { CONTROL });
        }
        let start = now();
        let tokenizer = made.tokenizer(pre, |_| {});
        let loaded = now() - start;
        let text: String = (0..COUNT).map(name).collect();
        let start = now();
        let options = EncodeOptions {
            parse_special: true,
            ..EncodeOptions::default()
        };
        let ids = tokenizer.encode(&text, options);
        let encoded = now() - start;
        let named = ids.iter().filter(|&&id| id >= first).count();
        assert_eq!(named, COUNT);
        let took = time(&tokenizer, &"<xxxxxxxx".repeat(10_000));
        eprintln!(
            "loaded in {loaded:?}, read {} bytes in {encoded:?}",
            text.len()
        );
        let all = loaded + encoded + took;
        assert!(all.as_secs() < 5, "{loaded:?}, {encoded:?}, {took:?}");
    }
}
