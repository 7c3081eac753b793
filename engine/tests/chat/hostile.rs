//! Templates that mean harm: each ends soon, by an error or a text, and nothing panics.

use std::time::{Duration, Instant};

use crate::support::render;

/// What a rendering may take here, where nothing is optimised and other tests run beside it.
const MOST: Duration = Duration::from_secs(8);

/// The most bytes of a text that comes of a few words.
const MOST_BYTES: usize = 16 << 20;

fn ends(source: &str) {
    let messages = format!(r#"[{{"role": "user", "content": "{}"}}]"#, "x".repeat(1000));
    let start = Instant::now();
    let found = render(source, &messages);
    let shown: String = source.chars().take(200).collect();
    assert!(start.elapsed() < MOST, "{:?}: {shown}", start.elapsed());
    match found {
        Ok(text) => assert!(text.len() < MOST_BYTES, "{shown}"),
        Err(error) => {
            let line = error.to_string();
            assert!(line.starts_with("chat template test"), "{line}");
            assert!(
                !line.contains('\n') && !line.contains("bug"),
                "{shown}: {line}"
            );
        }
    }
}

#[test]
fn hostile_templates_end() {
    let sources = include_str!("hostile.txt");
    assert!(sources.lines().count() > 80);
    sources.lines().for_each(ends);
}

#[test]
fn long_templates_end() {
    let parts = [
        ("(", "1", ")"),
        ("[", "1", "]"),
        ("not ", "1", ""),
        ("-", "1", ""),
        ("", "1", "+1"),
        ("", "1", "~1"),
        ("", "'a'", "|upper"),
        ("", "a", ".b"),
        ("", "a", "[0]"),
        ("", "2", "**2"),
        ("", "1", " if 1 else 1"),
        ("", "1", " and 1"),
        ("", "1", " < 1"),
        ("{'a':", "1", "}"),
        ("f(", "1", ")"),
    ];
    for times in [1000, 50_000] {
        for (before, middle, after) in parts {
            ends(&format!(
                "{{{{ {}{middle}{} }}}}",
                before.repeat(times),
                after.repeat(times)
            ));
        }
    }
    ends(&("{% if 1 %}".repeat(5000) + &"{% endif %}".repeat(5000)));
    ends(&format!(
        "{{% if 1 %}}{}{{% endif %}}",
        "{% elif 1 %}".repeat(5000)
    ));
    ends(&("{% for i in range(30) %}".repeat(90) + "x" + &"{% endfor %}".repeat(90)));
    ends(&("{% for i in range(300) %}".repeat(3) + "x" + &"{% endfor %}".repeat(3)));
    ends(&"x".repeat(2 << 20));
}
