//! Activations as the B fragments of tensor cores: rounded to f16, or split into the terms of
//! [`crate::kernels::split`], and laid out in shared memory.
//!
//! Two buffers, one for each half of a turn ([`crate::kernels::weights::fragments`]). A buffer holds, for each
//! token of the tile, the columns that each group of warps multiplies in that half, unit by unit:
//! a lane's unit is 8 bytes, its fragment of one product. Units lie in the order of the products,
//! then of the lanes, so that a lane's address is one register and constants; second terms follow
//! all of a token's first ones. Rows of tokens are padded, which lets eight tokens' units be read without bank conflicts.

use super::{GemmBatchSpec, gemm_batch::THREADS};
use crate::build::{Builder, Pred, Ptr, Shared, Val};
use crate::kernels::split::split;
use crate::kernels::weights::fragments::half_columns;

/// Words that a token's row in shared memory is longer than its columns.
const PAD: u32 = 8;

/// A half of a turn, by its number, and the turn.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Chunk<'k> {
    pub(in crate::kernels) turn: Val<'k, u32>,
    pub(in crate::kernels) half: u32,
}

/// Where activations come from and where they lie. Some threads share a token and take every so
/// manieth unit of it, so that one address and constants are all a thread's.
pub(in crate::kernels) struct Stage<'k> {
    k: &'k Builder,
    spec: GemmBatchSpec,
    x: Ptr<'k, f32>,
    /// Threads that share a token.
    threads: u32,
    /// The thread's token's first element in x, and the thread's first column within a turn.
    row: Val<'k, u32>,
    column: Val<'k, u32>,
    buffers: Shared<'k, u32>,
    /// Where the thread's first unit goes, and its lane's first fragment, in words.
    to: Val<'k, u32>,
    fragment: Val<'k, u32>,
    /// Present where fewer threads than all bring something: how many.
    few: Option<u32>,
}

/// Words of a token in a buffer.
fn stride(spec: &GemmBatchSpec) -> u32 {
    spec.format.terms() * term_words(spec) + PAD
}

/// Words of a token's terms of one kind.
fn term_words(spec: &GemmBatchSpec) -> u32 {
    spec.groups() * group_words(spec)
}

/// Words of a group's columns in it.
fn group_words(spec: &GemmBatchSpec) -> u32 {
    half_columns(spec.format) / 2
}

/// Units of a token in a buffer.
fn units(spec: &GemmBatchSpec) -> u32 {
    spec.groups() * half_columns(spec.format) / 4
}

/// First column of a unit, from the start of a turn's half.
fn column<'k>(spec: &GemmBatchSpec, unit: Val<'k, u32>) -> Val<'k, u32> {
    let half = half_columns(spec.format);
    (unit / (half / 4)) * (2 * half) + (unit % (half / 4)) * 4
}

/// Where a unit lies in its token's row. Each bit of the unit's number adds what it adds, whatever
/// the others are.
fn word<'k>(spec: &GemmBatchSpec, unit: Val<'k, u32>) -> Val<'k, u32> {
    let units = half_columns(spec.format) / 4;
    let (lane, nth) = spec.format.layout().owner(unit % units);
    (unit / units) * group_words(spec) + (nth * 4 + lane) * 2
}

/// Words of a buffer.
fn buffer(spec: &GemmBatchSpec) -> u32 {
    spec.tokens * stride(spec)
}

impl<'k> Stage<'k> {
    /// `group` is the warp's share of the columns.
    pub(in crate::kernels) fn new(
        k: &'k Builder,
        spec: GemmBatchSpec,
        x: Ptr<'k, f32>,
        n: Val<'k, u32>,
        group: Val<'k, u32>,
    ) -> Stage<'k> {
        let buffers = k.dynamic_shared::<u32>("tokens", 2 * buffer(&spec));
        let threads = (THREADS / spec.tokens).min(units(&spec));
        let all = threads * spec.tokens;
        // A token past the end is the last one again; nothing stores what becomes of it.
        let token = k.thread_x() / threads;
        let row = (k.block_y() * spec.tokens + token).min(n - 1u32) * spec.cols;
        let unit = k.thread_x() % threads;
        let lane = k.lane();
        Stage {
            k,
            spec,
            x,
            threads,
            row,
            column: column(&spec, unit),
            buffers,
            to: token * stride(&spec) + word(&spec, unit),
            fragment: (lane / 4) * stride(&spec) + group * group_words(&spec) + (lane % 4) * 2,
            few: (all < THREADS).then_some(all),
        }
    }

    /// The whole of both buffers, for other use.
    pub(in crate::kernels) fn memory(&self) -> Shared<'k, u32> {
        self.buffers
    }

    /// Units that a thread brings in each half.
    pub(in crate::kernels) fn pieces(&self) -> u32 {
        units(&self.spec) / self.threads
    }

    /// The first of the units that the block's threads bring as their `piece`-th.
    fn first_unit(&self, piece: u32) -> Val<'k, u32> {
        self.k.constant(piece * self.threads)
    }

    /// The column of a piece in half `half` of a turn; whether it exists, if that is a question.
    fn at(&self, chunk: Chunk<'k>, piece: u32) -> (Val<'k, u32>, Option<Val<'k, Pred>>) {
        let spec = &self.spec;
        let within = column(spec, self.first_unit(piece)) + chunk.half * half_columns(spec.format);
        let at = chunk.turn * spec.turn() + self.column + within;
        let ragged = !spec.cols.is_multiple_of(spec.turn());
        (at, ragged.then(|| at.lt(spec.cols)))
    }

    /// Requests a piece.
    pub(in crate::kernels) fn load(&self, chunk: Chunk<'k>, piece: u32) -> [Val<'k, f32>; 4] {
        let (at, exists) = self.at(chunk, piece);
        // A column past the end is the row's first one, to be replaced by zero.
        let at = exists.map_or(at, |exists| self.k.select(exists, at, 0u32));
        self.x.load_vec4(at + self.row)
    }

    /// Rounds and stores a piece.
    pub(in crate::kernels) fn store(
        &self,
        chunk: Chunk<'k>,
        piece: u32,
        loaded: [Val<'k, f32>; 4],
    ) {
        let k = self.k;
        let [a, b, c, d] = loaded;
        let layout = self.spec.format.layout();
        let mut terms = match (layout.terms(), layout.permuted()) {
            (1, true) => vec![[pack(k, a, c), pack(k, b, d)]],
            (1, false) => vec![[pack(k, a, b), pack(k, c, d)]],
            _ => {
                let (first, second) = (split(k, [a, b]), split(k, [c, d]));
                [0, 1].map(|term| [first[term], second[term]]).to_vec()
            }
        };
        if let (_, Some(exists)) = self.at(chunk, piece) {
            for words in &mut terms {
                *words = words.map(|w| k.select(exists, w, 0u32));
            }
        }
        let first = word(&self.spec, self.first_unit(piece)) + chunk.half * buffer(&self.spec);
        let write = || {
            for (term, words) in (0u32..).zip(&terms) {
                let at = self.to + first + term * term_words(&self.spec);
                self.buffers.store_vec(at, *words);
            }
        };
        match self.few {
            Some(threads) => k.if_(k.thread_x().lt(threads), write),
            None => write(),
        }
    }

    /// The lane's fragments of product `unit` of half `half` for the `tile`-th eight tokens, by term.
    pub(in crate::kernels) fn fragment(
        &self,
        half: u32,
        unit: u32,
        tile: u32,
    ) -> Vec<[Val<'k, u32>; 2]> {
        let at = half * buffer(&self.spec) + tile * 8 * stride(&self.spec) + unit * 8;
        let load = |term: u32| {
            let at = at + term * term_words(&self.spec);
            self.buffers.load_vec(self.fragment + at)
        };
        (0..self.spec.format.terms()).map(load).collect()
    }
}

/// Two f32 rounded to f16; the first in the low half.
pub(in crate::kernels) fn pack<'k>(
    k: &'k Builder,
    low: Val<'k, f32>,
    high: Val<'k, f32>,
) -> Val<'k, u32> {
    k.pack_f16(low, high).bitcast()
}
