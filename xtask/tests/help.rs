//! What asks for help gets it, and what is no command is bad usage.

use std::process::Command;

fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(args)
        .output();
    let output = output.expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn help_is_no_error() {
    for args in [&["--help"][..], &["-h"], &["help"], &[]] {
        let (code, said, complained) = run(args);
        assert_eq!((code, complained.as_str()), (Some(0), ""), "{args:?}");
        assert!(
            said.contains("cargo xtask <command>") && said.contains("  bundle"),
            "{said}"
        );
    }
    let (code, said, _) = run(&["tidy", "--help"]);
    assert_eq!(code, Some(0));
    assert!(said.starts_with("usage: cargo xtask tidy"), "{said}");
    let (code, said, complained) = run(&["no-such"]);
    assert_eq!((code, said.as_str()), (Some(2), ""));
    assert!(
        complained.contains("there is no command 'no-such'"),
        "{complained}"
    );
}
