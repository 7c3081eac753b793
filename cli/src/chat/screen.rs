//! How a reply is shown: text as it comes, thoughts dimmed on a terminal and left out of a pipe.
//!
//! What a model writes does not speak to a terminal: control characters are shown as such. A pipe gets the
//! text as it is.

use std::borrow::Cow;
use std::io::{self, IsTerminal};

use gannet_engine::settings::Environment;

use crate::console::Console;
use crate::failure::Failure;

/// Where replies go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// A terminal, with thoughts in another shade where it may have shades.
    Terminal { shades: bool },
    /// A pipe or a file: replies alone.
    Pipe,
    /// Nothing until a reply is whole.
    Json,
}

impl Look {
    /// What fits standard output; `plain` is without shades.
    pub(crate) fn of_output(json: bool, plain: bool) -> Look {
        // A variable that cannot be read is told of where settings are.
        let no_color = Environment::read().is_ok_and(|environment| environment.no_color);
        match (json, io::stdout().is_terminal()) {
            (true, _) => Look::Json,
            (false, true) => Look::Terminal {
                shades: !plain && !no_color,
            },
            (false, false) => Look::Pipe,
        }
    }
}

/// What was shown last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Start,
    Thoughts,
    Text,
}

/// A reply on the screen.
pub(crate) struct Screen<'c> {
    console: &'c mut Console,
    look: Look,
    place: Place,
    ends_line: bool,
}

const DIM: &str = "\u{1b}[2m";
const PLAIN: &str = "\u{1b}[0m";

impl<'c> Screen<'c> {
    pub(crate) fn new(console: &'c mut Console, look: Look) -> Screen<'c> {
        Screen {
            console,
            look,
            place: Place::Start,
            ends_line: true,
        }
    }

    /// Part of the text.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        let mut text = text;
        if self.place == Place::Thoughts {
            // The line breaks between thoughts and text are shown once.
            text = text.trim_start_matches('\n');
            if text.is_empty() {
                return Ok(());
            }
            self.end_thoughts()?;
        }
        if self.look != Look::Json && !text.is_empty() {
            self.place = Place::Text;
            self.print(text)?;
        }
        Ok(())
    }

    /// Part of what the model thinks.
    pub(crate) fn thought(&mut self, text: &str) -> Result<(), Failure> {
        let Look::Terminal { shades } = self.look else {
            return Ok(());
        };
        if self.place != Place::Thoughts {
            self.place = Place::Thoughts;
            self.console
                .print(if shades { DIM } else { "[thoughts] " })?;
        }
        self.print(text)
    }

    fn end_thoughts(&mut self) -> Result<(), Failure> {
        let Look::Terminal { shades } = self.look else {
            return Ok(());
        };
        if shades {
            self.console.print(PLAIN)?;
        }
        let gap = if self.ends_line { "\n" } else { "\n\n" };
        self.console.print(gap)?;
        self.ends_line = true;
        Ok(())
    }

    fn print(&mut self, text: &str) -> Result<(), Failure> {
        if let Some(last) = text.chars().next_back() {
            self.ends_line = last == '\n';
        }
        match self.look {
            Look::Terminal { .. } => self.console.stream(&visible(text)),
            Look::Pipe | Look::Json => self.console.stream(text),
        }
    }

    /// The end of the reply: whatever follows begins a line.
    pub(crate) fn end(mut self) -> Result<(), Failure> {
        if self.place == Place::Thoughts {
            self.end_thoughts()?;
        }
        if !self.ends_line {
            self.console.print("\n")?;
        }
        self.console.flush()
    }
}

/// A text that does nothing to a terminal but show.
fn visible(text: &str) -> Cow<'_, str> {
    let is_unsafe = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    match text.contains(is_unsafe) {
        true => Cow::Owned(text.replace(is_unsafe, "\u{fffd}")),
        false => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_as_such() {
        assert_eq!(visible("a\tb\n\u{e9}"), "a\tb\n\u{e9}");
        assert_eq!(
            visible("\u{1b}[2Jx\u{9b}1m\r"),
            "\u{fffd}[2Jx\u{fffd}1m\u{fffd}"
        );
    }
}
