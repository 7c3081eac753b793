//! Replies of every format, cut in every way.

use super::{ReplyParser, ReplyPart, ToolFormat};

/// A reply, and what it is, as the notation of [`shown`].
struct Case {
    format: Option<ToolFormat>,
    reply: &'static str,
    parts: &'static str,
}

fn case(format: ToolFormat, reply: &'static str, parts: &'static str) -> Case {
    let format = Some(format);
    Case {
        format,
        reply,
        parts,
    }
}

/// Parts with those of a kind joined: `T` text, `R` reasoning, `C` a call, `;` its end.
fn shown(parts: &[ReplyPart]) -> String {
    let (mut shown, mut last) = (String::new(), ' ');
    for part in parts {
        let (kind, text) = match part {
            ReplyPart::Text(text) => ('T', text.clone()),
            ReplyPart::Reasoning(text) => ('R', text.clone()),
            ReplyPart::CallStart { index, id, name } => ('C', format!("{index} {id} {name} ")),
            ReplyPart::CallArguments { delta, .. } => ('A', delta.clone()),
            ReplyPart::CallEnd { .. } => (';', String::new()),
        };
        if kind != last || matches!(kind, 'C' | ';') {
            shown.push_str(match kind {
                'T' => "|T ",
                'R' => "|R ",
                'C' => "|C ",
                'A' => "",
                _ => ";",
            });
        }
        shown.push_str(&text);
        last = kind;
    }
    shown
}

fn parsed(mut parser: ReplyParser, pieces: &[&str]) -> Vec<ReplyPart> {
    let mut parts = Vec::new();
    for piece in pieces {
        parts.extend(parser.push(piece));
    }
    parts.extend(parser.finish());
    parts
}

fn cases() -> Vec<Case> {
    use ToolFormat::{Gemma, Hermes, Llama3, Mistral, MistralArgs};
    vec![
        case(Hermes, "Hello <b>", "|T Hello <b>"),
        case(
            Hermes,
            "<think>\nWell.\n</think>\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, {}]}}\n</tool_call>",
            "|R Well.\n|C 0 call_0 f {\"a\": [1, {}]};",
        ),
        case(
            Hermes,
            "Two:\n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n<tool_call>\n{\"arguments\": {\"b\": \"é\\u00e9\"}, \"name\": \"g\"}\n</tool_call>\n done",
            "|T Two:\n|C 0 call_0 f {};|C 1 call_1 g {\"b\": \"é\\u00e9\"};|T \n done",
        ),
        case(
            Hermes,
            "<tool_call>{\"name\": \"f\"}</tool_call>",
            "|C 0 call_0 f {};",
        ),
        // None of these is a call.
        case(Hermes, "a <tool_call> b", "|T a <tool_call> b"),
        case(
            Hermes,
            "<tool_call>{\"nam\": \"f\"}</tool_call>",
            "|T <tool_call>{\"nam\": \"f\"}</tool_call>",
        ),
        case(
            Hermes,
            "<tool_call>{\"name\": \"f\", \"arguments\": 5}</tool_call>",
            "|T <tool_call>{\"name\": \"f\", \"arguments\": 5}</tool_call>",
        ),
        case(
            Hermes,
            "<tool_call><tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>",
            "|T <tool_call>|C 0 call_0 f {};",
        ),
        case(
            Hermes,
            "<tool_call>{\"name\": \"f",
            "|T <tool_call>{\"name\": \"f",
        ),
        // It breaks off inside of the arguments, and is followed by text.
        case(
            Hermes,
            "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": tru",
            "|C 0 call_0 f {\"a\": tru",
        ),
        case(
            Hermes,
            "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\" 5}}</tool_call> x <tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>",
            "|C 0 call_0 f {\"a\" |T 5}}</tool_call> x |C 1 call_1 g {};",
        ),
        // What closes it is missing.
        case(
            Hermes,
            "<tool_call>{\"name\": \"f\", \"arguments\": {}}\n<tool_call>{\"name\": \"g\", \"arguments\": {}}",
            "|C 0 call_0 f {};|C 1 call_1 g {};",
        ),
        case(
            Llama3,
            "{\"name\": \"f\", \"parameters\": {\"x\": 1}}",
            "|C 0 call_0 f {\"x\": 1};",
        ),
        case(
            Llama3,
            " <|python_tag|>{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}",
            "|C 0 call_0 f {};|C 1 call_1 g {};",
        ),
        case(
            Llama3,
            "\n{\"name\": \"Bob\", \"age\": 3}",
            "|T \n{\"name\": \"Bob\", \"age\": 3}",
        ),
        case(Llama3, "{\"name\": \"Bob\"}", "|T {\"name\": \"Bob\"}"),
        case(
            Llama3,
            "So {\"name\": \"f\", \"parameters\": {}}",
            "|T So {\"name\": \"f\", \"parameters\": {}}",
        ),
        case(
            Llama3,
            "<|python_tag|>search.call(q=1)",
            "|T <|python_tag|>search.call(q=1)",
        ),
        case(
            Mistral,
            "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 1}, \"id\": \"abcdefghi\"}, {\"id\": \"x23456789\", \"name\": \"g\", \"arguments\": {}}]",
            "|C 0 call_0 f {\"a\": 1};|C 1 x23456789 g {};",
        ),
        case(
            MistralArgs,
            "I look.[TOOL_CALLS]f_1[ARGS]{\"a\": 1}[TOOL_CALLS]g[CALL_ID]abc123[ARGS] {}",
            "|T I look.|C 0 call_0 f_1 {\"a\": 1};|C 1 abc123 g {};",
        ),
        case(
            Mistral,
            "[TOOL_CALLS]g{\"a\":[]}",
            "|C 0 call_0 g {\"a\":[]};",
        ),
        case(
            Mistral,
            "[TOOL_CALLS] nothing [TOOL",
            "|T [TOOL_CALLS] nothing [TOOL",
        ),
        case(
            Gemma,
            "```tool_code\n[{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g\", \"parameters\": {}}]\n```",
            "|C 0 call_0 f {\"a\": 1};|C 1 call_1 g {};",
        ),
        case(
            Gemma,
            "[{\"name\": \"f\", \"arguments\": {}}]",
            "|C 0 call_0 f {};",
        ),
        case(
            Gemma,
            "See:\n```json\n{\"a\": 1}\n```\nand\n```json\n{\"name\": \"f\", \"arguments\": {}}\n```",
            "|T See:\n```json\n{\"a\": 1}\n```\nand\n|C 0 call_0 f {};",
        ),
        Case {
            format: None,
            reply: "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>",
            parts: "|T <tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>",
        },
        Case {
            format: None,
            reply: "  <think>a < b</thin</think> \n x </think>",
            parts: "|R a < b</thin|T x </think>",
        },
    ]
}

#[test]
fn replies_are_what_they_say() {
    for case in cases() {
        let parts = parsed(ReplyParser::new(case.format, true, false), &[case.reply]);
        assert_eq!(shown(&parts), case.parts, "{}", case.reply);
    }
}

/// Any cutting of a reply, and of replies behind one another, gives the same parts.
#[test]
fn cuts_make_no_difference() {
    let mut state = 5u64;
    let mut random = |n: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(11);
        (state >> 33) as usize % n
    };
    let cases = cases();
    for round in 0..4_000 {
        let format = cases[random(cases.len())].format;
        let mut reply = String::new();
        for _ in 0..1 + random(3) {
            let case = &cases[random(cases.len())];
            let cut = match random(3) {
                0 => random(case.reply.len() + 1),
                _ => case.reply.len(),
            };
            reply.push_str(case.reply.get(..cut).unwrap_or(case.reply));
        }
        let (thinks, whole) = (random(2) == 0, random(2) == 0);
        let parser = || {
            let parser = ReplyParser::new(format, true, thinks);
            match whole {
                true => parser.whole_calls(),
                false => parser,
            }
        };
        let expected = shown(&parsed(parser(), &[&reply]));
        let letters: Vec<&str> = reply.split_inclusive(|_| true).collect();
        assert_eq!(
            shown(&parsed(parser(), &letters)),
            expected,
            "{round}: {reply}"
        );
        let mut pieces = Vec::new();
        let mut rest = reply.as_str();
        while !rest.is_empty() {
            let (at, _) = rest
                .char_indices()
                .nth(1 + random(9))
                .unwrap_or((rest.len(), ' '));
            pieces.push(&rest[..at]);
            rest = &rest[at..];
        }
        assert_eq!(
            shown(&parsed(parser(), &pieces)),
            expected,
            "{round}: {reply}"
        );
    }
}

/// Nothing of a reply that holds no call is lost, but for white space at its start.
#[test]
fn what_is_no_call_is_text() {
    let mut state = 9u64;
    let mut random = |n: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(11);
        (state >> 33) as usize % n
    };
    let bits = [
        "<tool_call>",
        "</tool_call>",
        "{",
        "}",
        "[TOOL_CALLS]",
        "[",
        "]",
        "\"name\"",
        ":",
        "\"f\"",
        ",",
        "\"arguments\"",
        "<|python_tag|>",
        "```json",
        "```",
        "\n",
        " ",
        "x",
        "é",
        "[ARGS]",
        ";",
    ];
    use ToolFormat::{Gemma, Hermes, Llama3, Mistral, MistralArgs};
    for round in 0..20_000 {
        let format = [Gemma, Hermes, Llama3, Mistral, MistralArgs][round % 5];
        let reply: String = (0..random(14)).map(|_| bits[random(bits.len())]).collect();
        let parser = ReplyParser::new(Some(format), true, false).whole_calls();
        let parts = parsed(parser, &[&reply]);
        if parts
            .iter()
            .any(|part| matches!(part, ReplyPart::CallStart { .. }))
        {
            continue;
        }
        let text = shown(&parts);
        let text = text.strip_prefix("|T ").unwrap_or(&text);
        assert_eq!(text.trim_start(), reply.trim_start(), "{format:?} {round}");
    }
}

/// With whole calls, every call has an end, and arguments that are an object.
#[test]
fn whole_calls_are_whole() {
    let reply = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\" 5}}</tool_call>\
                 <tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>";
    let parser = ReplyParser::new(Some(ToolFormat::Hermes), false, false).whole_calls();
    let expected =
        "|T <tool_call>{\"name\": \"f\", \"arguments\": {\"a\" 5}}</tool_call>|C 0 call_0 g {};";
    assert_eq!(shown(&parsed(parser, &[reply])), expected);
}

#[test]
fn formats_are_told_by_templates() {
    use ToolFormat::{Gemma, Hermes, Llama3, Mistral, MistralArgs};
    let cases = [
        ("{{ '<tool_call>\\n' }}<|im_start|>", Some(Hermes)),
        (
            "<|start_header_id|> {\"name\": f, \"parameters\": d}",
            Some(Llama3),
        ),
        ("{% if builtin %}<|python_tag|>", Some(Llama3)),
        ("[AVAILABLE_TOOLS] [TOOL_CALLS] [", Some(Mistral)),
        ("[TOOL_CALLS]' + name + '[ARGS]", Some(MistralArgs)),
        ("<start_of_turn>{% if tools %}", Some(Gemma)),
        ("<|im_start|>{{ message.content }}", None),
    ];
    for (template, format) in cases {
        assert_eq!(ToolFormat::of_template(template), format, "{template}");
    }
}
