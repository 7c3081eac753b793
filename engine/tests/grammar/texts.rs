//! Every kind of grammar gives texts that match it.

use gannet_engine::Finish;
use gannet_engine::requests::Grammar;

use super::{drawn, engine};

type Case = (Grammar, fn(&str) -> bool);

#[test]
fn texts_match_their_grammar_and_end_with_it() {
    let engine = engine(8, 256);
    let lark = "start: \"yes\" | \"no\" \" \" NUMBER\nNUMBER: /[0-9]{1,4}/";
    let cases: [Case; 6] = [
        (Grammar::Regex("[0-9]{3}-[a-f]{2}".to_owned()), |text| {
            text.len() == 6 && text[..3].bytes().all(|b| b.is_ascii_digit())
        }),
        (Grammar::Lark(lark.to_owned()), |text| {
            text == "yes" || text.strip_prefix("no ").is_some_and(|n| n.parse::<u32>().is_ok())
        }),
        (Grammar::Regex(String::new()), str::is_empty),
        (Grammar::Regex("^(a|b)/c$".to_owned()), |text| ["a/c", "b/c"].contains(&text)),
        (
            Grammar::JsonSchema(r#"{"enum": ["a", 1, null]}"#.to_owned()),
            |text| [r#""a""#, "1", "null"].contains(&text),
        ),
        (
            Grammar::JsonSchema(r#"{"type": "array", "items": {"type": "integer", "maximum": 9, "minimum": -9}, "minItems": 2, "maxItems": 3}"#.to_owned()),
            |text| serde_json::from_str::<Vec<i8>>(text).is_ok_and(|v| v.len() > 1 && v.len() < 4),
        ),
    ];
    for (grammar, matches) in cases {
        let handles: Vec<_> = (0..8)
            .map(|seed| {
                let mut request = drawn("A number: ", seed, 64);
                request.grammar = Some(grammar.clone());
                engine.submit(request)
            })
            .collect();
        for handle in handles {
            let generation = handle.wait().unwrap();
            assert!(
                matches(&generation.text),
                "{grammar:?}: {}",
                generation.text
            );
            assert_eq!(generation.finish, Finish::EndOfText, "{}", generation.text);
        }
    }
}
