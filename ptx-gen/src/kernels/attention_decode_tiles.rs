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

use super::AttentionDecodeSpec;
use crate::build::{Builder, Ptr, Val, Var};

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
fn pieces(dim: u32, lanes: u32) -> Vec<Piece> {
    let (mut offset, mut width) = (0, 8);
    let mut pieces = Vec::new();
    while offset < dim {
        if lanes * width > dim - offset {
            width /= 2;
        } else {
            pieces.push(Piece { offset, width });
            offset += lanes * width;
        }
    }
    pieces
}

/// The pieces of a key.
pub(super) fn key_pieces(dim: u32) -> Vec<Piece> {
    pieces(dim, KEY_LANES)
}

/// The pieces of a value.
pub(super) fn value_pieces(dim: u32) -> Vec<Piece> {
    pieces(dim, VALUE_LANES)
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
    /// Keys `start .. end` are the block's, of which those from `low` on are visible.
    pub(super) start: Val<'k, u32>,
    pub(super) low: Val<'k, u32>,
    pub(super) end: Val<'k, u32>,
}

impl<'k> Cache<'k, '_> {
    /// The cache block that holds a tile; for tiles past the end, the last.
    pub(super) fn block(&self, tile: Val<'k, u32>) -> Val<'k, u32> {
        let tokens = self.spec.block_tokens;
        self.table
            .load((tile / tokens).min((self.end - 1) / tokens))
    }

    /// The head's part of a cache block.
    fn head(&self, pool: Ptr<'k, u8>, block: Val<'k, u32>) -> Ptr<'k, u8> {
        let spec = self.spec;
        let bytes = spec.kv_type.bytes() * spec.block_tokens * spec.head_dim;
        let head = (block * spec.num_kv_heads + self.kv_head).cast::<u64>();
        pool.offset(head * u64::from(bytes)).streaming()
    }

    /// Elements of a lane's pieces of a key or value as they lie in memory, two a word; where it is
    /// not visible those of the nearest that is.
    fn words(
        &self,
        head: Ptr<'k, u8>,
        key: Val<'k, u32>,
        pieces: &[Piece],
        lane: Val<'k, u32>,
    ) -> Vec<Val<'k, u32>> {
        let spec = self.spec;
        let mut key = key.min(self.end - 1);
        if spec.window.is_some() {
            key = key.max(self.low);
        }
        let bytes = spec.kv_type.bytes();
        let at = key % spec.block_tokens * (spec.head_dim * bytes);
        pieces
            .iter()
            .flat_map(|piece| {
                let from = head.offset(at + lane * (piece.width * bytes) + piece.offset * bytes);
                let from = from.cast::<u32>();
                match piece.width * bytes {
                    16 => from.load_vec::<4>(0).to_vec(),
                    8 => from.load_vec::<2>(0).to_vec(),
                    _ => vec![from.load(0)],
                }
            })
            .collect()
    }

    /// The lane's part of the keys of a tile: for key g and key g + 8 its pieces.
    pub(super) fn load_keys(&self, tile: Val<'k, u32>, block: Val<'k, u32>) -> Vec<Val<'k, u32>> {
        let lane = self.k.lane();
        let (head, pieces) = (self.head(self.keys, block), key_pieces(self.spec.head_dim));
        [0, 8]
            .iter()
            .flat_map(|key| self.words(head, tile + lane / 4 + *key, &pieces, lane % 4))
            .collect()
    }

    /// The lane's part of the values of a tile: its pieces of each of its four keys.
    pub(super) fn load_values(&self, tile: Val<'k, u32>, block: Val<'k, u32>) -> Vec<Val<'k, u32>> {
        let lane = self.k.lane();
        let (head, pieces) = (self.head(self.values, block), value_pieces(self.spec.head_dim));
        OWN_KEYS
            .iter()
            .flat_map(|key| self.words(head, tile + lane % 4 * 2 + *key, &pieces, lane / 4))
            .collect()
    }
}

/// Variables for what [`Cache::load_keys`] or [`Cache::load_values`] gives, so many words.
pub(super) fn registers<'k>(k: &'k Builder, words: u32) -> Vec<Var<'k, u32>> {
    (0..words).map(|_| k.var(0u32)).collect()
}

/// Right operands of the products with values: for each column of a lane the pairs of its keys.
pub(super) fn value_operands<'k>(words: &[Val<'k, u32>]) -> Vec<[Val<'k, u32>; 2]> {
    let of_key = words.len() / OWN_KEYS.len();
    let pair = |a: usize, b: usize, selector: u32| words[a].prmt(words[b], selector);
    (0..of_key)
        .flat_map(|word| [(word, 0x5410), (word, 0x7632)])
        .map(|(word, halves)| {
            [
                pair(word, word + of_key, halves),
                pair(word + 2 * of_key, word + 3 * of_key, halves),
            ]
        })
        .collect()
}
