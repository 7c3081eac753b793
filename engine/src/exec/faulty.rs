//! Faults of steps, planted where a setting says, into whatever executor runs a model.
//!
//! Steps are counted from 1 in the order in which they are queued, those that fail among them.

use std::collections::VecDeque;
use std::thread::sleep;

use super::Executor;
use super::guarded::{Call, Guard, Guarded, planted, spoil_first};
use crate::Error;
use crate::settings::Faults;

/// The executor, with the faults of steps that are asked for; itself where there are none.
pub(crate) fn plant(executor: Box<dyn Executor>, faults: Faults) -> Box<dyn Executor> {
    sleep(faults.slow_load);
    match faults.are_of_steps() {
        true => Box::new(Guarded::new(executor, StepFaults::new(faults))),
        false => executor,
    }
}

/// Which step is to fail, and how.
struct StepFaults {
    faults: Faults,
    /// Steps that were queued so far.
    queued: u64,
    /// Those of them whose results were not taken.
    in_flight: VecDeque<u64>,
    /// The latest step whose results were taken.
    taken: u64,
    is_lost: bool,
}

impl StepFaults {
    fn new(faults: Faults) -> StepFaults {
        StepFaults {
            faults,
            queued: 0,
            in_flight: VecDeque::new(),
            taken: 0,
            is_lost: false,
        }
    }

    /// A step comes.
    fn queue(&mut self) -> Result<(), Error> {
        self.queued += 1;
        let (step, faults) = (self.queued, self.faults);
        sleep(faults.slow_steps);
        assert!(faults.panic_at != Some(step), "a planted fault");
        let is_one_of = |every: u64| step.is_multiple_of(every);
        let fails = faults.fail_step == Some(step) || faults.fail_every.is_some_and(is_one_of);
        if fails || self.is_lost {
            return Err(planted());
        }
        self.in_flight.push_back(step);
        Ok(())
    }

    /// Somebody looks for the results of the oldest step.
    fn take(&mut self) -> Result<(), Error> {
        let oldest = self.in_flight.front().copied();
        let lose = |oldest| self.faults.lose_at.is_some_and(|step| step <= oldest);
        self.is_lost |= oldest.is_some_and(lose);
        match self.is_lost {
            true => Err(planted()),
            false => Ok(()),
        }
    }
}

impl Guard for StepFaults {
    fn before(&mut self, call: Call) -> Result<(), Error> {
        match call {
            Call::Queue => self.queue(),
            Call::Take => self.take(),
            Call::Slot | Call::Logits | Call::Blocks if self.is_lost => Err(planted()),
            Call::Slot | Call::Logits | Call::Blocks => Ok(()),
        }
    }

    fn spoil(&mut self, tokens: &mut [u32]) {
        let Some(step) = self.in_flight.pop_front() else {
            return;
        };
        self.taken = step;
        if self.faults.nan_at == Some(step) {
            spoil_first(tokens);
        }
    }

    fn spoils_logits(&self) -> bool {
        // Logits are those of the latest step: of one behind it they are right.
        self.faults.nan_at == Some(self.taken) && self.in_flight.is_empty()
    }

    fn is_lost(&mut self) -> bool {
        self.in_flight.clear();
        self.is_lost
    }
}
