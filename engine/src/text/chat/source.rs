//! A template's source, in the words that the interpreter here knows.
//!
//! Templates are written for Python's jinja2 with the extensions of `transformers`. Three things of
//! those are said differently: line ends are newlines whatever they were; `{% generation %}`, which
//! marks what an assistant said and gives its body a scope, is a `{% with %}`; and string literals have
//! the escapes of Python and may stand side by side. What is kept is guarded besides (`guard.rs`). Lines stay where they were, so that errors name them.

use super::guard::guarded;

/// The most bytes of a tag: longer ones are no one's who means well, and take long to compile.
const MOST_TAG: usize = 16 << 10;

/// The source as the interpreter reads it; the line of a tag that is too long, if there is one.
pub(super) fn translated(source: &str) -> Result<String, usize> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut reader = Reader {
        rest: &source,
        out: String::with_capacity(source.len() + 16),
        too_long: None,
    };
    while reader.next() {}
    match reader.too_long {
        Some(line) => Err(line),
        None => Ok(reader.out),
    }
}

struct Reader<'s> {
    rest: &'s str,
    out: String,
    /// The line of a tag that is too long.
    too_long: Option<usize>,
}

impl<'s> Reader<'s> {
    /// Copies the next bytes.
    fn copy(&mut self, bytes: usize) {
        let (copied, rest) = self.rest.split_at(bytes);
        self.out.push_str(copied);
        self.rest = rest;
    }

    /// Copies up to the end of a word, or everything where it does not come.
    fn copy_through(&mut self, end: &str) {
        let bytes = self
            .rest
            .find(end)
            .map_or(self.rest.len(), |at| at + end.len());
        self.copy(bytes);
    }

    /// Text, and the tag behind it; whether there was one.
    fn next(&mut self) -> bool {
        let is_tag =
            |at: &usize| matches!(self.rest.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#'));
        let found = self.rest.match_indices('{').map(|(at, _)| at).find(is_tag);
        let Some(at) = found else {
            self.copy(self.rest.len());
            return false;
        };
        self.copy(at);
        match self.rest.as_bytes()[1] {
            b'#' => self.copy_through("#}"),
            b'%' => self.block(),
            _ => self.expression("}}"),
        }
        true
    }

    /// A tag with a name.
    fn block(&mut self) {
        let name = |rest: &'s str| {
            let inner = rest[2..].strip_prefix(['-', '+']).unwrap_or(&rest[2..]);
            let inner = inner.trim_start();
            let is_part = |c: char| c.is_alphanumeric() || c == '_';
            let end = inner.find(|c| !is_part(c)).unwrap_or(inner.len());
            (&inner[..end], rest.len() - inner.len())
        };
        let (word, at) = name(self.rest);
        if word == "raw" {
            self.raw();
            return;
        }
        let instead = match word {
            "generation" => "with",
            "endgeneration" => "endwith",
            _ => "",
        };
        if !instead.is_empty() {
            self.copy(at);
            self.out.push_str(instead);
            self.rest = &self.rest[word.len()..];
            self.copy_through("%}");
            return;
        }
        self.expression("%}");
    }

    /// Text that has no tags until the one that ends it.
    fn raw(&mut self) {
        self.copy_through("%}");
        while let Some(at) = self.rest.find("{%") {
            self.copy(at);
            let inner = self.rest[2..].trim_start_matches(['-', '+']).trim_start();
            let ends = inner.starts_with("endraw");
            self.copy(2);
            if ends {
                break;
            }
        }
        self.copy_through("%}");
    }

    /// What lies between the two ends of a tag.
    fn expression(&mut self, end: &str) {
        self.copy(2);
        let start = self.out.len();
        let mut depth = 0usize;
        while let Some(c) = self.rest.chars().next() {
            // A mark in front of the end belongs to the end.
            let marked = self.rest.strip_prefix(['-', '+']).unwrap_or(self.rest);
            if depth == 0 && marked.starts_with(end) {
                let inner = self.out.split_off(start);
                if inner.len() > MOST_TAG {
                    self.too_long = Some(self.out.matches('\n').count() + 1);
                }
                if self.too_long.is_none() {
                    self.out.push_str(&guarded(&inner));
                }
                self.copy(self.rest.len() - marked.len() + end.len());
                return;
            }
            match c {
                '"' | '\'' => {
                    self.literals(c);
                    continue;
                }
                '{' | '(' | '[' => depth += 1,
                '}' | ')' | ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.copy(c.len_utf8());
        }
    }

    /// String literals side by side, which are one.
    fn literals(&mut self, quote: char) {
        let Some(first) = self.literal(quote) else {
            self.copy(self.rest.len());
            return;
        };
        let mut parts = vec![first];
        let mut lines = 0;
        loop {
            let behind = self.rest.trim_start();
            let gap = &self.rest[..self.rest.len() - behind.len()];
            let Some(quote) = behind.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
                break;
            };
            let before = self.rest;
            self.rest = behind;
            let Some(part) = self.literal(quote) else {
                self.rest = before;
                break;
            };
            lines += gap.matches('\n').count();
            parts.push(part);
        }
        let is_plain = parts.len() == 1 && !first.contains('\\');
        let mark = if is_plain { quote } else { '"' };
        self.out.push(mark);
        match is_plain {
            true => self.out.push_str(first),
            false => parts
                .iter()
                .for_each(|part| push_escaped(part, &mut self.out)),
        }
        self.out.push(mark);
        self.out.extend(std::iter::repeat_n('\n', lines));
    }

    /// What stands between the quotes of a literal, which is read.
    fn literal(&mut self, quote: char) -> Option<&'s str> {
        let mut escaped = false;
        for (at, c) in self.rest.char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                c if c == quote => {
                    let inner = &self.rest[1..at];
                    self.rest = &self.rest[at + 1..];
                    return Some(inner);
                }
                _ => {}
            }
        }
        None
    }
}

/// Appends the inside of a Python literal as the inside of one in double quotes here.
fn push_escaped(inner: &str, out: &mut String) {
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(c) => push_escape(c, &mut chars, out),
                None => out.push_str("\\\\"),
            },
            c => out.push(c),
        }
    }
}

/// Appends what an escape stands for; an unknown one is a backslash and what follows it.
fn push_escape(c: char, chars: &mut std::str::Chars<'_>, out: &mut String) {
    let code = match c {
        '\\' | '"' => return out.extend(['\\', c]),
        '\'' => return out.push(c),
        'n' | 't' | 'r' | 'b' | 'f' => return out.extend(['\\', c]),
        'a' => Some(7),
        'v' => Some(11),
        'x' => hex(chars, 2),
        'u' => hex(chars, 4).map(|code| joined(code, chars)),
        'U' => hex(chars, 8),
        '0'..='7' => Some(octal(c, chars)),
        _ => None,
    };
    match code.and_then(char::from_u32) {
        Some('\n') => out.push_str("\\n"),
        Some(c @ ('"' | '\\')) => out.extend(['\\', c]),
        Some(c) => out.push(c),
        None => out.extend(['\\', '\\', c]),
    }
}

/// The number of exactly so many hexadecimal digits, which are then read.
fn hex(chars: &mut std::str::Chars<'_>, digits: usize) -> Option<u32> {
    let word = chars.as_str().get(..digits)?;
    if !word.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    *chars = chars.as_str()[digits..].chars();
    u32::from_str_radix(word, 16).ok()
}

/// The character of a pair of surrogates, of which the first was read.
fn joined(first: u32, chars: &mut std::str::Chars<'_>) -> u32 {
    let mut ahead = chars.clone();
    let is_escape = ahead.next() == Some('\\') && ahead.next() == Some('u');
    match (first, is_escape.then(|| hex(&mut ahead, 4)).flatten()) {
        (0xd800..=0xdbff, Some(second @ 0xdc00..=0xdfff)) => {
            *chars = ahead;
            0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
        }
        _ => first,
    }
}

/// The number of up to three octal digits, of which the first was read.
fn octal(first: char, chars: &mut std::str::Chars<'_>) -> u32 {
    let mut code = first.to_digit(8).unwrap_or(0);
    for _ in 0..2 {
        let Some(digit) = chars.as_str().chars().next().and_then(|c| c.to_digit(8)) else {
            break;
        };
        chars.next();
        code = code * 8 + digit;
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_no_change_has_none() {
        for source in [
            "plain { text } {",
            "{{ 'a' ~ \"b\" }}{# 'it' #}{%- if x -%}y{% endif %}",
            "{{ {'a': {'b': 1}} }} \"quoted\" {% raw %}{% generation %}'a' 'b'{% endraw %}",
            "{{ 'no end",
            "{% raw %} no end",
            "{{",
            "{%",
            "{#",
        ] {
            assert_eq!(translated(source).as_deref(), Ok(source));
        }
    }

    #[test]
    fn tags_and_literals_are_said_as_here() {
        for (source, expected) in [
            ("a\r\nb\rc", "a\nb\nc"),
            (
                "{%- generation -%}x{%endgeneration%}",
                "{%- with -%}x{%endwith%}",
            ),
            ("{% if generation %}", "{% if generation %}"),
            ("{{ 'a' 'b\"' }}", "{{ \"ab\\\"\" }}"),
            ("{{ 'a'\n'b' }}", "{{ \"ab\"\n }}"),
            ("{{ 'it\\'s' }}", "{{ \"it's\" }}"),
            ("{{ '\\d\\/' }}", "{{ \"\\\\d\\\\/\" }}"),
            (
                "{{ '\\x41\\u00e9\\U0001F600\\101' }}",
                "{{ \"A\u{e9}\u{1f600}A\" }}",
            ),
            ("{{ '\\ud83d\\ude00' }}", "{{ \"\u{1f600}\" }}"),
            ("{{ '}}' }}", "{{ '}}' }}"),
        ] {
            assert_eq!(translated(source).as_deref(), Ok(expected), "{source}");
        }
    }
}
