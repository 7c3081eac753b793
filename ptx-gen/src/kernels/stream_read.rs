//! Reads a buffer and keeps nothing: the ceiling that memory-bound kernels are measured against.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | data | u32, 16-byte aligned | `[n16, 4]` |
//! | sink | u32 | `[1]` |
//! | n16 | u64 | words of 16 bytes in `data` |
//!
//! The grid is the caller's; blocks stride over the buffer. The loads are those of weights. What
//! was read is folded by xor, and `sink` receives it only if it equals one constant, which data
//! would have to be made for: so no store happens and no load can be left out.

use crate::build::Val;
use crate::ir::{Kernel, Param};
use crate::target::Target;

/// A read of whole buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamReadSpec {
    /// GPU to write for.
    pub target: Target,
}

const THREADS: u32 = 256;
/// Loads in flight a thread.
const UNROLL: u32 = 8;
/// The fold that is stored: 32 bits of the golden ratio, which plain patterns do not fold to.
const IMPOSSIBLE: u32 = 0x9E37_79B9;

impl StreamReadSpec {
    /// Bytes moved for `n16` words of 16 bytes.
    pub fn bytes(&self, n16: u64) -> u64 {
        16 * n16
    }

    /// The parameters in launch order.
    pub fn params(&self) -> Vec<Param> {
        vec![
            Param::input::<u32>("data"),
            Param::output::<u32>("sink"),
            Param::scalar::<u64>("n16"),
        ]
    }

    /// The kernel, named `stream_read`.
    pub fn kernel(&self) -> Kernel {
        Kernel::new("stream_read", self.target, |k| {
            k.doc("Reads data[..n16] and stores nothing. Any grid.");
            k.block_size(THREADS);
            k.declare(self.params());
            let data = k.bind::<u32>("data").streaming();
            let sink = k.bind::<u32>("sink");
            let n16 = k.bind_value::<u64>("n16");
            let fold = k.var(0u32);
            let mix = |words: [Val<'_, u32>; 4]| {
                let [a, b, c, d] = words;
                fold.set(fold.get() ^ ((a ^ b) ^ (c ^ d)));
            };
            // Blocks take turns of UNROLL * THREADS words.
            let block = u64::from(THREADS * UNROLL);
            let start = k.block_x().cast::<u64>() * block + k.thread_x().cast::<u64>();
            let stride = k.grid_x().cast::<u64>() * block;
            let at = k.var(start);
            let last = u64::from(THREADS * (UNROLL - 1));
            // A first turn past the end finds all its words missing.
            k.loop_while(|| {
                let first = at.get();
                k.if_else(
                    (first + last).lt(n16),
                    || {
                        let from = data.offset(first * 4u64);
                        let loaded: Vec<_> = (0..UNROLL)
                            .map(|u| from.load_vec4(u * THREADS * 4))
                            .collect();
                        loaded.into_iter().for_each(mix);
                    },
                    || {
                        k.unrolled(0..UNROLL, |u| {
                            let i = first + u64::from(u * THREADS);
                            k.if_(i.lt(n16), || mix(data.load_vec4(i * 4u64)));
                        });
                    },
                );
                at.set(first + stride);
                at.get().lt(n16)
            });
            k.if_(fold.get().eq(IMPOSSIBLE), || sink.store(0u32, fold.get()));
        })
    }
}

pub(super) fn representative(target: Target) -> Vec<StreamReadSpec> {
    vec![StreamReadSpec { target }]
}
