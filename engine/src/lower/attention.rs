//! Attention of a layer to its launches: which kernel, in how many splits.
//!
//! | step | precision | kernel |
//! |---|---|---|
//! | prompt of more than [`GEMV_MAX_ROWS`] rows | fast | `attention_flash`, one block for 64 queries; of a model of f32, queries in two terms where that fits |
//! | other | fast, sm_80 on | `attention_decode`, tensor cores, then `attention_merge` |
//! | other | exact, or sm_75 | `attention` in f32, then `attention_merge` |
//!
//! Where results are not to depend on what runs beside a row, prompts have the kernel of other steps as
//! well, in a number of splits that is the layer's alone: a row's keys are then divided by its position.
//!
//! Else the number of splits depends on the class of the step's shape and on the context, never on a length: a
//! graph replays one grid. Splits past a row's keys end at once.

use gannet_ptx_gen::kernels::{
    AttentionDecodeSpec, AttentionFlashSpec, AttentionMergeSpec, AttentionShape,
    AttentionSpec as AttentionKernel, WeightFormat,
};

use super::select::{Choice, Chosen, Selector, one};
use super::{GEMV_MAX_ROWS, StepKind};
use crate::Error;
use crate::kv::BLOCK_TOKENS;
use crate::plan::{AttentionConfig, Buf, CacheId, Op, Rope};
use crate::settings::Precision;

/// Keys that a split has at least, by the kernels' own rule: more splits would be without any.
const MIN_SPLIT_KEYS: usize = 64;
/// Rows that share a device as far as splits go which do not depend on the rows of a step: more splits
/// would make a row alone faster, and take more scratch and more of a merge for each row of a prompt.
const ROWS_OF_INVARIANT: usize = 4;
/// Splits at most: their merge keeps all of a row's partials in flight.
const MAX_SPLITS: usize = 128;

impl Selector<'_> {
    pub(super) fn attention(
        &self,
        cache: CacheId,
        a: &AttentionConfig,
        rope: Option<Rope>,
        out: Buf,
    ) -> Result<Choice, Error> {
        let (rows, tokens) = (self.each_row(out), self.rows(out));
        if let Some(flash) = self.flash(cache, a) {
            return Ok(one(flash, rows));
        }
        let splits = self.splits(a, tokens);
        let plain = self.plain(cache, a, splits);
        let (mut kernels, _) = if let Some(decode) = self.decode(&plain) {
            let rope = rope.map(|rope| self.rope_kind(rope));
            one(AttentionDecodeSpec { rope, ..decode }, rows)
        } else {
            plain.check().map_err(|why| Error::Unsupported {
                what: format!("attention over {}", self.plan.cache(cache).name),
                why,
            })?;
            one(plain, rows)
        };
        if splits == 1 {
            return Ok((kernels, 0));
        }
        let merge = AttentionMergeSpec {
            target: self.options.target,
            shape: self.attention_shape(cache, a),
            splits,
        };
        kernels.push(Chosen {
            spec: merge.into(),
            count: rows,
        });
        let partials = tokens as usize * a.num_heads * splits as usize * (a.head_dim + 2);
        Ok((kernels, partials * 4))
    }

    fn attention_shape(&self, cache: CacheId, a: &AttentionConfig) -> AttentionShape {
        AttentionShape {
            num_heads: a.num_heads as u32,
            num_kv_heads: a.num_kv_heads as u32,
            head_dim: a.head_dim as u32,
            block_tokens: BLOCK_TOKENS as u32,
            max_blocks: self.options.max_blocks as u32,
            kv_type: self.plan.cache(cache).kv_type(self.options.kv_type),
            scale: a.scale,
            softcap: a.softcap,
            window: a.window,
        }
    }

    fn plain(&self, cache: CacheId, a: &AttentionConfig, splits: u32) -> AttentionKernel {
        AttentionKernel {
            target: self.options.target,
            shape: self.attention_shape(cache, a),
            splits,
        }
    }

    /// The kernel for prompts, where it is one's turn.
    fn flash(&self, cache: CacheId, a: &AttentionConfig) -> Option<AttentionFlashSpec> {
        let many = self.shape.rows > GEMV_MAX_ROWS && self.shape.kind == StepKind::Prompt;
        let many = many && !self.options.batch_invariant;
        let flash = AttentionFlashSpec {
            target: self.options.target,
            shape: self.attention_shape(cache, a),
            split_queries: self.keeps_f32(),
        };
        let rounded = AttentionFlashSpec {
            split_queries: false,
            ..flash
        };
        let mut covered = [flash, rounded].into_iter().filter(|f| f.check().is_ok());
        covered.next().filter(|_| many && self.is_fast())
    }

    /// Whether every product is of weights of f32: queries are then more exact than an f16.
    fn keeps_f32(&self) -> bool {
        let weights = self.plan.ops.iter().filter_map(|op| match *op {
            Op::MatMul { weight, .. } => Some(self.format(weight)),
            _ => None,
        });
        weights
            .into_iter()
            .all(|format| format == WeightFormat::F32)
    }

    /// The same attention on tensor cores, for few queries, where there is one.
    fn decode(&self, plain: &AttentionKernel) -> Option<AttentionDecodeSpec> {
        let decode = AttentionDecodeSpec {
            target: plain.target,
            shape: plain.shape,
            splits: plain.splits,
            rope: None,
            overlaps: false,
        };
        (self.is_fast() && decode.check().is_ok()).then_some(decode)
    }

    /// Whether attention runs on a kernel that can rotate its queries.
    pub(super) fn rotated_decode(&self, rope: Rope, cache: CacheId, a: &AttentionConfig) -> bool {
        let decode = self.decode(&self.plain(cache, a, 1));
        let rotated = decode.map(|decode| AttentionDecodeSpec {
            rope: Some(self.rope_kind(rope)),
            ..decode
        });
        self.flash(cache, a).is_none() && rotated.is_some_and(|spec| spec.check().is_ok())
    }

    pub(super) fn is_fast(&self) -> bool {
        self.options.precision == Precision::Fast
    }

    /// Enough splits to give every multiprocessor two blocks, of which three fit one, within the
    /// bounds above. What prompts of a class get is enough for the shortest of them.
    fn splits(&self, a: &AttentionConfig, tokens: u32) -> u32 {
        let invariant = self.options.batch_invariant;
        let tokens = match self.shape.comes_again() {
            _ if invariant => ROWS_OF_INVARIANT,
            true => tokens as usize,
            false => tokens.next_power_of_two() as usize / 2,
        };
        let blocks = tokens * a.num_kv_heads;
        let wanted = (2 * self.options.multiprocessors).div_ceil(blocks);
        // A sequence is to have the same results in a session with another context, too.
        let context = match invariant {
            true => usize::MAX,
            false => self.options.max_blocks * BLOCK_TOKENS,
        };
        let keys = a.window.map_or(context, |w| context.min(w as usize));
        wanted.min(keys / MIN_SPLIT_KEYS).clamp(1, MAX_SPLITS) as u32
    }
}
