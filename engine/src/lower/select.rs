//! Second pass: which kernel computes a unit, and which variant of it, by shape and profile.
//!
//! Attention has a file of its own. What a launch is over is said here too: rows, or elements of
//! kernels without rows.
//!
//! Where results are not to depend on what runs beside a row ([`LowerOptions::batch_invariant`]), a
//! product has one kernel for any number of rows, whose sums of a row know nothing of the others: that
//! of batches, in parts of the columns that are the matrix's alone; and where that does not cover the
//! shape, or activations are not to be rounded, that of few rows in its built-in variant. Both say
//! so in their contracts. All kernels but products and attention work row by row in any case.

use gannet_ptx_gen::kernels::{
    AddSpec, ArgmaxSpec, EmbedSpec, Epilogue, GatherRowsSpec, GemmBatchSpec, GemmSpec, GemvGluSpec,
    GemvSpec, GluSpec, KvWriteSpec, LayerNormSpec, Map, MapSpec, NormAddNormSpec, RmsNormSpec,
    RopeSpec as RopeKernel, WeightFormat,
};
use gannet_quant::{Format, repack};

use super::node::{Node, NodeKind};
use super::pattern::Kernels;
use super::{BATCH_MAX_ROWS, COUNTERS, Count, GEMV_MAX_ROWS, KernelSpec, LowerOptions, Shape};
use crate::Error;
use crate::kv::BLOCK_TOKENS;
use crate::plan::{Activation, AttentionConfig, Buf, CacheId, Op, Plan, Rope, RopeKind, Weight};
use crate::settings::Precision;

/// A kernel of a unit, and what a launch of it is over.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chosen {
    pub(super) spec: KernelSpec,
    pub(super) count: Count,
}

/// A unit and the kernels that compute it, in order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Selected {
    pub(super) node: Node,
    pub(super) kernels: Vec<Chosen>,
    /// Bytes of scratch between and in its launches.
    pub(super) scratch_bytes: usize,
}

/// Chooses kernels for steps of one shape.
pub(super) struct Selector<'a> {
    pub(super) plan: &'a Plan,
    pub(super) shape: Shape,
    pub(super) options: &'a LowerOptions,
}

/// A matrix product, as far as the choice of its kernel goes.
struct Product {
    weight: Weight,
    epilogue: Epilogue,
    out: Buf,
}

/// The kernels of a unit, and bytes of scratch.
pub(super) type Choice = (Vec<Chosen>, usize);

impl Kernels for Selector<'_> {
    fn gates(&self) -> bool {
        // The sums of a gated kernel are not those of two products.
        !self.options.batch_invariant && self.shape.rows <= self.options.gemv_rows()
    }

    fn norms_twice(&self, dim: usize) -> bool {
        self.norm_add_norm(dim, 0.0).check().is_ok()
    }

    fn rotates_keys(&self, rope: Rope, cache: CacheId) -> bool {
        let whole = self.turns_whole_heads(rope, self.plan.cache(cache).head_dim);
        whole && self.kv_write_spec(cache, Some(rope)).check().is_ok()
    }

    fn rotates_queries(&self, rope: Rope, cache: CacheId, spec: &AttentionConfig) -> bool {
        self.turns_whole_heads(rope, spec.head_dim) && self.rotated_decode(rope, cache, spec)
    }
}

/// One kernel over so many rows or elements, without scratch.
pub(super) fn one(spec: impl Into<KernelSpec>, count: Count) -> Choice {
    let spec = spec.into();
    (vec![Chosen { spec, count }], 0)
}

impl Selector<'_> {
    /// The kernels of a node.
    pub(super) fn select(&self, node: Node) -> Result<Selected, Error> {
        let (kernels, scratch_bytes) = match node.kind {
            NodeKind::Op(ref op) => self.op(op)?,
            NodeKind::MatMulAdd {
                x: _,
                weight,
                bias,
                residual: _,
                out,
            } => self.product(&Product {
                weight,
                epilogue: Epilogue {
                    bias: bias.is_some(),
                    residual: true,
                },
                out,
            })?,
            NodeKind::NormAdd {
                x: _,
                weight,
                eps,
                residual: _,
                out,
            } => self.norm(weight, eps, true, out),
            NodeKind::NormAddNorm {
                x: _,
                weight,
                eps,
                residual: _,
                sum: _,
                next_weight: _,
                out,
            } => {
                let dim = self.plan.weight(weight).cols;
                one(self.norm_add_norm(dim, eps), self.each_row(out))
            }
            NodeKind::ScaledEmbed {
                table,
                by: _,
                factor,
                out,
            } => self.embed(table, Some(factor), out),
            NodeKind::GatedMatMul {
                act,
                x: _,
                gate,
                up,
                out,
            } => self.gated(act, gate, up, out)?,
            NodeKind::RotatedKvWrite {
                cache,
                rope,
                k,
                v: _,
            } => self.kv_write(cache, k, Some(rope))?,
            NodeKind::RotatedAttention {
                cache,
                ref spec,
                rope,
                q: _,
                out,
            } => self.attention(cache, spec, Some(rope), out)?,
        };
        Ok(Selected {
            node,
            kernels,
            scratch_bytes,
        })
    }

    fn op(&self, op: &Op) -> Result<Choice, Error> {
        let target = self.options.target;
        Ok(match *op {
            Op::Embed { table, by: _, out } => self.embed(table, None, out),
            Op::RmsNorm {
                x: _,
                weight,
                eps,
                out,
            } => self.norm(weight, eps, false, out),
            Op::LayerNorm {
                x: _,
                weight,
                bias,
                eps,
                out,
            } => {
                let (dim, groups) = self.groups(weight, out);
                let spec = LayerNormSpec {
                    target,
                    dim,
                    eps,
                    bias: bias.is_some(),
                };
                one(spec, groups)
            }
            Op::MatMul {
                x: _,
                weight,
                bias,
                out,
            } => self.product(&Product {
                weight,
                epilogue: Epilogue {
                    bias: bias.is_some(),
                    residual: false,
                },
                out,
            })?,
            Op::Rope {
                x: _,
                rope,
                num_heads,
                head_dim,
                out,
            } => {
                let info = &self.plan.ropes[rope.0 as usize];
                let spec = RopeKernel {
                    target,
                    num_heads: num_heads as u32,
                    head_dim: head_dim as u32,
                    rot_dim: info.rot_dim as u32,
                    kind: self.rope_kind(rope),
                };
                one(spec, self.each_row(out))
            }
            Op::KvWrite { cache, k, v: _ } => self.kv_write(cache, k, None)?,
            Op::Attention {
                cache,
                ref spec,
                q: _,
                out,
            } => self.attention(cache, spec, None, out)?,
            Op::Glu {
                act,
                gate: _,
                up: _,
                out,
            } => {
                let spec = GluSpec {
                    target,
                    activation: act,
                };
                one(spec, self.elements(out))
            }
            Op::Activate { act, x: _, out } => self.map(Map::Activate(act), out),
            Op::Add { a: _, b: _, out } => one(AddSpec { target }, self.elements(out)),
            Op::Scale { x: _, factor, out } => self.map(Map::Scale(factor), out),
            Op::Softcap { x: _, cap, out } => self.map(Map::Softcap(cap), out),
            Op::GatherOutputs { x: _, out } => {
                let dim = self.plan.buffer(out).cols as u32;
                one(GatherRowsSpec { target, dim }, self.each_row(out))
            }
            Op::ArgMax { logits: _, out } => {
                let vocab_size = self.plan.vocab_size as u32;
                one(ArgmaxSpec { target, vocab_size }, self.each_row(out))
            }
            // Whoever holds the ranks does this: a unit without launches.
            Op::AllReduce { .. } | Op::AllGather { .. } => (Vec::new(), 0),
        })
    }

    /// Rows of an embedding, scaled or not.
    fn embed(&self, table: Weight, scale: Option<f32>, out: Buf) -> Choice {
        let info = self.plan.weight(table);
        let spec = EmbedSpec {
            target: self.options.target,
            format: self.format(table),
            vocab_size: info.rows as u32,
            hidden_size: info.cols as u32,
            scale,
        };
        one(spec, self.each_row(out))
    }

    /// A norm of groups as long as its weight, with a sum behind it or without.
    fn norm(&self, weight: Weight, eps: f32, residual: bool, out: Buf) -> Choice {
        let (dim, groups) = self.groups(weight, out);
        let spec = RmsNormSpec {
            target: self.options.target,
            dim,
            eps,
            residual,
        };
        one(spec, groups)
    }

    /// Elements of a group as long as a norm's weight, and how many groups there are.
    fn groups(&self, weight: Weight, out: Buf) -> (u32, Count) {
        let dim = self.plan.weight(weight).cols as u32;
        let mut groups = self.elements(out);
        groups.each /= dim;
        (dim, groups)
    }

    fn norm_add_norm(&self, dim: usize, eps: f32) -> NormAddNormSpec {
        NormAddNormSpec {
            target: self.options.target,
            dim: dim as u32,
            eps,
        }
    }

    /// A function of every element.
    fn map(&self, map: Map, out: Buf) -> Choice {
        let target = self.options.target;
        one(MapSpec { target, map }, self.elements(out))
    }

    /// Appends keys, rotated on their way or as they are, and values.
    fn kv_write(&self, cache: CacheId, k: Buf, rope: Option<Rope>) -> Result<Choice, Error> {
        let spec = self.kv_write_spec(cache, rope);
        spec.check().map_err(|why| Error::Unsupported {
            what: self.plan.cache(cache).name.clone(),
            why,
        })?;
        Ok(one(spec, self.each_row(k)))
    }

    fn kv_write_spec(&self, cache: CacheId, rope: Option<Rope>) -> KvWriteSpec {
        let cache = self.plan.cache(cache);
        KvWriteSpec {
            target: self.options.target,
            num_kv_heads: cache.num_kv_heads as u32,
            head_dim: cache.head_dim as u32,
            block_tokens: BLOCK_TOKENS as u32,
            max_blocks: self.options.max_blocks as u32,
            kv_type: cache.kv_type(self.options.kv_type),
            rope: rope.map(|rope| self.rope_kind(rope)),
        }
    }

    pub(super) fn rope_kind(&self, rope: Rope) -> RopeKind {
        self.plan.rope(rope).kind
    }

    /// Whether a rotation turns all of a head.
    fn turns_whole_heads(&self, rope: Rope, head_dim: usize) -> bool {
        self.plan.ropes[rope.0 as usize].rot_dim == head_dim
    }

    fn product(&self, p: &Product) -> Result<Choice, Error> {
        let info = self.plan.weight(p.weight);
        let (rows, tokens) = (self.each_row(p.out), self.rows(p.out));
        let gemm = GemmSpec {
            target: self.options.target,
            format: self.format(p.weight),
            rows: info.rows as u32,
            cols: info.cols as u32,
            epilogue: p.epilogue,
        };
        if self.options.batch_invariant {
            return self.product_of_any_rows(p, gemm);
        }
        let few = tokens as usize <= self.options.gemv_rows();
        if few || self.options.precision == Precision::Exact || gemm.check().is_err() {
            let spec = self.gemv(p, &gemm)?;
            let spec = match self.options.precision {
                Precision::Exact => spec,
                Precision::Fast => self.options.profile.gemv(spec),
            };
            return Ok(one(spec, rows));
        }
        Ok(match self.batch(&gemm, tokens) {
            Some(batch) => self.in_parts(p, batch),
            None => one(gemm, rows),
        })
    }

    /// A product whose sums of a row do not depend on how many rows there are.
    fn product_of_any_rows(&self, p: &Product, gemm: GemmSpec) -> Result<Choice, Error> {
        let tokens = self.rows(p.out);
        let batch = self.batch_tiles(&gemm, tokens);
        if self.options.precision == Precision::Exact || batch.check().is_err() {
            return Ok(one(self.gemv(p, &gemm)?, self.each_row(p.out)));
        }
        let counters = batch.counters(tokens);
        if counters > COUNTERS {
            let why = format!("{counters} tiles of {tokens} rows; at most {COUNTERS}");
            return Err(self.unsupported(p.weight, why));
        }
        Ok(self.in_parts(p, batch))
    }

    /// The product on the kernel for few tokens, in its built-in variant.
    fn gemv(&self, p: &Product, gemm: &GemmSpec) -> Result<GemvSpec, Error> {
        let spec = GemvSpec {
            target: gemm.target,
            format: gemm.format,
            rows: gemm.rows,
            cols: gemm.cols,
            tokens_per_block: tokens_per_block(self.rows(p.out)),
            epilogue: gemm.epilogue,
            hands_over: false,
            variant: None,
        };
        let checked = spec.check();
        checked.map_err(|why| self.unsupported(p.weight, why))?;
        Ok(spec)
    }

    /// The product on a kernel for batches, with the scratch in which its parts meet.
    fn in_parts(&self, p: &Product, batch: GemmBatchSpec) -> Choice {
        let scratch_bytes = match batch.splits {
            1 => 0,
            _ => batch.scratch_bytes(self.rows(p.out)),
        };
        let (kernels, _) = one(batch, self.each_row(p.out));
        (kernels, scratch_bytes)
    }

    /// The product on a kernel for few tokens, where it is one's turn.
    fn batch(&self, gemm: &GemmSpec, tokens: u32) -> Option<GemmBatchSpec> {
        let spec = self.batch_tiles(gemm, tokens);
        let few = tokens as usize <= BATCH_MAX_ROWS;
        (few && spec.check().is_ok() && spec.counters(tokens) <= COUNTERS).then_some(spec)
    }

    /// The product in tiles of a batch: two blocks for every multiprocessor, so that all of them run at
    /// once. Into how many parts that divides the columns, the matrix alone decides.
    fn batch_tiles(&self, gemm: &GemmSpec, tokens: u32) -> GemmBatchSpec {
        let spec = GemmBatchSpec {
            target: gemm.target,
            format: gemm.format,
            rows: gemm.rows,
            cols: gemm.cols,
            tokens: tokens.next_power_of_two().clamp(8, BATCH_MAX_ROWS as u32),
            splits: 1,
            epilogue: gemm.epilogue,
        };
        spec.splits_for(2 * self.options.multiprocessors as u32)
    }

    fn gated(&self, act: Activation, gate: Weight, up: Weight, out: Buf) -> Result<Choice, Error> {
        let info = self.plan.weight(gate);
        let tokens = self.rows(out);
        let spec = GemvGluSpec {
            target: self.options.target,
            gate: self.format(gate),
            up: self.format(up),
            rows: info.rows as u32,
            cols: info.cols as u32,
            tokens_per_block: tokens_per_block(tokens),
            activation: act,
            variant: None,
        };
        spec.check().map_err(|why| self.unsupported(gate, why))?;
        let spec = match self.options.precision {
            Precision::Exact => spec,
            Precision::Fast => self.options.profile.gated(spec),
        };
        Ok(one(spec, self.each_row(out)))
    }

    /// The rows of a buffer, in number.
    pub(super) fn rows(&self, b: Buf) -> u32 {
        self.each_row(b).of(self.shape)
    }

    /// The rows of a buffer.
    pub(super) fn each_row(&self, b: Buf) -> Count {
        let rows = self.plan.buffer(b).rows;
        Count { rows, each: 1 }
    }

    /// The elements of a buffer.
    fn elements(&self, b: Buf) -> Count {
        let info = self.plan.buffer(b);
        Count {
            rows: info.rows,
            each: info.cols as u32,
        }
    }

    pub(super) fn format(&self, w: Weight) -> WeightFormat {
        weight_format(self.plan.weight(w).format)
    }

    fn unsupported(&self, w: Weight, why: String) -> Error {
        Error::Unsupported {
            what: self.plan.weight(w).name.clone(),
            why,
        }
    }
}

/// The smallest of 1, 2, 4, 8 that covers the tokens, or 8.
fn tokens_per_block(tokens: u32) -> u32 {
    tokens.clamp(1, GEMV_MAX_ROWS as u32).next_power_of_two()
}

/// What a stored format is computed with on a GPU, after the load-time conversion if it needs one.
pub(crate) fn weight_format(format: Format) -> WeightFormat {
    match repack::gpu_format(format) {
        Format::F32 => WeightFormat::F32,
        Format::BF16 => WeightFormat::BF16,
        Format::Q4_0 => WeightFormat::Q4_0,
        Format::Q8_0 => WeightFormat::Q8_0,
        Format::Q4_K => WeightFormat::Q4K,
        Format::Q5_K => WeightFormat::Q5K,
        Format::Q6_K => WeightFormat::Q6K,
        _ => WeightFormat::F16,
    }
}
