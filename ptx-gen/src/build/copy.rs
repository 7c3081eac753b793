//! Asynchronous copies into shared memory, and what orders them.

use super::{AsVal, Builder, Index, Pred, Ptr, Shared, Type, Val};
use crate::op::{Opcode, Special};

impl Builder {
    /// Starts a copy of `bytes` (4, 8 or 16) from `src` at index `from` to `dst` at index `to`;
    /// both addresses are multiples of `bytes`. 16-byte copies bypass L1. sm_80 and later.
    #[track_caller]
    pub fn cp_async<'k, T: Type, U: Type>(
        &'k self,
        bytes: u8,
        dst: Shared<'k, T>,
        to: impl AsVal<'k, u32>,
        src: Ptr<'k, U>,
        from: impl Index<'k>,
    ) {
        self.cp_async_partial(bytes, dst, to, src, from, u32::from(bytes));
    }

    /// [`Builder::cp_async`] that reads only `valid` bytes and fills the rest with zeros.
    #[track_caller]
    pub fn cp_async_partial<'k, T: Type, U: Type>(
        &'k self,
        bytes: u8,
        dst: Shared<'k, T>,
        to: impl AsVal<'k, u32>,
        src: Ptr<'k, U>,
        from: impl Index<'k>,
        valid: impl AsVal<'k, u32>,
    ) {
        assert!(
            matches!(bytes, 4 | 8 | 16),
            "asynchronous copies of 4, 8 or 16 bytes"
        );
        let op = Opcode::CpAsync {
            bytes,
            bypass_l1: bytes == 16,
        };
        let (to, from) = (dst.operand(to), src.at(from));
        self.emit(op, &[], &[to, from, valid.val(self).operand()]);
    }

    /// Closes the group of the thread's copies so far.
    #[track_caller]
    pub fn cp_async_commit(&self) {
        self.emit(Opcode::CpAsyncCommit, &[], &[]);
    }

    /// Waits until at most `pending` groups of the thread are in flight. Other threads' copies
    /// need a barrier after it.
    #[track_caller]
    pub fn cp_async_wait(&self, pending: u8) {
        self.emit(Opcode::CpAsyncWait { pending }, &[], &[]);
    }

    /// Starts a bulk copy of `bytes` (a multiple of 16) from `src` at index `from` to `dst` at
    /// index `to`; one thread does it. What ordinary stores wrote to `src` must be handed to the
    /// asynchronous proxy first: a [`Fence::ProxyAsync`](crate::op::Fence::ProxyAsync) in each
    /// thread that wrote, then a barrier. sm_90 and later.
    #[track_caller]
    pub fn bulk_store<'k, T: Type, U: Type>(
        &'k self,
        bytes: impl AsVal<'k, u32>,
        dst: Ptr<'k, T>,
        to: Val<'k, u32>,
        src: Shared<'k, U>,
        from: Val<'k, u32>,
    ) {
        let operands = [dst.at(to), src.operand(from), bytes.val(self).operand()];
        self.emit(Opcode::CpAsyncBulkStore, &[], &operands);
    }

    /// Closes the group of the thread's bulk copies so far; sm_90 and later.
    #[track_caller]
    pub fn bulk_commit(&self) {
        self.emit(Opcode::CpAsyncBulkCommit, &[], &[]);
    }

    /// Waits until all but `pending` of the thread's bulk groups have been written; sm_90 and
    /// later.
    #[track_caller]
    pub fn bulk_wait(&self, pending: u8) {
        let read = false;
        self.emit(Opcode::CpAsyncBulkWait { pending, read }, &[], &[]);
    }

    /// Waits until all but `pending` of the thread's bulk groups have read their sources, which
    /// may then be overwritten; a thread does so before it ends. sm_90 and later.
    #[track_caller]
    pub fn bulk_wait_read(&self, pending: u8) {
        let read = true;
        self.emit(Opcode::CpAsyncBulkWait { pending, read }, &[], &[]);
    }

    /// Waits until the launch in front of this one is complete, then lets the one behind start.
    /// Only the first call says anything, since who has waited has waited; before sm_90 none does,
    /// where launches never overlap.
    ///
    /// In this order, everything in front of the predecessor is complete when a kernel starts: so
    /// it may read above this call whatever its predecessor does not write.
    #[track_caller]
    pub fn wait_for_predecessor(&self) {
        let waits = std::mem::replace(&mut self.state.borrow_mut().waits, true);
        if !waits && self.target.has_hopper() {
            self.emit(Opcode::GridDepWait, &[], &[]);
            self.launch_dependents();
        }
    }

    /// Lets the launch behind this one start, at the latest once this one has waited for its
    /// predecessor ([`Builder::wait_for_predecessor`]). Where it stands above that, the launch behind
    /// may start while the predecessor runs, and must read early nothing that either of them writes.
    /// Only the first call says anything, and before sm_90 none does.
    #[track_caller]
    pub fn launch_dependents(&self) {
        let launches = std::mem::replace(&mut self.state.borrow_mut().launches, true);
        if !launches && self.target.has_hopper() {
            self.emit(Opcode::GridDepLaunch, &[], &[]);
        }
    }

    /// Suspends the thread for about so many nanoseconds.
    #[track_caller]
    pub fn nanosleep<'k>(&'k self, nanoseconds: impl AsVal<'k, u32>) {
        let t = nanoseconds.val(self).operand();
        self.emit(Opcode::Nanosleep, &[], &[t]);
    }

    /// Aborts the launch with an error.
    #[track_caller]
    pub fn trap(&self) {
        self.emit(Opcode::Trap, &[], &[]);
    }

    /// A clock in nanoseconds, common to the GPU.
    #[track_caller]
    pub fn global_timer(&self) -> Val<'_, u64> {
        self.value(Opcode::Special(Special::GlobalTimer), &[])
    }
}

/// Barriers that count arrivals and bytes, one `u64` of shared memory each, by index.
impl<'k> Shared<'k, u64> {
    /// Makes element `index` an mbarrier that expects `arrivals` per phase; one thread does it.
    #[track_caller]
    pub fn mbarrier_init(self, index: impl AsVal<'k, u32>, arrivals: u32) {
        let k = self.builder();
        let at = self.operand(index);
        k.emit(
            Opcode::MbarrierInit,
            &[],
            &[at, k.constant(arrivals).operand()],
        );
    }

    /// Arrives once.
    #[track_caller]
    pub fn mbarrier_arrive(self, index: impl AsVal<'k, u32>) {
        let at = self.operand(index);
        self.builder().emit(Opcode::MbarrierArrive, &[], &[at]);
    }

    /// Expects `bytes` more of bulk copies in this phase, then arrives once; sm_90 and later.
    #[track_caller]
    pub fn mbarrier_expect(self, index: impl AsVal<'k, u32>, bytes: impl AsVal<'k, u32>) {
        let k = self.builder();
        let at = self.operand(index);
        k.emit(
            Opcode::MbarrierArriveExpectTx,
            &[],
            &[at, bytes.val(k).operand()],
        );
    }

    /// Spins until the phase of the given parity has completed; sm_90 and later.
    #[track_caller]
    pub fn mbarrier_wait(self, index: impl AsVal<'k, u32>, parity: impl AsVal<'k, u32>) {
        let k = self.builder();
        let (at, parity) = (self.operand(index), parity.val(k).operand());
        let spin = || k.loop_while(|| !k.value::<Pred>(Opcode::MbarrierTryWait, &[at, parity]));
        k.blame(k.here(), spin);
    }

    /// Starts a bulk copy that is counted on mbarrier `index`; one thread does it. sm_90 and later.
    #[track_caller]
    pub fn bulk_copy<T: Type, U: Type>(self, index: impl AsVal<'k, u32>, copy: BulkCopy<'k, T, U>) {
        let k = self.builder();
        let src = [
            copy.dst.operand(copy.to),
            copy.src.at(copy.from),
            k.constant(copy.bytes).operand(),
            self.operand(index),
        ];
        k.emit(Opcode::CpAsyncBulk, &[], &src);
    }
}

/// A bulk copy from device memory to shared memory.
pub struct BulkCopy<'k, T, U> {
    /// Where to.
    pub dst: Shared<'k, T>,
    /// Index in `dst`.
    pub to: Val<'k, u32>,
    /// Where from.
    pub src: Ptr<'k, U>,
    /// Index in `src`.
    pub from: Val<'k, u32>,
    /// How much, a multiple of 16.
    pub bytes: u32,
}
