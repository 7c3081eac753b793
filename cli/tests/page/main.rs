//! The page that `gannet serve` has: its files over a socket, its modules in Node, and all of it in a
//! browser.
//!
//! Node and Chromium are what a machine may lack: a test without them says `skipped:`. `GANNET_BROWSER`
//! names a browser that is not found by name; `GANNET_PICTURES` a folder that gets pictures of the page.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]
// It is the embedded model that replies.
#![cfg(feature = "embedded-model")]

mod server;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use server::{Answer, Server};

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A program of the machine's, if it is there; otherwise says that a test is skipped.
fn program(names: &[&str], what: &str) -> Option<PathBuf> {
    let folders: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default();
    let files = names
        .iter()
        .flat_map(|name| folders.iter().map(move |f| f.join(name)));
    let found = files.into_iter().find(|file| file.is_file());
    if found.is_none() {
        eprintln!("skipped: no {what} here");
    }
    found
}

fn node() -> Option<PathBuf> {
    let node = program(&["node", "nodejs"], "Node")?;
    let version = Command::new(&node).arg("--version").output().ok()?.stdout;
    let version = String::from_utf8_lossy(&version).into_owned();
    let major = version.trim().trim_start_matches('v').split('.').next();
    let is_new = major
        .and_then(|major| major.parse::<u32>().ok())
        .is_some_and(|m| m >= 18);
    if !is_new {
        eprintln!("skipped: Node is {}, and 18 is needed", version.trim());
    }
    is_new.then_some(node)
}

fn browser() -> Option<PathBuf> {
    match std::env::var_os("GANNET_BROWSER") {
        Some(named) => Some(named.into()),
        None => program(
            &[
                "chromium",
                "chromium-browser",
                "google-chrome",
                "google-chrome-stable",
            ],
            "Chromium",
        ),
    }
}

/// Runs a script to its end.
fn script(node: &Path, name: &str, args: &[&str]) {
    let path = here("tests/page").join(name);
    let done = Command::new(node)
        .arg(path)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (said(&done.stdout), said(&done.stderr));
    assert!(done.status.success(), "{name}\n{out}{err}");
}

const FILES: [(&str, &str); 3] = [
    ("/", "text/html; charset=utf-8"),
    ("/page/app.js", "text/javascript; charset=utf-8"),
    ("/page/style.css", "text/css; charset=utf-8"),
];

#[test]
fn files_come_with_a_policy_and_are_asked_for_once() {
    let server = Server::start(&["--api-key", "secret"]);
    for (path, content_type) in FILES {
        let Answer {
            status,
            headers,
            body,
        } = server.get(path, &[]);
        // A browser asks for the page before anybody could give a key.
        assert_eq!(status, 200, "{path}");
        assert_eq!(headers["content-type"], content_type);
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["referrer-policy"], "no-referrer");
        let policy = &headers["content-security-policy"];
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self';"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(!body.is_empty());
        let tag = headers["etag"].as_str();
        for known in [
            tag.to_owned(),
            format!("\"other\", W/{tag}"),
            "*".to_owned(),
        ] {
            let again = server.get(path, &[("if-none-match", &known)]);
            assert_eq!(
                (again.status, again.body.as_str()),
                (304, ""),
                "{path} {known}"
            );
        }
        assert_eq!(
            server.get(path, &[("if-none-match", "\"other\"")]).status,
            200
        );
    }
    assert_eq!(server.get("/v1/models", &[]).status, 401);
    assert_eq!(server.get("/page/absent.js", &[]).status, 404);
    assert_eq!(server.get("/page/../page/app.js", &[]).status, 404);
    assert_eq!(server.ask("POST", "/", &[]).status, 405);
}

#[test]
fn there_is_no_page_where_none_is_wanted() {
    let server = Server::start(&["--no-page"]);
    for (path, _) in FILES {
        let answer = server.get(path, &[]);
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.body.contains("openapi.json"), "{}", answer.body);
    }
    assert_eq!(server.get("/health/live", &[]).status, 200);
}

#[test]
fn modules_do_what_they_say_with_any_text() {
    let Some(node) = node() else { return };
    // Where Node knows that files of this ending are modules.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("package.json"), r#"{"type": "module"}"#).unwrap();
    for entry in std::fs::read_dir(here("src/server/page")).unwrap() {
        let file = entry.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    script(&node, "unit.mjs", &[folder.path().to_str().unwrap()]);
}

#[test]
fn people_talk_with_the_model_in_a_browser() {
    let (Some(node), Some(browser)) = (node(), browser()) else {
        return;
    };
    let server = Server::start(&[]);
    let origin = server.origin();
    let mut args = vec![browser.to_str().unwrap(), origin.as_str()];
    let pictures = std::env::var("GANNET_PICTURES").ok();
    args.extend(pictures.as_deref());
    script(&node, "talk.mjs", &args);
}
