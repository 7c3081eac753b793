//! Text in pieces: characters are whole in every event, and all pieces together are the text.

use serde_json::{Value, json};

use crate::harness::{Server, greedy, streamed, with};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

#[test]
fn pieces_are_characters_and_make_the_text() {
    let server = Server::start(&[]);
    // Drawn from everything, tokens are often parts of characters.
    for seed in 0..6 {
        let drawn = json!({"temperature": 2, "seed": seed});
        let body = with(greedy("é 漢字 🦀 ß", 60), drawn);
        let whole = server.post(COMPLETIONS, &body).said();
        let stream = server.stream(COMPLETIONS, &streamed(body));
        assert_eq!(stream.text, whole, "seed {seed}");
        assert!(stream.is_done && stream.error.is_none());
    }
    // Characters that are several tokens each, and nothing else.
    let message = json!([{"role": "user", "content": "x"}]);
    for seed in 0..4 {
        let body: Value = json!({
            "messages": message, "seed": seed, "max_tokens": 200,
            "guided_regex": "(é|漢|字|🦀|ß|👩‍🚀){12}",
        });
        let whole = server.post(CHAT, &body).said();
        let is_asked_for = |c: char| "é漢字🦀ß👩\u{200d}🚀".contains(c);
        assert!(whole.chars().all(is_asked_for), "{whole}");
        assert!(whole.chars().count() >= 12, "{whole}");
        assert_eq!(server.stream(CHAT, &streamed(body)).text, whole);
    }
}
