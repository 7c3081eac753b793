//! Tokens around texts and at the ends of generations, from every place where files name them.

use gannet_engine::internals::text::tokenizer::Tokenizer;
use gannet_engine::tokenizer::{DecodeOptions, EncodeOptions};
use gannet_gguf::Writer;

use crate::made::{CONTROL, Made, NORMAL, UNKNOWN, USER};
use crate::{embedded, load};

const ADDED: EncodeOptions = EncodeOptions {
    add_special: true,
    parse_special: true,
};

fn key(name: &str) -> String {
    format!("tokenizer.ggml.{name}")
}

#[test]
fn one_beginning_is_enough() {
    let tokenizer = load(&embedded()).expect("loads");
    let bos = tokenizer.bos().expect("a BOS");
    let begin = tokenizer.token_text(bos).expect("its text").into_owned();
    let plain = tokenizer.encode("Ownership is", ADDED);
    assert_eq!(plain[0], bos);
    assert_eq!(
        tokenizer.encode(&format!("{begin}Ownership is"), ADDED),
        plain
    );
    assert_eq!(tokenizer.encode(&begin, ADDED), [bos]);
    // What the text holds besides is the text's.
    let twice = tokenizer.encode(&format!("{begin}{begin}Ownership is"), ADDED);
    assert_eq!(twice, [&[bos], &plain[..]].concat());
    let later = tokenizer.encode(&format!("\n{begin}"), ADDED);
    assert_eq!((later[0], later.last()), (bos, Some(&bos)));
    // Text that is not parsed holds no control token.
    let options = EncodeOptions {
        parse_special: false,
        ..ADDED
    };
    let written = tokenizer.encode(&begin, options);
    assert!(written[0] == bos && written.len() > 2, "{written:?}");
}

/// SentencePiece: the space that begins a text stays behind the one token.
#[test]
fn one_beginning_of_pieces() {
    let mut made = Made::pieces();
    let a = made.add("\u{2581}a", NORMAL);
    made.add("\u{2581}", NORMAL);
    made.add("a", NORMAL);
    let tokenizer = made.tokenizer(None, |_| {});
    for text in ["a", "<s>a"] {
        assert_eq!(tokenizer.encode(text, ADDED), [1, a], "{text}");
        assert_eq!(tokenizer.encode_prompt(&[], text, true), [1, a], "{text}");
    }
}

/// A token that begins texts but is an ordinary word does not count where the text says the word.
#[test]
fn an_ordinary_word_is_no_beginning() {
    let mut made = Made::bytes();
    let line = u32::from(b'\n');
    let end = made.add("<|end|>", CONTROL);
    let tokenizer = made.tokenizer(Some("gpt-2"), |writer| {
        writer.set(&key("bos_token_id"), line).unwrap();
        writer.set(&key("add_bos_token"), true).unwrap();
    });
    assert_eq!(tokenizer.encode("\n<|end|>", ADDED), [line, line, end]);
}

#[test]
fn a_text_that_goes_on_gets_nothing_between() {
    let tokenizer = load(&embedded()).expect("loads");
    let bos = tokenizer.bos().expect("a BOS");
    let first = tokenizer.encode_prompt(&[], "Ownership", true);
    assert_eq!(first[0], bos);
    let second = tokenizer.encode_prompt(&first, " is a", true);
    assert!(!second.contains(&bos), "{second:?}");
    let all = tokenizer.decode(&[first, second].concat(), DecodeOptions::default());
    assert_eq!(all, "Ownership is a");

    let mut made = Made::pieces();
    let a = made.add("\u{2581}a", NORMAL);
    let b = made.add("b", NORMAL);
    made.add("a", NORMAL);
    made.add("\u{2581}", NORMAL);
    let turn = made.add("<|turn|>", CONTROL);
    let pieces = made.tokenizer(None, |_| {});
    assert_eq!(pieces.encode_prompt(&[], "a", true), [1, a]);
    assert_eq!(pieces.encode_prompt(&[1, a], "b", true), [b]);
    assert_eq!(pieces.encode_prompt(&[1, a], " a", true), [a]);
    assert_eq!(pieces.encode_prompt(&[1, a, turn], "a", true), [a]);
    assert_eq!(pieces.encode_prompt(&[1], "a", true), [a]);
}

#[test]
fn keys_say_what_is_added() {
    let mut made = Made::bytes();
    let bos = made.add("<|begin|>", CONTROL);
    let eos = made.add("<|stop|>", CONTROL);
    let with = |add_bos: bool, add_eos: bool| {
        made.tokenizer(Some("qwen2"), |writer| {
            writer.set(&key("bos_token_id"), bos).unwrap();
            writer.set(&key("eos_token_id"), eos).unwrap();
            writer.set(&key("add_bos_token"), add_bos).unwrap();
            writer.set(&key("add_eos_token"), add_eos).unwrap();
        })
    };
    let x = u32::from(b'x');
    for (add_bos, add_eos) in [(false, false), (true, false), (false, true), (true, true)] {
        let tokenizer = with(add_bos, add_eos);
        let begin: &[u32] = if add_bos { &[bos] } else { &[] };
        let end: &[u32] = if add_eos { &[eos] } else { &[] };
        assert_eq!(tokenizer.encode("x", ADDED), [begin, &[x], end].concat());
        let written = tokenizer.encode("<|begin|>x<|stop|>", ADDED);
        assert_eq!(written, [bos, x, eos], "neither is there twice");
        // A prompt is continued: it is not at its end.
        assert_eq!(
            tokenizer.encode_prompt(&[], "x", true),
            [begin, &[x]].concat()
        );
        let said = tokenizer.warnings().join("\n");
        assert_eq!(said.contains("add_eos_token"), add_eos, "{said}");
    }
}

/// A vocabulary of bytes and some tokens of a type, read as `more` says.
fn ends_of(tokens: &[(&str, i32)], more: impl FnOnce(&mut Writer)) -> (Tokenizer, Vec<bool>) {
    let mut made = Made::bytes();
    let ids: Vec<u32> = tokens.iter().map(|(t, ty)| made.add(t, *ty)).collect();
    let tokenizer = made.tokenizer(Some("qwen2"), more);
    let ends = ids.iter().map(|&id| tokenizer.is_eog(id)).collect();
    (tokenizer, ends)
}

#[test]
fn every_key_of_an_end_counts() {
    let tokens = [("<a>", CONTROL), ("<b>", CONTROL), ("word", NORMAL)];
    for name in ["eos", "eot", "eom", "eog", "fim_pad", "fim_rep", "fim_sep"] {
        for (id, expected) in [(256, [true, false, false]), (258, [false, false, true])] {
            let name = format!("{name}_token_id");
            let (_, ends) = ends_of(&tokens, |w| w.set(&key(&name), id as u32).unwrap());
            assert_eq!(ends, expected, "{name}");
            let signed = |w: &mut Writer| w.set(&key(&name), id).unwrap();
            assert_eq!(ends_of(&tokens, signed).1, expected, "{name}");
        }
        for plural in ["", "s"] {
            let name = format!("{name}_token_id{plural}");
            let set = |w: &mut Writer| w.set_array(&key(&name), &[256u32, 257]).unwrap();
            assert_eq!(ends_of(&tokens, set).1, [true, true, false], "{name}");
            let set = |w: &mut Writer| w.set_array(&key(&name), &[257i32]).unwrap();
            assert_eq!(ends_of(&tokens, set).1, [false, true, false], "{name}");
        }
    }
    let (tokenizer, ends) = ends_of(&tokens, |w| {
        w.set(&key("eos_token_id"), 256u32).unwrap();
        w.set_array(&key("eos_token_ids"), &[257u32, 256]).unwrap();
    });
    assert_eq!(
        (ends, tokenizer.eos()),
        (vec![true, true, false], Some(256))
    );
    let (tokenizer, ends) = ends_of(&tokens, |w| {
        w.set_array(&key("eos_token_ids"), &[257u32, 9999]).unwrap();
    });
    assert_eq!(
        (ends, tokenizer.eos()),
        (vec![false, true, false], Some(257))
    );
    let said = tokenizer.warnings().join("\n");
    assert!(
        said.contains("eos_token_ids") && said.contains("9999"),
        "{said}"
    );
}

#[test]
fn a_space_in_front_of_bytes_is_said_to_be_ignored() {
    let (tokenizer, _) = ends_of(&[], |w| w.set(&key("add_space_prefix"), true).unwrap());
    let said = tokenizer.warnings().join("\n");
    assert!(said.contains("add_space_prefix: ignored"), "{said}");
    assert_eq!(tokenizer.encode("x", ADDED), [u32::from(b'x')]);
}

#[test]
fn minus_one_is_no_token() {
    let (tokenizer, _) = ends_of(&[], |w| w.set(&key("eos_token_id"), -1i32).unwrap());
    assert_eq!(tokenizer.eos(), None);
    assert_eq!(tokenizer.warnings(), [] as [&str; 0]);
    let pieces = Made::pieces().tokenizer(None, |w| w.set(&key("bos_token_id"), -1i32).unwrap());
    assert_eq!((pieces.bos(), pieces.eos()), (None, Some(2)));
}

#[test]
fn well_known_tokens_end_a_generation() {
    let known = [
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|eot|>",
        "<end_of_turn>",
        "<|end|>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|EOT|>",
        "<turn|>",
        "[|endofturn|]",
        "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    ];
    for text in known {
        // Whatever their type says: nobody means anything else by them.
        for ty in [CONTROL, USER, NORMAL, UNKNOWN] {
            let tokens = [("<|start|>", CONTROL), (text, ty)];
            let (tokenizer, ends) = ends_of(&tokens, |_| {});
            assert_eq!(ends, [false, true], "{text} of type {ty}");
            assert!(
                !tokenizer
                    .encode(text, EncodeOptions::default())
                    .contains(&257)
            );
        }
    }
    for text in ["</s>", "<eos>", "<EOT>", "[EOT]", "[EOS]"] {
        let ends = |ty| ends_of(&[(text, ty)], |_| {}).1;
        assert_eq!(
            (ends(CONTROL), ends(NORMAL)),
            (vec![true], vec![false]),
            "{text}"
        );
    }
    // A tag of HTML that users defined is text.
    let (tokenizer, ends) = ends_of(&[("</s>", USER)], |_| {});
    assert_eq!(ends, [false]);
    assert_eq!(tokenizer.encode("</s>", EncodeOptions::default()), [256]);
}

#[test]
fn messages_end_where_turns_have_several() {
    let of = |texts: &[&str]| {
        let tokens: Vec<(&str, i32)> = texts.iter().map(|&t| (t, CONTROL)).collect();
        ends_of(&tokens, |_| {}).1
    };
    assert_eq!(
        of(&["<|end|>", "<|return|>", "<|call|>"]),
        [false, true, true]
    );
    assert_eq!(
        of(&["<|end|>", "<|flush|>", "<|calls|>"]),
        [false, true, true]
    );
    assert_eq!(of(&["<|end|>", "<|call|>"]), [true, true]);
    assert_eq!(of(&["</s>", "<|tool_response>"]), [false, true]);
}

/// A file that does not say what its tokens are: they are told by how they are written.
#[test]
fn types_may_be_missing() {
    let mut made = Made::bytes();
    let bos = made.add("<|begin_of_text|>", 0);
    let end = made.add("<|im_end|>", 0);
    let named = made.add("<stop>", 0);
    let tag = made.add("<b>", 0);
    made.types.clear();
    let tokenizer = made.tokenizer(Some("llama-bpe"), |w| {
        w.set(&key("bos_token_id"), bos).unwrap();
        w.set(&key("eos_token_id"), named).unwrap();
    });
    let said = tokenizer.warnings().join("\n");
    assert!(said.contains("token_type is missing"), "{said}");
    let ids = tokenizer.encode("<|begin_of_text|>x<|im_end|><stop>", ADDED);
    assert_eq!(ids, [bos, u32::from(b'x'), end, named]);
    assert!(tokenizer.is_eog(end) && tokenizer.is_eog(named) && !tokenizer.is_eog(tag));
    assert_eq!(tokenizer.decode(&ids, DecodeOptions::default()), "x");
    assert_eq!(tokenizer.encode("<b>", ADDED).len(), 4);

    let mut made = Made::pieces();
    let a = made.add("\u{2581}a", 0);
    made.add("\u{2581}", 0);
    made.add("a", 0);
    made.types.clear();
    let pieces = made.tokenizer(None, |_| {});
    assert_eq!(pieces.encode("a\n</s>", ADDED), [1, a, 3 + 10, 2]);
    assert_eq!(
        pieces.decode(&[1, a, 3 + 10, 2], DecodeOptions::default()),
        "a\n"
    );
    assert!(pieces.is_eog(2));
}
