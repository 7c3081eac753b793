//! Copies that other blocks of a cluster send into this one.

use super::{BULK, Races, TENSOR, Write};
use crate::interp::decode::{Program, SHARED_BASE};
use crate::interp::fault::FaultKind;

impl Races {
    /// A copy by another block of the cluster begins to write here. Who ordered it with this block's accesses is not
    /// followed: only what is in flight is in its way.
    pub(crate) fn foreign_copy(
        &mut self,
        offset: u64,
        bytes: u32,
        program: &Program,
    ) -> Result<(), FaultKind> {
        for cell in self.cells(offset, bytes) {
            let reads = &self.reads[cell * self.warps..(cell + 1) * self.warps];
            let reading = reads.iter().find(|r| matches!(r.lane, BULK | TENSOR));
            let past = match (self.writes[cell].in_flight, reading) {
                (true, _) => self.writes[cell].pc,
                (false, Some(read)) => read.pc,
                _ => continue,
            };
            return Err(FaultKind::Race {
                address: offset + u64::from(SHARED_BASE),
                what: format!(
                    "a copy from another block of the cluster, and what is in flight there from {}",
                    program.sites[past as usize]
                ),
            });
        }
        for cell in self.cells(offset, bytes) {
            self.writes[cell] = Write {
                lane: BULK,
                in_flight: true,
                ..Write::default()
            };
        }
        Ok(())
    }
}
