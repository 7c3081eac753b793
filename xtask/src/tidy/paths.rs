//! The paths that Rust code names inside its own crate, each from the crate's root.
//!
//! Reads `crate::`, `super::`, `self::` and the crate's own name wherever they begin a path: in
//! imports with nested braces, in types and in expressions. A path that begins with a bare name is
//! read in the `use` lines of the crate's root file only; elsewhere it starts from something that
//! an import brought in, or that the module holds.

use super::tokens::{Token, after_group, reads};

/// A path from the crate's root; empty for the root itself.
pub(super) type Path = Vec<String>;

/// A path that code names.
#[derive(Debug, PartialEq)]
pub(super) struct Reference {
    /// 1-based.
    pub(super) line: usize,
    pub(super) path: Path,
    /// Where an import gives it a name: the module, and the name in it (`*` for everything).
    pub(super) name: Option<Path>,
}

/// The module that a file under `src/` is: empty for the root.
pub(super) fn module(file: &str) -> Path {
    let path = file.strip_suffix(".rs").unwrap_or(file);
    let path = path.strip_suffix("/mod").unwrap_or(path);
    let parts = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != "lib");
    parts.map(str::to_string).collect()
}

/// Everything that the code of `module` names inside the crate, whose own name is `own`.
pub(super) fn references(own: &str, module: &Path, tokens: &[Token<'_>]) -> Vec<Reference> {
    let mut reader = Reader {
        own,
        tokens,
        is_root: module.is_empty(),
        module: module.clone(),
        found: Vec::new(),
    };
    reader.read(0, tokens.len());
    reader.found
}

struct Reader<'a> {
    own: &'a str,
    tokens: &'a [Token<'a>],
    is_root: bool,
    /// The module that holds what is being read.
    module: Path,
    found: Vec<Reference>,
}

impl Reader<'_> {
    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |t| t.text)
    }

    fn read(&mut self, mut at: usize, end: usize) {
        while at < end {
            if self.text(at) == "mod" && self.text(at + 2) == "{" {
                let close = after_group(self.tokens, at + 2);
                let name = self.text(at + 1).to_string();
                self.module.push(name);
                self.read(at + 3, close);
                self.module.pop();
                at = close;
            } else if self.text(at) == "use" && self.text(at + 1) != "<" {
                at = self.branch(at + 1, self.start(at + 1), true);
            } else if self.begins_path(at) {
                at = self.branch(at, self.start(at), false);
            } else {
                at += 1;
            }
        }
    }

    /// Whether a path of this crate begins at `at`, outside an import.
    fn begins_path(&self, at: usize) -> bool {
        let leads = ["crate", "super", "self", self.own].contains(&self.text(at));
        let inside = at > 0 && self.text(at - 1) == "::";
        // `pub(in crate::a)` names what the item is in already.
        let is_visibility = at > 2 && reads(self.tokens, at - 3, &["pub", "(", "in"]);
        leads && self.text(at + 1) == "::" && !inside && !is_visibility
    }

    /// Where the path whose first token is at `at` starts from; `None` outside this crate.
    fn start(&self, at: usize) -> Option<Path> {
        match self.text(at) {
            "crate" => Some(Path::new()),
            first if first == self.own => Some(Path::new()),
            "super" | "self" | "{" => Some(self.module.clone()),
            _ => self.is_root.then(|| self.module.clone()),
        }
    }

    /// Reads one branch of a path or an import that goes on from `prefix`; returns where it ends.
    fn branch(&mut self, mut at: usize, prefix: Option<Path>, is_import: bool) -> usize {
        let mut path = prefix;
        let mut last = String::new();
        let line = self.tokens.get(at).map_or(0, |t| t.line);
        loop {
            match self.text(at) {
                "{" => return self.group(at, path, last.is_empty()),
                "*" => {
                    self.found.extend(path.map(|path| Reference {
                        line,
                        path,
                        name: Some([&self.module[..], &["*".into()]].concat()),
                    }));
                    return at + 1;
                }
                "::" if last.is_empty() => {
                    // `use ::name`: another crate.
                    path = None;
                    at += 1;
                    continue;
                }
                segment if self.tokens.get(at).is_some_and(Token::is_word) => {
                    let is_own = segment == self.own && last.is_empty();
                    match segment {
                        "crate" | "self" => {}
                        _ if is_own => {}
                        "super" => {
                            path.as_mut().map(Path::pop);
                        }
                        _ => {
                            if let Some(path) = &mut path {
                                path.push(segment.to_string());
                            }
                        }
                    }
                    last = segment.to_string();
                    at += 1;
                }
                _ => return at + 1,
            }
            let goes_on = self.text(at) == "::"
                && (["{", "*"].contains(&self.text(at + 1))
                    || self.tokens.get(at + 1).is_some_and(Token::is_word));
            if !goes_on {
                break;
            }
            at += 1;
        }
        let mut name = match last.as_str() {
            "self" | "super" | "crate" => path.as_ref().and_then(|path| path.last().cloned()),
            _ => Some(last),
        };
        if is_import && self.text(at) == "as" {
            name = Some(self.text(at + 1).to_string());
            at += 2;
        }
        let name = name.filter(|_| is_import);
        let name = name.map(|name| [&self.module[..], &[name]].concat());
        self.found
            .extend(path.map(|path| Reference { line, path, name }));
        at
    }

    /// Reads the branches of the braces at `open`, each from `prefix` or, where the braces are the
    /// whole import, from its own beginning.
    fn group(&mut self, open: usize, prefix: Option<Path>, is_whole: bool) -> usize {
        let close = after_group(self.tokens, open);
        let mut at = open + 1;
        while at + 1 < close {
            let from = if is_whole {
                self.start(at)
            } else {
                prefix.clone()
            };
            at = self.branch(at, from, true);
            if self.text(at) == "," {
                at += 1;
            }
        }
        close
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tokens::tokens;

    /// The paths that `code` in `file` names, `line:a::b`.
    fn named(file: &str, code: &str) -> Vec<String> {
        let found = references("gannet_engine", &module(file), &tokens(code));
        let show = |r: &Reference| format!("{}:{}", r.line, r.path.join("::"));
        found.iter().map(show).collect()
    }

    #[test]
    fn files_are_modules() {
        assert_eq!(module("lib.rs"), Path::new());
        assert_eq!(module("error.rs"), ["error"]);
        assert_eq!(module("kv/mod.rs"), ["kv"]);
        assert_eq!(module("exec/cuda/rank.rs"), ["exec", "cuda", "rank"]);
    }

    #[test]
    fn imports_are_read_through_their_braces() {
        let code =
            "use crate::{\n    a::{self, B, c::{D as E, F}},\n    g,\n};\nuse std::h::{I, crate_};";
        let expected = ["2:a", "2:a::B", "2:a::c::D", "2:a::c::F", "3:g"];
        assert_eq!(named("x.rs", code), expected);
        assert_eq!(
            named("x.rs", "use {crate::a, std::b, super::c};"),
            ["1:a", "1:c"]
        );
        assert_eq!(named("x.rs", "use gannet_engine::a::*;"), ["1:a"]);
        assert_eq!(named("x.rs", "use crate::*; use ::crate_;"), ["1:"]);
        assert_eq!(named("x.rs", "use crate as all;"), ["1:"]);
    }

    #[test]
    fn relative_paths_start_from_their_module() {
        assert_eq!(named("a/b/c.rs", "use super::super::d::E;"), ["1:a::d::E"]);
        assert_eq!(named("a/b/mod.rs", "use super::super::d::E;"), ["1:d::E"]);
        assert_eq!(
            named("a/b.rs", "fn f() { super::super::d::e() }"),
            ["1:d::e"]
        );
        assert_eq!(named("a/b.rs", "self::c::D"), ["1:a::b::c::D"]);
        let code = "mod c { use super::d; mod e { use super::super::super::f; } } use super::g;";
        assert_eq!(named("a/b.rs", code), ["1:a::b::d", "1:a::f", "1:a::g"]);
    }

    #[test]
    fn paths_in_types_and_expressions_count() {
        let code = "fn f(x: &crate::a::B) -> Vec<crate::c::D<u8>> {\n    crate::e::g::<u8>(x) * crate::h::I\n}";
        assert_eq!(
            named("x.rs", code),
            ["1:a::B", "1:c::D", "2:e::g", "2:h::I"]
        );
        assert_eq!(named("x.rs", "$crate::a::b!()"), ["1:a::b"]);
    }

    #[test]
    fn receivers_visibilities_and_other_crates_do_not() {
        let code = "pub(crate) fn f(self) -> Self { self.a; self as u8; gannet_gguf::b::C }\n\
                    pub(in crate::a) fn g() -> impl T + use<'a> { d::crate_::e }";
        assert_eq!(named("a/b.rs", code), [""; 0]);
    }

    #[test]
    fn the_root_gives_names() {
        let code =
            "pub use a::{B, c as D};\npub mod inner { pub use crate::e; pub use crate::f::*; }";
        let found = references("gannet_engine", &module("lib.rs"), &tokens(code));
        let names: Vec<(String, String)> = found
            .iter()
            .map(|r| {
                (
                    r.name.clone().unwrap_or_default().join("::"),
                    r.path.join("::"),
                )
            })
            .collect();
        let expected = [
            ("B", "a::B"),
            ("D", "a::c"),
            ("inner::e", "e"),
            ("inner::*", "f"),
        ];
        assert_eq!(
            names,
            expected.map(|(name, path)| (name.into(), path.into()))
        );
    }

    #[test]
    fn an_open_end_is_no_panic() {
        for code in [
            "use",
            "use crate",
            "use crate::{",
            "use crate::{a,",
            "mod a {",
            "use {,}",
            "crate::",
        ] {
            named("a.rs", code);
        }
    }
}
