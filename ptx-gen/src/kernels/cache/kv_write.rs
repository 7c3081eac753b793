//! Appends the keys and values of a step to the cache of a layer.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | k, v | f32 | `[tokens, num_kv_heads * head_dim]` |
//! | lengths | u32 | `[tokens]`, position plus one; 0 writes nothing |
//! | slots | u32 | `[tokens]`, row of the block table |
//! | table | u32 | `[slots, max_blocks]` |
//! | angles, with a rotation | f32 | `[positions, head_dim / 2, 2]`, (cos, sin) |
//! | keys, values | [`KvType`] | `[blocks, num_kv_heads, block_tokens, head_dim]` |
//!
//! Grid `[tokens, 1, 1]`, four elements a thread. Bytes are `round(x / scale)`, where a warp finds
//! the scale of a head. With a rotation keys are turned on their way, as
//! [`crate::kernels::RopeSpec`] turns them, to the bit. What exceeds the type becomes NaN. Reads 8 bytes and writes twice an element for
//! each of `tokens * num_kv_heads * head_dim`.

use half::{bf16, f16};

use crate::build::{Builder, Ptr, Val};
use crate::ir::{Kernel, Param};
use crate::kernels::elementwise::rope::Turned;
use crate::kernels::{KvType, RopeKind};
use crate::target::Target;

/// The cache of a layer and how it is addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KvWriteSpec {
    /// GPU to write for.
    pub target: Target,
    /// Key/value heads.
    pub num_kv_heads: u32,
    /// Elements of a head; a multiple of 4.
    pub head_dim: u32,
    /// Positions of a cache block.
    pub block_tokens: u32,
    /// Entries in a row of the block table.
    pub max_blocks: u32,
    /// Element type of the cache.
    pub kv_type: KvType,
    /// Which elements of a key are turned together, all of them; `None`: keys come turned.
    pub rope: Option<RopeKind>,
}

const WIDTH: u32 = 4;

/// The magnitude whose scale is the least.
const LEAST_MAGNITUDE: f32 = 127.0 * KvType::LEAST_SCALE;

impl KvWriteSpec {
    fn row(&self) -> u32 {
        self.num_kv_heads * self.head_dim
    }

    fn threads(&self) -> u32 {
        (self.row() / WIDTH).next_multiple_of(32).clamp(32, 256)
    }

    /// Whether the kernel covers the cache.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        if !self.head_dim.is_multiple_of(WIDTH) {
            return Err(format!("a cache of heads of {} elements", self.head_dim));
        }
        if self.kv_type == KvType::BF16 && !self.target.has_ampere() {
            return Err(format!("{} has no conversion to bf16", self.target));
        }
        if self.rope.is_some() && !self.head_dim.is_multiple_of(2 * WIDTH) {
            return Err(format!("keys of {} elements to turn", self.head_dim));
        }
        Ok(())
    }

    /// Blocks for `tokens` rows.
    pub fn grid(&self, tokens: u32) -> [u32; 3] {
        [tokens, 1, 1]
    }

    /// Bytes moved for `tokens` rows.
    pub fn bytes(&self, tokens: u64) -> u64 {
        let written = self.num_kv_heads * self.kv_type.block_bytes(1, self.head_dim);
        tokens * 2 * u64::from(4 * self.row() + written)
    }

    /// The parameters in launch order.
    pub fn params(&self) -> Vec<Param> {
        let mut params = vec![
            Param::input::<f32>("k"),
            Param::input::<f32>("v"),
            Param::input::<u32>("lengths"),
            Param::input::<u32>("slots"),
            Param::input::<u32>("table"),
        ];
        params.extend(self.rope.map(|_| Param::input::<f32>("angles")));
        params.extend(["keys", "values"].map(Param::output::<u8>));
        params
    }

    /// The kernel.
    pub fn kernel(&self) -> Kernel {
        let KvWriteSpec {
            target,
            num_kv_heads,
            head_dim,
            block_tokens,
            max_blocks,
            kv_type,
            rope,
        } = *self;
        let mut name = format!(
            "kv_write_{}_{num_kv_heads}x{head_dim}_b{block_tokens}x{max_blocks}",
            kv_type.name()
        );
        if let Some(kind) = rope {
            name += &format!("_{}", kind.name());
        }
        Kernel::new(name, target, |k| {
            k.doc(format!(
                "Writes [tokens, {num_kv_heads}, {head_dim}] keys and values to position \
                 lengths[t] - 1 of slot slots[t];\npools are [blocks, {num_kv_heads}, \
                 {block_tokens}, {head_dim}]. Grid [tokens, 1, 1]."
            ));
            k.block_size(self.threads());
            k.declare(self.params());
            let (keys, values) = (k.bind::<f32>("k"), k.bind::<f32>("v"));
            let (lengths, slots) = (k.bind::<u32>("lengths"), k.bind::<u32>("slots"));
            let table = k.bind::<u32>("table");
            let angles = k.bind_if::<f32>("angles").map(Ptr::read_only);
            let t = k.block_x();
            let length = lengths.load(t);
            let (k_pool, v_pool) = (k.bind::<u8>("keys"), k.bind::<u8>("values"));
            let position = length.max(1) - 1;
            let found = k.var(0u32);
            k.if_(length.gt(0), || {
                let row = slots.load(t) * max_blocks;
                found.set(table.load(row + position / block_tokens));
            });
            let block = found.get();
            let token = position % block_tokens;
            let row = t * self.row();
            let turn = rope.zip(angles).map(|(kind, angles)| Turned {
                kind,
                dim: head_dim,
                angles: angles.offset(position * head_dim),
            });
            // Where the row goes is known before its elements are.
            if kv_type == KvType::Int8 {
                k.wait_for_predecessor();
                k.exit_if(length.eq(0));
                let place = Place { block, token };
                let keys = Heads {
                    source: keys.offset(row),
                    turn: turn.as_ref(),
                    pool: k_pool,
                };
                self.quantise(k, &keys, &place);
                let values = Heads {
                    source: values.offset(row),
                    turn: None,
                    pool: v_pool,
                };
                self.quantise(k, &values, &place);
                return;
            }
            let parts: Vec<_> = (0..self.row().div_ceil(k.threads() * WIDTH))
                .map(|part| {
                    let e = k.thread_x() * WIDTH + part * (k.threads() * WIDTH);
                    let ragged = (part + 1) * k.threads() * WIDTH > self.row();
                    let exists = ragged.then(|| e.lt(self.row()));
                    let by = turn.as_ref().map(|turn| turn.angles(e % head_dim));
                    (e, exists, by)
                })
                .collect();
            k.wait_for_predecessor();
            k.exit_if(length.eq(0));
            for (e, exists, by) in parts {
                let write = || {
                    let (head, i) = (e / head_dim, e % head_dim);
                    let at = ((block * num_kv_heads + head) * block_tokens + token) * head_dim + i;
                    let key = match turn.as_ref().zip(by) {
                        Some((turn, by)) => turn.load(keys.offset(row + head * head_dim), i, by),
                        None => keys.load_vec4(row + e),
                    };
                    store(k, kv_type, k_pool, at, key);
                    store(k, kv_type, v_pool, at, values.load_vec4(row + e));
                };
                match exists {
                    Some(exists) => k.if_(exists, write),
                    None => write(),
                }
            }
        })
    }
}

/// The position that a row is written to.
struct Place<'k> {
    /// Block of the pools, and the position within it.
    block: Val<'k, u32>,
    token: Val<'k, u32>,
}

/// The keys or the values of a row on their way to their pool.
struct Heads<'k, 't> {
    source: Ptr<'k, f32>,
    /// How they are turned, if they are.
    turn: Option<&'t Turned<'k>>,
    pool: Ptr<'k, u8>,
}

impl KvWriteSpec {
    /// Writes the heads of a token as bytes and their scales, a warp a head at a time.
    fn quantise<'k>(&self, k: &'k Builder, heads: &Heads<'k, '_>, place: &Place<'k>) {
        let Place { block, token } = *place;
        let dim = self.head_dim;
        let block_bytes = self.kv_type.block_bytes(self.block_tokens, dim);
        k.for_each(k.warp(), self.num_kv_heads, k.threads() / 32, |head| {
            let to = (block * self.num_kv_heads + head).cast::<u64>() * u64::from(block_bytes);
            let to = heads.pool.offset(to);
            let turns = dim.div_ceil(32 * WIDTH);
            let parts: Vec<_> = (0..turns)
                .map(|turn| k.lane() * WIDTH + turn * 32 * WIDTH)
                .collect();
            // Lanes past the end read the last elements again.
            let found: Vec<[_; 4]> = parts
                .iter()
                .map(|e| {
                    let (from, i) = (heads.source.offset(head * dim), e.min(dim - WIDTH));
                    match heads.turn {
                        Some(turn) => turn.load(from, i, turn.angles(i)),
                        None => from.load_vec4(i),
                    }
                })
                .collect();
            // Magnitudes compare like their bits, and NaN comes out on top.
            let magnitude = |v: &Val<'k, f32>| v.abs().bitcast::<u32>();
            let least = k.constant(LEAST_MAGNITUDE.to_bits());
            let most = found
                .iter()
                .flatten()
                .fold(least, |m, v| m.max(magnitude(v)));
            let most = k.lanes_reduce(most, 32, |a, b| a.max(b)).bitcast::<f32>();
            let scale = most * (1.0 / 127.0);
            let inverse = scale.rcp_exact();
            for (e, values) in parts.iter().zip(found) {
                let bytes = values.map(|v| {
                    let byte = (v * inverse).round_to::<i32>();
                    byte.min(127).max(-127).bitcast::<u32>()
                });
                let pair = |i: usize| bytes[i].prmt(bytes[i + 1], 0x0040u32);
                let word = pair(0).prmt(pair(2), 0x5410u32);
                k.if_(e.lt(dim), || {
                    to.offset(token * dim + *e).cast::<u32>().store(0, word);
                });
            }
            k.if_(k.lane().eq(0), || {
                let scales = to.byte_offset(u64::from(self.block_tokens * dim));
                scales.cast::<f32>().store(token, scale);
            });
        });
    }
}

/// NaN in place of what rounds to an infinity of a type whose largest number is so much: an infinite key
/// would just not be looked at.
fn held<'k>(k: &'k Builder, values: [Val<'k, f32>; 4], largest: f32) -> [Val<'k, f32>; 4] {
    values.map(|v| k.select(v.abs().le(largest), v, f32::NAN))
}

/// Stores four elements in the cache's type.
fn store<'k>(
    k: &'k Builder,
    kv_type: KvType,
    pool: Ptr<'k, u8>,
    at: Val<'k, u32>,
    values: [Val<'k, f32>; 4],
) {
    let at = at.cast::<u64>();
    let [a, b, c, d] = match kv_type {
        KvType::F16 => held(k, values, f16::MAX.to_f32()),
        KvType::BF16 => held(k, values, bf16::MAX.to_f32()),
        KvType::F32 | KvType::Int8 => values,
    };
    match kv_type {
        KvType::F32 => pool.cast::<f32>().store_vec(at, values),
        KvType::F16 => {
            let pairs = [k.pack_f16(a, b), k.pack_f16(c, d)].map(|p| p.bitcast::<u32>());
            pool.cast::<f16>()
                .offset(at)
                .cast::<u32>()
                .store_vec(0, pairs);
        }
        KvType::BF16 => {
            let pairs = [k.pack_bf16(a, b), k.pack_bf16(c, d)].map(|p| p.bitcast::<u32>());
            pool.cast::<f16>()
                .offset(at)
                .cast::<u32>()
                .store_vec(0, pairs);
        }
        KvType::Int8 => unreachable!("bytes need their head's scale"),
    }
}

pub(in crate::kernels) fn representative(target: Target) -> Vec<KvWriteSpec> {
    use RopeKind::{Interleaved, Neox};
    let spec = |num_kv_heads, head_dim, kv_type, rope| KvWriteSpec {
        target,
        num_kv_heads,
        head_dim,
        block_tokens: 32,
        max_blocks: 128,
        kv_type,
        rope,
    };
    [
        spec(2, 64, KvType::F16, None),
        spec(8, 128, KvType::F16, Some(Interleaved)),
        spec(2, 128, KvType::F16, Some(Neox)),
        spec(2, 16, KvType::F32, None),
        spec(8, 128, KvType::BF16, Some(Neox)),
        spec(8, 128, KvType::Int8, None),
        spec(2, 64, KvType::Int8, Some(Neox)),
    ]
    .into_iter()
    .filter(|spec| spec.check().is_ok())
    .collect()
}
