//! How a step of weights and of activations comes to shared memory in 16 bits, for [`super::GemmSpec`].

use super::gemm::GemmSpec;
use crate::build::{Builder, Ptr, Shared, Val};
use crate::kernels::WeightFormat;
use crate::kernels::split::split;
use crate::kernels::weights::geometry::{Geometry, Lane};
use crate::kernels::weights::unpack::{Packet, Row};

/// The groups of a step that a thread has loaded, one of each of its rows.
pub(super) struct Groups<'k> {
    lane: Lane<'k>,
    packets: Vec<Packet<'k>>,
}

/// A thread's part in bringing weights to shared memory: some groups of a step, each of
/// another row.
pub(super) struct WeightTile<'k> {
    k: &'k Builder,
    geometry: Geometry,
    rows: Vec<Row<'k>>,
    /// The thread's group among those of a row and step, and how many those are.
    part: Val<'k, u32>,
    parts: u32,
    /// Words from the buffer's start to the thread's first row, and from one row to the next.
    first: Val<'k, u32>,
    stride: u32,
    /// And from a term to the next.
    term: u32,
    /// Present where there are fewer groups than threads: how many.
    few: Option<u32>,
}

impl<'k> WeightTile<'k> {
    pub(super) fn new(spec: &GemmSpec, k: &'k Builder, w: Ptr<'k, u8>) -> WeightTile<'k> {
        let tile = spec.tile();
        let mut geometry = Geometry {
            format: spec.format,
            rows: spec.rows,
            cols: spec.cols,
            lanes: 8,
            width: Geometry::widest(spec.format, spec.cols),
        };
        // Lanes are addressed by their group in the row: one step is the whole row.
        geometry.lanes = (spec.cols / geometry.group()).next_multiple_of(8);
        let parts = spec.step() / geometry.group();
        let groups = tile.rows * parts;
        let threads = tile.threads();
        let few = (groups < threads).then_some(groups);
        let slot = match few {
            Some(groups) => k.thread_x() % groups,
            None => k.thread_x(),
        };
        let row_step = threads / parts;
        let row = |i: u32| {
            let row = k.block_x() * tile.rows + slot / parts + i * row_step;
            // The thread rows of the last block end here.
            let end = spec.last_block() + ((i + 1) * row_step).min(tile.rows);
            let row = if end <= spec.rows {
                row
            } else {
                row.min(spec.rows - 1)
            };
            Row::new(k, geometry, w, row)
        };
        let words = spec.stride() / 2;
        WeightTile {
            k,
            geometry,
            rows: (0..(groups / threads).max(1)).map(row).collect(),
            part: slot % parts,
            parts,
            first: (slot / parts) * words,
            stride: row_step * words,
            term: spec.step() / 2,
            few,
        }
    }

    /// Requests the groups of a step; without one, of the first.
    pub(super) fn load(&self, step: Option<Val<'k, u32>>) -> Groups<'k> {
        let (index, below) = match step {
            None => (self.part, self.parts),
            Some(step) => (step * self.parts + self.part, self.geometry.lanes),
        };
        let lane = Lane::new(self.k, &self.geometry, index, below);
        let zero = self.k.constant(0u32);
        let packets = self.rows.iter().map(|r| r.load(&lane, zero, false));
        let packets = packets.collect();
        Groups { lane, packets }
    }

    /// Unpacks and stores what was loaded to the buffer that starts at word `to`.
    pub(super) fn store(&self, groups: &Groups<'k>, buffers: Shared<'k, u32>, to: Val<'k, u32>) {
        let Groups { lane, packets } = groups;
        let write = || {
            for (i, (row, packet)) in self.rows.iter().zip(packets).enumerate() {
                let start = to + self.first + i as u32 * self.stride;
                let runs = self.geometry.runs();
                for (run, &(_, units)) in runs.iter().enumerate() {
                    // Two runs of 16 columns go to the two halves of the step.
                    let own = self.part * (units * 2);
                    let at = start + own + run as u32 * 16;
                    let terms = self.unpack(row, lane, packet, run);
                    for (term, words) in (0u32..).zip(&terms) {
                        let at = at + term * self.term;
                        if let [a, b] = words[..] {
                            buffers.store_vec(at, [a, b]);
                            continue;
                        }
                        for (j, four) in (0u32..).zip(words.chunks_exact(4)) {
                            buffers.store_vec(at + 4 * j, [four[0], four[1], four[2], four[3]]);
                        }
                    }
                }
            }
        };
        match self.few {
            Some(groups) => self.k.if_(self.k.thread_x().lt(groups), write),
            None => write(),
        }
    }

    /// A run's weights as pairs, by term.
    fn unpack(
        &self,
        row: &Row<'k>,
        lane: &Lane<'k>,
        packet: &Packet<'k>,
        run: usize,
    ) -> Vec<Vec<Val<'k, u32>>> {
        let format = self.geometry.format;
        if format == WeightFormat::F16 {
            return vec![packet.words.clone()];
        }
        let run = row.run(lane, packet, run);
        let weight = |code: Val<'k, f32>| match (run.scale, run.offset) {
            (Some(scale), Some(offset)) => code.fma(scale, offset),
            (Some(scale), None) => code * scale,
            _ => code,
        };
        let pairs = run.units.iter().flat_map(|unit| {
            let [a, b, c, d] = unit.map(weight);
            [[a, b], [c, d]]
        });
        match format {
            WeightFormat::F32 => terms(self.k, pairs),
            _ => {
                let pack = |[a, b]: [Val<'k, f32>; 2]| self.k.pack_f16(a, b).bitcast();
                vec![pairs.map(pack).collect()]
            }
        }
    }
}

/// Columns of x that a thread converts at once: 16 bytes of f16.
const CHUNK: u32 = 8;

/// A thread's part in bringing x to shared memory: the same eight columns of some tokens.
pub(super) struct TokenTile<'k> {
    k: &'k Builder,
    /// x at the thread's columns of step 0, by token.
    x: Vec<Ptr<'k, f32>>,
    format: WeightFormat,
    step: u32,
    /// Words from the buffer's start to the thread's first token, and from one to the next.
    first: Val<'k, u32>,
    stride: u32,
}

impl<'k> TokenTile<'k> {
    pub(super) fn new(
        spec: &GemmSpec,
        k: &'k Builder,
        x: Ptr<'k, f32>,
        n: Val<'k, u32>,
    ) -> TokenTile<'k> {
        let (tile, step) = (spec.tile(), spec.step());
        let chunks = step / CHUNK;
        let (chunk, token) = (k.thread_x() % chunks, k.thread_x() / chunks);
        let token_step = tile.threads() / chunks;
        // The second half of a step of Q6_K is 64 columns from the first: its weights share
        // bytes with those.
        let column = match spec.format {
            WeightFormat::Q6K => chunk * CHUNK + (chunk / 4) * 32,
            _ => chunk * CHUNK,
        };
        let words = spec.stride() / 2;
        let start = |i: u32| {
            // Tokens past the end are the last one again; nothing stores what becomes of them.
            let t = k.block_y() * tile.tokens + token + i * token_step;
            x.offset(t.min(n - 1u32) * spec.cols + column)
        };
        TokenTile {
            k,
            x: (0..tile.tokens / token_step).map(start).collect(),
            format: spec.format,
            step,
            first: (token + tile.rows) * words + chunk * (CHUNK / 2),
            stride: token_step * words,
        }
    }

    pub(super) fn load(&self, step: Val<'k, u32>) -> Vec<[Val<'k, f32>; 4]> {
        let column = match self.format {
            WeightFormat::Q6K => (step / 2) * 128 + (step % 2) * 32,
            _ => step * self.step,
        };
        let halves = |x: &Ptr<'k, f32>| [x.load_vec4(column), x.load_vec4(column + 4)];
        self.x.iter().flat_map(halves).collect()
    }

    pub(super) fn store(
        &self,
        loaded: &[[Val<'k, f32>; 4]],
        buffers: Shared<'k, u32>,
        to: Val<'k, u32>,
    ) {
        for (i, halves) in (0u32..).zip(loaded.chunks_exact(2)) {
            let pairs = halves.iter().flat_map(|v| [[v[0], v[1]], [v[2], v[3]]]);
            let terms = match self.format.terms() {
                1 => {
                    let pack = |[a, b]: [Val<'k, f32>; 2]| self.k.pack_f16(a, b).bitcast();
                    vec![pairs.map(pack).collect()]
                }
                _ => terms(self.k, pairs),
            };
            let at = to + self.first + i * self.stride;
            for (term, words) in (0u32..).zip(terms) {
                let words: [Val<'k, u32>; 4] = std::array::from_fn(|w| words[w]);
                buffers.store_vec(at + term * (self.step / 2), words);
            }
        }
    }
}

/// Pairs of numbers as their terms: all of the high ones, then all of the low ones.
fn terms<'k>(
    k: &'k Builder,
    pairs: impl Iterator<Item = [Val<'k, f32>; 2]>,
) -> Vec<Vec<Val<'k, u32>>> {
    let (high, low) = pairs.map(|pair| split(k, pair)).map(<_>::from).unzip();
    vec![high, low]
}
