//! Clusters: blocks of one grid that run together and reach each other's shared memory.

use super::{AsVal, Builder, BulkCopy, Shared, Type, Val};
use crate::ir::{Address, Base, Operand};
use crate::op::{Opcode, Special};

impl Builder {
    /// Makes clusters of so many blocks along x (1 to 8); a launch's grid in x is a multiple of it.
    /// sm_90 and later.
    pub fn cluster(&self, blocks: u32) {
        self.state.borrow_mut().cluster = blocks;
    }

    /// The block's number in its cluster.
    #[track_caller]
    pub fn cluster_rank(&self) -> Val<'_, u32> {
        self.special(Special::ClusterRank)
    }

    /// Waits for every thread of the cluster. Before the first use of another block's shared
    /// memory, and before a block ends that others may still reach.
    #[track_caller]
    pub fn cluster_barrier(&self) {
        self.cluster_arrive();
        self.cluster_wait();
    }

    /// Arrives at the cluster's barrier; a [`Builder::cluster_wait`] follows.
    #[track_caller]
    pub fn cluster_arrive(&self) {
        self.emit(Opcode::ClusterArrive, &[], &[]);
    }

    /// Waits until every thread of the cluster has arrived.
    #[track_caller]
    pub fn cluster_wait(&self) {
        self.emit(Opcode::ClusterWait, &[], &[]);
    }

    /// Arrives at barrier `id` (1..=15) of `threads` threads in all (a multiple of 32) without
    /// waiting for it.
    #[track_caller]
    pub fn barrier_arrive(&self, id: u8, threads: u16) {
        self.emit(Opcode::BarArrive { id, threads }, &[], &[]);
    }
}

impl<'k> Shared<'k, u64> {
    /// Arrives once at the mbarrier that block `rank` of the cluster has in this one's place.
    #[track_caller]
    pub fn mbarrier_arrive_in(self, rank: impl AsVal<'k, u32>, index: impl AsVal<'k, u32>) {
        let k = self.builder();
        let mine = self.address(index);
        let theirs: Val<'k, u32> = k.value(Opcode::Mapa, &[mine.operand(), rank.val(k).operand()]);
        let at = Address {
            base: Base::Reg(theirs.to_reg()),
            offset: 0,
        };
        k.emit(Opcode::MbarrierArriveCluster, &[], &[Operand::Addr(at)]);
    }

    /// Starts a bulk copy into every block of the cluster whose bit is set in `blocks`, to the same
    /// place and counted on the same mbarrier in each; one thread does it. sm_90 and later.
    #[track_caller]
    pub fn bulk_copy_multicast<T: Type, U: Type>(
        self,
        index: impl AsVal<'k, u32>,
        copy: BulkCopy<'k, T, U>,
        blocks: impl AsVal<'k, u16>,
    ) {
        let k = self.builder();
        let src = [
            copy.dst.operand(copy.to),
            copy.src.at(copy.from),
            k.constant(copy.bytes).operand(),
            self.operand(index),
            blocks.val(k).in_reg().operand(),
        ];
        k.emit(Opcode::CpAsyncBulkMulticast, &[], &src);
    }
}
