//! Completions and the manual: every command is in them, and shells can read them.

use std::process::{Command, Stdio};

use crate::support::{names, run};

/// Every command that `gannet --help` lists.
fn commands() -> Vec<String> {
    let help = run(&["--help"]).ok().stdout;
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let (list, _) = list.split_once("\n\n").unwrap();
    // What goes on with the line above is further in.
    let rows = list.lines().filter_map(|line| line.strip_prefix("  "));
    let rows = rows.filter(|row| !row.starts_with(' '));
    let names = rows.map(|row| row.split(' ').next().unwrap().to_owned());
    names.filter(|name| name != "help").collect()
}

#[test]
fn every_shell_completes_every_command() {
    let commands = commands();
    assert!(commands.len() > 15, "{commands:?}");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run(&["completions", shell]).ok().stdout;
        for name in &commands {
            assert!(script.contains(name.as_str()), "{shell}: {name}");
        }
        assert!(script.contains("max-tokens"), "{shell}");
        let mut check = match shell {
            "bash" | "zsh" | "fish" => Command::new(shell),
            _ => continue,
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), script).unwrap();
        let checked = check
            .arg("-n")
            .arg(file.path())
            .stdin(Stdio::null())
            .status();
        match checked {
            Ok(status) => assert!(status.success(), "{shell}"),
            Err(_) => eprintln!("skipped: no {shell} to read its completions"),
        }
    }
    let usage = run(&["completions", "tcsh"]);
    assert!(usage.usage().contains("bash"), "{}", usage.stderr);
}

#[test]
fn every_command_has_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("share/man1");
    let path = to.to_str().unwrap();
    // Twice: pages are written over older ones.
    for _ in 0..2 {
        assert_eq!(run(&["man", path]).ok().stdout, "");
    }
    let mut expected: Vec<String> = (commands().iter())
        .map(|name| format!("gannet-{name}.1"))
        .collect();
    expected.push("gannet.1".to_owned());
    expected.sort();
    assert_eq!(names(&to), expected);
    for name in &expected {
        let page = std::fs::read_to_string(to.join(name)).unwrap();
        let title = name.strip_suffix(".1").unwrap();
        assert!(page.contains(&format!(".TH {title} 1")), "{name}");
        for section in [".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS"] {
            assert!(page.contains(section), "{name} has no {section}");
        }
    }
    let serve = std::fs::read_to_string(to.join("gannet-serve.1")).unwrap();
    assert!(serve.contains("log\\-format"), "{serve}");
    assert!(run(&["man"]).ok().stdout.contains(".TH gannet 1"));
    let file = folder.path().join("a");
    std::fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    assert!(run(&["man", file]).error().contains("cannot create"));
}
