//! HTTP/1.1 by hand: requests as bytes, answers read piece by piece.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The bytes of a request with a body of JSON, or of none where that is null.
pub(crate) fn request(method: &str, path: &str, body: &Value) -> Vec<u8> {
    match body {
        Value::Null => raw(method, path, &[], b""),
        body => raw(method, path, &[JSON], body.to_string().as_bytes()),
    }
}

/// The header of JSON.
pub(crate) const JSON: (&str, &str) = ("Content-Type", "application/json");

/// The bytes of a request.
pub(crate) fn raw(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    head += "\r\n";
    [head.as_bytes(), body].concat()
}

/// A connection to a server.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

/// The head of an answer.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
}

/// An answer that was read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Connection {
        Connection::try_open(address).unwrap()
    }

    pub(crate) fn try_open(address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream: BufReader::new(stream),
        })
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Says that nothing more is sent.
    pub(crate) fn finish_sending(&mut self) -> io::Result<()> {
        self.stream.get_mut().shutdown(std::net::Shutdown::Write)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        String::from_utf8(line).map_err(io::Error::other)
    }

    /// Reads the head of an answer, and that of a permission to go on in front of it.
    pub(crate) fn head(&mut self) -> io::Result<Head> {
        loop {
            let head = self.one_head()?;
            if head.status != 100 {
                return Ok(head);
            }
        }
    }

    fn one_head(&mut self) -> io::Result<Head> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status: {first:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Head { status, headers });
            }
            let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Reads a chunk of a body; `None` is its end.
    pub(crate) fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.line()?;
        let length = usize::from_str_radix(&line, 16);
        let length = length.map_err(|_| io::Error::other(format!("no chunk: {line:?}")))?;
        let mut chunk = vec![0; length];
        self.stream.read_exact(&mut chunk)?;
        self.line()?;
        Ok((length > 0).then_some(chunk))
    }

    /// Reads an answer to its end.
    pub(crate) fn answer(&mut self) -> io::Result<Answer> {
        let head = self.head()?;
        let mut body = Vec::new();
        if head.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk()? {
                body.extend(chunk);
            }
        } else if let Some(length) = head.header("content-length") {
            body.resize(length.parse().map_err(io::Error::other)?, 0);
            self.stream.read_exact(&mut body)?;
        } else if head.status != 204 {
            self.stream.read_to_end(&mut body)?;
        }
        Ok(Answer { head, body })
    }

    /// Reads the next event of a stream: each is a chunk of its own or several of them, and text in every
    /// one. `None` is the end of the body.
    pub(crate) fn event(&mut self) -> io::Result<Option<String>> {
        let mut event = String::new();
        while let Some(chunk) = self.chunk()? {
            let text = std::str::from_utf8(&chunk);
            event += text.expect("a character is split among chunks");
            if event.ends_with("\n\n") {
                return Ok(Some(event));
            }
        }
        assert_eq!(event, "", "an event without an end");
        Ok(None)
    }

    /// Reads until the other end closes; what came, and whether it closed in good order.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, bool) {
        let mut rest = Vec::new();
        let read = self.stream.read_to_end(&mut rest);
        (rest, read.is_ok())
    }

    /// Waits so long at most for whatever is read.
    pub(crate) fn patience(&mut self, patience: Duration) {
        let stream = self.stream.get_mut();
        stream.set_read_timeout(Some(patience)).unwrap();
        stream.set_write_timeout(Some(patience)).unwrap();
    }
}

impl Head {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let of_name = |(n, _): &&(String, String)| n == name;
        self.headers.iter().find(of_name).map(|(_, value)| &**value)
    }
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head.status
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        let json = serde_json::from_slice(&self.body);
        json.unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The error of an answer, which has nothing but its four fields.
    pub(crate) fn error(&self) -> Value {
        let json = self.json();
        assert_eq!(self.head.header("content-type"), Some("application/json"));
        assert_eq!(json.as_object().unwrap().len(), 1, "{json}");
        let error = json["error"].clone();
        check_error(&error);
        error
    }

    /// The text of a completion or a reply.
    pub(crate) fn said(&self) -> String {
        assert_eq!(self.status(), 200, "{}", self.text());
        let json = self.json();
        let choice = &json["choices"][0];
        let text = choice["text"].as_str();
        let text = text.or_else(|| choice["message"]["content"].as_str());
        text.unwrap_or_default().to_owned()
    }
}

/// An error has four fields, and its code is text or null.
pub(crate) fn check_error(error: &Value) {
    let fields: Vec<&String> = error.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["message", "type", "param", "code"], "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(!message.is_empty() && !message.contains('\n'), "{error}");
    assert!(error["type"].is_string(), "{error}");
    for field in ["param", "code"] {
        assert!(
            error[field].is_string() || error[field].is_null(),
            "{error}"
        );
    }
}

/// What came of a stream.
#[derive(Debug, Default, Clone)]
pub(crate) struct Streamed {
    pub(crate) text: String,
    pub(crate) tokens: u64,
    pub(crate) finish: Option<String>,
    pub(crate) usage: Option<Value>,
    pub(crate) error: Option<Value>,
    pub(crate) is_done: bool,
}

impl Streamed {
    /// Takes an event.
    pub(crate) fn add(&mut self, event: &str) {
        let data = event
            .strip_prefix("data: ")
            .and_then(|e| e.strip_suffix("\n\n"));
        let data = data.unwrap_or_else(|| panic!("no event: {event:?}"));
        assert!(
            !self.is_done && self.error.is_none(),
            "{data} comes after the end"
        );
        if data == "[DONE]" {
            self.is_done = true;
            return;
        }
        let data: Value = serde_json::from_str(data).unwrap();
        if let Some(error) = data.get("error") {
            check_error(error);
            self.error = Some(error.clone());
            return;
        }
        if !data["usage"].is_null() {
            self.usage = Some(data["usage"].clone());
        }
        for choice in data["choices"].as_array().unwrap() {
            let text = choice["text"].as_str();
            let text = text.or_else(|| choice["delta"]["content"].as_str());
            self.text += text.unwrap_or_default();
            let log_probs = &choice["logprobs"];
            let tokens = log_probs["token_logprobs"].as_array();
            let tokens = tokens.or_else(|| log_probs["content"].as_array());
            self.tokens += tokens.map_or(0, |tokens| tokens.len() as u64);
            if let Some(finish) = choice["finish_reason"].as_str() {
                self.finish = Some(finish.to_owned());
            }
        }
    }
}

/// Reads a stream to its end.
pub(crate) fn read_stream(connection: &mut Connection) -> io::Result<Streamed> {
    let mut streamed = Streamed::default();
    while let Some(event) = connection.event()? {
        streamed.add(&event);
    }
    Ok(streamed)
}
