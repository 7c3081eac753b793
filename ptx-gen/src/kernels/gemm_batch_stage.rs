//! Activations as the B fragments of tensor cores: rounded to f16 and laid out in shared memory.
//!
//! Two buffers, one for each half of a turn ([`super::gemm_batch_unpack`]). A buffer holds, for each
//! token of the tile, the columns that each group of warps multiplies in that half, unit by unit:
//! a lane's unit is 8 bytes, its fragment of one product. Units lie in the order of the products,
//! then of the lanes, so that a lane's address is one register and constants; rows of tokens are
//! padded, which lets eight tokens' units be read without bank conflicts.

use half::f16;

use super::gemm_batch_unpack::{half_columns, owner, permuted};
use super::{GemmBatchSpec, gemm_batch::THREADS};
use crate::build::{Builder, F16x2, Ptr, Shared, Val};

/// Words that a token's row in shared memory is longer than its columns.
const PAD: u32 = 8;

/// A half of a turn, by its number, and the turn.
#[derive(Clone, Copy)]
pub(super) struct Chunk<'k> {
    pub(super) turn: Val<'k, u32>,
    pub(super) half: u32,
}

/// Where activations come from and where they lie.
pub(super) struct Stage<'k> {
    k: &'k Builder,
    spec: GemmBatchSpec,
    x: Ptr<'k, f32>,
    /// Index of the thread's first column in x, for each piece of four columns that it brings.
    from: Vec<Val<'k, u32>>,
    /// Its column within the first half of a turn.
    column: Val<'k, u32>,
    buffers: Shared<'k, u32>,
    /// Where the thread's first piece goes, and its lane's first fragment, in words.
    to: Val<'k, u32>,
    fragment: Val<'k, u32>,
    /// Present where fewer threads than all bring something: how many.
    few: Option<u32>,
}

/// Words of a token in a buffer.
fn stride(spec: &GemmBatchSpec) -> u32 {
    spec.groups() * half_columns(spec.format) / 2 + PAD
}

/// Words of a buffer.
fn buffer(spec: &GemmBatchSpec) -> u32 {
    spec.tokens * stride(spec)
}

impl<'k> Stage<'k> {
    /// `group` is the warp's share of the columns.
    pub(super) fn new(
        k: &'k Builder,
        spec: GemmBatchSpec,
        x: Ptr<'k, f32>,
        n: Val<'k, u32>,
        group: Val<'k, u32>,
    ) -> Stage<'k> {
        let buffers = k.dynamic_shared::<u32>("tokens", 2 * buffer(&spec));
        let half = half_columns(spec.format);
        let units = spec.groups() * half / 4;
        let threads = (units * spec.tokens).min(THREADS);
        let few = (threads < THREADS).then_some(threads);
        let (token, unit) = (k.thread_x() / units, k.thread_x() % units);
        let (of_group, own) = (unit / (half / 4), unit % (half / 4));
        let column = of_group * (2 * half) + own * 4;
        let step = threads / units;
        let piece = |i: u32| {
            // Tokens past the end are the last one again; nothing stores what becomes of them.
            let t = (k.block_y() * spec.tokens + token + i * step).min(n - 1u32);
            t * spec.cols + column
        };
        let (lane, nth) = owner(spec.format, own);
        let unit_word = of_group * (half / 2) + (nth * 4 + lane) * 2;
        let fragment = (k.lane() / 4) * stride(&spec) + group * (half / 2) + (k.lane() % 4) * 2;
        Stage {
            k,
            spec,
            x,
            from: (0..spec.tokens / step).map(piece).collect(),
            column,
            buffers,
            to: token * stride(&spec) + unit_word,
            fragment,
            few,
        }
    }

    /// The whole of both buffers, for other use.
    pub(super) fn memory(&self) -> Shared<'k, u32> {
        self.buffers
    }

    /// Pieces that a thread brings in each half.
    pub(super) fn pieces(&self) -> usize {
        self.from.len()
    }

    /// Whether a turn can reach past the row.
    fn ragged(&self) -> bool {
        !self.spec.cols.is_multiple_of(self.spec.turn())
    }

    /// Columns from the thread's first one of a row to that of a half of a turn.
    fn advance(&self, chunk: Chunk<'k>) -> Val<'k, u32> {
        chunk.turn * self.spec.turn() + chunk.half * half_columns(self.spec.format)
    }

    /// Requests a piece.
    pub(super) fn load(&self, chunk: Chunk<'k>, piece: usize) -> [Val<'k, f32>; 4] {
        let mut advance = self.advance(chunk);
        if self.ragged() {
            // Columns past the end are the row's first ones, to be replaced by zero.
            let exists = (advance + self.column).lt(self.spec.cols);
            advance = self
                .k
                .select(exists, advance, self.k.constant(0u32) - self.column);
        }
        self.x.load_vec4(self.from[piece] + advance)
    }

    /// Rounds and stores a piece.
    pub(super) fn store(&self, chunk: Chunk<'k>, piece: usize, loaded: [Val<'k, f32>; 4]) {
        let k = self.k;
        let [a, b, c, d] = loaded;
        let mut words = match permuted(self.spec.format) {
            true => [pack(k, a, c), pack(k, b, d)],
            false => [pack(k, a, b), pack(k, c, d)],
        };
        if self.ragged() {
            let exists = (self.advance(chunk) + self.column).lt(self.spec.cols);
            words = words.map(|w| k.select(exists, w, 0u32));
        }
        let step = self.spec.tokens / self.from.len() as u32;
        let at = chunk.half * buffer(&self.spec) + piece as u32 * step * stride(&self.spec);
        let write = || self.buffers.store_vec(self.to + at, words);
        match self.few {
            Some(threads) => k.if_(k.thread_x().lt(threads), write),
            None => write(),
        }
    }

    /// The lane's fragment of product `unit` of half `half` for the `tile`-th eight tokens.
    pub(super) fn fragment(&self, half: u32, unit: u32, tile: u32) -> [Val<'k, u32>; 2] {
        let at = half * buffer(&self.spec) + tile * 8 * stride(&self.spec) + unit * 8;
        self.buffers.load_vec(self.fragment + at)
    }
}

/// Two f32 rounded to f16, with the largest f16 in place of infinity; the first in the low half.
pub(super) fn pack<'k>(k: &'k Builder, low: Val<'k, f32>, high: Val<'k, f32>) -> Val<'k, u32> {
    let most = F16x2(f16::MAX, f16::MAX);
    let least = F16x2(f16::MIN, f16::MIN);
    k.pack_f16(low, high).min(most).max(least).bitcast()
}
