//! One warp: 32 lanes of every register, the lanes that are active, and the open branches and loops.
//!
//! All lanes execute together; a register is an array over lanes, so that each operation is a loop the compiler
//! turns into vector code. Writes touch active lanes only.

use super::decode::{File, Inst, Program};
use super::exec::{PendingCopy, PendingStore, Tensor};

/// The 32 lanes of a 32-bit register.
pub(crate) type Lanes = [u32; 32];
/// The 32 lanes of a 64-bit register.
pub(crate) type Longs = [u64; 32];

/// Why a warp is not running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// Waits at a named barrier.
    Barrier(u8),
    /// Waits for the barrier of the cluster.
    Cluster,
    /// Waits for registers that the block does not have.
    Registers,
    Done,
}

/// An open branch or loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// Lanes that came in and go on together afterwards.
    pub(crate) entered: u32,
    /// Lanes that still have to take the other side.
    pub(crate) otherwise: u32,
}

pub(crate) struct Warp {
    pub(crate) r32: Vec<Lanes>,
    pub(crate) r64: Vec<Longs>,
    pub(crate) pred: Vec<u32>,
    pub(crate) pc: usize,
    /// Lanes executing now.
    pub(crate) active: u32,
    /// Lanes that exist and have not exited.
    pub(crate) live: u32,
    pub(crate) stack: Vec<Frame>,
    pub(crate) state: State,
    /// Its number in the block.
    pub(crate) index: u32,
    /// It has looked at something another thread may change: worth letting others run at the next back-edge.
    pub(crate) polled: bool,
    /// It has waited for the launch in front of this one.
    pub(crate) waited: bool,
    /// Asynchronous copies that were issued and not yet waited for.
    pub(crate) copies: Vec<PendingCopy>,
    /// The number of each lane's open group of copies.
    pub(crate) groups: [u32; 32],
    /// Bulk copies to global memory that were issued and not yet waited for.
    pub(crate) stores: Vec<PendingStore>,
    /// The number of each lane's open group of bulk copies.
    pub(crate) bulk_groups: [u32; 32],
    /// Matrix products that were issued and not yet waited for.
    pub(crate) tensor: Tensor,
    /// Registers a thread, where that is followed.
    pub(crate) registers: u32,
    /// It has arrived at the barrier of the cluster and not yet waited there.
    pub(crate) in_cluster: bool,
    /// The barrier of the cluster has opened before it waited there.
    pub(crate) cluster_open: bool,
    /// It has asked for registers.
    pub(crate) asks: bool,
}

/// `BIT[l]` is lane l's bit.
const BIT: Lanes = {
    let mut bits = [0; 32];
    let mut l = 0;
    while l < 32 {
        bits[l] = 1 << l;
        l += 1;
    }
    bits
};

/// The lanes of a mask, lowest first.
pub(crate) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    })
}

impl Warp {
    pub(crate) fn new(program: &Program, index: u32) -> Warp {
        let [preds, words, longs] = program.files.map(|n| n as usize);
        let mut warp = Warp {
            // What nothing has written reads as NaN.
            r32: vec![[u32::MAX; 32]; words],
            r64: vec![[u64::MAX; 32]; longs],
            pred: vec![0; preds],
            pc: 0,
            active: 0,
            live: 0,
            stack: Vec::new(),
            state: State::Ready,
            index,
            polled: false,
            waited: false,
            copies: Vec::new(),
            groups: [0; 32],
            stores: Vec::new(),
            bulk_groups: [0; 32],
            tensor: Tensor::default(),
            registers: 0,
            in_cluster: false,
            cluster_open: false,
            asks: false,
        };
        for &(file, slot, bits) in &program.constants {
            match file {
                File::Pred => warp.pred[slot as usize] = if bits & 1 == 1 { u32::MAX } else { 0 },
                File::Word => warp.r32[slot as usize] = [bits as u32; 32],
                File::Long => warp.r64[slot as usize] = [bits; 32],
            }
        }
        warp
    }

    /// Back to the kernel's first instruction, for the next block.
    pub(crate) fn restart(&mut self, threads: u32) {
        let mine = (threads - self.index * 32).min(32);
        self.live = if mine == 32 {
            u32::MAX
        } else {
            (1 << mine) - 1
        };
        self.active = self.live;
        self.pc = 0;
        self.stack.clear();
        self.state = State::Ready;
        self.polled = false;
        self.waited = false;
        self.copies.clear();
        self.groups = [0; 32];
        self.stores.clear();
        self.bulk_groups = [0; 32];
        self.tensor.restart();
        (self.in_cluster, self.cluster_open, self.asks) = (false, false, false);
    }

    #[inline(always)]
    pub(crate) fn word(&self, slot: u32) -> &Lanes {
        &self.r32[slot as usize]
    }

    #[inline(always)]
    pub(crate) fn long(&self, slot: u32) -> &Longs {
        &self.r64[slot as usize]
    }

    #[inline(always)]
    pub(crate) fn pred(&self, slot: u32) -> u32 {
        self.pred[slot as usize]
    }

    #[inline(always)]
    pub(crate) fn put(&mut self, slot: u32, value: &Lanes, mask: u32) {
        let out = &mut self.r32[slot as usize];
        if mask == u32::MAX {
            *out = *value;
        } else {
            for l in 0..32 {
                out[l] = if mask & BIT[l] != 0 { value[l] } else { out[l] };
            }
        }
    }

    #[inline(always)]
    pub(crate) fn put64(&mut self, slot: u32, value: &Longs, mask: u32) {
        let out = &mut self.r64[slot as usize];
        if mask == u32::MAX {
            *out = *value;
        } else {
            for l in 0..32 {
                out[l] = if mask & BIT[l] != 0 { value[l] } else { out[l] };
            }
        }
    }

    #[inline(always)]
    pub(crate) fn put_pred(&mut self, slot: u32, value: u32, mask: u32) {
        let out = &mut self.pred[slot as usize];
        *out = (*out & !mask) | (value & mask);
    }

    /// d = f(a) on 32-bit registers.
    #[inline(always)]
    pub(crate) fn map1(&mut self, i: &Inst, mask: u32, f: impl Fn(u32) -> u32) {
        let a = self.word(i.src[0]);
        let mut out = [0; 32];
        for l in 0..32 {
            out[l] = f(a[l]);
        }
        self.put(i.dst[0], &out, mask);
    }

    /// d = f(a, b) on 32-bit registers.
    #[inline(always)]
    pub(crate) fn map2(&mut self, i: &Inst, mask: u32, f: impl Fn(u32, u32) -> u32) {
        let (a, b) = (self.word(i.src[0]), self.word(i.src[1]));
        let mut out = [0; 32];
        for l in 0..32 {
            out[l] = f(a[l], b[l]);
        }
        self.put(i.dst[0], &out, mask);
    }

    /// d = f(a, b, c) on 32-bit registers.
    #[inline(always)]
    pub(crate) fn map3(&mut self, i: &Inst, mask: u32, f: impl Fn(u32, u32, u32) -> u32) {
        let (a, b, c) = (
            self.word(i.src[0]),
            self.word(i.src[1]),
            self.word(i.src[2]),
        );
        let mut out = [0; 32];
        for l in 0..32 {
            out[l] = f(a[l], b[l], c[l]);
        }
        self.put(i.dst[0], &out, mask);
    }

    /// d = f(a) on 64-bit registers.
    #[inline(always)]
    pub(crate) fn long1(&mut self, i: &Inst, mask: u32, f: impl Fn(u64) -> u64) {
        let a = self.long(i.src[0]);
        let mut out = [0; 32];
        for l in 0..32 {
            out[l] = f(a[l]);
        }
        self.put64(i.dst[0], &out, mask);
    }

    /// d = f(a, b) on 64-bit registers.
    #[inline(always)]
    pub(crate) fn long2(&mut self, i: &Inst, mask: u32, f: impl Fn(u64, u64) -> u64) {
        let (a, b) = (self.long(i.src[0]), self.long(i.src[1]));
        let mut out = [0; 32];
        for l in 0..32 {
            out[l] = f(a[l], b[l]);
        }
        self.put64(i.dst[0], &out, mask);
    }

    /// d = f(a, b, c) on 64-bit registers.
    #[inline(always)]
    pub(crate) fn long3(&mut self, i: &Inst, mask: u32, f: impl Fn(u64, u64, u64) -> u64) {
        let (a, b, c) = (
            self.long(i.src[0]),
            self.long(i.src[1]),
            self.long(i.src[2]),
        );
        let mut out = [0; 32];
        for l in 0..32 {
            out[l] = f(a[l], b[l], c[l]);
        }
        self.put64(i.dst[0], &out, mask);
    }

    /// Predicate = f(a, b) on 32-bit registers.
    #[inline(always)]
    pub(crate) fn test2(&mut self, i: &Inst, mask: u32, f: impl Fn(u32, u32) -> bool) {
        let (a, b) = (self.word(i.src[0]), self.word(i.src[1]));
        let mut bits = 0;
        for l in 0..32 {
            bits |= u32::from(f(a[l], b[l])) << l;
        }
        self.put_pred(i.dst[0], bits, mask);
    }

    /// Predicate = f(a, b) on 64-bit registers.
    #[inline(always)]
    pub(crate) fn test2_long(&mut self, i: &Inst, mask: u32, f: impl Fn(u64, u64) -> bool) {
        let (a, b) = (self.long(i.src[0]), self.long(i.src[1]));
        let mut bits = 0;
        for l in 0..32 {
            bits |= u32::from(f(a[l], b[l])) << l;
        }
        self.put_pred(i.dst[0], bits, mask);
    }
}
