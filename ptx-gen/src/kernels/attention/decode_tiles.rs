//! How keys and values come from a paged cache to registers as operands of matrix products, for
//! [`super::AttentionDecodeSpec`].
//!
//! A tile is 16 keys of one cache block. A product does not care in which order it adds, and its
//! columns may be any elements, so the operands are what lanes can load in whole words of 16
//! bytes, and no element changes lanes. With `g = lane / 4`, `t = lane % 4`:
//!
//! * A key's elements are divided among the four lanes of equal g: lane t has `width` contiguous
//!   elements of each [`Piece`]. Every four of them are its share in one step of 16 of the sum; the
//!   left operand holds the same elements. Keys `g` and `g + 8` are the columns g of two products.
//! * A value's elements are divided among the eight lanes of equal t in the same way, and every
//!   element of a lane is a column g of another product. Lane t has values `2t`, `2t + 1`,
//!   `2t + 8` and `2t + 9`: the rows of the right operand that meet its own scores as they lie.
//!
//! What lies outside of the visible keys is not read: the nearest visible key stands in.

use half::f16;

use super::AttentionDecodeSpec;
use crate::build::{Builder, F16x2, Ptr, Val, Var};
use crate::kernels::KvType;

/// Keys of a tile.
pub(super) const KEYS: u32 = 16;
/// Keys of a lane within its tile, of which the products give it the scores; plus `2 * (lane % 4)`.
pub(super) const OWN_KEYS: [u32; 4] = [0, 1, 8, 9];
/// Lanes that share a key.
const KEY_LANES: u32 = 4;
/// Lanes that share a value.
const VALUE_LANES: u32 = 8;

/// Elements of a head that lanes load in one turn, lane i those from `offset + i * width` on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) offset: u32,
    pub(super) width: u32,
}

/// The pieces of a head whose elements `lanes` lanes share, at most 16 bytes each.
fn pieces(spec: &AttentionDecodeSpec, lanes: u32) -> Vec<Piece> {
    let (mut offset, mut width) = (0, 16 / spec.shape.kv_type.bytes());
    let mut pieces = Vec::new();
    while offset < spec.shape.head_dim {
        if lanes * width > spec.shape.head_dim - offset {
            width /= 2;
        } else {
            pieces.push(Piece { offset, width });
            offset += lanes * width;
        }
    }
    pieces
}

/// The pieces of a key.
pub(super) fn key_pieces(spec: &AttentionDecodeSpec) -> Vec<Piece> {
    pieces(spec, KEY_LANES)
}

/// The pieces of a value.
pub(super) fn value_pieces(spec: &AttentionDecodeSpec) -> Vec<Piece> {
    pieces(spec, VALUE_LANES)
}

/// The cache as one block of the grid sees it.
pub(super) struct Cache<'k, 's> {
    pub(super) spec: &'s AttentionDecodeSpec,
    pub(super) k: &'k Builder,
    pub(super) keys: Ptr<'k, u8>,
    pub(super) values: Ptr<'k, u8>,
    /// The slot's row of the block table.
    pub(super) table: Ptr<'k, u32>,
    pub(super) kv_head: Val<'k, u32>,
    /// Keys of the row; the last is this step's.
    pub(super) length: Val<'k, u32>,
    /// Keys `start .. end` are the block's, of which those from `low` on are visible.
    pub(super) start: Val<'k, u32>,
    pub(super) low: Val<'k, u32>,
    pub(super) end: Val<'k, u32>,
}

impl<'k> Cache<'k, '_> {
    /// The cache block that holds a tile; for tiles past the end, the last.
    pub(super) fn block(&self, tile: Val<'k, u32>) -> Val<'k, u32> {
        let tokens = self.spec.shape.block_tokens;
        self.table
            .load((tile / tokens).min((self.end - 1) / tokens))
    }

    /// The head's part of a cache block.
    fn head(&self, pool: Ptr<'k, u8>, block: Val<'k, u32>) -> Ptr<'k, u8> {
        let spec = self.spec;
        let bytes = spec
            .shape
            .kv_type
            .block_bytes(spec.shape.block_tokens, spec.shape.head_dim);
        let head = (block * spec.shape.num_kv_heads + self.kv_head).cast::<u64>();
        pool.offset(head * u64::from(bytes)).streaming()
    }

    /// Elements of a lane's pieces of a key or value as they lie in memory; where it is not visible
    /// those of the nearest that is.
    fn words(
        &self,
        head: Ptr<'k, u8>,
        key: Val<'k, u32>,
        pieces: &[Piece],
        lane: Val<'k, u32>,
    ) -> Vec<Val<'k, u32>> {
        let spec = self.spec;
        let mut key = key.min(self.end - 1);
        if spec.shape.window.is_some() {
            key = key.max(self.low);
        }
        let bytes = spec.shape.kv_type.bytes();
        let at = key % spec.shape.block_tokens * (spec.shape.head_dim * bytes);
        pieces
            .iter()
            .flat_map(|piece| {
                let from = head.offset(at + lane * (piece.width * bytes) + piece.offset * bytes);
                match piece.width * bytes {
                    16 => from.cast::<u32>().load_vec::<4>(0).to_vec(),
                    8 => from.cast::<u32>().load_vec::<2>(0).to_vec(),
                    4 => vec![from.cast::<u32>().load(0)],
                    _ => vec![from.cast::<u16>().load(0).cast::<u32>()],
                }
            })
            .collect()
    }

    /// Scales of the lane's four keys of a tile; of keys that are not visible, anything.
    fn scales(&self, head: Ptr<'k, u8>, tile: Val<'k, u32>) -> Vec<Val<'k, f32>> {
        let spec = self.spec;
        if spec.shape.kv_type != KvType::Int8 {
            return Vec::new();
        }
        let head = head.byte_offset(u64::from(spec.shape.block_tokens * spec.shape.head_dim));
        let at = tile % spec.shape.block_tokens + self.k.lane() % 4 * 2;
        let pairs = [0, 8].map(|key| head.cast::<f32>().load_vec::<2>(at + key));
        pairs.concat()
    }

    /// The lane's part of the keys of a tile.
    pub(super) fn load_keys(&self, to: &Half<'k>, tile: Val<'k, u32>, block: Val<'k, u32>) {
        let lane = self.k.lane();
        let (head, pieces) = (self.head(self.keys, block), key_pieces(self.spec));
        let words = [0, 8]
            .iter()
            .flat_map(|key| self.words(head, tile + lane / 4 + *key, &pieces, lane % 4));
        to.set(words.collect(), self.scales(head, tile));
    }

    /// The lane's part of the values of a tile.
    pub(super) fn load_values(&self, to: &Half<'k>, tile: Val<'k, u32>, block: Val<'k, u32>) {
        let lane = self.k.lane();
        let (head, pieces) = (self.head(self.values, block), value_pieces(self.spec));
        let words = OWN_KEYS
            .iter()
            .flat_map(|key| self.words(head, tile + lane % 4 * 2 + *key, &pieces, lane / 4));
        to.set(words.collect(), self.scales(head, tile));
    }
}

/// A lane's part of the keys or of the values of a tile, as it lies in memory.
pub(super) struct Half<'k> {
    k: &'k Builder,
    kv_type: KvType,
    /// The pieces of a key after those of another.
    words: Vec<Var<'k, u32>>,
    /// Scales of the lane's four keys, if elements are bytes.
    scales: Vec<Var<'k, f32>>,
}

impl<'k> Half<'k> {
    /// Room for the pieces of so many keys.
    pub(super) fn new(cache: &Cache<'k, '_>, pieces: &[Piece], keys: u32) -> Half<'k> {
        let (k, kv_type) = (cache.k, cache.spec.shape.kv_type);
        let words = |piece: &Piece| (piece.width * kv_type.bytes()).div_ceil(4);
        let words = keys * pieces.iter().map(words).sum::<u32>();
        let scales = if kv_type == KvType::Int8 { 4 } else { 0 };
        Half {
            k,
            kv_type,
            words: (0..words).map(|_| k.var(0u32)).collect(),
            scales: (0..scales).map(|_| k.var(0f32)).collect(),
        }
    }

    fn set(&self, words: Vec<Val<'k, u32>>, scales: Vec<Val<'k, f32>>) {
        self.words.iter().zip(words).for_each(|(to, v)| to.set(v));
        self.scales.iter().zip(scales).for_each(|(to, v)| to.set(v));
    }

    /// Scale of the lane's key `i`, if elements are bytes.
    pub(super) fn scale(&self, i: usize) -> Option<Val<'k, f32>> {
        self.scales.get(i).map(|v| v.get())
    }

    /// Right operands of the products with keys: for key g, then key g + 8, one for every step.
    pub(super) fn key_operands(&self) -> [Vec<[Val<'k, u32>; 2]>; 2] {
        let words: Vec<_> = self.words.iter().map(|v| v.get()).collect();
        let mut keys = words
            .chunks_exact(words.len() / 2)
            .map(|words| match self.kv_type {
                KvType::Int8 => words.iter().map(|w| self.halves(*w)).collect(),
                _ => words.chunks_exact(2).map(|w| [w[0], w[1]]).collect(),
            });
        std::array::from_fn(|_| keys.next().unwrap_or_default())
    }

    /// Right operands of the products with values: for each column of a lane the pairs of its keys.
    pub(super) fn value_operands(&self, pieces: &[Piece]) -> Vec<[Val<'k, u32>; 2]> {
        let words: Vec<_> = self.words.iter().map(|v| v.get()).collect();
        let of_key = words.len() / OWN_KEYS.len();
        let columns = pieces.iter().map(|p| p.width).sum::<u32>() as usize;
        let pair = |word: usize, selector: u32| {
            [0, 2].map(|key| {
                let (a, b) = (words[word + key * of_key], words[word + (key + 1) * of_key]);
                a.prmt(b, selector)
            })
        };
        let operands = (0..of_key).flat_map(|word| {
            if self.kv_type != KvType::Int8 {
                return [0x5410, 0x7632].map(|halves| pair(word, halves)).to_vec();
            }
            // Bytes of both keys side by side, then as halves.
            let columns = [0x5140, 0x7362].map(|bytes| pair(word, bytes).map(|w| self.halves(w)));
            columns
                .into_iter()
                .flat_map(|[near, far]| [[near[0], far[0]], [near[1], far[1]]])
                .collect()
        });
        // A word with one pair of bytes gives two columns too many: they are the last.
        operands.take(columns).collect()
    }

    /// The four signed bytes of a word as two pairs of f16. A byte is a half of 1024 in whose low
    /// bits it lies, once it counts from 128.
    fn halves(&self, word: Val<'k, u32>) -> [Val<'k, u32>; 2] {
        let word = word ^ 0x8080_8080u32;
        let zero = self
            .k
            .constant(F16x2(f16::from_f32(1152.0), f16::from_f32(1152.0)));
        [0x4140u32, 0x4342].map(|bytes| {
            let pair = word.prmt(0x6464_6464u32, bytes).bitcast::<F16x2>();
            (pair - zero).bitcast::<u32>()
        })
    }
}
