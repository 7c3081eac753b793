//! Vectors of texts, computed between steps of others.
//!
//! A text runs alone, behind all steps in flight, in blocks that nobody has: it disturbs nobody, shares no
//! prefix and has the same vector whatever else runs. Where there are too few blocks it waits for some; texts
//! go first come, first served, one a turn, and others' tokens wait for as long as it takes.

use std::sync::Arc;

use crate::Error;
use crate::exec::embed::embed;
use crate::model::Pooling;

use super::callers::Listener;
use super::core::Core;

/// Who hears of a vector.
type Hear = Box<dyn FnOnce(Result<Vec<f32>, Error>) + Send>;

/// A text whose vector is wanted.
pub(super) struct Embedding {
    pub(super) tokens: Vec<u32>,
    pub(super) pooling: Pooling,
    pub(super) hear: Hear,
}

impl Core {
    /// Takes a text.
    pub(super) fn submit_embedding(&mut self, embedding: Embedding) {
        match self.check_embedding(&embedding) {
            Ok(()) => self.embeddings.push_back(embedding),
            Err(why) => (embedding.hear)(Err(why)),
        }
    }

    fn check_embedding(&self, embedding: &Embedding) -> Result<(), Error> {
        if let Some(why) = &self.lost {
            return Err(Error::Lost(why.clone()));
        }
        let (tokens, context) = (embedding.tokens.len(), self.context());
        if tokens == 0 {
            return Err(Error::Request("the text has no tokens".to_owned()));
        }
        if tokens > context {
            return Err(Error::ContextFull { tokens, context });
        }
        self.model().check_tokens(&embedding.tokens)
    }

    /// Computes the vector of the first text that waits, if there is room for it.
    pub(super) fn embed_next(&mut self, listener: &mut dyn Listener) {
        let Some(next) = self.embeddings.front() else {
            return;
        };
        let (tokens, is_alone) = (next.tokens.len(), self.live.is_empty());
        let table = self.scheduler.spare_table(tokens);
        if table.is_none() && !is_alone {
            return;
        }
        let Some(Embedding {
            tokens,
            pooling,
            hear,
        }) = self.embeddings.pop_front()
        else {
            return;
        };
        let Some(table) = table else {
            let why = format!(
                "the cache is too small for a text of {} tokens",
                tokens.len()
            );
            return hear(Err(Error::Request(why)));
        };
        // What a step in flight leaves for the host would be overwritten.
        let fetched = self.fetch_logits();
        let model = Arc::clone(self.model());
        let mut vector =
            fetched.and_then(|()| embed(&model, self.executor.as_mut(), &tokens, pooling, &table));
        if let Err(error) = &vector
            && !matches!(error, Error::Request(_) | Error::NotFinite(_))
        {
            // What else was queued may have failed with it.
            self.fail_all(error, listener);
            if let Some(why) = &self.lost {
                vector = Err(Error::Lost(why.clone()));
            }
        }
        hear(vector);
    }

    /// Tells everybody who waits that there will be no vector.
    pub(super) fn fail_embeddings(&mut self, why: &str) {
        for embedding in self.embeddings.drain(..) {
            (embedding.hear)(Err(Error::Lost(why.to_owned())));
        }
    }
}
