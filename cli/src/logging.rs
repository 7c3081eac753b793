//! What the program says of its doings: spans and events of `tracing`, on standard error.
//!
//! `RUST_LOG` says which, in the notation of `EnvFilter`; without it warnings of everything, and of `gannet serve`
//! a line a request and a load. Lines are text, in colours on a terminal alone, or JSON (`--log-format
//! json`): then notices and the error that ends the command are JSON as well, so that every line of standard
//! error is.

use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;
use gannet_engine::settings::log_filter;
use serde_json::json;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::failure::Failure;

/// How lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// A line of text an event
    #[default]
    Text,
    /// A JSON object an event
    Json,
}

/// Which events are written where `RUST_LOG` says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unasked {
    /// Warnings.
    Warnings,
    /// And of this program what is worth a line.
    Server,
}

impl Unasked {
    fn directives(self) -> &'static str {
        match self {
            Unasked::Warnings => "warn",
            Unasked::Server => "warn,gannet=info,gannet_engine=info",
        }
    }
}

/// Whether standard error is lines of JSON.
static JSON: AtomicBool = AtomicBool::new(false);

/// Begins to write events.
///
/// # Errors
/// What `RUST_LOG` says is no filter.
pub(crate) fn start(format: LogFormat, without: Unasked) -> Result<(), Failure> {
    JSON.store(format == LogFormat::Json, Ordering::Relaxed);
    let filter = filter(log_filter()?.as_deref(), without)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter);
    let lines = lines.with_writer(io::stderr);
    // Of a terminal, `NO_COLOR` has its say.
    let lines = match io::stderr().is_terminal() {
        true => lines,
        false => lines.with_ansi(false),
    };
    let started = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().with_span_list(false).try_init(),
    };
    started.map_err(|e| Failure::Work(format!("cannot log: {e}")))?;
    if format == LogFormat::Json {
        std::panic::set_hook(Box::new(panicked));
    }
    Ok(())
}

fn filter(given: Option<&str>, without: Unasked) -> Result<EnvFilter, Failure> {
    let directives = given.unwrap_or(without.directives());
    let parsed = EnvFilter::builder().parse(directives);
    parsed.map_err(|e| {
        Failure::Usage(format!(
            "RUST_LOG={directives:?} is not valid: {e}; expected levels by module, such as \
             info,gannet_engine=debug"
        ))
    })
}

/// A line about a panic, in the form of all others.
fn panicked(info: &PanicHookInfo<'_>) {
    let text = info.to_string().replace('\n', " ");
    eprint_line(&object("ERROR", &text));
}

fn eprint_line(line: &str) {
    use io::Write as _;
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Text that goes to standard error in the form that its lines have: as it is, or as an object a line.
pub(crate) fn in_form(text: &str) -> String {
    if !JSON.load(Ordering::Relaxed) {
        return text.to_owned();
    }
    let level = |line: &str| match line {
        _ if line.starts_with("error: ") => "ERROR",
        _ if line.starts_with("warning: ") => "WARN",
        _ => "INFO",
    };
    let lines = text.lines().filter(|line| !line.is_empty());
    let objects: Vec<String> = lines.map(|line| object(level(line), line)).collect();
    objects.join("\n")
}

/// An event as the subscriber writes one.
fn object(level: &str, message: &str) -> String {
    let mut timestamp = String::new();
    // Without a clock there is no time to tell.
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    json!({
        "timestamp": timestamp, "level": level, "fields": {"message": message}, "target": "gannet",
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        for good in [
            "info",
            "warn,gannet=debug",
            "off",
            "gannet::server[request]=trace",
        ] {
            assert!(filter(Some(good), Unasked::Warnings).is_ok(), "{good}");
        }
        for without in [Unasked::Warnings, Unasked::Server] {
            assert!(filter(None, without).is_ok(), "{without:?}");
        }
        let Err(Failure::Usage(line)) = filter(Some("gannet=loud"), Unasked::Warnings) else {
            panic!("loud is no level");
        };
        assert!(
            line.starts_with("RUST_LOG=\"gannet=loud\" is not valid: "),
            "{line}"
        );
        assert!(!line.contains('\n'), "{line}");
    }

    #[test]
    fn objects_have_a_time_and_a_level() {
        let event: serde_json::Value = serde_json::from_str(&object("WARN", "a \"b\"")).unwrap();
        assert_eq!(event["fields"]["message"], "a \"b\"");
        assert_eq!(event["level"], "WARN");
        let time = event["timestamp"].as_str().unwrap();
        assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
    }
}
