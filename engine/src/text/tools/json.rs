//! JSON read character by character: whether what has come may still become a value.

/// The deepest nesting that is followed.
const DEEPEST: usize = 120;

/// What may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A value.
    Value,
    /// The first item of a list, or its end.
    FirstItem,
    /// The first key of an object, or its end.
    FirstKey,
    /// A key.
    Key,
    /// The colon behind a key.
    Colon,
    /// A comma, or the end of what is open; behind the outermost value only white space.
    Behind,
    /// More of a string.
    Text { is_key: bool },
    /// What a backslash escapes.
    Escape { is_key: bool },
    /// Hexadecimal digits: those to come, and the number so far.
    Hex { is_key: bool, left: u8, code: u32 },
    /// The second half of a character in two: its backslash, or its `u`.
    Low { is_key: bool, has_slash: bool },
    /// More of a number.
    Number(Digits),
    /// More of a word.
    Word(&'static str),
}

/// Where in a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Digits {
    Minus,
    Zero,
    Whole,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

impl Digits {
    /// After one more character, if it is part of the number.
    fn after(self, c: char) -> Option<Digits> {
        use Digits::{E, Exponent, Fraction, Minus, Point, Sign, Whole, Zero};
        Some(match (self, c) {
            (Minus, '0') => Zero,
            (Minus, '1'..='9') | (Whole, '0'..='9') => Whole,
            (Zero | Whole, '.') => Point,
            (Point | Fraction, '0'..='9') => Fraction,
            (Zero | Whole | Fraction, 'e' | 'E') => E,
            (E, '+' | '-') => Sign,
            (E | Sign | Exponent, '0'..='9') => Exponent,
            _ => return None,
        })
    }

    fn may_end(self) -> bool {
        use Digits::{Exponent, Fraction, Whole, Zero};
        matches!(self, Zero | Whole | Fraction | Exponent)
    }
}

/// A value under way.
#[derive(Debug, Clone)]
pub(super) struct Json {
    /// Whether each of what is open is an object.
    open: Vec<bool>,
    next: Next,
    /// Half of a character in two.
    high: bool,
}

/// The text is no JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotJson;

impl Json {
    pub(super) fn new() -> Json {
        Json {
            open: Vec::new(),
            next: Next::Value,
            high: false,
        }
    }

    /// Objects and lists that are open.
    pub(super) fn depth(&self) -> usize {
        self.open.len()
    }

    /// Whether a value is to begin.
    pub(super) fn awaits_value(&self) -> bool {
        self.next == Next::Value
    }

    /// Whether it is inside of a key.
    pub(super) fn is_in_key(&self) -> bool {
        use Next::{Escape, Hex, Low, Text};
        matches!(
            self.next,
            Text { is_key: true }
                | Escape { is_key: true }
                | Hex { is_key: true, .. }
                | Low { is_key: true, .. }
        )
    }

    /// Whether a value, or all there is, is complete at this depth.
    pub(super) fn is_behind_value(&self) -> bool {
        self.next == Next::Behind
    }

    /// Takes a character.
    pub(super) fn push(&mut self, c: char) -> Result<(), NotJson> {
        if let Next::Number(digits) = self.next {
            if let Some(digits) = digits.after(c) {
                self.next = Next::Number(digits);
                return Ok(());
            }
            if !digits.may_end() {
                return Err(NotJson);
            }
            self.next = Next::Behind;
        }
        let is_between = matches!(
            self.next,
            Next::Value | Next::FirstItem | Next::FirstKey | Next::Key | Next::Colon | Next::Behind
        );
        if is_between && matches!(c, ' ' | '\n' | '\r' | '\t') {
            return Ok(());
        }
        self.next = match (self.next, c) {
            (Next::FirstItem, ']') | (Next::FirstKey, '}') => self.close(c)?,
            (Next::Value | Next::FirstItem, _) => self.begin(c)?,
            (Next::FirstKey | Next::Key, '"') => Next::Text { is_key: true },
            (Next::Colon, ':') => Next::Value,
            (Next::Behind, ',') => match self.open.last() {
                Some(true) => Next::Key,
                Some(false) => Next::Value,
                None => return Err(NotJson),
            },
            (Next::Behind, ']' | '}') => self.close(c)?,
            (Next::Word(rest), _) => match rest.strip_prefix(c) {
                Some("") => Next::Behind,
                Some(rest) => Next::Word(rest),
                None => return Err(NotJson),
            },
            (Next::Text { is_key }, _) => text(c, is_key)?,
            (Next::Escape { is_key }, _) => escape(c, is_key)?,
            (Next::Hex { is_key, left, code }, _) => self.hex(c, is_key, left, code)?,
            (Next::Low { is_key, has_slash }, _) => match (has_slash, c) {
                (false, '\\') => Next::Low {
                    is_key,
                    has_slash: true,
                },
                (true, 'u') => Next::Hex {
                    is_key,
                    left: 4,
                    code: 0,
                },
                _ => return Err(NotJson),
            },
            _ => return Err(NotJson),
        };
        Ok(())
    }

    fn begin(&mut self, c: char) -> Result<Next, NotJson> {
        Ok(match c {
            '{' | '[' => {
                if self.open.len() >= DEEPEST {
                    return Err(NotJson);
                }
                self.open.push(c == '{');
                match c {
                    '{' => Next::FirstKey,
                    _ => Next::FirstItem,
                }
            }
            '"' => Next::Text { is_key: false },
            '-' => Next::Number(Digits::Minus),
            '0' => Next::Number(Digits::Zero),
            '1'..='9' => Next::Number(Digits::Whole),
            't' => Next::Word("rue"),
            'f' => Next::Word("alse"),
            'n' => Next::Word("ull"),
            _ => return Err(NotJson),
        })
    }

    fn close(&mut self, c: char) -> Result<Next, NotJson> {
        match self.open.pop() {
            Some(is_object) if is_object == (c == '}') => Ok(Next::Behind),
            Some(_) | None => Err(NotJson),
        }
    }

    fn hex(&mut self, c: char, is_key: bool, left: u8, code: u32) -> Result<Next, NotJson> {
        let code = code << 4 | c.to_digit(16).ok_or(NotJson)?;
        if left > 1 {
            let left = left - 1;
            return Ok(Next::Hex { is_key, left, code });
        }
        let was_high = std::mem::take(&mut self.high);
        match (was_high, code) {
            (false, 0xd800..=0xdbff) => {
                self.high = true;
                Ok(Next::Low {
                    is_key,
                    has_slash: false,
                })
            }
            (true, 0xdc00..=0xdfff) => Ok(Next::Text { is_key }),
            (true, _) | (false, 0xdc00..=0xdfff) => Err(NotJson),
            (false, _) => Ok(Next::Text { is_key }),
        }
    }
}

fn text(c: char, is_key: bool) -> Result<Next, NotJson> {
    match c {
        '"' if is_key => Ok(Next::Colon),
        '"' => Ok(Next::Behind),
        '\\' => Ok(Next::Escape { is_key }),
        '\0'..='\x1f' => Err(NotJson),
        _ => Ok(Next::Text { is_key }),
    }
}

fn escape(c: char, is_key: bool) -> Result<Next, NotJson> {
    match c {
        'u' => Ok(Next::Hex {
            is_key,
            left: 4,
            code: 0,
        }),
        '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' => Ok(Next::Text { is_key }),
        _ => Err(NotJson),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a text is a value; `None` where it may become one.
    fn is_value(text: &str) -> Option<bool> {
        let mut json = Json::new();
        for c in text.chars() {
            if json.push(c).is_err() {
                return Some(false);
            }
        }
        let ends = json.depth() == 0 && json.is_behind_value();
        // A number may go on, and may end.
        let number = matches!(json.next, Next::Number(digits) if digits.may_end());
        (ends || number && json.depth() == 0).then_some(true)
    }

    #[test]
    fn values_are_those_of_serde() {
        let values = [
            "{}",
            "[]",
            "[1,2]",
            r#"{"a":[{"b":null}],"c":"\u00e9\ud83e\udd80"}"#,
            "-0.5e+10",
            "true",
            " [ 1 , -2.0 ] ",
            r#""a\"b""#,
            "0",
            "1e5",
            r#"{"":{}}"#,
        ];
        let others = [
            "{,}",
            "[1,]",
            "01",
            "1.",
            "-",
            r#"{"a"}"#,
            r#"{"a":1,}"#,
            "tru",
            r#""\ud800x""#,
            r#""\udc00""#,
            "\"\n\"",
            r#""\x""#,
            "[}",
            "]",
            "nul",
            "1e",
            "[1 2]",
            r#"{1:2}"#,
            r#""\ud83e\u0041""#,
            "{} {}",
            "+1",
        ];
        for text in values {
            assert!(serde_json::from_str::<serde_json::Value>(text).is_ok());
            assert_eq!(is_value(text), Some(true), "{text}");
        }
        for text in others {
            assert!(serde_json::from_str::<serde_json::Value>(text).is_err());
            assert_ne!(is_value(text), Some(true), "{text}");
        }
    }

    #[test]
    fn edited_values_are_judged_as_serde_judges_them() {
        let seeds = [
            r#"{"a": [1, -2.5e3, true, {"b": "x\n\u0041"}], "": null}"#,
            r#"[[], {}, "\ud83e\udd80", 0, 10, false]"#,
        ];
        let letters: Vec<char> = r#"{}[]",:\ue01-+.tn "#.chars().collect();
        let mut state = 7u64;
        let mut random = |n: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(11);
            (state >> 33) as usize % n
        };
        for round in 0..20_000 {
            let mut text: Vec<char> = seeds[round % 2].chars().collect();
            for _ in 0..1 + random(2) {
                let at = random(text.len());
                match random(3) {
                    0 => {
                        text.remove(at);
                    }
                    1 => text.insert(at, letters[random(letters.len())]),
                    _ => text[at] = letters[random(letters.len())],
                }
            }
            let text: String = text.into_iter().collect();
            let is_json = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            assert_eq!(is_value(&text) == Some(true), is_json, "{text}");
        }
    }
}
