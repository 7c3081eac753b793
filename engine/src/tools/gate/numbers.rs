//! Who is to blame where numbers stop being numbers: the model or the device.
//!
//! A unit that reads numbers and gives what is none of them does so by the model's own weights if the CPU
//! gives the same, and the user is told as by any other run of the model. If the CPU gives numbers, the
//! device is wrong. What comes behind is read and not looked into.

use super::Place;
use super::reference::{Expected, Stored};
use crate::Error;
use crate::error::{Cause, NotFinite};
use crate::exec::Inspect;
use crate::exec::trace::{F16_MAX, Held, attends, name_of};
use crate::plan::{Buf, Rows};

/// Whether all that the device has computed so far is finite.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watch {
    all_numbers: bool,
}

impl Watch {
    /// `all_numbers`: whether what was computed before is.
    pub(super) fn new(all_numbers: bool) -> Watch {
        Watch { all_numbers }
    }

    /// Takes note of what the device gave.
    pub(super) fn found(&mut self, values: &[f32]) {
        self.all_numbers &= values.iter().all(|v| v.is_finite());
    }

    /// Looks at what the CPU makes of what the device's unit reads.
    ///
    /// # Errors
    /// [`Error::NotFinite`] where numbers give what is not finite.
    pub(super) fn computed(self, place: &Place<'_>, expected: &Expected) -> Result<(), Error> {
        self.refuse(place, expected.buffer, &expected.values, f32::is_finite)
    }

    /// Looks at the keys and values that a unit stores: what the device's cache does not hold is an error
    /// of the model on that cache, not of the device. Gives what attention may not hold of them.
    ///
    /// # Errors
    /// [`Error::NotFinite`] with the first that the cache does not hold.
    pub(super) fn stored(
        self,
        place: &Place<'_>,
        stored: &[Stored],
        device: &dyn Inspect,
    ) -> Result<Option<Box<NotFinite>>, Error> {
        let held = match device.kind().runs_kernels() {
            true => Held::of(place.plan, place.unit(), device.limits().kv_type),
            false => Held::All,
        };
        let mut beside = None;
        for Stored { buffer, values } in stored {
            self.refuse(place, *buffer, values, f32::is_finite)?;
            let beyond = self.refuse(place, *buffer, values, |v| v.abs() <= F16_MAX);
            match (held, beyond) {
                (Held::Halves, beyond) => beyond?,
                (Held::HalvesByRows, Err(Error::NotFinite(beyond))) => beside = Some(beyond),
                _ => {}
            }
        }
        Ok(beside)
    }

    /// Looks at what the device's unit gave where the CPU gives numbers: attention that gives none beside
    /// keys or values that it does not hold is not wrong.
    ///
    /// # Errors
    /// [`Error::NotFinite`] with what it does not hold.
    pub(super) fn attended(
        self,
        place: &Place<'_>,
        found: &[f32],
        beside: &mut Option<Box<NotFinite>>,
    ) -> Result<(), Error> {
        let spoilt = found.iter().any(|v| !v.is_finite());
        let here = self.all_numbers && spoilt && attends(place.plan, place.unit());
        match beside.take_if(|_| here) {
            Some(beside) => Err(beside.into()),
            None => Ok(()),
        }
    }

    /// The error of the first value that is not as it should be, in the order of rows.
    fn refuse(
        self,
        place: &Place<'_>,
        b: Buf,
        values: &[f32],
        is_right: impl Fn(f32) -> bool,
    ) -> Result<(), Error> {
        let wrong = values.iter().position(|v| !is_right(*v));
        match wrong.filter(|_| self.all_numbers) {
            None => Ok(()),
            Some(at) => {
                let position = place.position(b, at, values.len());
                let name = name_of(place.plan, place.unit(), b);
                let cause = Cause::of(position, &name, values[at]);
                Err(NotFinite::at(cause).into())
            }
        }
    }
}

impl Place<'_> {
    /// The position of the row of a buffer that has the value at an index, of so many values.
    fn position(&self, b: Buf, at: usize, count: usize) -> usize {
        let of_outputs = self.plan.buffer(b).rows == Rows::Outputs;
        let rows = match of_outputs {
            true => self.step.outputs().len(),
            false => self.step.rows(),
        };
        let row = at / (count / rows.max(1)).max(1);
        let row = match of_outputs {
            true => self.step.outputs()[row] as usize,
            false => row,
        };
        (self.step.lengths()[row] as usize).saturating_sub(1)
    }
}
