//! A caller's end of a request.

use std::sync::mpsc::{Receiver, Sender, TryRecvError};

use super::request::Update;
use super::{Mail, gone};
use crate::Error;
use crate::serve::session::Generation;

/// What ends a request that was submitted. Dropping it does so too, if the request has not ended.
pub struct Canceller {
    key: u64,
    mail: Sender<Mail>,
}

impl Canceller {
    pub(super) fn new(key: u64, mail: Sender<Mail>) -> Canceller {
        Canceller { key, mail }
    }

    /// Asks for the end; it comes as an update, with what there was until then.
    pub fn cancel(&self) {
        // An engine that is gone has nothing to cancel, and one that has ended the request knows it no more.
        let _ = self.mail.send(Mail::Cancel(self.key));
    }
}

impl Drop for Canceller {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// A request that was submitted. Dropping it cancels the request, if it has not ended.
pub struct Handle {
    canceller: Canceller,
    updates: Receiver<Update>,
    ended: bool,
}

impl Handle {
    pub(super) fn new(canceller: Canceller, updates: Receiver<Update>) -> Handle {
        Handle {
            canceller,
            updates,
            ended: false,
        }
    }

    /// Waits for what happens next; `None` after the end.
    pub fn next_update(&mut self) -> Option<Update> {
        if self.ended {
            return None;
        }
        let update = self.updates.recv();
        Some(self.note(update.unwrap_or_else(|_| Update::Ended(Err(gone())))))
    }

    /// What has happened since it was last asked, if anything has.
    pub fn try_update(&mut self) -> Option<Update> {
        if self.ended {
            return None;
        }
        match self.updates.try_recv() {
            Ok(update) => Some(self.note(update)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(self.note(Update::Ended(Err(gone())))),
        }
    }

    fn note(&mut self, update: Update) -> Update {
        self.ended = matches!(update, Update::Ended(_));
        update
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// The request was refused, or what ran it failed.
    pub fn wait(mut self) -> Result<Generation, Error> {
        loop {
            match self.next_update() {
                Some(Update::Ended(result)) => return result,
                Some(Update::Prompt { .. } | Update::Token { .. }) => {}
                None => return Err(gone()),
            }
        }
    }

    /// Asks for the end; it comes as an update, with what there was until then.
    pub fn cancel(&self) {
        self.canceller.cancel();
    }
}

impl Iterator for Handle {
    type Item = Update;

    /// As [`Handle::next_update`].
    fn next(&mut self) -> Option<Update> {
        self.next_update()
    }
}
