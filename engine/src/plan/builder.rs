//! Writes a plan, operation by operation, in the words of a network.
//!
//! Buffers are named after the weight or the operation that made them, so that a divergence report
//! reads like the model file.

use super::{
    Activation, AttentionConfig, Buf, BufferInfo, CacheId, CacheInfo, Column, Element, Op, Plan,
    Rope, RopeTable, Rows, Weight, WeightInfo,
};

/// A matrix with its optional bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linear {
    /// `[rows, cols]`.
    pub weight: Weight,
    /// `[rows]`.
    pub bias: Option<Weight>,
}

/// Collects operations; every method appends one and returns the buffer it writes.
#[derive(Debug, Default)]
pub struct PlanBuilder {
    buffers: Vec<BufferInfo>,
    weights: Vec<WeightInfo>,
    ropes: Vec<RopeTable>,
    ops: Vec<Op>,
    caches: Vec<CacheInfo>,
}

impl PlanBuilder {
    /// An empty plan.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares a weight.
    pub fn weight(&mut self, info: WeightInfo) -> Weight {
        self.weights.push(info);
        Weight(self.weights.len() as u32 - 1)
    }

    /// Declares a rope table.
    pub fn rope_table(&mut self, spec: RopeTable) -> Rope {
        self.ropes.push(spec);
        Rope(self.ropes.len() as u32 - 1)
    }

    /// Embedding rows of the step's tokens: `[tokens, hidden_size]`.
    pub fn embed(&mut self, table: Weight) -> Buf {
        self.look_up("embd".to_owned(), table, Column::Token)
    }

    /// Rows of a table by the positions of the step's tokens: `[tokens, hidden_size]`.
    pub fn embed_positions(&mut self, table: Weight) -> Buf {
        self.look_up(self.weight_name(table), table, Column::Position)
    }

    fn look_up(&mut self, name: String, table: Weight, by: Column) -> Buf {
        let cols = self.info(table).cols;
        let out = self.buffer(name, by.rows(), cols, Element::F32);
        self.ops.push(Op::Embed { table, by, out });
        out
    }

    /// Root-mean-square norm over groups as long as the weight.
    pub fn rms_norm(&mut self, x: Buf, weight: Weight, eps: f32) -> Buf {
        let (rows, cols) = self.shape(x);
        assert_eq!(
            cols % self.info(weight).cols,
            0,
            "a norm's groups fill the row"
        );
        let out = self.buffer(self.weight_name(weight), rows, cols, Element::F32);
        self.ops.push(Op::RmsNorm {
            x,
            weight,
            eps,
            out,
        });
        out
    }

    /// Layer norm over groups as long as the weight, with an optional bias as long.
    pub fn layer_norm(&mut self, x: Buf, weight: Weight, bias: Option<Weight>, eps: f32) -> Buf {
        let (rows, cols) = self.shape(x);
        let dim = self.info(weight).cols;
        assert_eq!(cols % dim, 0, "a norm's groups fill the row");
        let is_as_long = bias.is_none_or(|bias| self.info(bias).cols == dim);
        assert!(is_as_long, "a norm's weight and bias have one length");
        let out = self.buffer(self.weight_name(weight), rows, cols, Element::F32);
        self.ops.push(Op::LayerNorm {
            x,
            weight,
            bias,
            eps,
            out,
        });
        out
    }

    /// Matrix product with an optional bias: `[_, weight rows]`.
    pub fn matmul(&mut self, x: Buf, linear: Linear) -> Buf {
        let (rows, cols) = self.shape(x);
        let info = self.info(linear.weight);
        assert_eq!(cols, info.cols, "{}: input and weight agree", info.name);
        let (name, out_cols) = (self.weight_name(linear.weight), info.rows);
        let out = self.buffer(name, rows, out_cols, Element::F32);
        self.ops.push(Op::MatMul {
            x,
            weight: linear.weight,
            bias: linear.bias,
            out,
        });
        out
    }

    /// Rotary position embedding.
    pub fn rope(&mut self, x: Buf, rope: Rope, num_heads: usize, head_dim: usize) -> Buf {
        let (rows, cols) = self.shape(x);
        assert_eq!(cols, num_heads * head_dim, "heads fill the row");
        let out = self.buffer(format!("{}.rope", self.name(x)), rows, cols, Element::F32);
        self.ops.push(Op::Rope {
            x,
            rope,
            num_heads,
            head_dim,
            out,
        });
        out
    }

    /// Declares a cache of keys and values.
    pub fn cache(&mut self, name: &str, num_kv_heads: usize, head_dim: usize) -> CacheId {
        self.caches.push(CacheInfo {
            name: name.to_owned(),
            num_kv_heads,
            head_dim,
            key_bias: 0.0,
        });
        CacheId(self.caches.len() as u32 - 1)
    }

    /// Appends keys and values to a cache.
    pub fn kv_write(&mut self, cache: CacheId, k: Buf, v: Buf) {
        let width = self.caches[cache.0 as usize].width();
        assert_eq!(self.shape(k), (Rows::Tokens, width), "keys fill the cache");
        assert_eq!(
            self.shape(v),
            (Rows::Tokens, width),
            "values fill the cache"
        );
        self.ops.push(Op::KvWrite { cache, k, v });
    }

    /// Causal attention of a layer over a cache.
    pub fn attention(
        &mut self,
        layer: usize,
        q: Buf,
        cache: CacheId,
        spec: AttentionConfig,
    ) -> Buf {
        let (rows, cols) = self.shape(q);
        assert_eq!(cols, spec.num_heads * spec.head_dim, "heads fill the row");
        let out = self.buffer(format!("blk.{layer}.attention"), rows, cols, Element::F32);
        self.ops.push(Op::Attention {
            cache,
            spec,
            q,
            out,
        });
        out
    }

    /// Gated linear unit.
    pub fn glu(&mut self, act: Activation, gate: Buf, up: Buf) -> Buf {
        let (rows, cols) = self.shape(gate);
        assert_eq!((rows, cols), self.shape(up), "gate and up have one shape");
        let out = self.buffer(format!("{}.glu", self.name(gate)), rows, cols, Element::F32);
        self.ops.push(Op::Glu { act, gate, up, out });
        out
    }

    /// An activation of every element.
    pub fn activate(&mut self, act: Activation, x: Buf) -> Buf {
        let (rows, cols) = self.shape(x);
        let name = format!("{}.act", self.name(x));
        let out = self.buffer(name, rows, cols, Element::F32);
        self.ops.push(Op::Activate { act, x, out });
        out
    }

    /// Sum of two buffers, named after the second.
    pub fn add(&mut self, a: Buf, b: Buf) -> Buf {
        let (rows, cols) = self.shape(a);
        assert_eq!((rows, cols), self.shape(b), "the terms have one shape");
        let out = self.buffer(format!("{}.add", self.name(b)), rows, cols, Element::F32);
        self.ops.push(Op::Add { a, b, out });
        out
    }

    /// A buffer times a number.
    pub fn scale(&mut self, x: Buf, factor: f32) -> Buf {
        let (rows, cols) = self.shape(x);
        let out = self.buffer(format!("{}.scale", self.name(x)), rows, cols, Element::F32);
        self.ops.push(Op::Scale { x, factor, out });
        out
    }

    /// A buffer whose elements are bent below a bound.
    pub fn softcap(&mut self, x: Buf, cap: f32) -> Buf {
        let (rows, cols) = self.shape(x);
        let out = self.buffer(
            format!("{}.softcap", self.name(x)),
            rows,
            cols,
            Element::F32,
        );
        self.ops.push(Op::Softcap { x, cap, out });
        out
    }

    /// Keeps the rows whose logits are wanted.
    pub fn gather_outputs(&mut self, x: Buf) -> Buf {
        let (_, cols) = self.shape(x);
        let out = self.buffer("outputs".to_owned(), Rows::Outputs, cols, Element::F32);
        self.ops.push(Op::GatherOutputs { x, out });
        out
    }

    /// Ends the plan with the head's logits and their argmax.
    #[must_use]
    pub fn finish(mut self, logits: Buf) -> Plan {
        let (rows, vocab_size) = self.shape(logits);
        self.buffers[logits.0 as usize].name = "logits".to_owned();
        let next = self.buffer("next".to_owned(), rows, 1, Element::U32);
        self.ops.push(Op::ArgMax { logits, out: next });
        Plan {
            buffers: self.buffers,
            weights: self.weights,
            ropes: self.ropes,
            ops: self.ops,
            caches: self.caches,
            logits,
            next,
            vocab_size,
        }
    }

    fn buffer(&mut self, name: String, rows: Rows, cols: usize, element: Element) -> Buf {
        debug_assert!(
            self.buffers.iter().all(|b| b.name != name),
            "{name} is unique"
        );
        self.buffers.push(BufferInfo {
            name,
            rows,
            cols,
            element,
        });
        Buf(self.buffers.len() as u32 - 1)
    }

    fn shape(&self, b: Buf) -> (Rows, usize) {
        let info = &self.buffers[b.0 as usize];
        (info.rows, info.cols)
    }

    fn name(&self, b: Buf) -> &str {
        &self.buffers[b.0 as usize].name
    }

    fn info(&self, w: Weight) -> &WeightInfo {
        &self.weights[w.0 as usize]
    }

    fn weight_name(&self, w: Weight) -> String {
        let name = &self.info(w).name;
        name.strip_suffix(".weight").unwrap_or(name).to_owned()
    }
}
