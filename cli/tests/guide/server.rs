//! A server that the guide starts.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server under way; dropping it ends it.
pub(crate) struct Server {
    process: Child,
    pub(crate) address: String,
}

impl Server {
    /// Starts one and waits until it serves.
    pub(crate) fn start(mut command: Command) -> Server {
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        // Nobody reads its log; a full pipe must not stop it.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let (_, rest) = line.split_once("listening on http://").expect(&line);
        let is_address = |c: &char| c.is_ascii_digit() || ".:".contains(*c);
        let server = Server {
            process,
            address: rest.chars().take_while(is_address).collect(),
        };
        let begun = Instant::now();
        while !server.get("/health").starts_with("HTTP/1.1 200") {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "it does not get ready"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    /// The whole answer to a question.
    pub(crate) fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
