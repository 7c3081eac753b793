//! From chosen tokens to what a caller gets: text, events, stop strings.
//!
//! One [`Output`] a sequence, whoever runs it. Always holds: the tokens and the text of the finished
//! [`Generation`] are exactly those of the events; a token of which any text might still belong to a
//! stop string has had no event.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::serve::session::{Event, Finish, GenerateOptions, Generation};
use crate::serve::stop::StopFilter;
use crate::text::tokenizer::{DecodeOptions, StreamState, Tokenizer};

/// Gets the events of one sequence; breaking ends it.
pub(crate) type OnEvent<'a> = dyn FnMut(Event<'_>) -> ControlFlow<()> + 'a;

/// A token and the text that it completes.
struct Piece {
    id: u32,
    text: String,
    /// The text of a token that is not shown.
    hidden: Option<String>,
    /// More text of a token that had a piece already.
    more: bool,
}

impl Piece {
    /// A token with the text that it completes.
    fn shown(id: u32, text: String) -> Piece {
        Piece {
            id,
            text,
            hidden: None,
            more: false,
        }
    }
}

/// Collects tokens and text of a generation.
pub(crate) struct Output {
    decoder: StreamState,
    filter: StopFilter,
    /// What waits for the filter.
    held: VecDeque<Piece>,
    /// Bytes at the start of the text held that the filter has cleared.
    clear: usize,
    ignore_eog: bool,
    stop_tokens: Vec<u32>,
    shown_tokens: Vec<u32>,
    max_tokens: usize,
    /// Tokens of the prompt and those generated, held ones included; not a token that ended the text.
    history: Vec<u32>,
    prompt_tokens: usize,
    tokens: Vec<u32>,
    text: String,
    finish: Option<Finish>,
    start: Instant,
    prompt_time: Option<Duration>,
}

impl Output {
    pub(crate) fn new(prompt: &[u32], options: &GenerateOptions) -> Output {
        Output {
            decoder: StreamState::continuing(DecodeOptions::default()),
            filter: StopFilter::new(&options.stop),
            held: VecDeque::new(),
            clear: 0,
            ignore_eog: options.ignore_eog,
            stop_tokens: options.stop_tokens.clone(),
            shown_tokens: options.shown_tokens.clone(),
            max_tokens: options.max_tokens,
            history: prompt.to_vec(),
            prompt_tokens: prompt.len(),
            tokens: Vec::new(),
            text: String::new(),
            finish: (options.max_tokens == 0).then_some(Finish::Length),
            start: Instant::now(),
            prompt_time: None,
        }
    }

    /// Whether it goes on after a token that ends the text.
    pub(crate) fn ignores_ends(&self) -> bool {
        self.ignore_eog
    }

    /// Tokens of the prompt and those generated.
    pub(crate) fn history(&self) -> &[u32] {
        &self.history
    }

    /// Tokens of the prompt.
    pub(crate) fn prompt(&self) -> &[u32] {
        &self.history[..self.prompt_tokens]
    }

    /// Tokens that were chosen.
    pub(crate) fn generated(&self) -> usize {
        self.history.len() - self.prompt_tokens
    }

    /// Tokens that may still be generated.
    pub(crate) fn remaining(&self) -> usize {
        self.max_tokens - self.generated()
    }

    /// Why the sequence is over, once it is.
    pub(crate) fn finished(&self) -> Option<Finish> {
        self.finish
    }

    /// Ends the sequence, unless it has.
    pub(crate) fn end(&mut self, finish: Finish) {
        self.finish.get_or_insert(finish);
    }

    /// Ends the sequence with the token that was pushed last: it is complete, even where that was also the
    /// last that it may have.
    pub(crate) fn complete(&mut self) {
        if matches!(self.finish, None | Some(Finish::Length)) {
            self.finish = Some(Finish::EndOfText);
        }
    }

    /// Adds a chosen token. Breaks when the sequence is over with it.
    pub(crate) fn push(
        &mut self,
        tokenizer: &Tokenizer,
        token: u32,
        on_event: &mut OnEvent<'_>,
    ) -> ControlFlow<()> {
        self.prompt_time.get_or_insert_with(|| self.start.elapsed());
        let hidden = tokenizer.hidden_text(token);
        if self.stop_tokens.contains(&token) {
            self.give_rest(on_event);
            self.end(Finish::StopString);
            return ControlFlow::Break(());
        }
        if tokenizer.is_eog(token) && !self.ignore_eog {
            self.end_with(hidden, on_event);
            return ControlFlow::Break(());
        }
        self.history.push(token);
        let is_shown = self.shown_tokens.contains(&token);
        let text = self.decoder.push_as(tokenizer, token, is_shown);
        let piece = Piece::shown(token, text);
        let hidden = hidden.filter(|_| !is_shown).map(str::to_owned);
        self.add(Piece { hidden, ..piece }, on_event);
        if self.remaining() == 0 {
            self.end(Finish::Length);
        }
        match self.finish {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    }

    /// Gives out what is left and sums up.
    pub(crate) fn into_generation(mut self, on_event: &mut OnEvent<'_>) -> Generation {
        self.end(Finish::Length);
        let elapsed = self.start.elapsed();
        let is_whole = |f| matches!(f, Finish::Length | Finish::Context | Finish::EndOfText);
        if self.finish.is_some_and(is_whole) {
            self.give_rest(on_event);
        }
        let prompt_time = self.prompt_time.unwrap_or(elapsed);
        // The end of a text may be one too, and is no stop string where nothing stood in front of it.
        let stop = self.filter.found();
        let stop = stop.filter(|_| self.finish == Some(Finish::StopString));
        Generation {
            prompt_tokens: self.prompt_tokens,
            cached_tokens: 0,
            tokens: self.tokens,
            text: self.text,
            finish: self.finish.unwrap_or(Finish::Length),
            stop: stop.map(str::to_owned),
            prompt_time,
            decode_time: elapsed.saturating_sub(prompt_time),
        }
    }

    /// One event.
    fn give(&mut self, piece: &Piece, on_event: &mut OnEvent<'_>) -> ControlFlow<()> {
        if !piece.more {
            self.tokens.push(piece.id);
        }
        self.text.push_str(&piece.text);
        let flow = on_event(Event::Token {
            id: piece.id,
            text: &piece.text,
        });
        if flow.is_break() {
            self.finish = Some(Finish::Stopped);
        }
        flow
    }

    /// Gives a piece out, or lets the filter see it and gives out what that clears.
    fn add(&mut self, piece: Piece, on_event: &mut OnEvent<'_>) {
        if self.filter.is_empty() {
            // The flow is kept as the reason of the end.
            let _ = self.give(&piece, on_event);
            return;
        }
        let scan = match &piece.hidden {
            Some(hidden) => self.filter.push_hidden(hidden),
            None => self.filter.push(&piece.text),
        };
        self.clear += scan.clear;
        self.held.push_back(piece);
        if scan.stopped {
            self.finish = Some(Finish::StopString);
            self.give_before_stop(on_event);
        } else {
            self.give_clear(on_event);
        }
    }

    /// The model ended the text, by a token that may be the end of a stop string.
    fn end_with(&mut self, hidden: Option<&str>, on_event: &mut OnEvent<'_>) {
        let held: usize = self.held.iter().map(|piece| piece.text.len()).sum();
        let scan = hidden.map(|hidden| self.filter.push_hidden(hidden));
        match scan.filter(|scan| scan.stopped && self.clear + scan.clear < held) {
            Some(scan) => {
                self.clear += scan.clear;
                self.finish = Some(Finish::StopString);
                self.give_before_stop(on_event);
            }
            None => self.end(Finish::EndOfText),
        }
    }

    /// Gives out whole pieces that are clear. A piece without text may be the first bytes of a stop
    /// string's character: it waits for the next one that has some.
    fn give_clear(&mut self, on_event: &mut OnEvent<'_>) {
        let (mut end, mut ready) = (0, 0);
        for (i, piece) in self.held.iter().enumerate() {
            end += piece.text.len();
            if end <= self.clear && !piece.text.is_empty() {
                ready = i + 1;
            }
        }
        let pieces: Vec<Piece> = self.held.drain(..ready).collect();
        for piece in pieces {
            self.clear -= piece.text.len();
            if self.give(&piece, on_event).is_break() {
                break;
            }
        }
    }

    /// Gives out what begins before the stop string, up to there, and drops the rest.
    fn give_before_stop(&mut self, on_event: &mut OnEvent<'_>) {
        for mut piece in std::mem::take(&mut self.held) {
            piece.text.truncate(self.clear);
            if self.clear == 0 {
                break;
            }
            self.clear -= piece.text.len();
            if self.give(&piece, on_event).is_break() {
                break;
            }
        }
    }

    /// The end of the text: nothing can become a stop string any more.
    fn give_rest(&mut self, on_event: &mut OnEvent<'_>) {
        let text = self.decoder.finish();
        if let (false, Some(&id)) = (text.is_empty(), self.history.last()) {
            let more = true;
            let piece = Piece::shown(id, text);
            self.add(Piece { more, ..piece }, on_event);
        }
        for piece in std::mem::take(&mut self.held) {
            if self.give(&piece, on_event).is_break() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(stop: &[&str]) -> GenerateOptions {
        GenerateOptions {
            stop: stop.iter().map(|&s| s.to_owned()).collect(),
            ..GenerateOptions::default()
        }
    }

    /// What the events and the generation give for pieces of text, a token each.
    fn given(stop: &[&str], pieces: &[&str]) -> (Vec<(u32, String)>, Generation) {
        let mut events = Vec::new();
        let mut on_event = |event: Event<'_>| {
            if let Event::Token { id, text } = event {
                events.push((id, text.to_owned()));
            }
            ControlFlow::Continue(())
        };
        let mut output = Output::new(&[0], &options(stop));
        for (id, text) in (0..).zip(pieces) {
            output.add(Piece::shown(id, text.to_string()), &mut on_event);
            if output.finished().is_some() {
                break;
            }
        }
        let generation = output.into_generation(&mut on_event);
        (events, generation)
    }

    fn events(of: &[(u32, &str)]) -> Vec<(u32, String)> {
        of.iter().map(|&(id, t)| (id, t.to_owned())).collect()
    }

    #[test]
    fn tokens_of_a_stop_string_are_not_given_out() {
        let (found, generation) = given(&["STOP"], &["a", " b S", "T", "OP c", "d"]);
        assert_eq!(found, events(&[(0, "a"), (1, " b ")]));
        assert_eq!(generation.tokens, [0, 1]);
        assert_eq!(generation.text, "a b ");
        assert_eq!(generation.finish, Finish::StopString);
        assert_eq!(generation.stop.as_deref(), Some("STOP"));
    }

    #[test]
    fn the_longest_stop_string_that_is_complete_is_named() {
        let (_, generation) = given(&["b", "a b", "x"], &["a", " ", "b"]);
        assert_eq!(generation.stop.as_deref(), Some("a b"));
        let (_, generation) = given(&["b", "a bc"], &["a", " ", "b", "c"]);
        assert_eq!(generation.stop.as_deref(), Some("b"));
    }

    #[test]
    fn tokens_held_in_vain_come_whole_and_in_order() {
        let (found, generation) = given(&["STOP"], &["a S", "T", "O", "x", "ST"]);
        let all = events(&[(0, "a S"), (1, "T"), (2, "O"), (3, "x"), (4, "ST")]);
        assert_eq!(found, all);
        assert_eq!(generation.text, "a STOxST");
        assert_eq!(generation.finish, Finish::Length);
        assert_eq!(generation.stop, None);
    }

    /// The tokens of a character that begins the stop string have no text but the last.
    #[test]
    fn tokens_without_text_wait_for_the_next() {
        let (found, generation) = given(&["\u{e9}!"], &["a", "", "", "\u{e9}", "!"]);
        assert_eq!(found, events(&[(0, "a")]));
        assert_eq!(generation.tokens, [0]);
        let (found, _) = given(&["\u{e9}!"], &["a", "", "\u{e9}", "b", ""]);
        let all = [(0, "a"), (1, ""), (2, "\u{e9}"), (3, "b"), (4, "")];
        assert_eq!(found, events(&all));
        // Without stop strings nothing waits.
        let (found, generation) = given(&[], &["a", "", "b"]);
        assert_eq!(found, events(&[(0, "a"), (1, ""), (2, "b")]));
        assert_eq!(generation.tokens, [0, 1, 2]);
    }

    /// A text of pieces, those in angle brackets not shown, that ends with the token `end` if there is one.
    fn with_hidden(stop: &[&str], pieces: &[&str], end: Option<&str>) -> Generation {
        let mut on_event = |_: Event<'_>| ControlFlow::Continue(());
        let mut output = Output::new(&[0], &options(stop));
        for (id, &text) in (0..).zip(pieces) {
            let is_hidden = text.starts_with('<');
            let shown = if is_hidden { "" } else { text };
            let hidden = is_hidden.then(|| text.to_owned());
            let piece = Piece::shown(id, shown.to_owned());
            output.add(Piece { hidden, ..piece }, &mut on_event);
            if output.finished().is_some() {
                return output.into_generation(&mut on_event);
            }
        }
        if end.is_some() {
            output.end_with(end, &mut on_event);
        }
        output.into_generation(&mut on_event)
    }

    #[test]
    fn tokens_that_are_not_shown_can_stop_a_text() {
        let pieces = ["Hello", " there", "<u>", " more"];
        let cases: [(&str, &str, &[u32], Finish); 4] = [
            ("<u>", "Hello there", &[0, 1], Finish::StopString),
            (" there<u>", "Hello", &[0], Finish::StopString),
            ("e<u> m", "Hello ther", &[0, 1], Finish::StopString),
            ("u", "Hello there more", &[0, 1, 2, 3], Finish::Length),
        ];
        for (stop, text, tokens, finish) in cases {
            let found = with_hidden(&[stop], &pieces, None);
            assert_eq!(
                (found.text.as_str(), found.finish),
                (text, finish),
                "{stop}"
            );
            assert_eq!(found.tokens, tokens, "{stop}");
        }
    }

    /// The token that ends a text can be the end of a stop string that began before it.
    #[test]
    fn the_end_of_a_text_can_complete_a_stop_string() {
        let cases = [
            ("<e>", "xa", Finish::EndOfText),
            ("a<e>", "x", Finish::StopString),
            ("b<e>", "xa", Finish::EndOfText),
            ("a<e>b", "xa", Finish::EndOfText),
        ];
        for (stop, text, finish) in cases {
            let found = with_hidden(&[stop], &["x", "a"], Some("<e>"));
            let named = (finish == Finish::StopString).then_some(stop);
            assert_eq!(found.stop.as_deref(), named, "{stop}");
            assert_eq!(
                (found.text.as_str(), found.finish),
                (text, finish),
                "{stop}"
            );
        }
    }

    #[test]
    fn a_callback_that_breaks_has_seen_everything_there_is() {
        let mut output = Output::new(&[0], &options(&["zz"]));
        let mut seen = 0;
        let mut on_event = |_: Event<'_>| {
            seen += 1;
            ControlFlow::Break(())
        };
        let mut add = |id, text: &str| {
            output.add(Piece::shown(id, text.to_owned()), &mut on_event);
        };
        add(1, "az");
        add(2, "b");
        let generation = output.into_generation(&mut on_event);
        assert_eq!((seen, generation.finish), (1, Finish::Stopped));
        assert_eq!(
            (generation.tokens, generation.text),
            (vec![1], "az".to_owned())
        );
    }

    /// Any cutting of any text into tokens gives the text up to the stop string, and the tokens that
    /// begin before it.
    #[test]
    fn any_tokens_of_a_text_give_the_same_text() {
        let text = "the cat's hat, the rat's mat; that";
        for stop in ["hat", "t,", "t's m", "at; ", "that", "zzz", "the"] {
            let end = text.find(stop).unwrap_or(text.len());
            for seed in 1..200u64 {
                let (mut pieces, mut rest, mut state) = (Vec::new(), text, seed);
                while !rest.is_empty() {
                    state = state.wrapping_mul(6_364_136_223_846_793_005) + 1;
                    let (piece, after) =
                        rest.split_at(((state >> 40) as usize % 6).min(rest.len()));
                    pieces.push(piece);
                    rest = after;
                }
                let (found, generation) = given(&[stop], &pieces);
                let joined: String = found.iter().map(|(_, text)| text.as_str()).collect();
                assert_eq!(
                    (joined.as_str(), generation.text.as_str()),
                    (&text[..end], &text[..end])
                );
                let ids: Vec<u32> = found.iter().map(|&(id, _)| id).collect();
                assert_eq!(ids, generation.tokens);
                let mut at = 0;
                let begins = pieces.iter().take_while(|piece| {
                    at += piece.len();
                    at - piece.len() < end || end == text.len()
                });
                assert_eq!(ids.len(), begins.count(), "{stop} in {pieces:?}");
            }
        }
    }
}
