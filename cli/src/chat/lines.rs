//! Where messages come from: a terminal, with editing and history, or a pipe.
//!
//! In both a message is a line, several lines where each but the last ends with a backslash, or
//! everything between `"""` and `"""`.

use std::io::{self, BufRead, BufReader, IsTerminal, Read, Stdin};
use std::path::{Path, PathBuf};

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, DefaultEditor, Editor};

use crate::console;
use crate::failure::Failure;
use crate::input;

/// Messages that the history keeps.
const KEPT: usize = 1000;

/// What begins and ends a message of many lines.
const QUOTES: &str = "\"\"\"";

/// What somebody wrote.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// A line, which may be an order.
    Line(String),
    /// A message, whatever it begins with.
    Message(String),
    /// Nothing more comes.
    End,
}

/// Where messages come from.
pub(crate) enum Reader {
    Terminal(Box<Terminal>),
    Pipe(BufReader<Stdin>),
}

impl Reader {
    /// A terminal where both streams are one, else whatever standard input is. The history of messages
    /// is kept in a file of `folder`.
    pub(crate) fn open(folder: Option<&Path>) -> Result<Reader, Failure> {
        if io::stdin().is_terminal() && io::stdout().is_terminal() {
            return Ok(Reader::Terminal(Box::new(Terminal::open(folder)?)));
        }
        Ok(Reader::Pipe(BufReader::new(io::stdin())))
    }

    /// Whether somebody sits there.
    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self, Reader::Terminal(_))
    }

    /// The next message or order.
    pub(crate) fn next(&mut self) -> Result<Written, Failure> {
        let mut gathered = Gathered::default();
        loop {
            let line = match self {
                Reader::Terminal(terminal) => terminal.line(&mut gathered)?,
                Reader::Pipe(pipe) => line_of(pipe)?,
            };
            let Some(line) = line else {
                return gathered.at_the_end();
            };
            if let Some(written) = gathered.push(&line) {
                if let (Reader::Terminal(terminal), Some(text)) = (self, written.text()) {
                    terminal.remember(text);
                }
                return Ok(written);
            }
        }
    }

    /// Lets a text be written anew.
    pub(crate) fn edit(&mut self, text: &str) -> Result<Option<String>, Failure> {
        match self {
            Reader::Terminal(terminal) => terminal.edit(text),
            Reader::Pipe(_) => Err(Failure::Work(
                "/edit needs a terminal; /retry asks again".to_owned(),
            )),
        }
    }
}

impl Written {
    fn text(&self) -> Option<&str> {
        match self {
            Written::Line(text) | Written::Message(text) => Some(text),
            Written::End => None,
        }
    }
}

/// Lines of a message that has not ended.
#[derive(Debug, Default)]
struct Gathered {
    lines: Vec<String>,
    quoted: bool,
}

impl Gathered {
    /// Adds a line; what is whole with it. An empty line is nothing where no message has begun.
    fn push(&mut self, line: &str) -> Option<Written> {
        if self.quoted {
            return self.push_quoted(line);
        }
        if self.lines.is_empty()
            && let Some(rest) = line.trim_start().strip_prefix(QUOTES)
        {
            self.quoted = true;
            // What follows the quotes is the first line, unless there is nothing.
            return match rest.is_empty() {
                true => None,
                false => self.push_quoted(rest),
            };
        }
        if let Some(before) = line.strip_suffix('\\') {
            self.lines.push(before.to_owned());
            return None;
        }
        if self.lines.is_empty() && line.trim().is_empty() {
            return None;
        }
        let is_one = self.lines.is_empty();
        self.lines.push(line.to_owned());
        let text = self.taken();
        Some(match is_one {
            true => Written::Line(text),
            false => Written::Message(text),
        })
    }

    fn push_quoted(&mut self, line: &str) -> Option<Written> {
        let Some(before) = line.trim_end().strip_suffix(QUOTES) else {
            self.lines.push(line.to_owned());
            return None;
        };
        if !before.is_empty() {
            self.lines.push(before.to_owned());
        }
        self.quoted = false;
        let text = self.taken();
        (!text.trim().is_empty()).then_some(Written::Message(text))
    }

    fn taken(&mut self) -> String {
        std::mem::take(&mut self.lines).join("\n")
    }

    /// What there is where nothing more comes.
    fn at_the_end(mut self) -> Result<Written, Failure> {
        if self.quoted {
            let why = "the message that \"\"\" began has no end; close it with \"\"\"";
            return Err(Failure::Work(why.to_owned()));
        }
        match self.lines.is_empty() {
            true => Ok(Written::End),
            false => Ok(Written::Message(self.taken())),
        }
    }
}

/// The next line of a pipe, without its end.
fn line_of(pipe: &mut impl BufRead) -> Result<Option<String>, Failure> {
    let mut bytes = Vec::new();
    let most = input::MOST_BYTES;
    let read = pipe.take(most + 1).read_until(b'\n', &mut bytes);
    read.map_err(|e| Failure::Work(format!("standard input: cannot read: {e}")))?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.len() as u64 > most {
        return Err(Failure::Work(format!(
            "standard input: a line of more than {} MiB; give a shorter one",
            most >> 20
        )));
    }
    let text = input::text(bytes, "standard input")?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Some(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}

/// Lines that somebody edits.
pub(crate) struct Terminal {
    editor: Editor<(), FileHistory>,
    history: Option<PathBuf>,
    /// Whether Ctrl-C came just before.
    interrupted: bool,
}

impl Terminal {
    fn open(folder: Option<&Path>) -> Result<Terminal, Failure> {
        let config = Config::builder().max_history_size(KEPT);
        let config = config.map(|c| c.auto_add_history(false).bracketed_paste(true).build());
        let editor = config.and_then(DefaultEditor::with_config);
        let mut editor = editor.map_err(|e| refused(&e))?;
        let history = folder.map(|folder| folder.join("chat-history"));
        if let Some(file) = &history {
            // There is none at first, and one that cannot be read is begun anew.
            let _ = editor.load_history(file);
        }
        Ok(Terminal {
            editor,
            history,
            interrupted: false,
        })
    }

    /// A line; `None` where nothing more comes. Ctrl-C drops what was begun, and twice ends.
    fn line(&mut self, gathered: &mut Gathered) -> Result<Option<String>, Failure> {
        loop {
            let is_first = gathered.lines.is_empty() && !gathered.quoted;
            let prompt = if is_first { "> " } else { ". " };
            match self.editor.readline(prompt) {
                Ok(line) => {
                    self.interrupted = false;
                    return Ok(Some(line));
                }
                Err(ReadlineError::Interrupted) => {
                    *gathered = Gathered::default();
                    if std::mem::replace(&mut self.interrupted, true) {
                        return Ok(None);
                    }
                    console::complain("Ctrl-C again ends; so do Ctrl-D and /exit");
                }
                Err(ReadlineError::Eof) => {
                    // What was begun is dropped with the rest.
                    *gathered = Gathered::default();
                    return Ok(None);
                }
                Err(e) => return Err(refused(&e)),
            }
        }
    }

    fn edit(&mut self, text: &str) -> Result<Option<String>, Failure> {
        match self.editor.readline_with_initial("> ", (text, "")) {
            Ok(line) => {
                self.remember(&line);
                Ok((!line.trim().is_empty()).then_some(line))
            }
            Err(ReadlineError::Interrupted | ReadlineError::Eof) => Ok(None),
            Err(e) => Err(refused(&e)),
        }
    }

    /// Keeps what was written for the arrow keys, here and the next time.
    fn remember(&mut self, text: &str) {
        // A history that cannot be kept is no reason to stop talking.
        let _ = self.editor.add_history_entry(text);
        if let Some(file) = &self.history {
            if let Some(folder) = file.parent() {
                let _ = std::fs::create_dir_all(folder);
            }
            let _ = self.editor.append_history(file);
        }
    }
}

fn refused(error: &ReadlineError) -> Failure {
    Failure::Work(format!("the terminal cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Vec<Written> {
        let mut pipe = text.as_bytes();
        let mut all = Vec::new();
        let mut gathered = Gathered::default();
        while let Some(line) = line_of(&mut pipe).unwrap() {
            all.extend(gathered.push(&line));
        }
        match gathered.at_the_end().unwrap() {
            Written::End => {}
            rest => all.push(rest),
        }
        all
    }

    #[test]
    fn a_message_is_a_line_or_several() {
        let line = |text: &str| Written::Line(text.to_owned());
        let message = |text: &str| Written::Message(text.to_owned());
        assert_eq!(written("a\r\n\n  \nb"), [line("a"), line("b")]);
        assert_eq!(written("a\\\n\\\nb\nc"), [message("a\n\nb"), line("c")]);
        assert_eq!(written("a\\"), [message("a")]);
        let quoted =
            "\"\"\"\n/a\n\n b\\\n\"\"\"\nc\n\"\"\"d\"\"\"\n\"\"\"\n\"\"\"\n\"\"\"e\nf\"\"\"  \n";
        assert_eq!(
            written(quoted),
            [
                message("/a\n\n b\\"),
                line("c"),
                message("d"),
                message("e\nf")
            ]
        );
        assert_eq!(written("say \"\"\" here"), [line("say \"\"\" here")]);
    }

    #[test]
    fn what_was_begun_and_not_ended_is_an_error() {
        let mut gathered = Gathered::default();
        assert_eq!(gathered.push("\"\"\"a"), None);
        assert!(matches!(gathered.at_the_end(), Err(Failure::Work(_))));
        assert!(line_of(&mut &b"\xff\n"[..]).is_err());
    }
}
