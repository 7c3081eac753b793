//! What begins with a slash in a conversation is an order to the program.

use std::path::PathBuf;

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Lists orders.
    Help,
    /// Shows the system prompt, sets it, or with an empty text removes it.
    System(Option<String>),
    /// Forgets the messages.
    Clear,
    /// Drops the last reply and asks for another.
    Retry,
    /// Lets the last message be written anew.
    Edit,
    /// Shows what holds, or sets one of it.
    Set(Option<(String, String)>),
    /// Writes the conversation to a file, over one that exists if it may.
    Save { path: PathBuf, over: bool },
    /// Takes the conversation of a file.
    Load(PathBuf),
    /// Shows counts.
    Stats,
    /// Ends the program.
    Exit,
}

/// What `/help` says.
pub(crate) const HELP: &str = "\
/system [TEXT]     show the system prompt, or set it; /system - removes it
/clear             forget the messages, keep the system prompt
/retry             drop the last reply and ask for another
/edit              write the last message anew
/set [NAME VALUE]  show how tokens are chosen, or set it: temp, top-k, top-p, min-p, repeat-penalty,
                   presence-penalty, frequency-penalty, seed, max-tokens, thinking
/save [-f] FILE    write the conversation as JSON, with -f over a file that exists
/load FILE         go on with a conversation that was saved
/stats             tokens and context so far
/exit              end; Ctrl-D does so too
A message is a line; a backslash at its end goes on with the next line, and so does everything
between \"\"\" and \"\"\". A message that begins with a slash has two of them. Ctrl-C ends a reply.";

/// The order that a line is; `None` of a message, and one line where it is no order that there is.
pub(crate) fn parse(line: &str) -> Option<Result<Command, String>> {
    let order = line
        .strip_prefix('/')
        .filter(|rest| !rest.starts_with('/'))?;
    let (name, rest) = match order.split_once(char::is_whitespace) {
        Some((name, rest)) => (name, rest.trim()),
        None => (order, ""),
    };
    Some(of(name, rest))
}

/// The message that a line is: one that begins with two slashes means one.
pub(crate) fn message(line: &str) -> &str {
    match line.starts_with("//") {
        true => &line[1..],
        false => line,
    }
}

fn of(name: &str, rest: &str) -> Result<Command, String> {
    let alone = |command: Command| match rest {
        "" => Ok(command),
        _ => Err(format!("/{name} stands alone; leave {rest:?} out")),
    };
    let file = |what: &str| match rest {
        "" => Err(format!("/{name} needs the name of a file to {what}")),
        _ => Ok(PathBuf::from(rest)),
    };
    match name {
        "help" | "?" => alone(Command::Help),
        "system" => Ok(Command::System(match rest {
            "" => None,
            "-" => Some(String::new()),
            text => Some(text.to_owned()),
        })),
        "clear" => alone(Command::Clear),
        "retry" => alone(Command::Retry),
        "edit" => alone(Command::Edit),
        "set" => set(rest),
        "save" => match rest.strip_prefix("-f ") {
            Some(path) => Ok(Command::Save {
                path: PathBuf::from(path.trim()),
                over: true,
            }),
            None => Ok(Command::Save {
                path: file("write")?,
                over: false,
            }),
        },
        "load" => Ok(Command::Load(file("read")?)),
        "stats" => alone(Command::Stats),
        "exit" | "quit" | "bye" => alone(Command::Exit),
        _ => Err(format!(
            "there is no /{name}; /help says what there is, and //{name} is a message"
        )),
    }
}

fn set(rest: &str) -> Result<Command, String> {
    match rest.split_once(char::is_whitespace) {
        _ if rest.is_empty() => Ok(Command::Set(None)),
        Some((name, value)) => Ok(Command::Set(Some((
            name.to_owned(),
            value.trim().to_owned(),
        )))),
        None => Err(format!("/set {rest} needs a value, such as /set temp 0.7")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_begins_an_order_and_two_a_message() {
        for message in ["hello", "", " /help", "//help", "a /b"] {
            assert_eq!(parse(message), None, "{message}");
        }
        assert_eq!(message("//etc/hosts"), "/etc/hosts");
        assert_eq!(message("a // b"), "a // b");
    }

    #[test]
    fn orders_have_what_they_need_and_no_more() {
        let ok = |line: &str| parse(line).unwrap().unwrap();
        assert_eq!(ok("/help"), Command::Help);
        assert_eq!(ok("/quit  "), Command::Exit);
        assert_eq!(ok("/system"), Command::System(None));
        assert_eq!(ok("/system -"), Command::System(Some(String::new())));
        assert_eq!(
            ok("/system Be  brief. "),
            Command::System(Some("Be  brief.".to_owned()))
        );
        assert_eq!(
            ok("/set temp  0.7"),
            Command::Set(Some(("temp".to_owned(), "0.7".to_owned())))
        );
        let save = |path: &str, over| Command::Save {
            path: path.into(),
            over,
        };
        assert_eq!(ok("/save my talk.json"), save("my talk.json", false));
        assert_eq!(ok("/save -f a.json"), save("a.json", true));
        for wrong in [
            "/fly",
            "/",
            "/help me",
            "/save",
            "/load ",
            "/set temp",
            "/exit now",
        ] {
            let why = parse(wrong).unwrap().unwrap_err();
            assert!(
                why.starts_with('/') || why.starts_with("there is no /"),
                "{why}"
            );
            assert!(!why.contains('\n'), "{why}");
        }
    }

    #[test]
    fn help_names_every_order() {
        for line in HELP.lines().filter(|line| line.starts_with('/')) {
            let name = line.split([' ', '[']).next().unwrap();
            let why = parse(name).unwrap();
            assert!(!why.is_err_and(|e| e.contains("there is no")), "{name}");
        }
    }
}
