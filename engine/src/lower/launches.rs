//! One node to its launches: which kernel, which grid, which arguments.

use gannet_ptx_gen::kernels::{
    AddSpec, ArgmaxSpec, EmbedSpec, Epilogue, GatherRowsSpec, GemmBatchSpec, GemmSpec, GemvGluSpec,
    GemvSpec, GluSpec, KvWriteSpec, RmsNormSpec, RopeSpec as RopeKernel, WeightFormat,
};
use gannet_quant::{Format, repack};

use super::{
    Arg, BATCH_MAX_ROWS, COUNTERS, GEMV_MAX_ROWS, KernelSpec, Launch, LowerOptions, Lowered, Node,
    NodeKind, Shape, fuse,
};
use crate::Error;
use crate::kv::BLOCK_TOKENS;
use crate::plan::{
    Activation, AttentionConfig, Buf, CacheId, Op, Plan, Rope, RopeKind, Rows, Weight,
};
use crate::settings::Precision;

pub(super) struct Emitter<'a> {
    pub(super) plan: &'a Plan,
    pub(super) shape: Shape,
    pub(super) options: &'a LowerOptions,
}

/// A matrix product and what is added to it.
struct Product {
    x: Buf,
    weight: Weight,
    bias: Option<Weight>,
    residual: Option<Buf>,
    out: Buf,
    /// Whether the launch behind may start while the one in front runs.
    hands_over: bool,
}

impl fuse::Kernels for Emitter<'_> {
    fn gates(&self) -> bool {
        self.shape.rows <= self.options.gemv_rows()
    }

    fn rotates_keys(&self, rope: Rope, cache: CacheId) -> bool {
        let whole = self.turns_whole_heads(rope, self.plan.cache(cache).head_dim);
        whole && self.kv_write_spec(cache, Some(rope)).check().is_ok()
    }

    fn rotates_queries(&self, rope: Rope, spec: &AttentionConfig) -> bool {
        self.turns_whole_heads(rope, spec.head_dim) && self.rotated_decode(rope, spec)
    }
}

impl Emitter<'_> {
    /// Appends a node, `behind` which another one comes.
    pub(super) fn node(
        &self,
        node: &Node,
        behind: Option<&Node>,
        out: &mut Lowered,
    ) -> Result<(), Error> {
        match node.kind {
            NodeKind::Op(ref op) => self.op(op, behind, out),
            NodeKind::MatMulAdd {
                x,
                weight,
                bias,
                residual,
                out: to,
            } => self.product(
                Product {
                    x,
                    weight,
                    bias,
                    residual: Some(residual),
                    out: to,
                    hands_over: false,
                },
                out,
            ),
            NodeKind::GatedMatMul {
                act,
                x,
                gate,
                up,
                out: to,
            } => self.gated(act, x, (gate, up), to, out),
            NodeKind::RotatedKvWrite { cache, rope, k, v } => {
                self.kv_write(cache, (k, Some(rope)), v, out)
            }
            NodeKind::RotatedAttention {
                cache,
                ref spec,
                rope,
                q,
                out: to,
            } => self.attention(cache, spec, (q, Some(rope)), to, out),
        }
    }

    fn op(&self, op: &Op, behind: Option<&Node>, lowered: &mut Lowered) -> Result<(), Error> {
        let target = self.options.target;
        match *op {
            Op::Embed { table, out } => {
                let info = self.plan.weight(table);
                let spec = EmbedSpec {
                    target,
                    format: self.format(table),
                    vocab_size: info.rows as u32,
                    hidden_size: info.cols as u32,
                    scale: None,
                };
                let args = vec![Arg::Weight(table), Arg::Tokens, Arg::Buffer(out)];
                self.push(lowered, spec, self.rows(out), args);
            }
            Op::RmsNorm {
                x,
                weight,
                eps,
                out,
            } => {
                let dim = self.plan.weight(weight).cols;
                let groups = self.rows(out) * (self.plan.buffer(out).cols / dim) as u32;
                let spec = RmsNormSpec {
                    target,
                    dim: dim as u32,
                    eps,
                    residual: false,
                };
                let args = vec![Arg::Buffer(x), Arg::Weight(weight), Arg::Buffer(out)];
                self.push(lowered, spec, groups, args);
            }
            Op::MatMul {
                x,
                weight,
                bias,
                out,
            } => {
                self.product(
                    Product {
                        x,
                        weight,
                        bias,
                        residual: None,
                        out,
                        hands_over: self.hands_over(out, behind, lowered),
                    },
                    lowered,
                )?;
            }
            Op::Rope {
                x,
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
                let args = vec![
                    Arg::Buffer(x),
                    Arg::Lengths,
                    Arg::RopeTable(rope),
                    Arg::Buffer(out),
                ];
                self.push(lowered, spec, self.rows(out), args);
            }
            Op::KvWrite { cache, k, v } => self.kv_write(cache, (k, None), v, lowered)?,
            Op::Attention {
                cache,
                spec,
                q,
                out,
            } => {
                self.attention(cache, &spec, (q, None), out, lowered)?;
            }
            Op::Glu { act, gate, up, out } => {
                let n = self.elements(out);
                let spec = GluSpec {
                    target,
                    activation: act,
                };
                let args = vec![
                    Arg::Buffer(gate),
                    Arg::Buffer(up),
                    Arg::Buffer(out),
                    Arg::U32(n),
                ];
                self.push(lowered, spec, n, args);
            }
            Op::Add { a, b, out } => {
                let n = self.elements(out);
                let spec = AddSpec { target };
                let args = vec![
                    Arg::Buffer(a),
                    Arg::Buffer(b),
                    Arg::Buffer(out),
                    Arg::U32(n),
                ];
                self.push(lowered, spec, n, args);
            }
            Op::GatherOutputs { x, out } => {
                let spec = GatherRowsSpec {
                    target,
                    dim: self.plan.buffer(out).cols as u32,
                };
                let args = vec![Arg::Buffer(x), Arg::Outputs, Arg::Buffer(out)];
                self.push(lowered, spec, self.rows(out), args);
            }
            Op::ArgMax { logits, out } => {
                let spec = ArgmaxSpec {
                    target,
                    vocab_size: self.plan.vocab_size as u32,
                };
                let args = vec![Arg::Buffer(logits), Arg::Buffer(out)];
                self.push(lowered, spec, self.rows(out), args);
            }
        }
        Ok(())
    }

    /// Appends keys, rotated on their way or as they are, and values.
    fn kv_write(
        &self,
        cache: CacheId,
        (k, rope): (Buf, Option<Rope>),
        v: Buf,
        lowered: &mut Lowered,
    ) -> Result<(), Error> {
        let spec = self.kv_write_spec(cache, rope);
        spec.check().map_err(|why| Error::Unsupported {
            what: self.plan.cache(cache).name.clone(),
            why,
        })?;
        let mut args = vec![
            Arg::Buffer(k),
            Arg::Buffer(v),
            Arg::Lengths,
            Arg::Slots,
            Arg::BlockTable,
        ];
        args.extend(rope.map(Arg::RopeTable));
        args.extend([Arg::Keys(cache), Arg::Values(cache)]);
        self.push(lowered, spec, self.rows(k), args);
        Ok(())
    }

    fn kv_write_spec(&self, cache: CacheId, rope: Option<Rope>) -> KvWriteSpec {
        let cache = self.plan.cache(cache);
        KvWriteSpec {
            target: self.options.target,
            num_kv_heads: cache.num_kv_heads as u32,
            head_dim: cache.head_dim as u32,
            block_tokens: BLOCK_TOKENS as u32,
            max_blocks: self.options.max_blocks as u32,
            kv_type: self.options.kv_type,
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

    fn product(&self, p: Product, lowered: &mut Lowered) -> Result<(), Error> {
        let info = self.plan.weight(p.weight);
        let tokens = self.rows(p.out);
        let (rows, cols) = (info.rows as u32, info.cols as u32);
        let epilogue = Epilogue {
            bias: p.bias.is_some(),
            residual: p.residual.is_some(),
        };
        let (target, format) = (self.options.target, self.format(p.weight));
        let mut args = vec![Arg::Weight(p.weight), Arg::Buffer(p.x), Arg::Buffer(p.out)];
        args.extend(p.bias.map(Arg::Weight));
        args.extend(p.residual.map(Arg::Buffer));
        args.push(Arg::U32(tokens));
        let gemm = GemmSpec {
            target,
            format,
            rows,
            cols,
            epilogue,
        };
        let few = tokens as usize <= self.options.gemv_rows();
        if few || self.options.precision == Precision::Exact || gemm.check().is_err() {
            let tokens_per_block = tokens_per_block(tokens);
            let spec = GemvSpec {
                target,
                format,
                rows,
                cols,
                tokens_per_block,
                epilogue,
                hands_over: p.hands_over,
                variant: None,
            };
            spec.check()
                .map_err(|why| self.unsupported(p.weight, why))?;
            let spec = if self.options.precision == Precision::Exact {
                spec
            } else {
                self.options.profile.gemv(spec)
            };
            self.push(lowered, spec, tokens, args);
        } else if let Some(batch) = self.batch(gemm, tokens) {
            if batch.splits > 1 {
                let at = args.len() - 1;
                args.splice(at..at, [Arg::Scratch, Arg::Counters]);
                lowered.scratch_bytes = lowered.scratch_bytes.max(batch.scratch_bytes(tokens));
            }
            self.push(lowered, batch, tokens, args);
        } else {
            self.push(lowered, gemm, tokens, args);
        }
        Ok(())
    }

    /// The product on a kernel for few tokens: two blocks for every multiprocessor, so that all of
    /// them run at once.
    fn batch(&self, gemm: GemmSpec, tokens: u32) -> Option<GemmBatchSpec> {
        let spec = GemmBatchSpec {
            target: gemm.target,
            format: gemm.format,
            rows: gemm.rows,
            cols: gemm.cols,
            tokens: tokens.next_power_of_two().clamp(8, BATCH_MAX_ROWS as u32),
            splits: 1,
            epilogue: gemm.epilogue,
        };
        let spec = spec.splits_for(2 * self.options.multiprocessors as u32);
        let few = tokens as usize <= BATCH_MAX_ROWS;
        (few && spec.check().is_ok() && spec.counters(tokens) <= COUNTERS).then_some(spec)
    }

    fn gated(
        &self,
        act: Activation,
        x: Buf,
        (gate, up): (Weight, Weight),
        to: Buf,
        lowered: &mut Lowered,
    ) -> Result<(), Error> {
        let info = self.plan.weight(gate);
        let tokens = self.rows(to);
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
        let spec = if self.options.precision == Precision::Exact {
            spec
        } else {
            self.options.profile.gated(spec)
        };
        let args = vec![
            Arg::Weight(gate),
            Arg::Weight(up),
            Arg::Buffer(x),
            Arg::Buffer(to),
            Arg::U32(tokens),
        ];
        self.push(lowered, spec, tokens, args);
        Ok(())
    }

    /// Appends a launch over `n` rows (elements, for kernels without rows).
    pub(super) fn push(
        &self,
        lowered: &mut Lowered,
        spec: impl Into<KernelSpec>,
        n: u32,
        args: Vec<Arg>,
    ) {
        let spec = spec.into();
        let (grid, bytes) = (spec.grid(n), spec.bytes(n));
        let kernel = lowered.kernels.iter().position(|k| *k == spec);
        let kernel = kernel.unwrap_or_else(|| {
            lowered.kernels.push(spec);
            lowered.kernels.len() - 1
        });
        let unit = lowered.units.len();
        lowered.launches.push(Launch {
            kernel,
            grid,
            args,
            unit,
            bytes,
        });
    }

    pub(super) fn rows(&self, b: Buf) -> u32 {
        let rows = match self.plan.buffer(b).rows {
            Rows::Tokens => self.shape.rows,
            Rows::Outputs => self.shape.outputs,
        };
        rows as u32
    }

    fn elements(&self, b: Buf) -> u32 {
        self.rows(b) * self.plan.buffer(b).cols as u32
    }

    fn format(&self, w: Weight) -> WeightFormat {
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
