//! Constrained turns parse into calls whose arguments validate.

use gannet_engine::Finish;
use gannet_engine::requests::Grammar;
use gannet_engine::tool_calls::{ReplyParser, ReplyPart, ToolChoice, ToolFormat, tool_grammar};
use serde_json::{Value, json};

use super::generator::{Random, schema};
use super::{drawn, engine, leads_to, model};

const FORMATS: [ToolFormat; 5] = [
    ToolFormat::Hermes,
    ToolFormat::Llama3,
    ToolFormat::Mistral,
    ToolFormat::MistralArgs,
    ToolFormat::Gemma,
];

/// Calls of a reply as name and arguments; `None` where one has no end.
fn calls(parts: &[ReplyPart]) -> Option<Vec<(String, String)>> {
    let mut calls: Vec<(String, String)> = Vec::new();
    let mut ends = 0;
    for part in parts {
        match part {
            ReplyPart::CallStart { name, .. } => calls.push((name.clone(), String::new())),
            ReplyPart::CallArguments { delta, .. } => calls.last_mut()?.1.push_str(delta),
            ReplyPart::CallEnd { .. } => ends += 1,
            _ => {}
        }
    }
    (ends == calls.len()).then_some(calls)
}

fn text_of(parts: &[ReplyPart]) -> String {
    let text = |part: &ReplyPart| match part {
        ReplyPart::Text(text) => text.clone(),
        _ => String::new(),
    };
    parts.iter().map(text).collect()
}

/// Tools with random arguments.
fn tools(random: &mut Random) -> Vec<(String, Value)> {
    ["get_weather", "search-2", "f"][..1 + random.below(3)]
        .iter()
        .map(|name| {
            loop {
                let schema = schema(random);
                if schema["type"] == "object" {
                    break ((*name).to_owned(), schema);
                }
            }
        })
        .collect()
}

struct Asked {
    tools: Vec<(String, Value)>,
    choice: ToolChoice,
    format: ToolFormat,
    thinking: bool,
    begun: bool,
}

fn asked(seed: u64) -> (Asked, Grammar) {
    let random = &mut Random::new(seed);
    let format = FORMATS[seed as usize % 5];
    let tools = tools(random);
    let choice = match random.below(3) {
        0 => ToolChoice::Required,
        1 => ToolChoice::Named(tools[0].0.clone()),
        _ => ToolChoice::Auto,
    };
    let (thinking, begun, parallel) = (random.once_in(3), random.once_in(5), random.once_in(2));
    let answer = random
        .once_in(2)
        .then(|| Grammar::JsonSchema(json!({"const": "done"}).to_string()));
    let texts: Vec<_> = tools
        .iter()
        .map(|(name, s)| (name.clone(), s.to_string()))
        .collect();
    let mut grammar = tool_grammar(format, &texts, choice.clone(), parallel, thinking, answer);
    if begun {
        grammar = grammar.in_thinking();
    }
    let asked = Asked {
        tools,
        choice,
        format,
        thinking,
        begun,
    };
    (asked, grammar)
}

#[test]
fn every_constrained_reply_parses_into_calls_that_validate() {
    let (mut whole, mut cut, mut called) = (0, 0, 0);
    let count = match std::env::var("GANNET_SCHEMAS").as_deref() {
        Ok("all") => 300,
        _ => 30,
    };
    let engine = engine(16, 512);
    let requests = (0..count).map(|seed| {
        let (asked, grammar) = asked(seed);
        let mut request = drawn("Call a tool: ", seed, 300);
        request.logit_bias = model()
            .tokenizer()
            .eos()
            .map(|end| (end, 9.0))
            .into_iter()
            .collect();
        let thought = match (asked.begun, asked.thinking) {
            (true, _) => "hm</think>\n",
            (false, true) => "<think>\nwell</think>\n\n",
            (false, false) => "",
        };
        let prompt = model()
            .tokenizer()
            .encode_prompt(&[], "Call a tool: ", true)
            .len();
        request.logit_hook = Some(Box::new(leads_to(thought.to_owned(), prompt, 100.0)));
        request.grammar = Some(grammar);
        (asked, engine.submit(request))
    });
    let under_way: Vec<_> = requests.collect();
    for (asked, handle) in under_way {
        let generation = handle.wait().unwrap();
        let mut parser = ReplyParser::new(Some(asked.format), asked.thinking, asked.begun);
        let mut parts = parser.push(&generation.text);
        parts.extend(parser.finish());
        if generation.finish == Finish::Length {
            cut += 1;
            continue;
        }
        whole += 1;
        let shown = &generation.text;
        let calls = calls(&parts).unwrap_or_else(|| panic!("{:?}: {shown}", asked.format));
        let must = asked.choice != ToolChoice::Auto;
        assert!(!must || !calls.is_empty(), "{:?}: {shown}", asked.format);
        assert!(
            !must || text_of(&parts).is_empty(),
            "{:?}: {shown}",
            asked.format
        );
        for (name, arguments) in calls {
            if let ToolChoice::Named(named) = &asked.choice {
                assert_eq!(&name, named);
            }
            let (_, schema) = asked.tools.iter().find(|(tool, _)| *tool == name).unwrap();
            let options = jsonschema::options().should_validate_formats(true);
            let value: Value = serde_json::from_str(&arguments).unwrap();
            let validator = options.build(schema).unwrap();
            let errors: Vec<String> = validator
                .iter_errors(&value)
                .map(|e| e.to_string())
                .collect();
            assert!(errors.is_empty(), "{errors:?}: {schema}: {shown}");
            called += 1;
        }
    }
    println!("{whole} whole replies with {called} calls, {cut} cut");
    assert!(
        called * 2 > whole && cut * 4 < whole,
        "{whole} whole, {called} calls, {cut} cut"
    );
}

/// Free text ends where calls begin, and a biased model calls.
#[test]
fn free_text_may_lead_to_a_call() {
    let schema = json!({"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"],
                        "additionalProperties": false});
    let tools = [("f".to_owned(), schema.to_string())];
    for format in FORMATS {
        let grammar = tool_grammar(format, &tools, ToolChoice::Auto, false, true, None);
        let whole = match format {
            ToolFormat::Hermes => {
                "ab <tool_call>\n{\"name\": \"f\", \"arguments\": {\"n\":1}}\n</tool_call>"
            }
            ToolFormat::Llama3 => "{\"name\": \"f\", \"parameters\": {\"n\":1}}",
            ToolFormat::Mistral => "ab [TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"n\":1}}]",
            ToolFormat::MistralArgs => "ab [TOOL_CALLS]f[ARGS]{\"n\":1}",
            _ => "ab ```tool_code\n[{\"name\": \"f\", \"arguments\": {\"n\":1}}]\n```",
        };
        let cases = [
            (whole, true),
            ("plain text", true),
            ("<think>let me <tool_call> see</think>\n\nplain", true),
            ("", true),
            (&whole[..whole.len() - 1], false),
            (&whole.replace(":1}", ":3}"), false),
        ];
        for (text, expected) in cases {
            assert_eq!(accepts(&grammar, text), expected, "{format:?}: {text:?}");
        }
    }
}

/// Whether a grammar accepts a text as a whole: the hook forces its tokens, and the end.
fn accepts(grammar: &Grammar, text: &str) -> bool {
    let tokenizer = model().tokenizer();
    let prompt = tokenizer.encode_prompt(&[], "x", false);
    let mut leads = leads_to(text.to_owned(), prompt.len(), 1e6);
    let mut request = gannet_engine::Request::new(prompt);
    request.options.max_tokens = text.len() + 1;
    request.grammar = Some(grammar.clone());
    request.logit_bias = tokenizer.eos().map(|end| (end, 1e3)).into_iter().collect();
    request.logit_hook = Some(Box::new(move |history: &[u32], logits: &mut [f32]| {
        leads(history, logits);
    }));
    let engine = engine(1, 256);
    let generation = engine.submit(request).wait().unwrap();
    generation.text == text && generation.finish == Finish::EndOfText
}
