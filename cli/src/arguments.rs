//! Arguments before they are parsed: text that begins with a dash, and what other programs understand.
//!
//! Lists begin with dashes, -1 means "no limit" elsewhere, and other programs have flags and commands
//! that this one has not. A parser of flags answers all of that with a word about an unexpected
//! argument; here text becomes the value that it was meant as, and the rest is answered with what there
//! is instead.

use std::ffi::OsString;
use std::path::Path;

use clap::{Arg, Command};

use crate::answers;
use crate::prompt;

/// The arguments as they are meant, the program's name in front; or one line that says what there is
/// instead.
pub(crate) fn understood(args: Vec<OsString>, cli: &Command) -> Result<Vec<OsString>, String> {
    let is_flag = |arg: &&OsString| arg.to_string_lossy().starts_with('-');
    let Some(at) = args.iter().skip(1).position(|arg| !is_flag(&arg)) else {
        return Ok(args);
    };
    let (before, rest) = args.split_at(at + 2);
    let name = before[at + 1].to_string_lossy().into_owned();
    let Some(command) = cli.find_subcommand(&name) else {
        return match unknown(&name, cli) {
            Some(answer) => Err(answer),
            None => Ok(args),
        };
    };
    let mut all = before.to_vec();
    let mut words = rest.iter();
    let mut waits = false;
    for word in words.by_ref() {
        let Some(text) = word.to_str() else {
            all.push(word.clone());
            waits = false;
            continue;
        };
        if text == "--" && !waits {
            all.push(word.clone());
            break;
        }
        let is_text = is_text_with_a_dash(text)
            || (waits && text.len() > 1 && text.starts_with('-') && !is_a_flag(text, command));
        match (waits, is_text, all.last_mut()) {
            (true, true, Some(flag)) => {
                flag.push("=");
                flag.push(text);
            }
            (false, true, _) if name == "run" => all.push(format!("--prompt={text}").into()),
            (false, false, _) => {
                refuse(text, &name, command)?;
                all.push(word.clone());
            }
            _ => all.push(word.clone()),
        }
        waits = !waits && !is_text && waits_for_a_value(text, command);
    }
    all.extend(words.cloned());
    Ok(all)
}

/// Whether an argument that begins with a dash cannot be a flag: no letter follows the dashes, or what
/// would be the flag's name has white space in it.
fn is_text_with_a_dash(arg: &str) -> bool {
    let Some(rest) = arg.strip_prefix('-') else {
        return false;
    };
    let name = rest.strip_prefix('-').unwrap_or(rest);
    if rest.is_empty() || arg == "--" {
        return false;
    }
    let name = name.split_once('=').map_or(name, |(name, _)| name);
    !name.starts_with(|c: char| c.is_ascii_alphabetic()) || name.contains(char::is_whitespace)
}

/// The flag of a command that an argument names.
fn flag<'c>(arg: &str, command: &'c Command) -> Option<&'c Arg> {
    let long = |a: &Arg, name: &str| {
        a.get_long() == Some(name) || a.get_all_aliases().unwrap_or_default().contains(&name)
    };
    let short = |a: &Arg, letter: char| {
        a.get_short() == Some(letter)
            || a.get_all_short_aliases()
                .unwrap_or_default()
                .contains(&letter)
    };
    let mut arguments = command.get_arguments();
    if let Some(name) = arg.strip_prefix("--") {
        return arguments.find(|a| long(a, name));
    }
    let mut letters = arg.strip_prefix('-')?.chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) => arguments.find(|a| short(a, letter)),
        _ => None,
    }
}

/// Whether an argument can be one of a command's flags, with a value or without, or another program's.
fn is_a_flag(arg: &str, command: &Command) -> bool {
    let name = arg.split_once('=').map_or(arg, |(name, _)| name);
    let always = |name: &str| ["-h", "--help", "-q", "--quiet"].contains(&name);
    // Short flags come several together, or with their value.
    let short: String = name.chars().take(2).collect();
    let is_short = !name.starts_with("--") && (flag(&short, command).is_some() || always(&short));
    is_short || flag(name, command).is_some() || always(name) || answers::flag(name).is_some()
}

fn waits_for_a_value(arg: &str, command: &Command) -> bool {
    flag(arg, command).is_some_and(|a| a.get_action().takes_values())
}

/// Answers a flag of another program, and a model where none is expected.
fn refuse(arg: &str, name: &str, command: &Command) -> Result<(), String> {
    if arg.starts_with('-') {
        let given = arg.split_once('=').map_or(arg, |(flag, _)| flag);
        let known = flag(given, command).is_some() || ["-h", "-q"].contains(&given);
        return match answers::flag(given).filter(|_| !known) {
            Some(answer) => Err(format!("{given} is not a flag here: {answer}")),
            None => Ok(()),
        };
    }
    let takes_model =
        flag("--model", command).is_some() && !["run", "chat", "inspect"].contains(&name);
    if takes_model && prompt::names_a_model(arg) {
        return Err(format!(
            "{arg}: did you mean -m {arg}? `gannet {name}` takes its model by a flag"
        ));
    }
    Ok(())
}

/// What to say to a command that there is none of.
fn unknown(name: &str, cli: &Command) -> Option<String> {
    if let Some(answer) = answers::command(name) {
        return Some(format!("there is no command {name}: {answer}"));
    }
    if prompt::names_a_model(name) {
        return Some(format!("did you mean `gannet run {name}`?"));
    }
    let is_help = name == "help" || cli.get_subcommands().any(|c| c.get_name() == name);
    (!is_help && Path::new(name).is_file())
        .then(|| format!("{name} is a file; `gannet run -f {name}` continues its text"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn of(args: &[&str]) -> Result<Vec<String>, String> {
        let args = std::iter::once("gannet").chain(args.iter().copied());
        let found = understood(args.map(OsString::from).collect(), &crate::Cli::command())?;
        Ok(found[1..]
            .iter()
            .map(|a| a.to_str().unwrap().to_owned())
            .collect())
    }

    #[test]
    fn text_that_begins_with_a_dash_is_a_prompt() {
        let texts = [
            "- first item",
            "-- two dashes",
            "-5 degrees",
            "-1",
            "->",
            "---",
            "-\u{e9}t\u{e9}",
            "-n 5",
            "- a = b",
        ];
        for text in texts {
            let expected = [
                "run".to_owned(),
                format!("--prompt={text}"),
                "-q".to_owned(),
            ];
            assert_eq!(of(&["run", text, "-q"]).unwrap(), expected);
        }
        for kept in ["-", "-n5", "--temp=0.5", "-mfile", "--stop=a b", "x - y"] {
            assert_eq!(of(&["run", kept]).unwrap(), ["run", kept]);
        }
        assert_eq!(of(&["run", "--", "- x"]).unwrap(), ["run", "--", "- x"]);
    }

    #[test]
    fn a_flag_gets_the_text_that_it_waits_for() {
        let cases: [(&[&str], &[&str]); 6] = [
            (&["run", "x", "-n", "-1"], &["run", "x", "-n=-1"]),
            (&["run", "--seed", "-1"], &["run", "--seed=-1"]),
            (&["run", "--stop", "- b"], &["run", "--stop=- b"]),
            (
                &["run", "-m", "a", "- b"],
                &["run", "-m", "a", "--prompt=- b"],
            ),
            (&["tokenize", "--text", "- b"], &["tokenize", "--text=- b"]),
            (
                &["run", "-n", "1", "-2"],
                &["run", "-n", "1", "--prompt=-2"],
            ),
        ];
        for (given, expected) in cases {
            assert_eq!(of(given).unwrap(), expected);
        }
        for text in ["-x", "--", "--unknown", "-x y=z"] {
            let expected = ["run".to_owned(), format!("-p={text}")];
            assert_eq!(of(&["run", "-p", text]).unwrap(), expected);
        }
        // What looks like a flag is none's value.
        for kept in ["-n5", "--temp=1", "-h", "--quiet"] {
            assert_eq!(of(&["run", "-p", kept]).unwrap(), ["run", "-p", kept]);
        }
        assert_eq!(
            of(&["run", "--stop", "-q"]).unwrap(),
            ["run", "--stop", "-q"]
        );
    }

    #[test]
    fn what_other_programs_understand_is_answered() {
        for (args, word) in [
            (&["run", "x", "-ngl", "99"][..], "--device cuda"),
            (&["run", "x", "--n-gpu-layers=99"], "--device cuda"),
            (&["bench", "--gpu-layers", "9"], "--device cuda"),
            (&["run", "x", "-fa"], "leave it out"),
            (&["run", "x", "-hf", "a/b"], "downloaded"),
            (&["run", "x", "-i"], "gannet chat"),
            (&["pull", "llama3"], "-m FILE"),
            (&["list"], "inspect"),
            (&["server"], "gannet serve"),
            (&["a.gguf"], "gannet run a.gguf"),
            (&["bench", "a.gguf"], "-m a.gguf"),
        ] {
            let answer = of(args).unwrap_err();
            assert!(answer.contains(word), "{args:?}: {answer}");
            assert!(!answer.contains('\n'), "{answer}");
        }
        // A flag that a command has is its own, and what follows one that waits is a value.
        assert!(of(&["bench", "-b", "4"]).is_ok());
        assert!(of(&["run", "-b", "4"]).is_err());
        assert!(of(&["tokenize", "--text", "list"]).is_ok());
        assert!(of(&["help", "run"]).is_ok());
        assert!(of(&["fly"]).is_ok());
    }
}
