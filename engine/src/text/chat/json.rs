//! JSON to a template's values, exactly: numbers as Python's `json.loads` reads them.
//!
//! A general reader would do but for its numbers: integers here keep all digits (to 128 bits), and
//! floats are the nearest ones, so that a template writes what the caller wrote.

use minijinja::value::Value;

/// How deep arrays and objects may stand in each other.
const MOST_DEPTH: usize = 100;

/// The value that a JSON text stands for.
///
/// # Errors
/// What is wrong, with the byte where.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(0)?;
    reader.skip_space();
    match reader.at == text.len() {
        true => Ok(value),
        false => Err(reader.wrong("something follows the value")),
    }
}

/// As [`parse`], of what must be an object.
pub(super) fn parse_object(text: &str) -> Result<Value, String> {
    match text.trim_start().starts_with('{') {
        true => parse(text),
        false => Err("not a JSON object".to_owned()),
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl Reader<'_> {
    fn wrong(&self, what: &str) -> String {
        format!("not JSON: {what} at byte {}", self.at)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Whether the next byte is this one, which is then read.
    fn takes(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        self.skip_space();
        match self.peek() {
            Some(b'{' | b'[') if depth == MOST_DEPTH => Err(self.wrong("too deep a structure")),
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(Value::from),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => self.word(),
            None => Err(self.wrong("the text ends")),
        }
    }

    fn word(&mut self) -> Result<Value, String> {
        let words = [
            ("true", Value::from(true)),
            ("false", Value::from(false)),
            ("null", Value::from(())),
        ];
        let rest = &self.text[self.at..];
        for (word, value) in words {
            if rest.starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.wrong("no value"))
    }

    fn array(&mut self, depth: usize) -> Result<Value, String> {
        self.at += 1;
        let mut items = Vec::new();
        self.skip_space();
        if self.takes(b']') {
            return Ok(Value::from(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.skip_space();
            if self.takes(b']') {
                return Ok(Value::from(items));
            }
            if !self.takes(b',') {
                return Err(self.wrong("no comma and no end of the array"));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, String> {
        self.at += 1;
        let mut pairs: Vec<(String, Value)> = Vec::new();
        self.skip_space();
        if self.takes(b'}') {
            return Ok(Value::from_pairs(pairs));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.wrong("no key"));
            }
            let key = self.string()?;
            self.skip_space();
            if !self.takes(b':') {
                return Err(self.wrong("no colon"));
            }
            let value = self.value(depth + 1)?;
            pairs.push((key, value));
            self.skip_space();
            if self.takes(b'}') {
                return Ok(Value::from_pairs(pairs));
            }
            if !self.takes(b',') {
                return Err(self.wrong("no comma and no end of the object"));
            }
        }
    }

    /// A string; the general reader knows its escapes.
    fn string(&mut self) -> Result<String, String> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut end = start + 1;
        loop {
            match bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => end += 2,
                Some(_) => end += 1,
                None => return Err(self.wrong("a string without an end")),
            }
        }
        let quoted = &self.text[start..=end];
        let text = serde_json::from_str(quoted).map_err(|_| self.wrong("a string that is none"))?;
        self.at = end + 1;
        Ok(text)
    }

    fn number(&mut self) -> Result<Value, String> {
        let rest = &self.text[self.at..];
        let is_part = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E');
        let word = &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())];
        // The general reader knows which spellings are numbers.
        if serde_json::from_str::<serde::de::IgnoredAny>(word).is_err() {
            return Err(self.wrong("a number that is none"));
        }
        let value = match word.contains(['.', 'e', 'E']) {
            true => word.parse::<f64>().map(Value::from).ok(),
            false => integer(word),
        };
        let value = value.ok_or_else(|| self.wrong("too large a number"))?;
        self.at += word.len();
        Ok(value)
    }
}

/// The value of a whole number's digits.
fn integer(word: &str) -> Option<Value> {
    let small = word.parse::<i64>().map(Value::from);
    let large = || word.parse::<i128>().map(Value::from);
    let largest = || word.parse::<u128>().map(Value::from);
    small.or_else(|_| large()).or_else(|_| largest()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_what_they_are() {
        let shown = |text: &str| parse(text).map(|value| value.to_string());
        for number in ["0", "-7", "1.5", "123456789012345678901234567890", "0.1"] {
            assert_eq!(shown(number).as_deref(), Ok(number));
        }
        assert_eq!(shown("1.0").as_deref(), Ok("1.0"));
        assert!(parse(&"9".repeat(60)).is_err());
        for wrong in ["01", "1.", "-", "+1", ".5", "1e", "0x1", "1_0", "--1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused_where_it_stands() {
        let wrong = [
            "",
            "{",
            "[1",
            "[1,]",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "nul",
            "[1] 2",
            "\"a",
            "\"\\",
            "\"\\q\"",
            "\"a\nb\"",
            "{\"a\":1,}",
            "\"\\ud800\"",
            "\"\\u00e9",
            "\"\\\u{e9}\"",
        ];
        for text in wrong {
            let problem = parse(text).unwrap_err();
            assert!(problem.contains("at byte"), "{text:?}: {problem}");
        }
        assert!(parse(&"[".repeat(100_000)).unwrap_err().contains("deep"));
    }

    #[test]
    fn keys_keep_their_order_and_the_last_of_two_counts() {
        let value = parse("{\"b\": 1, \"a\": [true, null], \"b\": 2}").unwrap();
        assert_eq!(value.to_string(), "{'b': 2, 'a': [True, None]}");
    }
}
