//! What `gannet serve` and other commands log: which lines, in which form, about which request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::support::{finish, gannet};

/// A server with the embedded model, and what it says on standard error.
struct Server {
    process: Child,
    address: SocketAddr,
    log: BufReader<std::process::ChildStderr>,
}

impl Server {
    fn start(args: &[&str], filter: &str) -> Server {
        let all = [&["serve", "--port", "0", "--device", "cpu"], args].concat();
        let mut command = gannet(&all);
        command.env("RUST_LOG", filter).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        let (_, rest) = line.split_once("listening on http://").expect(&line);
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
        let address = rest[..end.unwrap()].parse().unwrap();
        Server {
            process,
            address,
            log,
        }
    }

    /// Sends a request and reads the answer to its end.
    fn ask(&self, head: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let length = body.len();
        write!(
            stream,
            "{head}\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn wait_until_ready(&self) {
        while !self
            .ask("GET /health HTTP/1.1", "")
            .starts_with("HTTP/1.1 200")
        {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it, once all that runs has said what it has to say, and gives the rest of its log.
    fn end(mut self) -> Vec<String> {
        let id = self.process.id().to_string();
        let kill = std::process::Command::new("kill")
            .args(["-TERM", &id])
            .status();
        assert!(kill.unwrap().success());
        self.process.wait().unwrap();
        self.log.lines().map(Result::unwrap).collect()
    }
}

const COMPLETE: &str =
    r#"{"prompt": "Ownership is", "max_tokens": 4, "ignore_eos": true, "stream": true}"#;

#[test]
fn every_line_is_json_and_tells_of_its_request() {
    let server = Server::start(&["--log-format", "json"], "gannet=info");
    server.wait_until_ready();
    let answer = server.ask(
        "POST /v1/completions HTTP/1.1\r\nx-request-id: mine",
        COMPLETE,
    );
    assert!(answer.contains("\r\nx-request-id: mine\r\n"), "{answer}");
    server.ask("POST /v1/completions HTTP/1.1\r\nx-request-id: bad", "{");
    let log: Vec<Value> = (server.end().iter())
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let of = |id: &str| {
        let mut lines = log.iter().filter(|line| line["span"]["id"] == id);
        let line = lines.next().expect(id);
        assert!(lines.next().is_none(), "{log:?}");
        line
    };
    let mine = of("mine");
    assert_eq!(mine["fields"]["message"], "answered", "{mine}");
    let span = &mine["span"];
    for (name, value) in [
        ("method", "POST".into()),
        ("path", "/v1/completions".into()),
        ("status", 200.into()),
        ("tokens", 4.into()),
    ] as [(_, Value); 4]
    {
        assert_eq!(span[name], value, "{mine}");
    }
    assert!(
        span["prompt_tokens"].as_u64() > Some(1) && span["ms"].is_u64(),
        "{mine}"
    );
    let bad = of("bad");
    assert_eq!(bad["span"]["status"], 400, "{bad}");
    assert!(bad["fields"]["error"].is_string(), "{bad}");
    let loaded = log
        .iter()
        .find(|line| line["fields"]["message"] == "loaded");
    assert_eq!(loaded.unwrap()["fields"]["model"], "rustdoc-tiny");
    // Whoever looks whether it lives leaves no line.
    assert!(!log.iter().any(|line| line["span"]["path"] == "/health"));
}

#[test]
fn text_has_no_colours_in_a_pipe_and_the_filter_counts() {
    let server = Server::start(&[], "warn,gannet=debug,gannet_engine=debug");
    server.wait_until_ready();
    server.ask(
        "POST /v1/completions HTTP/1.1\r\nx-request-id: mine",
        COMPLETE,
    );
    let log = server.end().join("\n");
    for expected in [
        "request{id=\"mine\" method=POST path=\"/v1/completions\" status=200",
        "path=\"/health\"",
        "gannet_engine::serve::engine::core: taken",
        "loading phase=",
    ] {
        assert!(log.contains(expected), "{expected}: {log}");
    }
    assert!(!log.contains('\u{1b}'), "{log}");
    let quiet = Server::start(&[], "off");
    quiet.wait_until_ready();
    quiet.ask("POST /v1/completions HTTP/1.1", COMPLETE);
    assert_eq!(quiet.end(), [""; 0]);
}

#[test]
fn a_filter_that_is_none_is_bad_usage() {
    for args in [&["doctor"][..], &["serve", "--port", "0"]] {
        let done = finish(gannet(args).env("RUST_LOG", "gannet=loud"), args);
        let line = done.one_line_of_usage();
        assert!(
            line.starts_with("RUST_LOG=\"gannet=loud\" is not valid: "),
            "{line}"
        );
    }
    // The error that ends a server is a line like all others.
    let args = [
        "serve",
        "--log-format",
        "json",
        "--port",
        "0",
        "-m",
        "/nowhere.gguf",
    ];
    let done = finish(&mut gannet(&args), &args);
    assert_eq!(done.code, Some(1));
    let error: Value = serde_json::from_str(done.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(error["level"], "ERROR");
    assert!(
        error["fields"]["message"]
            .as_str()
            .unwrap()
            .contains("/nowhere.gguf")
    );
}

#[test]
fn other_commands_log_what_they_are_asked_to() {
    let args = ["run", "Ownership is", "-n", "2", "--device", "cpu"];
    let plain = finish(&mut gannet(&args), &args).ok();
    assert!(!plain.stderr.contains("DEBUG"), "{}", plain.stderr);
    let told = finish(gannet(&args).env("RUST_LOG", "debug"), &args).ok();
    assert!(
        told.stderr.contains("DEBUG gannet_engine::"),
        "{}",
        told.stderr
    );
    assert_eq!(told.stdout, plain.stdout);
}
