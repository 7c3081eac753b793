//! Requests on their way in: with their grammar compiled, and with the tokens that may come next found out
//! while a step runs.

use std::collections::HashSet;
use std::time::Instant;

use rayon::prelude::*;

use super::core::Core;
use super::live::Live;
use super::request::Request;
use crate::Error;
use crate::model::Model;
use crate::serve::scheduler::RequestId;
use crate::text::grammar::Matcher;

/// A request as it comes.
pub struct Submitted {
    /// What the listener knows it by; never used again for another.
    pub key: u64,
    /// What is asked for.
    pub request: Request,
    /// When it was.
    pub at: Instant,
    /// Its grammar at the start of the text, where it was compiled already.
    pub matcher: Option<Result<Matcher, Error>>,
}

impl Submitted {
    /// A request that comes now.
    #[must_use]
    pub fn now(key: u64, request: Request) -> Submitted {
        Submitted {
            key,
            request,
            at: Instant::now(),
            matcher: None,
        }
    }

    /// The same with its grammar compiled: what takes time is then done.
    #[must_use]
    pub fn compiled(self, model: &Model) -> Submitted {
        let matcher = self.request.grammar.as_ref().map(|g| model.matcher(g));
        Submitted { matcher, ..self }
    }
}

impl Core {
    /// Finds out which tokens may come next in texts with a grammar, while the step runs that gives their
    /// logits.
    pub(super) fn prepare_choices(&mut self) {
        let wanted = self.in_flight.iter().flat_map(|flight| &flight.wanted);
        let wanted: HashSet<RequestId> = wanted.map(|row| row.request).collect();
        let unprepared = |(id, live): &(&RequestId, &mut Live)| wanted.contains(id) && live.waits();
        let live = self.live.iter_mut().filter(unprepared);
        let mut live: Vec<&mut Live> = live.map(|(_, live)| live).collect();
        match live.as_mut_slice() {
            [] => {}
            [one] => one.prepare(),
            many => many.par_iter_mut().for_each(|live| live.prepare()),
        }
    }
}
