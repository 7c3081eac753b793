//! Stop strings: where a text ends although the model would go on.
//!
//! Text arrives in pieces, and a stop string may begin in one and end in another. The filter keeps
//! back what might still become a stop string, so that no part of one is ever given out. Where a
//! text is cut into pieces makes no difference: it ends at the first stop string that is complete.

/// Finds the first of some strings in a text that arrives piece by piece.
#[derive(Debug, Clone, Default)]
pub(super) struct StopFilter {
    stops: Vec<String>,
    /// The end of the text that might still become a stop string.
    held: String,
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
            held: String::new(),
        }
    }

    /// Whether there is nothing to look for: all text is clear at once.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.stops.is_empty()
    }

    /// Adds a piece of text.
    pub(super) fn push(&mut self, piece: &str) -> Scan {
        self.held.push_str(piece);
        let matches = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        // The one that is complete first; of those, the longest.
        let scan = match matches.min() {
            Some((_, start)) => Scan {
                clear: start,
                stopped: true,
            },
            None => Scan {
                clear: self.held.len() - self.possible(),
                stopped: false,
            },
        };
        if scan.stopped {
            self.held.clear();
        } else {
            self.held.drain(..scan.clear);
        }
        scan
    }

    /// Bytes at the end of the text held that begin a stop string.
    fn possible(&self) -> usize {
        let longest = |stop: &String| {
            let begins = |&n: &usize| self.held.ends_with(&stop[..n]);
            stop.char_indices().map(|(n, _)| n).rev().find(begins)
        };
        self.stops.iter().filter_map(longest).max().unwrap_or(0)
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
