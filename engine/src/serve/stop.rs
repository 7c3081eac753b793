//! Stop strings: where a text ends although the model would go on.
//!
//! Text arrives in pieces, and a stop string may begin in one and end in another. The filter keeps
//! back what might still become a stop string, so that no part of one is ever given out. Where a
//! text is cut into pieces makes no difference: it ends at the first stop string that is complete.
//!
//! Control tokens are not part of the text that is shown, but a stop string may be written like one, or
//! hold one. A token that is not shown counts either as its whole text or as nothing.

use std::cmp::Reverse;

/// Finds the first of some strings in a text that arrives piece by piece.
#[derive(Debug, Clone, Default)]
pub(super) struct StopFilter {
    stops: Vec<String>,
    /// Beginnings of stop strings at the end of the text.
    begun: Vec<Begun>,
    /// Bytes at the end of the text that might still belong to a stop string.
    held: usize,
    /// Which of them came.
    found: Option<usize>,
}

/// The beginning of a stop string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Begun {
    /// Which of them.
    stop: usize,
    /// How many of its bytes have come.
    matched: usize,
    /// Bytes of text since it began.
    since: usize,
}

/// What a piece of text decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scan {
    /// Bytes of what was held and the piece, together, that no stop string will take. The others
    /// are held, or part of the stop string and behind it.
    pub clear: usize,
    /// Whether a stop string is complete: the text ends where it begins.
    pub stopped: bool,
}

impl StopFilter {
    /// A filter at the start of a text. Empty stop strings stop nothing.
    #[must_use]
    pub(super) fn new(stops: &[String]) -> StopFilter {
        StopFilter {
            stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(),
            ..StopFilter::default()
        }
    }

    /// The stop string that came.
    pub(super) fn found(&self) -> Option<&str> {
        self.found.map(|stop| self.stops[stop].as_str())
    }

    /// Whether there is nothing to look for: all text is clear at once.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.stops.is_empty()
    }

    /// Adds a piece of text.
    pub(super) fn push(&mut self, piece: &str) -> Scan {
        for (at, byte) in piece.bytes().enumerate() {
            self.begin();
            let stops = &self.stops;
            self.begun.retain_mut(|begun| {
                let fits = stops[begun.stop].as_bytes().get(begun.matched) == Some(&byte);
                begun.matched += 1;
                begun.since += 1;
                fits
            });
            if let Some(scan) = self.complete(self.held + at + 1) {
                return scan;
            }
        }
        self.scan(self.held + piece.len())
    }

    /// Adds a token that is not shown, by its text.
    pub(super) fn push_hidden(&mut self, token: &str) -> Scan {
        // Without it what has begun goes on all the same.
        let without = self.begun.clone();
        self.begin();
        let stops = &self.stops;
        self.begun.retain_mut(|begun| {
            let rest = stops[begun.stop].as_bytes().get(begun.matched..);
            begun.matched += token.len();
            !token.is_empty() && rest.is_some_and(|rest| rest.starts_with(token.as_bytes()))
        });
        if let Some(scan) = self.complete(self.held) {
            return scan;
        }
        self.begun.extend(without);
        // Of equals the one that began first is enough.
        self.begun
            .sort_by_key(|b| (b.stop, b.matched, Reverse(b.since)));
        self.begun.dedup_by_key(|b| (b.stop, b.matched));
        self.scan(self.held)
    }

    /// Every stop string may begin here.
    fn begin(&mut self) {
        let (matched, since) = (0, 0);
        self.begun.extend((0..self.stops.len()).map(|stop| Begun {
            stop,
            matched,
            since,
        }));
    }

    /// The end of the text where a stop string is complete at a place, counted from the first byte
    /// held. Of several the longest counts.
    fn complete(&mut self, at: usize) -> Option<Scan> {
        let is_whole = |begun: &&Begun| self.stops[begun.stop].len() == begun.matched;
        let whole = self.begun.iter().filter(is_whole);
        let Begun { stop, since, .. } = *whole.max_by_key(|begun| begun.since)?;
        self.found = Some(stop);
        self.begun.clear();
        self.held = 0;
        Some(Scan {
            clear: at - since,
            stopped: true,
        })
    }

    /// What is clear of a text whose end is at a place, counted from the first byte held.
    fn scan(&mut self, end: usize) -> Scan {
        self.held = self.begun.iter().map(|b| b.since).max().unwrap_or(0);
        Scan {
            clear: end - self.held,
            stopped: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text given out, and whether it was stopped.
    fn filtered(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|&s| s.to_owned()).collect();
        let mut filter = StopFilter::new(&stops);
        let (mut given, mut rest) = (String::new(), String::new());
        for piece in pieces {
            rest.push_str(piece);
            let scan = filter.push(piece);
            given.extend(rest.drain(..scan.clear));
            if scan.stopped {
                return (given, true);
            }
        }
        (given + &rest, false)
    }

    #[test]
    fn a_stop_string_ends_the_text_where_it_begins() {
        assert_eq!(filtered(&["\n"], &["a b", "c\nd"]), ("a bc".into(), true));
        assert_eq!(
            filtered(&["END"], &["x E", "N", "D y"]),
            ("x ".into(), true)
        );
        assert_eq!(
            filtered(&["END"], &["x E", "N", "C"]),
            ("x ENC".into(), false)
        );
        assert_eq!(
            filtered(&["END"], &["x E", "N"]),
            ("x EN".into(), false),
            "the end of the text decides what was held"
        );
        assert_eq!(filtered(&["aab"], &["aa", "ab"]), ("a".into(), true));
        assert_eq!(filtered(&["", "x"], &["ab"]), ("ab".into(), false));
        assert_eq!(filtered(&["né"], &["n", "é"]), (String::new(), true));
    }

    #[test]
    fn what_might_become_a_stop_string_is_held() {
        let mut filter = StopFilter::new(&["</s>".to_owned(), "éa".to_owned()]);
        let held = |clear| Scan {
            clear,
            stopped: false,
        };
        assert_eq!(filter.push("a <"), held(2));
        assert_eq!(filter.push("/s"), held(0));
        assert_eq!(filter.push("<"), held(3));
        assert_eq!(filter.push("é"), held(1), "two bytes are held");
        assert_eq!(filter.push("b"), held(3));
    }

    /// Pieces in angle brackets are tokens that are not shown.
    fn with_hidden(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|&s| s.to_owned()).collect();
        let mut filter = StopFilter::new(&stops);
        let (mut given, mut rest) = (String::new(), String::new());
        for piece in pieces {
            let scan = match piece.starts_with('<') {
                true => filter.push_hidden(piece),
                false => {
                    rest.push_str(piece);
                    filter.push(piece)
                }
            };
            given.extend(rest.drain(..scan.clear));
            if scan.stopped {
                return (given, true);
            }
        }
        (given + &rest, false)
    }

    #[test]
    fn a_token_that_is_not_shown_counts_whole_or_not_at_all() {
        let cases: [(&[&str], &[&str], &str, bool); 9] = [
            (&["<u>"], &["a", "<u>", "b"], "a", true),
            (&["\n<u>"], &["a\n", "<u>", "b"], "a", true),
            (&["<u>b"], &["a", "<u>", "b"], "a", true),
            (&["<u>b"], &["a", "<u>", "c"], "ac", false),
            (&["<u><v>"], &["a", "<u>", "<v>", "b"], "a", true),
            // Part of its text is no text.
            (&["u"], &["a", "<u>", "b"], "ab", false),
            (&["u>"], &["a", "<u>", "b"], "ab", false),
            // The text that is shown never holds a stop string.
            (&["ab"], &["xa", "<u>", "by"], "x", true),
            (&["a<v>b"], &["xa", "<u>", "<v>", "b"], "x", true),
        ];
        for (stops, pieces, text, stopped) in cases {
            let expected = (text.to_owned(), stopped);
            assert_eq!(
                with_hidden(stops, pieces),
                expected,
                "{stops:?}: {pieces:?}"
            );
        }
    }

    /// Where a text ends by the definition: after the first piece with which some pieces before it, any
    /// of those that are not shown left out, are a stop string.
    fn defined(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let shown = |pieces: &[&str]| -> String {
            pieces
                .iter()
                .filter(|p| !p.starts_with('<'))
                .copied()
                .collect()
        };
        for end in 1..=pieces.len() {
            for start in 0..end {
                for kept in 0..1u32 << (end - start) {
                    let range = (start..end)
                        .filter(|i| !pieces[*i].starts_with('<') || kept >> (i - start) & 1 == 1);
                    let read: String = range.map(|i| pieces[i]).collect();
                    if stops.contains(&read.as_str()) {
                        return (shown(&pieces[..start]), true);
                    }
                }
            }
        }
        (shown(pieces), false)
    }

    #[test]
    fn every_sequence_of_tokens_ends_by_the_definition() {
        let stops = ["ab", "a<u>a", "<u><u>b", "b<v>", "bb<u>a"];
        for stops in [&stops[..1], &stops[1..3], &stops[3..], &stops[..]] {
            for n in 0..4usize.pow(6) {
                let piece = |i| ["a", "b", "<u>", "<v>"][n / 4usize.pow(i) % 4];
                let pieces: Vec<&str> = (0..6).map(piece).collect();
                let found = with_hidden(stops, &pieces);
                assert_eq!(found, defined(stops, &pieces), "{stops:?}: {pieces:?}");
            }
        }
    }

    #[test]
    fn the_pieces_make_no_difference() {
        // Every text of some letters, cut in every way.
        let stops = ["aba", "bb", "abbb", "cab"];
        for n in 0..3usize.pow(6) {
            let text: String = (0..6)
                .map(|i| ["a", "b", "c"][n / 3usize.pow(i) % 3])
                .collect();
            let letters: Vec<&str> = text.split_inclusive(|_| true).collect();
            let expected = filtered(&stops, &letters);
            assert_eq!(expected.1, stops.iter().any(|s| text.contains(s)), "{text}");
            assert!(stops.iter().all(|s| !expected.0.contains(s)), "{text}");
            for cuts in 0..1 << 5 {
                let mut pieces = vec![String::new()];
                for (i, letter) in letters.iter().enumerate() {
                    pieces.last_mut().expect("one piece").push_str(letter);
                    if cuts >> i & 1 == 1 {
                        pieces.push(String::new());
                    }
                }
                let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
                assert_eq!(filtered(&stops, &pieces), expected, "{pieces:?}");
            }
        }
    }
}
