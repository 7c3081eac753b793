//! A server of its own for each test, and what it answers over a socket.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that ends with this.
pub(crate) struct Server {
    process: Child,
    address: SocketAddr,
}

/// What it answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Server {
    /// Starts one at a port that is free, and waits until its model is there.
    pub(crate) fn start(args: &[&str]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gannet"));
        for variable in gannet_engine::settings::TABLE {
            command.env_remove(variable.name);
        }
        command
            .args(["serve", "--port", "0", "--device", "cpu"])
            .args(args);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut said = lines.by_ref().map(Result::unwrap);
        let address = said.find_map(|line| {
            let (_, address) = line.split_once("listening on http://")?;
            address.trim().parse().ok()
        });
        // What it says later is read, so that it never waits for that.
        std::thread::spawn(move || lines.for_each(drop));
        let server = Server {
            process,
            address: address.expect("it listens"),
        };
        let end = Instant::now() + PATIENCE;
        while server.get("/health/ready", &[]).status != 200 {
            assert!(Instant::now() < end, "it was never ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// Where its page is.
    pub(crate) fn origin(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// What it answers to a GET.
    pub(crate) fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask("GET", path, headers)
    }

    /// What it answers to a request without a body.
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let lines: Vec<String> = (headers.iter())
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let lines = lines.concat();
        let host = self.address;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{lines}\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        Answer {
            status: status.parse().unwrap(),
            headers: lines.filter_map(header).collect(),
            body: body.to_owned(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
