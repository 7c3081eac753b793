//! One client: a request over a socket of its own, and when each piece of the answer came.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The longest that an answer may keep a client waiting.
const PATIENCE: Duration = Duration::from_secs(300);

/// When an answer's pieces came.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// When it was asked for.
    pub(super) asked: Instant,
    /// When each piece with text came.
    pub(super) pieces: Vec<Instant>,
    /// Tokens generated, as the server says.
    pub(super) tokens: usize,
    /// When the last byte had come.
    pub(super) end: Instant,
}

impl Answer {
    /// From the request to the first piece.
    pub(super) fn first(&self) -> Option<Duration> {
        self.pieces.first().map(|&at| at - self.asked)
    }

    /// Between pieces of which the later came within a time.
    pub(super) fn gaps(&self, from: Instant, to: Instant) -> impl Iterator<Item = Duration> {
        let pairs = self.pieces.windows(2);
        let inside = pairs.filter(move |pair| pair[1] >= from && pair[1] <= to);
        inside.map(|pair| pair[1] - pair[0])
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn other(message: String) -> io::Error {
    io::Error::other(message)
}

/// Sends a request and reads the head of its answer.
fn ask(address: SocketAddr, head: &str, body: &str) -> io::Result<BufReader<TcpStream>> {
    let mut stream = connect(address)?;
    write!(
        stream,
        "{head} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.clone();
    while line != "\r\n" {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(other("no answer".to_owned()));
        }
    }
    if !status.contains(" 200 ") {
        let mut rest = String::new();
        reader.read_to_string(&mut rest)?;
        return Err(other(format!("{}: {}", status.trim(), rest.trim())));
    }
    Ok(reader)
}

/// The body of an answer to a request without one.
pub(super) fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut body = String::new();
    ask(address, &format!("GET {path}"), "")?.read_to_string(&mut body)?;
    Ok(body)
}

/// Waits until a server is ready.
pub(super) fn wait_until_ready(address: SocketAddr) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        match get(address, "/health/ready") {
            Ok(_) => return Ok(()),
            Err(_) if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(error),
        }
    }
}

/// Continues tokens, the most likely ones being taken, whatever ends the text; every piece is counted.
pub(super) fn complete(
    address: SocketAddr,
    prompt: &[u32],
    most: usize,
    pieces_of_all: &AtomicUsize,
) -> io::Result<Answer> {
    let body = json!({
        "prompt": prompt, "max_tokens": most, "temperature": 0, "ignore_eos": true, "stream": true,
        "stream_options": {"include_usage": true},
    });
    let body = body.to_string();
    let asked = Instant::now();
    let mut reader = ask(address, "POST /v1/completions", &body)?;
    let (mut pieces, mut tokens, mut done) = (Vec::new(), 0, false);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            break;
        }
        let Some(data) = line.strip_prefix("data: ") else {
            continue;
        };
        let at = Instant::now();
        if data.starts_with("[DONE]") {
            done = true;
            continue;
        }
        let event: Value = serde_json::from_str(data)?;
        if let Some(error) = event.get("error") {
            return Err(other(error.to_string()));
        }
        let text = event["choices"][0]["text"].as_str();
        if text.is_some_and(|text| !text.is_empty()) {
            pieces.push(at);
            pieces_of_all.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(count) = event["usage"]["completion_tokens"].as_u64() {
            tokens = count as usize;
        }
    }
    match done {
        true => Ok(Answer {
            asked,
            pieces,
            tokens,
            end: Instant::now(),
        }),
        false => Err(other("an answer broke off".to_owned())),
    }
}
