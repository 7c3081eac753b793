//! A server of the built program, started for a test and ended with it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Answer, Connection, Streamed, raw, read_stream, request};

/// Longer than anything here takes, however busy the machine is.
const AT_MOST: Duration = Duration::from_secs(60);

/// How often is looked whether something is so.
const LOOK: Duration = Duration::from_millis(10);

/// A server that runs.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    said: Arc<Mutex<String>>,
}

/// `gannet serve` on the CPU at a port of its own.
pub(crate) fn serve(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gannet"));
    for variable in gannet_engine::settings::TABLE {
        command.env_remove(variable.name);
    }
    command.args(["serve", "--device", "cpu", "--port", "0"]);
    command.args(args).stdin(Stdio::null());
    command
}

impl Server {
    /// One that has loaded its model.
    pub(crate) fn start(args: &[&str]) -> Server {
        let server = Server::start_loading(args);
        server.until("it is ready", |s| s.get("/health/ready").status() == 200);
        server
    }

    /// One that listens.
    pub(crate) fn start_loading(args: &[&str]) -> Server {
        let mut command = serve(args);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let said = Arc::new(Mutex::new(String::new()));
        let (lines, heard) = channel();
        std::thread::spawn({
            let said = Arc::clone(&said);
            move || {
                for line in stderr.lines().map_while(Result::ok) {
                    *said.lock().unwrap() += &format!("{line}\n");
                    let _ = lines.send(line);
                }
            }
        });
        let address = address_of(&heard);
        Server {
            child,
            address: address.unwrap_or_else(|| panic!("{}", said.lock().unwrap())),
            said,
        }
    }

    /// What it has said on standard error.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn open(&self) -> Connection {
        Connection::open(self.address)
    }

    /// Sends bytes on a connection of their own and reads the answer.
    pub(crate) fn send(&self, bytes: &[u8]) -> Answer {
        let mut connection = self.open();
        connection.send(bytes).unwrap();
        connection.answer().unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send(&raw("GET", path, &[], b""))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(&request("POST", path, body))
    }

    /// Begins a stream, of which the head was read and is good.
    pub(crate) fn begin(&self, path: &str, body: &Value) -> Connection {
        let mut connection = self.open();
        connection.send(&request("POST", path, body)).unwrap();
        let head = connection.head().unwrap();
        assert_eq!(head.status, 200, "{body}");
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        connection
    }

    /// A stream that was read to its end.
    pub(crate) fn stream(&self, path: &str, body: &Value) -> Streamed {
        read_stream(&mut self.begin(path, body)).unwrap()
    }

    /// What it counts.
    pub(crate) fn metrics(&self) -> Metrics {
        let answer = self.get("/metrics");
        assert_eq!(answer.status(), 200);
        Metrics::read(answer.text())
    }

    /// Waits until something is so; returns how long that took.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn(&Server) -> bool) -> Duration {
        let begun = Instant::now();
        while !is_so(self) {
            assert!(begun.elapsed() < AT_MOST, "never: {what}\n{}", self.said());
            std::thread::sleep(LOOK);
        }
        begun.elapsed()
    }

    /// Waits until nothing is under way and nobody holds a block of the cache.
    pub(crate) fn until_idle(&self) -> Duration {
        self.until("nothing is under way", |s| s.metrics().is_idle())
    }

    /// Waits until so many sequences run and so many wait.
    pub(crate) fn until_running(&self, running: f64, waiting: f64) {
        self.until("sequences run", |s| {
            let m = s.metrics();
            m.get("num_requests_running") == running && m.get("num_requests_waiting") == waiting
        });
    }

    /// Sends a signal: `TERM`, `INT`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &id])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, begun.elapsed());
            }
            assert!(begun.elapsed() < AT_MOST, "it never ends\n{}", self.said());
            std::thread::sleep(LOOK);
        }
    }

    /// Bytes of memory that it has.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("VmRSS:"))
            .unwrap();
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().unwrap();
        kib << 10
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let said = self.said();
        let panicked = said.contains("panicked") && !said.contains("a planted fault");
        assert!(!panicked || std::thread::panicking(), "{said}");
    }
}

fn address_of(lines: &Receiver<String>) -> Option<SocketAddr> {
    let begun = Instant::now();
    while let Some(left) = AT_MOST.checked_sub(begun.elapsed()) {
        let line = lines.recv_timeout(left).ok()?;
        if let Some(address) = line.strip_prefix("listening on http://") {
            return Some(address.parse().unwrap());
        }
    }
    None
}

/// The numbers of `/metrics`, each under its name with labels and without `gannet:`.
pub(crate) struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    fn read(text: &str) -> Metrics {
        assert!(text.ends_with("# EOF\n"), "{text}");
        let mut known = BTreeSet::new();
        for family in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            assert!(known.insert(family), "twice: {family}");
        }
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let number = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let name = name.strip_prefix("gannet:").unwrap().to_owned();
            (name, value.parse().unwrap())
        };
        Metrics(lines.map(number).collect())
    }

    /// The sum of a number over all its labels.
    pub(crate) fn get(&self, name: &str) -> f64 {
        let is_of = |key: &str| key == name || key.split_once('{').is_some_and(|k| k.0 == name);
        let all = self.0.iter().filter(|(key, _)| is_of(key));
        all.map(|(_, value)| value).sum()
    }

    /// Generations that ended for a reason.
    pub(crate) fn ended(&self, reason: &str) -> f64 {
        self.get_exactly(&format!(
            "request_success_total{{finished_reason=\"{reason}\"}}"
        ))
    }

    /// Answers of a status.
    pub(crate) fn answered(&self, status: u16) -> f64 {
        self.get_exactly(&format!("http_responses_total{{status=\"{status}\"}}"))
    }

    fn get_exactly(&self, key: &str) -> f64 {
        self.0.get(key).copied().unwrap_or(0.0)
    }

    pub(crate) fn is_idle(&self) -> bool {
        let now = [
            "num_requests_running",
            "num_requests_waiting",
            "kv_cache_usage_perc",
        ];
        for name in now {
            assert!(self.0.keys().any(|key| key.starts_with(name)), "no {name}");
        }
        now.iter().all(|name| self.get(name) == 0.0)
    }
}

/// A completion of the most likely tokens, as many as are asked for.
pub(crate) fn greedy(prompt: &str, tokens: usize) -> Value {
    json!({"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": true})
}

/// The same with other parameters, too.
pub(crate) fn with(mut body: Value, others: Value) -> Value {
    let Value::Object(others) = others else {
        panic!("{others}");
    };
    body.as_object_mut().unwrap().extend(others);
    body
}

/// The same as a stream.
pub(crate) fn streamed(body: Value) -> Value {
    with(body, json!({"stream": true}))
}

/// Words without end.
pub(crate) fn words(count: usize) -> String {
    let words = [
        "Ownership",
        "moves",
        "a",
        "value",
        "and",
        "borrows",
        "it",
        "again",
    ];
    let words = (0..count).map(|i| words[(i * 5 + i / 7) % words.len()]);
    words.collect::<Vec<_>>().join(" ")
}
