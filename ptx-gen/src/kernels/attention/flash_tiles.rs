//! How tiles of keys and values come from a paged cache to shared memory, for
//! [`super::AttentionFlashSpec`].
//!
//! A row of a tile is a key of `head_dim` elements of 16 bits and some padding; bytes become the f16
//! nearest to what they stand for. Values at and past the end of
//! the visible keys are zeros in the tile, whatever the cache holds there: a weight of zero times
//! a NaN would be one. Blocks past the end are not looked up.

use super::AttentionFlashSpec;
use crate::build::{Builder, Pred, Ptr, Shared, Val, Var};
use crate::kernels::KvType;

/// How a tile of keys and values comes to shared memory: eight elements a thread and turn.
pub(super) struct Copies<'k, 's> {
    pub(super) spec: &'s AttentionFlashSpec,
    pub(super) k: &'k Builder,
    pub(super) pools: [Ptr<'k, u8>; 2],
    /// The slot's row of the block table.
    pub(super) table: Ptr<'k, u32>,
    pub(super) head: Val<'k, u32>,
    /// Keys from here on are zeros.
    pub(super) end: Val<'k, u32>,
    /// Pairs of tiles: keys, then values.
    pub(super) tiles: Shared<'k, u32>,
}

/// Eight elements of a key, 16 bytes in a tile.
struct Piece<'k> {
    /// Within the tile; none when all turns are whole.
    exists: Option<Val<'k, Pred>>,
    /// Whether the key is below the end.
    seen: Val<'k, Pred>,
    /// In 8 bytes from the pool's start.
    from: Val<'k, u32>,
    /// Of bytes the key's scale, in words from the pool's start.
    scale: Option<Val<'k, u32>>,
    /// In words from the tile's start.
    to: Val<'k, u32>,
}

impl<'k> Copies<'k, '_> {
    /// The thread's pieces of the tile of keys `now ..`.
    fn pieces(&self, now: Val<'k, u32>) -> Vec<Piece<'k>> {
        let (k, spec) = (self.k, self.spec);
        let threads = k.threads();
        let (parts, tokens) = (spec.shape.head_dim / 8, spec.shape.block_tokens);
        let total = spec.keys() * parts;
        // A whole tile within a block lies in one with a key below the end; of what reaches further,
        // blocks past the end are not looked up.
        let within = tokens.is_multiple_of(spec.keys()) && total.is_multiple_of(threads);
        let last = (!within).then(|| (self.end - 1) / tokens);
        let block = |key: Val<'k, u32>| {
            let nth = key / tokens;
            self.table.load(last.map_or(nth, |last| nth.min(last)))
        };
        // The first key of a tile is below the end.
        let first = |key: Val<'k, u32>| self.table.load(key / tokens);
        // Turns whose keys lie in the same block share its number.
        let apart = threads / parts;
        let aligned = threads.is_multiple_of(parts) && tokens.is_multiple_of(apart);
        let aligned = aligned
            && spec
                .keys()
                .max(tokens)
                .is_multiple_of(spec.keys().min(tokens));
        let mut known = (None, k.constant(0u32));
        (0..total.div_ceil(threads))
            .map(|turn| {
                let index = k.thread_x() + turn * threads;
                let (row, part) = if threads.is_multiple_of(parts) {
                    let row = k.thread_x() / parts + turn * apart;
                    (row, k.thread_x() % parts)
                } else {
                    (index / parts, index % parts)
                };
                let key = now + row;
                if !aligned {
                    known = (None, block(key));
                } else if known.0 != Some(turn * apart / tokens) {
                    let at = turn * apart;
                    let block = if at == 0 { first(now) } else { block(now + at) };
                    known = (Some(at / tokens), block);
                }
                let head = known.1 * spec.shape.num_kv_heads + self.head;
                let (from, scale) = self.places(head, key, part);
                let ragged = (turn + 1) * threads > total;
                Piece {
                    exists: ragged.then(|| index.lt(total)),
                    seen: key.lt(self.end),
                    from,
                    scale,
                    to: row * spec.stride() + part * 4,
                }
            })
            .collect()
    }

    /// Where eight elements of a key lie in a pool, and its scale, if it has one.
    fn places(
        &self,
        head: Val<'k, u32>,
        key: Val<'k, u32>,
        part: Val<'k, u32>,
    ) -> (Val<'k, u32>, Option<Val<'k, u32>>) {
        let spec = self.spec;
        let (tokens, parts) = (spec.shape.block_tokens, spec.shape.head_dim / 8);
        if spec.shape.kv_type != KvType::Int8 {
            let line = head * tokens + key % tokens;
            return ((line * parts + part) * 2, None);
        }
        let bytes = spec.shape.kv_type.block_bytes(tokens, spec.shape.head_dim);
        let token = key % tokens;
        let from = head * (bytes / 8) + token * parts + part;
        let scale = head * (bytes / 4) + token + tokens * spec.shape.head_dim / 4;
        (from, Some(scale))
    }

    /// Eight elements as they lie in a tile.
    fn load(&self, pool: Ptr<'k, u8>, piece: &Piece<'k>) -> [Val<'k, u32>; 4] {
        let from = pool.cast::<u64>().offset(piece.from).cast::<u32>();
        let Some(scale) = piece.scale else {
            return from.load_vec4(0u32);
        };
        let words = from.load_vec::<2>(0u32);
        let scale = pool.cast::<f32>().load(scale);
        std::array::from_fn(|i| {
            let value = |e| words[i / 2].signed_byte(e).cast::<f32>() * scale;
            let first = i as u32 % 2 * 2;
            self.k.pack_f16(value(first), value(first + 1)).bitcast()
        })
    }

    /// Runs `body` where the piece lies within the tile.
    fn where_exists(&self, piece: &Piece<'k>, body: impl FnOnce()) {
        match piece.exists {
            Some(exists) => self.k.if_(exists, body),
            None => body(),
        }
    }

    /// Starts the copy of a tile pair to word `to`.
    pub(super) fn start(&self, now: Val<'k, u32>, to: Val<'k, u32>) {
        let tile = self.spec.words(self.spec.keys());
        for piece in self.pieces(now) {
            self.where_exists(&piece, || {
                let bytes = self.k.select(piece.seen, 16u32, 0u32);
                for (i, pool) in (0..).zip(self.pools) {
                    let from = pool.cast::<u64>().offset(piece.from);
                    let to = to + piece.to + i * tile;
                    self.k
                        .cp_async_partial(16, self.tiles, to, from, 0u32, bytes);
                }
            });
        }
        self.k.cp_async_commit();
    }

    /// Copies a tile pair through registers.
    pub(super) fn run(&self, now: Val<'k, u32>) {
        let k = self.k;
        let tile = self.spec.words(self.spec.keys());
        let pieces = self.pieces(now);
        for (i, pool) in (0..).zip(self.pools) {
            let loaded: Vec<_> = pieces
                .iter()
                .map(|piece| {
                    let load = || {
                        let found = self.load(pool, piece);
                        // Scores of keys past the end are masked, whatever they are.
                        match i {
                            0 => found,
                            _ => found.map(|v| k.select(piece.seen, v, 0u32)),
                        }
                    };
                    let Some(exists) = piece.exists else {
                        return load();
                    };
                    let words: [Var<'k, u32>; 4] = std::array::from_fn(|_| k.var(0u32));
                    k.if_(exists, || {
                        words.iter().zip(load()).for_each(|(word, v)| word.set(v));
                    });
                    words.map(|word| word.get())
                })
                .collect();
            for (piece, words) in pieces.iter().zip(&loaded) {
                self.where_exists(piece, || {
                    self.tiles.store_vec::<4>(piece.to + i * tile, *words);
                });
            }
        }
    }
}
