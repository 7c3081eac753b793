//! Attention of few queries over a paged cache, on tensor cores:
//! `out[t, h] = sum_j softmax_j(cap(scale * q[t, h] . k[j])) * v[j]`.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | q | f32 | `[tokens, num_heads, head_dim]` |
//! | lengths | u32 | `[tokens]`: keys that the row may see, its own included; 0 is a dead row |
//! | slots | u32 | `[tokens]`, row of the block table |
//! | table | u32 | `[slots, max_blocks]` |
//! | keys, values | [`KvType`], but not f32 | `[blocks, num_kv_heads, block_tokens, head_dim]` |
//! | angles, with a rotation | f32 | `[positions, head_dim / 2, 2]`, (cos, sin) |
//! | out, with one split | f32 | `[tokens, num_heads, head_dim]` |
//! | partials, with more | f32 | `[tokens, num_heads, splits, head_dim + 2]` |
//!
//! Grid `[tokens, num_kv_heads * sets, splits]`, where a set is up to 16 query heads of a
//! key/value head. What a row sees, what a partial is and how keys are divided among splits is as in
//! [`super::AttentionSpec`], whose place this kernel takes from Ampere on; but of splits without keys only
//! the first writes its partial.
//!
//! The query heads are the rows of matrix products whose right operands are keys and values as they
//! lie in the cache: each is read once, in words of 16 bytes, straight to the registers in which
//! it is multiplied ([`super::decode_tiles`]). A warp takes 16 keys at a time, and the
//! next 16 are on their way while it works.
//!
//! Elements of bytes become the f16 of the same value. Their scales are factors of scores and of
//! weights; a partial's m is then the maximum of the scores plus the logarithms of the values'
//! scales, so that weights stay within f16.
//!
//! Products take 16-bit operands, so queries and weights are each the sum of two of them: the
//! rounded value and the rounded rest. With up to 8 heads the rests are the other 8 rows of the same
//! product, with more they take a second one. Queries are first multiplied by a power of two that
//! brings a head's largest element to `2^14 .. 2^15`, weights by 2^10, so that rests matter at any
//! magnitude. All else is f32: results differ from [`super::AttentionSpec`]'s by the rounding of
//! sums, and with a cache of bf16, whose operands have 8 bits, by 2^-16 of a query and a weight. Which keys are added in which order depends on the row's length alone.

use super::common::Division;
use super::decode_block::{Block, WARPS};
use super::decode_tiles::{Cache, KEYS, turned_apart};
use super::shape::{self, AttentionShape};
use crate::build::{Builder, Ptr, Val};
use crate::ir::{Kernel, Param};
use crate::kernels::{KvType, RopeKind};
use crate::target::Target;

/// Attention of one shape on tensor cores; sm_80 and later.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionDecodeSpec {
    /// GPU to write for.
    pub target: Target,
    /// Heads, cache and scores; blocks of a multiple of 16 positions, whose elements are not f32.
    pub shape: AttentionShape,
    /// Parts that a row's keys are divided into.
    pub splits: u32,
    /// Which elements of a query are turned together, all of them, by the angles of the row's
    /// position, to the bit as [`crate::kernels::RopeSpec`] turns them; `None`: queries come turned.
    pub rope: Option<RopeKind>,
    /// Whether launches that still run when this one starts write at most the queries and, of the
    /// keys and values that a row sees, the last one: all others are then loaded meanwhile. From
    /// sm_90 on, for heads of up to 128 elements; elsewhere it changes nothing.
    pub overlaps: bool,
}

/// Rows of a product.
const ROWS: u32 = 16;

impl AttentionDecodeSpec {
    /// Sets that the query heads of a key/value head form, each with blocks of its own.
    fn sets(&self) -> u32 {
        self.shape.group().div_ceil(ROWS)
    }

    /// Query heads of a block; the last set may have fewer.
    pub(super) fn heads(&self) -> u32 {
        self.shape.group().div_ceil(self.sets())
    }

    /// Whether the rounded rests take products of their own.
    pub(super) fn wide(&self) -> bool {
        self.heads() > ROWS / 2
    }

    /// Whether the first tiles are loaded while the launch in front runs.
    pub(super) fn overlaps(&self) -> bool {
        self.overlaps && self.ahead() && self.target.has_hopper()
    }

    /// Whether the kernel covers the shape.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        self.shape.check()?;
        if self.splits == 0 {
            return Err("attention in no splits".into());
        }
        if !self.shape.block_tokens.is_multiple_of(KEYS) {
            return Err(format!(
                "cache blocks of {} positions; this attention takes multiples of {KEYS}",
                self.shape.block_tokens
            ));
        }
        if !self.target.has_ampere() {
            return Err(format!("{} has no matrix product of 16 keys", self.target));
        }
        if self.shape.kv_type == KvType::F32 {
            return Err(format!("a cache of {}", self.shape.kv_type.name()));
        }
        Ok(())
    }

    /// Blocks for `tokens` rows.
    pub fn grid(&self, tokens: u32) -> [u32; 3] {
        [tokens, self.shape.num_kv_heads * self.sets(), self.splits]
    }

    /// Bytes moved for `tokens` rows that all see a full table (or window) of keys.
    pub fn bytes(&self, tokens: u64) -> u64 {
        self.shape.bytes(tokens, self.splits)
    }

    /// Bytes moved for `tokens` rows that read `keys` keys all together.
    pub fn bytes_at(&self, tokens: u64, keys: u64) -> u64 {
        self.shape.bytes_at(tokens, keys, self.splits)
    }

    /// The parameters in launch order.
    pub fn params(&self) -> Vec<Param> {
        let mut params = vec![
            Param::input::<f32>("q"),
            Param::input::<u32>("lengths"),
            Param::input::<u32>("slots"),
            Param::input::<u32>("table"),
            Param::input::<u8>("keys"),
            Param::input::<u8>("values"),
        ];
        params.extend(self.rope.map(|_| Param::input::<f32>("angles")));
        params.push(Param::output::<f32>(if self.splits == 1 {
            "out"
        } else {
            "partials"
        }));
        params
    }

    /// The kernel, named after its shape.
    pub fn kernel(&self) -> Kernel {
        let AttentionShape {
            num_heads,
            num_kv_heads,
            head_dim,
            block_tokens,
            kv_type,
            scale,
            softcap,
            window,
            ..
        } = self.shape;
        let (kv, splits) = (kv_type.name(), self.splits);
        let mut name = format!("attention_decode_{kv}_{}", self.shape.name());
        name += &self.shape.variant();
        if splits > 1 {
            name += &format!("_s{splits}");
        }
        if let Some(kind) = self.rope {
            name += &format!("_{}", kind.name());
        }
        if self.overlaps() {
            name += "_o";
        }
        let [_, y, z] = self.grid(1);
        Kernel::new(name, self.target, |k| {
            k.doc(format!(
                "Attention of rows [tokens, {num_heads}, {head_dim}] over {kv} pools \
                 [blocks, {num_kv_heads}, {block_tokens}, {head_dim}],\nscale {scale}, softcap \
                 {softcap:?}, window {window:?}. Grid [tokens, {y}, {z}].\n\
                 With several splits a partial is head_dim sums, their maximum in base 2, \
                 their denominator."
            ));
            k.block_size(32 * WARPS);
            if !self.ahead() && (!head_dim.is_multiple_of(16) || turned_apart(self)) {
                // ptxas would spill some registers of such long heads to fit more blocks than two.
                k.min_blocks(2);
            }
            k.declare(self.params());
            let q = k.bind::<f32>("q");
            let (lengths, slots) = (k.bind::<u32>("lengths"), k.bind::<u32>("slots"));
            let table = k.bind::<u32>("table");
            let (keys, values) = (k.bind::<u8>("keys"), k.bind::<u8>("values"));
            let angles = k.bind_if::<f32>("angles").map(Ptr::read_only);
            let out = k.bind::<f32>(if splits == 1 { "out" } else { "partials" });
            let length = lengths.load(k.block_x());
            let row = slots.load(k.block_x()) * self.shape.max_blocks;
            let (start, low, end) = self.range(k, length);
            let block = Block {
                spec: self,
                k,
                cache: Cache {
                    spec: self,
                    k,
                    keys,
                    values,
                    table: table.offset(row),
                    kv_head: k.block_y() / self.sets(),
                    length,
                    start,
                    low,
                    end,
                },
                first_head: k.block_y() % self.sets() * self.heads(),
                out,
            };
            if !self.overlaps() {
                block.begin();
            }
            let area = k.dynamic_shared::<f32>("area", self.area_words());
            let angles = angles.map(|a| a.offset((length.max(1) - 1) * head_dim));
            block.run(q, angles, area);
        })
    }

    /// The keys of the block's split, `start .. end`, and the first visible one of the row.
    fn range<'k>(
        &self,
        k: &'k Builder,
        length: Val<'k, u32>,
    ) -> (Val<'k, u32>, Val<'k, u32>, Val<'k, u32>) {
        let division = Division::new(k, length, &self.shape, self.splits);
        let (low, start) = (division.low, division.start(k.block_z()));
        let end = division.end(k.block_z(), length);
        match self.shape.window {
            Some(_) => (start.max(low / KEYS * KEYS), low, end),
            None => (start, low, end),
        }
    }
}

pub(in crate::kernels) fn representative(target: Target) -> Vec<AttentionDecodeSpec> {
    let spec = |num_heads, num_kv_heads, head_dim, splits| AttentionDecodeSpec {
        target,
        shape: shape::representative(num_heads, num_kv_heads, head_dim),
        splits,
        rope: None,
        overlaps: true,
    };
    let mut specs = vec![
        spec(8, 2, 64, 1),
        AttentionDecodeSpec {
            rope: Some(RopeKind::Neox),
            ..spec(12, 2, 128, 64)
        },
        AttentionDecodeSpec {
            rope: Some(RopeKind::Interleaved),
            ..spec(32, 8, 128, 16)
        },
        AttentionDecodeSpec {
            overlaps: false,
            ..spec(16, 1, 128, 1)
        },
        spec(8, 1, 256, 4),
    ];
    let of_type = |kv_type, mut spec: AttentionDecodeSpec| {
        spec.shape.kv_type = kv_type;
        spec
    };
    specs.push(of_type(KvType::BF16, spec(32, 8, 128, 16)));
    specs.push(of_type(KvType::Int8, spec(32, 8, 128, 16)));
    specs.push(of_type(KvType::Int8, spec(16, 1, 80, 1)));
    specs.push(AttentionDecodeSpec {
        rope: Some(RopeKind::Neox),
        ..spec(32, 32, 96, 8)
    });
    specs.push(AttentionDecodeSpec {
        rope: Some(RopeKind::Neox),
        ..spec(6, 2, 72, 1)
    });
    specs.push(of_type(KvType::Int8, spec(12, 1, 40, 4)));
    specs.push(spec(8, 4, 200, 8));
    let mut capped = spec(40, 2, 80, 2);
    (capped.shape.softcap, capped.shape.window) = (Some(50.0), Some(512));
    specs.push(capped);
    specs.retain(|spec| spec.check().is_ok());
    specs
}
