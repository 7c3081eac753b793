//! Conversations in files: JSON with the messages as programs send them to a server.

use std::io;
use std::path::Path;

use gannet_engine::chat::{Message, parse_messages};
use gannet_gguf::shown_path;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::input;
use crate::output;

/// A message as JSON.
fn message(message: &Message) -> Value {
    let mut json = json!({"role": message.role, "content": message.content});
    if let Some(reasoning) = &message.reasoning {
        json["reasoning_content"] = json!(reasoning);
    }
    if let Some(name) = &message.name {
        json["name"] = json!(name);
    }
    if let Some(id) = &message.tool_call_id {
        json["tool_call_id"] = json!(id);
    }
    if !message.tool_calls.is_empty() {
        let call = |call: &gannet_engine::chat::ToolCall| {
            json!({
                "id": call.id, "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            })
        };
        json["tool_calls"] = message.tool_calls.iter().map(call).collect();
    }
    json
}

/// Writes a conversation beside its file and renames it, so that no half of it has the name.
pub(crate) fn save(path: &Path, messages: &[Message], over: bool) -> Result<(), Failure> {
    if !over {
        let why = |_| {
            let file = shown_path(path);
            Failure::Work(format!("{file}: exists; /save -f {file} writes over it"))
        };
        output::refuse_existing(path).map_err(why)?;
    }
    let messages: Vec<Value> = messages.iter().map(message).collect();
    let text = format!("{:#}\n", json!({ "messages": messages }));
    let fail = |e: io::Error| Failure::file(path, "write", &e);
    // What is no file, such as a pipe, is not replaced.
    if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return std::fs::write(path, text).map_err(fail);
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.part", std::process::id()));
    let written = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|e| {
        let _ = std::fs::remove_file(&beside);
        fail(e)
    })
}

/// The messages of a file: those under `messages`, or the list that it is.
pub(crate) fn load(path: &Path) -> Result<Vec<Message>, Failure> {
    let name = shown_path(path);
    let wrong = |why: String| {
        Failure::Work(format!(
            "{name}: {why}; expected a conversation that /save wrote"
        ))
    };
    let text = input::text(input::bytes_of(path)?, &name)?;
    let json: Value = serde_json::from_str(&text).map_err(|e| wrong(format!("not JSON: {e}")))?;
    let messages = json.get("messages").unwrap_or(&json);
    if !messages.is_array() {
        return Err(wrong("no messages".to_owned()));
    }
    parse_messages(&messages.to_string()).map_err(|e| wrong(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(role: &str, text: &str) -> Message {
        Message {
            role: role.to_owned(),
            content: Some(text.to_owned()),
            ..Message::default()
        }
    }

    #[test]
    fn what_was_saved_is_loaded_and_nothing_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("talk.json");
        let messages = [
            of("system", "a"),
            of("user", "b\n\"c\""),
            of("assistant", "\u{e9}"),
        ];
        save(&file, &messages, false).unwrap();
        assert_eq!(load(&file).unwrap(), messages);
        let before = std::fs::read(&file).unwrap();
        assert!(matches!(save(&file, &[], false), Err(Failure::Work(why)) if why.contains("-f")));
        assert_eq!(std::fs::read(&file).unwrap(), before);
        save(&file, &messages[1..], true).unwrap();
        assert_eq!(load(&file).unwrap(), messages[1..]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(save(&folder.path().join("no/such.json"), &[], false).is_err());
    }

    #[test]
    fn what_is_no_conversation_is_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("talk.json");
        for text in ["", "{", "{}", "3", "{\"messages\": 3}", "\u{1}"] {
            std::fs::write(&file, text).unwrap();
            let Err(Failure::Work(why)) = load(&file) else {
                panic!("{text}");
            };
            assert!(why.contains("talk.json") && !why.contains('\n'), "{why}");
        }
        assert!(load(Path::new("/no/such/file")).is_err());
    }
}
