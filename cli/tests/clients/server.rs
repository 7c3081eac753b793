//! A server of the embedded model, for as long as a value of it lives.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A running `gannet serve`.
pub(crate) struct Server {
    child: Child,
    url: String,
}

impl Server {
    /// Starts one with more arguments, on the CPU and on a port that is free.
    pub(crate) fn start(args: &[&str]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gannet"));
        for variable in gannet_engine::settings::TABLE {
            command.env_remove(variable.name);
        }
        command.args(["serve", "--port", "0", "--device", "cpu"]);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = lines.find_map(|line| {
            let line = line.unwrap();
            let (_, url) = line.split_once("listening on ")?;
            Some(url.to_owned())
        });
        // What else it says is read, so that it can say it.
        std::thread::spawn(move || lines.for_each(drop));
        let url = url.expect("the server ended before it listened");
        Server { child, url }
    }

    /// Where it listens: `http://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
