//! Under which names the server may be asked.
//!
//! A page of another site can have its own name lead to this machine once it is loaded (DNS rebinding): to
//! the browser the server then is that site, and neither its origins nor the loopback address keep the page
//! out. What it cannot change is the name that the browser sends. So where the server listens on a loopback
//! address, or was told its names, it answers to these alone: localhost, loopback addresses, the address
//! that it listens on, names that it was given, and those of origins whose pages may ask anyway.
//!
//! A request without `Host` is no browser's, and is let in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;

/// What stands for all names.
const ALL: &str = "*";

/// The longest name that there is (RFC 1035, section 2.3.4).
const LONGEST: usize = 253;

/// A host as requests name it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    /// An address; one of version 4 in the clothes of version 6 is itself.
    Address(IpAddr),
    /// A name in lower case, without the dot that may end it.
    Name(String),
}

impl Host {
    /// A host without a port.
    fn read(text: &str) -> Option<Host> {
        if let Some(inner) = text.strip_prefix('[') {
            let address: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
            return Some(Host::Address(IpAddr::from(address).to_canonical()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if let Ok(address) = name.parse::<Ipv4Addr>() {
            return Some(Host::Address(address.into()));
        }
        let is_label = |label: &str| {
            let mut bytes = label.bytes();
            !label.is_empty() && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        let is_name = name.len() <= LONGEST && name.split('.').all(is_label);
        is_name.then(|| Host::Name(name.to_ascii_lowercase()))
    }

    /// A host and, perhaps, a port, as `Host` and origins have them.
    fn read_with_port(text: &str) -> Option<Host> {
        let end = text.find(']').unwrap_or(0);
        let (host, port) = match text[end..].find(':') {
            Some(colon) => (&text[..end + colon], &text[end + colon + 1..]),
            None => (text, ""),
        };
        let is_digits = port.bytes().all(|b| b.is_ascii_digit());
        let is_port = port.is_empty() || (is_digits && port.parse::<u16>().is_ok());
        Host::read(host).filter(|_| is_port)
    }

    /// Whether it is this machine by its nature.
    fn is_local(&self) -> bool {
        match self {
            Host::Address(address) => address.is_loopback(),
            Host::Name(name) => name == "localhost",
        }
    }
}

/// A value of `--allow-host`.
pub(crate) fn parse(text: &str) -> Result<String, String> {
    let is_bare = |text: &str| text.parse::<Ipv6Addr>().is_ok();
    match text {
        ALL => Ok(text.to_owned()),
        bare if is_bare(bare) => Ok(format!("[{bare}]")),
        text if Host::read(text).is_some() => Ok(text.to_owned()),
        _ => Err(
            "expected a host without a port, such as gannet.example.org, or * for all".to_owned(),
        ),
    }
}

/// The names that the server answers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hosts {
    /// Those besides this machine's own; `None`: all.
    names: Option<Vec<Host>>,
}

impl Hosts {
    /// Those of a server that listens on an address, of which `allowed` were given, as were the origins
    /// whose pages may ask.
    pub(crate) fn new(bound: IpAddr, allowed: &[String], origins: &[String]) -> Hosts {
        let is_asked = !allowed.is_empty() || bound.to_canonical().is_loopback();
        let takes_all = allowed.iter().chain(origins).any(|given| given == ALL);
        if !is_asked || takes_all {
            return Hosts { names: None };
        }
        let of_origins = origins.iter().filter_map(|origin| {
            let (_, host) = origin.split_once("://")?;
            Host::read_with_port(host)
        });
        let allowed = allowed.iter().filter_map(|host| Host::read(host));
        let bound = Host::Address(bound.to_canonical());
        let names = allowed.chain(of_origins).chain([bound]).collect();
        Hosts { names: Some(names) }
    }

    fn has(&self, host: &Host) -> bool {
        let names = self.names.as_ref();
        names.is_none_or(|names| host.is_local() || names.contains(host))
    }

    /// Whether a request names hosts of the server's alone.
    fn check(&self, request: &Request) -> Result<(), ApiError> {
        if self.names.is_none() {
            return Ok(());
        }
        // A whole address in the first line counts in front of any header (RFC 9112, section 3.2.2).
        let line = request.uri().authority().map(|of_line| of_line.as_str());
        let headers = request.headers().get_all(header::HOST).iter();
        // What is no text is no name either.
        let named = headers.map(|host| host.to_str().unwrap_or_default().trim());
        for text in line.into_iter().chain(named) {
            match Host::read_with_port(text) {
                Some(host) if self.has(&host) => {}
                Some(Host::Name(name)) => return Err(refused(&name)),
                Some(Host::Address(address @ IpAddr::V4(_))) => {
                    return Err(refused(&address.to_string()));
                }
                Some(Host::Address(IpAddr::V6(address))) => {
                    return Err(refused(&format!("[{address}]")));
                }
                None => return Err(forbidden("the request's Host is no host")),
            }
        }
        Ok(())
    }
}

fn refused(host: &str) -> ApiError {
    forbidden(format!(
        "{host} is not a host that this server answers to; start it with --allow-host {host} if it should be"
    ))
}

fn forbidden(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, message).code("host_not_allowed")
}

/// Lets those in who ask under a name of the server's.
pub(crate) async fn check_host(
    State(hosts): State<Arc<Hosts>>,
    request: Request,
    next: Next,
) -> Response {
    match hosts.check(&request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

    fn hosts(bound: IpAddr, allowed: &[&str], origins: &[&str]) -> Hosts {
        let owned = |texts: &[&str]| texts.iter().map(|&t| t.to_owned()).collect::<Vec<_>>();
        Hosts::new(bound, &owned(allowed), &owned(origins))
    }

    fn asked(hosts: &Hosts, uri: &str, names: &[&str]) -> Result<(), ApiError> {
        let mut request = Request::builder().uri(uri);
        for name in names {
            request = request.header("Host", *name);
        }
        hosts.check(&request.body(Body::empty()).unwrap())
    }

    #[test]
    fn this_machine_has_its_names_whatever_the_port() {
        let hosts = hosts(LOOPBACK, &[], &[]);
        for name in [
            "localhost",
            "localhost:8080",
            "LocalHost:1",
            "localhost.",
            "localhost.:65535",
            "localhost:",
            "127.0.0.1",
            "127.0.0.1:8080",
            "127.0.0.1.",
            "127.255.0.9:80",
            "[::1]",
            "[::1]:8080",
            "[0:0:0:0:0:0:0:1]:80",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert!(asked(&hosts, "/", &[name]).is_ok(), "{name}");
        }
        assert!(asked(&hosts, "/", &[]).is_ok());
    }

    #[test]
    fn other_names_are_refused_and_said_how_to_allow() {
        let hosts = hosts(LOOPBACK, &[], &[]);
        for (name, shown) in [
            ("evil.example", "evil.example"),
            ("EVIL.example.:8080", "evil.example"),
            ("localhost.evil.example", "localhost.evil.example"),
            ("notlocalhost", "notlocalhost"),
            ("127.0.0.1.evil.example:80", "127.0.0.1.evil.example"),
            ("192.168.0.2:8080", "192.168.0.2"),
            ("0.0.0.0:8080", "0.0.0.0"),
            ("[2001:db8::1]:80", "[2001:db8::1]"),
            ("[::]:80", "[::]"),
        ] {
            let error = asked(&hosts, "/", &[name]).unwrap_err();
            assert_eq!(error.status, StatusCode::FORBIDDEN);
            let flag = format!("--allow-host {shown} ");
            assert!(error.message.contains(&flag), "{name}: {}", error.message);
            assert_eq!(parse(shown).unwrap(), shown);
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let hosts = hosts(LOOPBACK, &[], &[]);
        let long = format!("{}.example", "x".repeat(300));
        for name in [
            "",
            ":8080",
            ".",
            "localhost..",
            "localhost:x",
            "localhost:70000",
            "localhost:+80",
            "localhost:80:80",
            "user@localhost",
            "localhost/",
            "local host",
            "::1",
            "[::1",
            "[::1]x",
            "[::1%lo]",
            "[127.0.0.1]",
            &long,
        ] {
            let error = asked(&hosts, "/", &[name]).unwrap_err();
            assert_eq!(error.message, "the request's Host is no host", "{name}");
        }
    }

    #[test]
    fn every_place_that_names_a_host_counts() {
        let hosts = hosts(LOOPBACK, &[], &[]);
        assert!(asked(&hosts, "http://localhost:80/health", &["127.0.0.1"]).is_ok());
        assert!(asked(&hosts, "http://evil.example/health", &["localhost"]).is_err());
        assert!(asked(&hosts, "http://localhost/health", &["evil.example"]).is_err());
        assert!(asked(&hosts, "/", &["localhost", "evil.example"]).is_err());
    }

    #[test]
    fn names_are_given_by_themselves_and_by_origins() {
        let origins = ["https://chat.example:8443", "null"];
        let given = hosts(LOOPBACK, &["Gannet.example.", "[::2]"], &origins);
        for name in ["gannet.example:80", "[::2]:80", "chat.example", "localhost"] {
            assert!(asked(&given, "/", &[name]).is_ok(), "{name}");
        }
        assert!(asked(&given, "/", &["null"]).is_err());
        assert!(asked(&given, "/", &["evil.example"]).is_err());
        for all in [hosts(LOOPBACK, &["*"], &[]), hosts(LOOPBACK, &[], &["*"])] {
            assert!(asked(&all, "/", &["evil.example"]).is_ok());
        }
    }

    #[test]
    fn other_addresses_are_asked_under_any_name_unless_told_otherwise() {
        let open = hosts(ANY, &[], &["https://chat.example"]);
        for name in ["evil.example", "192.168.0.2", "", "no host"] {
            assert!(asked(&open, "/", &[name]).is_ok(), "{name}");
        }
        let lan = hosts("192.168.0.2".parse().unwrap(), &["gannet.lan"], &[]);
        for name in ["gannet.lan:8080", "192.168.0.2:8080", "localhost"] {
            assert!(asked(&lan, "/", &[name]).is_ok(), "{name}");
        }
        assert!(asked(&lan, "/", &["192.168.0.3"]).is_err());
        for loopback in ["127.0.0.2", "::1", "::ffff:127.0.0.1"] {
            let hosts = hosts(loopback.parse().unwrap(), &[], &[]);
            assert!(asked(&hosts, "/", &["evil.example"]).is_err(), "{loopback}");
        }
    }

    #[test]
    fn a_value_of_the_flag_is_a_host_alone() {
        assert_eq!(parse("::1").unwrap(), "[::1]");
        for wrong in ["", "x:80", "http://x", "x/y", "*.example", "a b"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
