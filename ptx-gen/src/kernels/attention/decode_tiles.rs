//! How keys and values come from a paged cache to registers as operands of matrix products, for
//! [`super::AttentionDecodeSpec`].
//!
//! A tile is 16 keys of one cache block. A product does not care in which order it adds, and its
//! columns may be any elements, so the operands are what lanes can load in whole words of 16
//! bytes, and no element changes lanes. With `g = lane / 4`, `t = lane % 4`:
//!
//! * A key's elements are divided among the four lanes of equal g: lane t has `width` contiguous
//!   elements of each [`Piece`]. Every four of them are its share in one step of 16 of the sum
//!   ([`steps`]); the left operand holds the same elements. Keys `g` and `g + 8` are the columns g of two products.
//! * A value's elements are divided among the eight lanes of equal t in the same way, and every
//!   element of a lane is a column g of another product. Lane t has values `2t`, `2t + 1`,
//!   `2t + 8` and `2t + 9`: the rows of the right operand that meet its own scores as they lie.
//!
//! What lies outside of the visible keys is not read: the nearest visible key stands in.

use half::f16;

use super::AttentionDecodeSpec;
use crate::build::{Builder, F16x2, Ptr, Val, Var};
use crate::kernels::{KvType, RopeKind};

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

impl Piece {
    /// Words that hold a lane's elements; the last may not be full.
    fn words(self, kv_type: KvType) -> usize {
        (self.width * kv_type.bytes()).div_ceil(4) as usize
    }
}

/// The pieces of `len` elements that `lanes` lanes share, at most 16 bytes each. Such elements start
/// at multiples of `len` and of a head: loads of a lane are aligned if both are multiples of them.
fn pieces(spec: &AttentionDecodeSpec, len: u32, lanes: u32) -> Vec<Piece> {
    let starts = len | spec.shape.head_dim;
    let (mut offset, mut width) = (0, 16 / spec.shape.kv_type.bytes());
    let mut pieces = Vec::new();
    while offset < len {
        if lanes * width > len - offset || !starts.is_multiple_of(width) {
            width /= 2;
        } else {
            pieces.push(Piece { offset, width });
            offset += lanes * width;
        }
    }
    pieces
}

/// The pieces of a key. Where queries are to be turned in halves, a lane has both elements of every
/// pair `(i, i + head_dim / 2)`.
pub(super) fn key_pieces(spec: &AttentionDecodeSpec) -> Vec<Piece> {
    let dim = spec.shape.head_dim;
    if !turned_apart(spec) {
        return pieces(spec, dim, KEY_LANES);
    }
    let low = pieces(spec, dim / 2, KEY_LANES);
    let high = low.iter().map(|piece| Piece {
        offset: piece.offset + dim / 2,
        ..*piece
    });
    low.iter().copied().chain(high).collect()
}

/// Whether queries are to be turned in halves whose elements no lane would have both of if a head
/// were divided as a whole: each half is then divided as the other.
pub(super) fn turned_apart(spec: &AttentionDecodeSpec) -> bool {
    let half = spec.shape.head_dim / 2;
    let whole = pieces(spec, 2 * half, KEY_LANES);
    let (low, high) = whole.split_at(whole.len() / 2);
    let meet = |(a, b): (&Piece, &Piece)| a.offset + half == b.offset && a.width == b.width;
    let meets = low.len() == high.len() && low.iter().zip(high).all(meet);
    spec.rope == Some(RopeKind::Neox) && !meets
}

/// The steps of the product with a key: a piece, and which four of a lane's elements of it. Of a
/// narrower piece there are fewer than four, and zeros in place of the others.
pub(super) fn steps(spec: &AttentionDecodeSpec) -> Vec<(Piece, u32)> {
    let of_piece = |piece: Piece| (0..piece.width.div_ceil(4)).map(move |i| (piece, i));
    key_pieces(spec).into_iter().flat_map(of_piece).collect()
}

/// The pieces of a value.
pub(super) fn value_pieces(spec: &AttentionDecodeSpec) -> Vec<Piece> {
    pieces(spec, spec.shape.head_dim, VALUE_LANES)
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
                    2 => vec![from.cast::<u16>().load(0).cast::<u32>()],
                    _ => vec![from.load(0).cast::<u32>()],
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
        let words = keys as usize * pieces.iter().map(|p| p.words(kv_type)).sum::<usize>();
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
    pub(super) fn key_operands(&self, pieces: &[Piece]) -> [Vec<[Val<'k, u32>; 2]>; 2] {
        let words: Vec<_> = self.words.iter().map(|v| v.get()).collect();
        let mut keys = words.chunks_exact(words.len() / 2).map(|mut words| {
            let mut operands = Vec::new();
            for piece in pieces {
                let own;
                (own, words) = words.split_at(piece.words(self.kv_type));
                match self.kv_type {
                    KvType::Int8 => operands.extend(own.iter().map(|w| self.halves(*w))),
                    _ => operands.extend(own.chunks(2).map(|w| match *w {
                        [a, b] => [a, b],
                        _ => [w[0], self.k.constant(0u32)],
                    })),
                }
            }
            operands
        });
        std::array::from_fn(|_| keys.next().unwrap_or_default())
    }

    /// Right operands of the products with values: for each column of a lane the pairs of its keys.
    pub(super) fn value_operands(&self, pieces: &[Piece]) -> Vec<[Val<'k, u32>; 2]> {
        let words: Vec<_> = self.words.iter().map(|v| v.get()).collect();
        let of_key = words.len() / OWN_KEYS.len();
        let pair = |word: usize, selector: u32| {
            [0, 2].map(|key| {
                let (a, b) = (words[word + key * of_key], words[word + (key + 1) * of_key]);
                a.prmt(b, selector)
            })
        };
        let of_word = |word: usize| {
            if self.kv_type != KvType::Int8 {
                return [0x5410, 0x7632].map(|halves| pair(word, halves)).to_vec();
            }
            // Bytes of both keys side by side, then as halves.
            let columns = [0x5140, 0x7362].map(|bytes| pair(word, bytes).map(|w| self.halves(w)));
            columns
                .into_iter()
                .flat_map(|[near, far]| [[near[0], far[0]], [near[1], far[1]]])
                .collect()
        };
        // A word that is not full gives columns too many: they are its last.
        let (mut operands, mut first) = (Vec::new(), 0);
        for piece in pieces {
            let words = piece.words(self.kv_type);
            let columns = (first..first + words).flat_map(of_word);
            operands.extend(columns.take(piece.width as usize));
            first += words;
        }
        operands
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
