//! Where the prompt and the model of `gannet run` come from.
//!
//! `gannet run [MODEL] [PROMPT]`: a first argument that is a GGUF file is the model. A path is never
//! continued as text: whoever means that says so with `-p`. What is read from a file or from standard
//! input loses one line break at its end, which editors and `echo` put there; an argument is taken as
//! it is.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::failure::Failure;
use crate::input;
use crate::progress::Progress;

/// The prompt, and perhaps the model.
#[derive(Args)]
pub(crate) struct PromptFlags {
    /// GGUF file to run, if it is the first, and text to continue; - is standard input, which is also
    /// read where no text is given and it is no terminal [default: the start of a text]
    #[arg(value_name = "MODEL] [PROMPT", hide_default_value = true)]
    words: Vec<String>,
    /// Text to continue, whatever it looks like
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// File with the text to continue, less one line break at its end; - is standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Where a prompt comes from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Text(String),
    File(PathBuf),
    Input,
    /// Nowhere: standard input if it is no terminal.
    Open,
}

impl PromptFlags {
    /// The model among the words, if there is one, and where the prompt comes from.
    pub(crate) fn take(&mut self, has_model: bool) -> Result<(Option<PathBuf>, Source), Failure> {
        let (model, words) = match &self.words[..] {
            [first, rest @ ..] if !has_model && names_a_model(first) => {
                (Some(PathBuf::from(first)), rest)
            }
            words => (None, words),
        };
        let word = match words {
            [] => None,
            [word] => Some(word.as_str()),
            [first, ..] => {
                let why = format!(
                    "the prompt is one argument; put it in quotes: '{first} ...' (a first argument \
                     is the model where it is a GGUF file)"
                );
                return Err(Failure::Usage(why));
            }
        };
        let given = [
            word.map(of_word).transpose()?,
            self.prompt.take().map(Source::Text),
            self.file.take().map(|file| match file == Path::new("-") {
                true => Source::Input,
                false => Source::File(file),
            }),
        ];
        let mut given = given.into_iter().flatten();
        match (given.next(), given.next()) {
            (None, _) => Ok((model, Source::Open)),
            (Some(source), None) => Ok((model, source)),
            (Some(_), Some(_)) => Err(Failure::Usage(
                "the prompt is given twice; give one of PROMPT, -p TEXT and -f FILE".to_owned(),
            )),
        }
    }
}

/// A word that is no model.
fn of_word(word: &str) -> Result<Source, Failure> {
    if word == "-" {
        return Ok(Source::Input);
    }
    match path_in_place_of_text(word) {
        Some(why) => Err(Failure::Usage(why)),
        None => Ok(Source::Text(word.to_owned())),
    }
}

/// What to say of a prompt that is a path; `None` of text.
fn path_in_place_of_text(word: &str) -> Option<String> {
    let path = Path::new(word);
    // `.` and `//` are text as well as folders.
    if !word.contains(char::is_alphanumeric) {
        return None;
    }
    let otherwise = format!("-p '{word}' continues these words");
    if names_a_model(word) {
        return Some(format!(
            "{word}: a model in place of a prompt; one runs at a time, the one of -m"
        ));
    }
    if path.is_file() {
        return Some(format!(
            "{word} is a file and no GGUF model: did you mean -f {word}, which continues its text? {otherwise}"
        ));
    }
    if path.is_dir() {
        return Some(format!(
            "{word} is a folder: did you mean -m and a GGUF file in it? {otherwise}"
        ));
    }
    looks_like_a_model(word).then(|| {
        format!("{word}: no such file: did you mean -m and a GGUF file? nothing is downloaded; {otherwise}")
    })
}

/// Names without white space that stand for models elsewhere: paths, addresses, repositories.
fn looks_like_a_model(word: &str) -> bool {
    if word.contains(char::is_whitespace) {
        return false;
    }
    let lower = word.to_ascii_lowercase();
    let starts = ["./", "../", "~/", "http://", "https://", "hf://", "hf.co/"];
    let ends = [
        ".gguf",
        "-gguf",
        ".safetensors",
        ".ggml",
        ".bin",
        ".pth",
        ".onnx",
    ];
    let is_absolute = || {
        let rest = word.strip_prefix('/').unwrap_or_default();
        rest.starts_with(char::is_alphanumeric) && rest.contains('/')
    };
    starts.iter().any(|s| lower.starts_with(s))
        || ends.iter().any(|e| lower.ends_with(e))
        || is_absolute()
}

/// Whether a word is a GGUF file's name: one that is there, or one that ends so.
pub(crate) fn names_a_model(word: &str) -> bool {
    let path = Path::new(word);
    let ends = |path: &Path| {
        let extension = path.extension();
        extension.is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
    };
    let is_one_word = !word.contains(char::is_whitespace);
    (ends(path) && (is_one_word || path.is_file())) || has_magic(path)
}

/// Whether a file begins as GGUF files do.
fn has_magic(path: &Path) -> bool {
    // Not of pipes: what is read from one is gone.
    if !path.is_file() {
        return false;
    }
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *b"GGUF"
}

impl Source {
    /// The text. Waits for standard input to end where it is read.
    pub(crate) fn text(self) -> Result<String, Failure> {
        match self {
            Source::Text(text) => Ok(text),
            Source::File(file) => Ok(without_line_break(input::read_text(&file)?)),
            Source::Open if std::io::stdin().is_terminal() => Ok(String::new()),
            Source::Open | Source::Input => {
                let _progress = Progress::spinner("reading the prompt from standard input");
                Ok(without_line_break(input::read_text(Path::new("-"))?))
            }
        }
    }
}

/// A text less one line break at its end.
fn without_line_break(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(words: &[&str], has_model: bool) -> Result<(Option<PathBuf>, Source), Failure> {
        let words = words.iter().map(|&w| w.to_owned()).collect();
        let (prompt, file) = (None, None);
        PromptFlags {
            words,
            prompt,
            file,
        }
        .take(has_model)
    }

    #[test]
    fn a_model_may_stand_in_front_of_the_prompt() {
        let model = "models/rustdoc-tiny-Q4_K_M.gguf";
        let text = |t: &str| Source::Text(t.to_owned());
        let with = Some(PathBuf::from(model));
        assert_eq!(take(&[model], false).unwrap(), (with.clone(), Source::Open));
        assert_eq!(
            take(&[model, "fn x"], false).unwrap(),
            (with.clone(), text("fn x"))
        );
        assert_eq!(take(&[model, "-"], false).unwrap(), (with, Source::Input));
        let absent = Some(PathBuf::from("absent.GGUF"));
        assert_eq!(
            take(&["absent.GGUF"], false).unwrap(),
            (absent, Source::Open)
        );
        // By what it holds, whatever it is called.
        let folder = tempfile::tempdir().unwrap();
        let blob = folder.path().join("sha256-1234");
        std::fs::write(&blob, b"GGUF").unwrap();
        let blob = blob.to_str().unwrap();
        assert_eq!(
            take(&[blob], false).unwrap(),
            (Some(blob.into()), Source::Open)
        );
        for words in [&["fn x"][..], &["What is a file.gguf"], &[]] {
            assert_eq!(take(words, false).unwrap().0, None);
        }
        for (words, has_model) in [(&[model][..], true), (&[model, model], false)] {
            assert!(matches!(take(words, has_model), Err(Failure::Usage(_))));
        }
    }

    #[test]
    fn paths_are_not_text() {
        let paths = [
            "Cargo.toml",
            "src",
            "./src",
            "/no/such/model",
            "~/model",
            "a/b-GGUF",
            "x.safetensors",
            "https://example.org/x",
            "../x",
        ];
        for path in paths {
            for has_model in [false, true] {
                let Err(Failure::Usage(why)) = take(&[path], has_model) else {
                    panic!("{path}");
                };
                assert!(why.contains("did you mean") && why.contains("-p"), "{why}");
            }
        }
        let texts = [
            "//",
            "/// Returns",
            ".",
            "fn main() {",
            "and/or",
            "a.b",
            "<b>",
            "x: y/z",
            "/*",
        ];
        for text in texts {
            assert_eq!(
                take(&[text], false).unwrap().1,
                Source::Text(text.to_owned())
            );
        }
        assert!(matches!(
            take(&["two", "words"], false),
            Err(Failure::Usage(_))
        ));
    }

    #[test]
    fn one_line_break_goes() {
        for (text, expected) in [
            ("a\n", "a"),
            ("a\r\n", "a"),
            ("a\n\n", "a\n"),
            ("a", "a"),
            ("\n", ""),
            ("", ""),
            ("a\r", "a\r"),
        ] {
            assert_eq!(without_line_break(text.to_owned()), expected);
        }
    }
}
