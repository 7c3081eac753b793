//! Python and Node, where they and a package are there.

use std::process::{Command, Stdio};

/// A command for scripts of a language with a package.
pub(crate) enum Interpreter {
    Python(&'static str),
    Node(&'static str),
}

impl Interpreter {
    fn command(&self) -> Command {
        match self {
            Interpreter::Python(_) => {
                let python = std::env::var_os("GANNET_PYTHON");
                Command::new(python.unwrap_or_else(|| "python3".into()))
            }
            Interpreter::Node(_) => Command::new("node"),
        }
    }

    /// A command that runs scripts, or `None` with a word about what is missing.
    pub(crate) fn find(&self) -> Option<Command> {
        let mut probe = self.command();
        let package = match self {
            Interpreter::Python(package) => {
                probe.args(["-c", &format!("import {package}")]);
                package
            }
            Interpreter::Node(package) => {
                probe.args(["-e", &format!("require('{package}')")]);
                package
            }
        };
        let found = probe.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let language = match self {
            Interpreter::Python(_) => "Python",
            Interpreter::Node(_) => "Node",
        };
        if found.is_ok_and(|status| status.success()) {
            return Some(self.command());
        }
        eprintln!("skipped: no {language} with the package {package}");
        None
    }
}
