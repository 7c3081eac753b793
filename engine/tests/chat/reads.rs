//! Messages and tools as JSON: what is read, and what is refused where.

use gannet_engine::chat::{ChatTemplate, Message, TemplateOptions, parse_messages, parse_tools};

use crate::support::{model, named, render, template};

#[test]
fn messages_of_every_kind_are_read() {
    let json = r#"[
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}], "name": "Ann"},
        {"role": "assistant", "content": null, "reasoning_content": "hm", "refusal": null, "tool_calls":
            [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1.0}"}}]},
        {"role": "tool", "content": "2", "tool_call_id": "c1"}
    ]"#;
    let messages = parse_messages(json).unwrap();
    assert_eq!(messages[0], Message::new("system", "Be brief."));
    assert_eq!(messages[1].content.as_deref(), Some("a\nb"));
    assert_eq!(messages[1].name.as_deref(), Some("Ann"));
    assert_eq!(messages[2].content, None);
    assert_eq!(messages[2].reasoning.as_deref(), Some("hm"));
    assert_eq!(messages[2].tool_calls[0].arguments, "{\"x\": 1.0}");
    assert_eq!(messages[3].tool_call_id.as_deref(), Some("c1"));
}

#[test]
fn what_is_wrong_with_messages_is_named() {
    let cases = [
        ("{}", "messages", "an object"),
        ("[", "messages", "not JSON"),
        ("[]", "messages", "at least one"),
        ("[1]", "messages[0]", "a number"),
        (r#"[{"content": "x"}]"#, "messages[0].role", "missing"),
        (
            r#"[{"role": "user", "content": "x"}, {"role": "boss", "content": "x"}]"#,
            "messages[1].role",
            "boss",
        ),
        (
            r#"[{"role": 1, "content": "x"}]"#,
            "messages[0].role",
            "a number",
        ),
        (r#"[{"role": "user"}]"#, "messages[0].content", "missing"),
        (
            r#"[{"role": "user", "content": null}]"#,
            "messages[0].content",
            "missing",
        ),
        (
            r#"[{"role": "assistant"}]"#,
            "messages[0].content",
            "tool_calls",
        ),
        (
            r#"[{"role": "user", "content": 1}]"#,
            "messages[0].content",
            "a number",
        ),
        (
            r#"[{"role": "user", "content": []}]"#,
            "messages[0].content",
            "empty",
        ),
        (
            r#"[{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "data:"}}]}]"#,
            "messages[0].content[1]",
            "image_url",
        ),
        (
            r#"[{"role": "user", "content": [{"type": "input_audio"}]}]"#,
            "messages[0].content[0]",
            "only text",
        ),
        (
            r#"[{"role": "user", "content": [{"type": "file"}]}]"#,
            "messages[0].content[0]",
            "only text",
        ),
        (
            r#"[{"role": "user", "content": [{"type": "text"}]}]"#,
            "messages[0].content[0].text",
            "missing",
        ),
        (
            r#"[{"role": "user", "content": [{"text": "x"}]}]"#,
            "messages[0].content[0].type",
            "missing",
        ),
        (
            r#"[{"role": "user", "content": "x", "temperature": 1}]"#,
            "messages[0].temperature",
            "not a field",
        ),
        (
            r#"[{"role": "assistant", "function_call": {"name": "f"}}]"#,
            "messages[0].function_call",
            "tool_calls",
        ),
        (
            r#"[{"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f"}}]}]"#,
            "messages[0].tool_calls",
            "only an assistant",
        ),
        (
            r#"[{"role": "assistant", "tool_calls": [{"id": "1"}]}]"#,
            "messages[0].tool_calls[0].function",
            "missing",
        ),
        (
            r#"[{"role": "assistant", "tool_calls": [{"type": "custom"}]}]"#,
            "messages[0].tool_calls[0].type",
            "custom",
        ),
        (
            r#"[{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}]"#,
            "messages[0].tool_calls[0].function.arguments",
            "object",
        ),
        (
            r#"[{"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}]"#,
            "messages[0].tool_calls[0].function.name",
            "missing",
        ),
    ];
    for (json, param, word) in cases {
        let error = parse_messages(json).unwrap_err();
        let line = error.to_string();
        assert_eq!(error.param(), Some(param), "{json}: {line}");
        assert!(
            line.contains(word) && !line.contains('\n'),
            "{json}: {line}"
        );
    }
}

#[test]
fn tools_are_read_and_what_is_wrong_with_them_is_named() {
    let json = r#"[{"type": "function", "function": {"name": "f", "description": "d", "strict": true,
        "parameters": {"type": "object", "b": 1e3, "a": [12345678901234567890123]}}}]"#;
    let tools = parse_tools(json).unwrap();
    assert_eq!(tools[0].name, "f");
    assert_eq!(tools[0].strict, Some(true));
    let expected = "{\"type\": \"object\", \"b\": 1000.0, \"a\": [12345678901234567890123]}";
    assert_eq!(tools[0].parameters.as_deref(), Some(expected));
    for (json, param) in [
        ("{}", "tools"),
        (r#"[{"type": "web_search"}]"#, "tools[0].type"),
        (r#"[{"type": "function"}]"#, "tools[0].function"),
        (
            r#"[{"type": "function", "function": {}}]"#,
            "tools[0].function.name",
        ),
        (
            r#"[{"function": {"name": "f", "parameters": 1}}]"#,
            "tools[0].function.parameters",
        ),
        (
            r#"[{"function": {"name": "f", "strict": "yes"}}]"#,
            "tools[0].function.strict",
        ),
        (
            r#"[{"function": {"name": "f", "description": 1}}]"#,
            "tools[0].function.description",
        ),
    ] {
        assert_eq!(
            parse_tools(json).unwrap_err().param(),
            Some(param),
            "{json}"
        );
    }
}

const HELLO: &str = r#"[{"role": "user", "content": "Hello"}]"#;

#[test]
fn the_models_own_template_is_missed_with_what_to_do() {
    let line = ChatTemplate::of(model()).unwrap_err().to_string();
    assert!(
        line.contains("rustdoc-tiny-Q4_K_M.gguf: has no chat template"),
        "{line}"
    );
    assert!(line.contains("--chat-template"), "{line}");
    let line = ChatTemplate::named("nothing", model().tokenizer())
        .unwrap_err()
        .to_string();
    assert!(
        line.contains("chatml, ") && line.contains("plain"),
        "{line}"
    );
}

#[test]
fn built_in_templates_write_every_conversation_they_have_roles_for() {
    let messages = r#"[
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Bye"}
    ]"#;
    for name in ChatTemplate::names() {
        let text = named(name, messages, "[]").unwrap();
        let found = ["Be brief.", "Hello", "Hi.", "Bye"].map(|word| text.find(word).unwrap());
        assert!(found.is_sorted(), "{name}: {text}");
    }
    let tools = r#"[{"type": "function", "function": {"name": "f"}}]"#;
    let called = r#"[
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "tool_calls": [{"id": "123456789", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]},
        {"role": "tool", "content": "done", "tool_call_id": "123456789"},
        {"role": "user", "content": "Hello"}
    ]"#;
    for name in ["plain", "hermes", "llama3", "mistral"] {
        let text = named(name, called, tools).unwrap();
        assert!(
            text.contains("{\"x\": 1}") && text.contains("done"),
            "{name}: {text}"
        );
    }
}

#[test]
fn errors_name_the_template_and_the_line() {
    let line = |source: &str| render(source, HELLO).unwrap_err().to_string();
    assert_eq!(
        line("a\n{% if %}"),
        "chat template test, line 2: unexpected end of block"
    );
    let refused = render("\n\n{{ raise_exception('no\\nway') }}", HELLO).unwrap_err();
    assert_eq!(refused.refusal(), Some("no\nway"));
    assert_eq!(refused.to_string(), "chat template test, line 3: no\\nway");
}

#[test]
fn a_prompt_has_one_beginning() {
    let tokenizer = model().tokenizer();
    let bos = tokenizer.bos().unwrap();
    for source in ["{{ bos_token }}Hello", "Hello"] {
        let template = template(source).unwrap();
        let text = render(source, HELLO).unwrap();
        let tokens = template.prompt_tokens(tokenizer, &text);
        assert_eq!(
            tokens.iter().filter(|&&id| id == bos).count(),
            1,
            "{source}"
        );
        assert_eq!(tokens[0], bos);
    }
}

#[test]
fn a_last_message_is_continued() {
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content|trim }}<end>\n{% endfor %}";
    let messages =
        r#"[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "It is "}]"#;
    let messages = parse_messages(messages).unwrap();
    let options = TemplateOptions {
        continue_final_message: true,
        add_generation_prompt: false,
        ..TemplateOptions::default()
    };
    let text = |source: &str| template(source).unwrap().render(&messages, &[], &options);
    assert_eq!(text(source).unwrap(), "<user>Hello<end>\n<assistant>It is");
    let kept = text(&source.replace("|trim", "")).unwrap();
    assert_eq!(kept, "<user>Hello<end>\n<assistant>It is ");
    assert_eq!(
        text("nothing").unwrap_err().param(),
        Some("continue_final_message")
    );
}
