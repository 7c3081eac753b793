//! Tells code from strings and comments in Rust source, without a parser.
//!
//! A rule that looks for a word wants code only, or it trips over its own documentation. The mask
//! has one class per byte of the source, so that line numbers stay true. It knows nested block
//! comments, raw and byte strings, and the difference between a lifetime and a character; it is
//! no lexer otherwise.

/// What a byte of source belongs to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Class {
    Code,
    /// A string or character literal, quotes included.
    Literal,
    Comment,
}

/// One class for each byte of `source`.
pub(super) fn classes(source: &str) -> Vec<Class> {
    let bytes = source.as_bytes();
    let mut classes = vec![Class::Code; bytes.len()];
    let mut at = 0;
    while at < bytes.len() {
        let (class, end) = token(bytes, at);
        let end = end.clamp(at + 1, bytes.len());
        classes[at..end].fill(class);
        at = end;
    }
    classes
}

/// The source with every byte outside `keep` replaced by a space; line breaks stay.
pub(super) fn only(source: &str, classes: &[Class], keep: &[Class]) -> String {
    let kept = source.bytes().zip(classes).map(|(byte, class)| {
        if byte == b'\n' || keep.contains(class) {
            byte
        } else {
            b' '
        }
    });
    // Literals and comments are masked as a whole, so a character is never cut.
    String::from_utf8_lossy(&kept.collect::<Vec<u8>>()).into_owned()
}

/// The class of what begins at `at`, and where it ends.
fn token(bytes: &[u8], at: usize) -> (Class, usize) {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        let length = rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
        return (Class::Comment, at + length);
    }
    if rest.starts_with(b"/*") {
        return (Class::Comment, block_comment_end(bytes, at));
    }
    let after_name = at > 0 && is_name(bytes[at - 1]);
    if !after_name && let Some(end) = raw_string_end(bytes, at) {
        return (Class::Literal, end);
    }
    match rest[0] {
        b'"' => (Class::Literal, quoted_end(bytes, at, b'"')),
        b'\'' if is_character(rest) => (Class::Literal, quoted_end(bytes, at, b'\'')),
        _ => (Class::Code, at + 1),
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// `'x'` and `'\n'` are characters; `'a` alone is a lifetime.
fn is_character(rest: &[u8]) -> bool {
    match rest.get(1) {
        Some(b'\\') => true,
        Some(&b) if b < 0x80 => rest.get(2) == Some(&b'\''),
        // A character of two to four bytes.
        Some(_) => rest.iter().skip(2).take(4).any(|&b| b == b'\''),
        None => false,
    }
}

fn quoted_end(bytes: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The end of `r"..."`, `r#"..."#`, `br#"..."#` or `cr"..."` that begins at `at`.
fn raw_string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let prefix = [&b"r"[..], b"br", b"cr"]
        .into_iter()
        .find(|&p| rest.starts_with(p))?;
    let body = &rest[prefix.len()..];
    let hashes = body.iter().take_while(|&&b| b == b'#').count();
    if body.get(hashes) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(hashes + 1, b'#');
    let content = at + prefix.len() + hashes + 1;
    let found = bytes[content..]
        .windows(close.len())
        .position(|w| w == close);
    Some(found.map_or(bytes.len(), |n| content + n + close.len()))
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(source: &str) -> String {
        only(source, &classes(source), &[Class::Code])
    }

    #[test]
    fn comments_and_literals_are_blanked() {
        assert_eq!(code("a // b\nc"), "a     \nc");
        assert_eq!(
            code("a /* b /* c */ d */ e"),
            format!("a {} e", " ".repeat(17))
        );
        assert_eq!(
            code(r#"f("unsafe \" x") + g"#),
            format!("f({}) + g", " ".repeat(13))
        );
        assert_eq!(code("x = r#\"a\"b\"#;"), format!("x = {};", " ".repeat(8)));
        assert_eq!(code("x = br\"a\";"), format!("x = {};", " ".repeat(5)));
    }

    #[test]
    fn lifetimes_are_code_and_characters_are_not() {
        assert_eq!(code("fn f<'a>(x: &'a str)"), "fn f<'a>(x: &'a str)");
        assert_eq!(
            code("['\"', 'b', '\\'', '\u{2581}']"),
            "[   ,    ,     ,      ]"
        );
    }

    #[test]
    fn an_open_end_is_no_panic() {
        for source in ["\"abc\\", "r#\"abc", "/* abc", "'", "'\\", "r", "br#"] {
            assert_eq!(classes(source).len(), source.len());
        }
    }

    #[test]
    fn comments_can_be_kept_alone() {
        let source = "code(); // note";
        assert_eq!(
            only(source, &classes(source), &[Class::Comment]),
            "        // note"
        );
    }
}
