//! Texts that once came out wrong: composed characters, what users defined, tokens that shadow others.

use gannet_engine::internals::text::tokenizer::Tokenizer;
use gannet_engine::tokenizer::{DecodeOptions, EncodeOptions, pre_tokenizers};
use gannet_gguf::{Gguf, Writer};

use crate::made::{CONTROL, Made, NORMAL, UNUSED, USER, letters};
use crate::{embedded, load, load_as, shared};

const PLAIN: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: false,
};
const PARSED: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: true,
};

/// The texts of a case and the ids that are right.
fn right(case: &str) -> Option<Vec<(String, Vec<u32>)>> {
    let path = shared(&format!("cases/turn2/{case}.right.json"))?;
    let json = std::fs::read_to_string(path).expect("a file");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let entry = |entry: &serde_json::Value| {
        let ids = entry["ids"].as_array().expect("ids").iter();
        let ids = ids.map(|id| id.as_u64().expect("an id") as u32).collect();
        (entry["text"].as_str().expect("a text").to_owned(), ids)
    };
    Some(json.as_array().expect("a list").iter().map(entry).collect())
}

fn check(tokenizer: &Tokenizer, text: &str, ids: &[u32]) {
    assert_eq!(tokenizer.encode(text, PLAIN), ids, "{text:?}");
}

#[test]
fn qwen2_composes() {
    let (Some(path), Some(cases)) = (shared("vocab/ggml-vocab-qwen2.gguf"), right("nfc-qwen2"))
    else {
        return;
    };
    let file = Gguf::open(path).expect("opens");
    let tokenizer = load(&file).expect("loads");
    for (text, ids) in &cases {
        check(&tokenizer, text, ids);
    }
    // The same vocabulary under a name whose published tokenizer does not compose.
    let distilled = load_as(&file, "deepseek-r1-qwen");
    let (text, composed) = &cases[0];
    let ids = distilled.encode(text, PLAIN);
    assert_ne!(&ids, composed);
    assert_eq!(&distilled.decode(&ids, DecodeOptions::default()), text);
}

/// Decomposed text, and what it is composed.
const COMPOSED: &[(&str, &str)] = &[
    ("Cafe\u{301}", "Caf\u{e9}"),
    ("\u{1100}\u{1161}\u{11a8}", "\u{ac01}"),
    ("\u{30ab}\u{3099}", "\u{30ac}"),
    ("\u{212b}ngstro\u{308}m", "\u{c5}ngstr\u{f6}m"),
    // Marks in another order.
    ("q\u{307}\u{323}", "q\u{323}\u{307}"),
    // A composed character that composition never gives.
    ("\u{958}", "\u{915}\u{93c}"),
];

#[test]
fn every_family_composes_or_does_not() {
    let model = embedded();
    let composing = [
        "qwen2",
        "f2llmv2",
        "stablelm2",
        "hunyuan",
        "qwen35",
        "mpt",
        "olmo",
        "modern-bert",
        "command-r",
    ];
    for pre in pre_tokenizers() {
        let tokenizer = load_as(&model, pre);
        assert_eq!(tokenizer.composes(), composing.contains(&pre), "{pre}");
        for (text, composed) in COMPOSED {
            let ids = tokenizer.encode(text, PLAIN);
            let back = tokenizer.decode(&ids, DecodeOptions::default());
            let expected = if tokenizer.composes() { composed } else { text };
            assert_eq!(&back, expected, "{pre}");
            let same = tokenizer.encode(composed, PLAIN) == ids;
            assert_eq!(same, tokenizer.composes(), "{pre}: {text:?}");
        }
    }
}

/// Special tokens are found in the text as it was given, and nothing composes across them.
#[test]
fn special_tokens_bound_what_composes() {
    let mut made = Made::bytes();
    let user = made.add("e\u{301}", USER);
    let end = made.add("<|im_end|>", CONTROL);
    let composed = made.merge("\u{e9}");
    let tokenizer = made.tokenizer(Some("qwen2"), |_| {});
    let encode = |text| tokenizer.encode(text, PARSED);
    assert_eq!(encode("e\u{301}"), [user]);
    assert_eq!(encode("\u{e9}"), [composed]);
    assert_eq!(encode("E\u{301}e\u{301}").last(), Some(&user));
    let apart = encode("o<|im_end|>\u{308}");
    assert_eq!(apart, [&[u32::from(b'o'), end][..], &[0xcc, 0x88]].concat());
}

#[test]
fn pieces_of_users_inside_text() {
    let case = "spm-user-defined-inside-text";
    let Some(path) = shared(&format!("cases/turn2/{case}.gguf")) else {
        return;
    };
    let tokenizer = load(&Gguf::open(path).expect("opens")).expect("loads");
    for (text, ids) in right(case).expect("lies beside the vocabulary") {
        check(&tokenizer, &text, &ids);
        assert_eq!(tokenizer.decode(&ids, DecodeOptions::default()), text);
        // A visible space is a space.
        check(&tokenizer, &text.replace(' ', "\u{2581}"), &ids);
    }
}

/// A vocabulary of a few words, with what users defined written either way.
fn pieces() -> Made {
    let mut made = Made::pieces();
    let words = [
        "\u{2581}",
        "a",
        "b",
        "\u{2581}a",
        "\u{2581}b",
        "ab",
        "\u{2581}ab",
    ];
    for (rank, word) in words.into_iter().enumerate() {
        made.scored(word, NORMAL, -(rank as f32));
    }
    made
}

#[test]
fn pieces_of_users_are_cut_out_and_nothing_is_put_in() {
    let mut made = pieces();
    let [space, a, b, spaced_a, spaced_b, ab, _] = [0, 1, 2, 3, 4, 5, 6].map(|n| 259 + n);
    let x = made.add("<x>", USER);
    let two = made.add("\u{2581}\u{2581}", USER);
    let three = made.add("   ", USER);
    let led = made.add("\u{2581}[y]", USER);
    let mark = made.add("<|m|>", CONTROL);
    let tokenizer = made.tokenizer(None, |_| {});
    let cases: [(&str, &[u32]); 12] = [
        ("<x>", &[space, x]),
        ("<x>a<x>", &[space, x, a, x]),
        ("a<x> b", &[spaced_a, x, spaced_b]),
        ("a<x><x>ab", &[spaced_a, x, x, ab]),
        // The space in front is part of the text that pieces are looked for in.
        ("  a", &[three, a]),
        (" a", &[two, a]),
        ("a  b", &[spaced_a, two, b]),
        ("a   b", &[spaced_a, three, b]),
        ("a    b", &[spaced_a, three, spaced_b]),
        ("[y]", &[led]),
        ("a [y]", &[spaced_a, led]),
        ("", &[]),
    ];
    for (text, ids) in cases {
        check(&tokenizer, text, ids);
        assert_eq!(tokenizer.decode(ids, DecodeOptions::default()), text);
    }
    // Behind a control token a text begins.
    let parsed = |text| tokenizer.encode(text, PARSED);
    assert_eq!(parsed("<|m|>a<x>a"), [mark, spaced_a, x, a]);
    assert_eq!(parsed("<|m|><|m|>"), [mark, mark]);
    assert_eq!(parsed("a<|m|><x>"), [spaced_a, mark, space, x]);
    let shown = DecodeOptions { special: true };
    for text in ["<|m|>a<x>a", "a<|m|> b<|m|>", "<|m|><|m|>[y]", " <|m|>  a"] {
        assert_eq!(tokenizer.decode(&parsed(text), shown), text);
    }
    let bare = made.tokenizer(None, |writer| {
        writer
            .set("tokenizer.ggml.add_space_prefix", false)
            .unwrap();
    });
    let cases: [(&str, &[u32]); 3] = [
        ("<x>a", &[x, a]),
        ("  a", &[two, a]),
        ("a<x> b", &[a, x, spaced_b]),
    ];
    for (text, ids) in cases {
        check(&bare, text, ids);
        assert_eq!(bare.decode(ids, DecodeOptions::default()), text);
    }
    for (id, text) in [
        (two, "\u{2581}\u{2581}"),
        (three, "   "),
        (led, "\u{2581}[y]"),
    ] {
        assert_eq!(tokenizer.token_text(id).as_deref(), Some(text));
        assert_eq!(tokenizer.token_id(text), Some(id));
    }
}

/// A piece that is unused merges, and is taken apart again.
#[test]
fn unused_pieces_are_taken_apart() {
    let mut made = pieces();
    let [a, b] = [260, 261];
    let unused = made.scored("ba", UNUSED, 5.0);
    let longer = made.scored("bab", NORMAL, 4.0);
    let tokenizer = made.tokenizer(None, |writer| {
        writer
            .set("tokenizer.ggml.add_space_prefix", false)
            .unwrap();
    });
    check(&tokenizer, "ba", &[b, a]);
    check(&tokenizer, "bab", &[longer]);
    assert_ne!(tokenizer.encode("aba", PLAIN).last(), Some(&unused));
}

/// Without byte tokens, all that is unknown in a row is one token.
#[test]
fn unknown_text_in_a_row_is_one_token() {
    let mut made = Made::default();
    let unknown = made.add("<unk>", 2);
    let [_, _] = ["<s>", "</s>"].map(|text| made.add(text, CONTROL));
    let [space, a] = ["\u{2581}", "a"].map(|text| made.add(text, NORMAL));
    let tokenizer = made.tokenizer(None, |_| {});
    check(
        &tokenizer,
        "\u{e9}\u{e8}a\u{4e2d}",
        &[space, unknown, a, unknown],
    );
    check(&tokenizer, "xyz xyz", &[space, unknown, space, unknown]);
}

#[test]
fn extra_spaces_go_where_the_file_says_so() {
    let made = pieces();
    let tokenizer = made.tokenizer(None, |writer| {
        let key = "tokenizer.ggml.remove_extra_whitespaces";
        writer.set(key, true).unwrap();
    });
    let [_, _, _, a, b, ..] = [0, 1, 2, 3, 4].map(|n| 259 + n);
    check(&tokenizer, "  a   b ", &[a, b]);
    check(&tokenizer, "   ", &[]);
}

/// Tokens that are written outside the byte alphabet are bytes of no text: the byte-level ones with the
/// same bytes are those that merging gives.
#[test]
fn byte_level_tokens_are_not_shadowed() {
    let texts = ["\u{4e2d}", "\u{6587}\u{5b57}", "\u{1f980}", "\u{3042}"];
    for pre in ["llama-bpe", "qwen2", "gpt-2"] {
        let mut made = Made::bytes();
        let shadows = texts.map(|text| made.add(text, NORMAL));
        let right = texts.map(|text| made.merge(text));
        let tokenizer = made.tokenizer(Some(pre), |_| {});
        for ((text, shadow), right) in texts.iter().zip(shadows).zip(right) {
            check(&tokenizer, text, &[right]);
            assert_eq!(tokenizer.token_id(text), Some(shadow));
            assert_eq!(tokenizer.token_id(&letters(text)), Some(right));
            let written = tokenizer.token_text(shadow);
            assert_eq!(written.as_deref(), Some(*text));
        }
        let said = tokenizer.warnings().join("\n");
        assert!(
            !said.contains("duplicate") && !said.contains("merges"),
            "{said}"
        );
    }
}

/// A byte without a token is left out before the others merge.
#[test]
fn bytes_without_a_token_are_left_out() {
    let mut made = Made::bytes();
    let joined = made.merge("!?");
    let missing = made
        .texts
        .iter()
        .position(|t| t == "\u{101}")
        .expect("a byte");
    made.texts[missing] = "no byte".to_owned();
    let tokenizer = made.tokenizer(Some("gpt-2"), |_| {});
    check(&tokenizer, "!\u{1}?", &[joined]);
    check(&tokenizer, "\u{1}", &[]);
}

/// What a file asks for and nobody does is said; what it does not ask for is not.
#[test]
fn keys_that_are_not_read_are_said() {
    let said = |more: &dyn Fn(&mut Writer)| {
        let tokenizer = pieces().tokenizer(None, more);
        tokenizer.warnings().join("\n")
    };
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let set = |name: &'static str| {
        said(&move |writer| match name {
            "precompiled_charsmap" => writer.set_array(&key(name), &[1u8, 0]).unwrap(),
            "suppress_tokens" => writer.set_array(&key(name), &[5i32]).unwrap(),
            name => writer.set(&key(name), true).unwrap(),
        })
    };
    for name in [
        "precompiled_charsmap",
        "suppress_tokens",
        "normalizer.lowercase",
        "something_new",
    ] {
        let lines = set(name);
        assert!(
            lines.contains(&format!("{}: not read", key(name))),
            "{lines}"
        );
    }
    let nothing = said(&|writer| {
        writer.set(&key("normalizer.lowercase"), false).unwrap();
        writer.set(&key("padding_token_id"), 0u32).unwrap();
        writer.set(&key("add_sep_token"), false).unwrap();
        writer.set("tokenizer.chat_template", "{{ x }}").unwrap();
        let none: [i32; 0] = [];
        writer.set_array(&key("suppress_tokens"), &none).unwrap();
    });
    assert_eq!(nothing, "");
}
