//! The forward step as data: typed operations over named, shaped buffers.
//!
//! A [`Plan`] is the only description of a network in the code base. Model families write it
//! (`crate::model`), executors run it (`crate::exec`), lowering turns it into kernel launches, and
//! parity compares two runs of it buffer by buffer. The number of rows in a step (tokens of a
//! prompt chunk, sequences of a decode batch) is a dimension of every buffer, never a reason for a
//! second description.
//!
//! Always true of a finished plan: every buffer is written by exactly one operation, and that
//! operation comes before every reader.

mod builder;
mod column;
mod dump;
mod rope;
mod storage;

pub use builder::{Linear, PlanBuilder};
pub use column::{Column, StepRow};
pub use rope::{RopeKind, RopeSpec};
pub use storage::{Storage, assign_storage};

use gannet_quant::Format;

/// A buffer of the plan: an index into [`Plan::buffers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Buf(pub u32);

/// A weight of the plan: an index into [`Plan::weights`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weight(pub u32);

/// A rope table of the plan: an index into [`Plan::ropes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rope(pub u32);

/// How many rows a buffer has in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rows {
    /// One row for each token of the step.
    Tokens,
    /// One row for each token whose logits are wanted.
    Outputs,
}

/// What an element of a buffer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32-bit float.
    F32,
    /// 32-bit unsigned integer (token ids).
    U32,
}

/// Name and shape of a buffer: `[rows, cols]`, row-major, 4 bytes an element.
#[derive(Debug, Clone, PartialEq)]
pub struct BufferInfo {
    /// Unique name, made from the weight or operation that produced it (`blk.3.attn_q`).
    pub name: String,
    /// Row dimension.
    pub rows: Rows,
    /// Elements in a row.
    pub cols: usize,
    /// Element type.
    pub element: Element,
}

/// Name, format and shape of a weight: `[rows, cols]`, row-major, a row for each output feature.
/// A vector (norm weight, bias) has one row.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightInfo {
    /// Tensor name in the model file.
    pub name: String,
    /// Block format of the stored bytes.
    pub format: Format,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

impl WeightInfo {
    /// Bytes of the weight as stored in the model file.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.rows * self.format.row_bytes(self.cols).unwrap_or(0)
    }
}

/// Activation function of a gated linear unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
}

/// Attention of one layer: grouped heads over a causal key/value cache.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Factor on the dot product, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// `cap * tanh(score / cap)` before the softmax.
    pub softcap: Option<f32>,
    /// A token sees itself and the `window - 1` tokens before it.
    pub window: Option<u32>,
}

/// One operation. Buffers are `[rows, cols]`; what is written comes last.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// `out[t] = table[token[t]]`.
    Embed {
        /// `[vocab_size, hidden_size]`.
        table: Weight,
        /// `[tokens, hidden_size]`.
        out: Buf,
    },
    /// `out[g] = x[g] * weight / sqrt(mean(x[g]^2) + eps)` for each group `g` of `dim` elements,
    /// where `dim` is the weight's length (a whole row, or one head of it).
    RmsNorm {
        /// Input.
        x: Buf,
        /// `[dim]`.
        weight: Weight,
        /// Added to the mean square.
        eps: f32,
        /// Same shape as `x`.
        out: Buf,
    },
    /// `out[t, r] = sum_c weight[r, c] * x[t, c] (+ bias[r])`.
    MatMul {
        /// `[_, cols]`.
        x: Buf,
        /// `[rows, cols]`.
        weight: Weight,
        /// `[rows]`.
        bias: Option<Weight>,
        /// `[_, rows]`.
        out: Buf,
    },
    /// Rotary position embedding of every head.
    Rope {
        /// `[tokens, num_heads * head_dim]`.
        x: Buf,
        /// Angles and pairing.
        rope: Rope,
        /// Heads in a row.
        num_heads: usize,
        /// Elements of a head.
        head_dim: usize,
        /// Same shape as `x`.
        out: Buf,
    },
    /// Appends keys and values of the step's tokens to the cache of a layer.
    KvWrite {
        /// Layer index.
        layer: usize,
        /// `[tokens, num_kv_heads * head_dim]`.
        k: Buf,
        /// `[tokens, num_kv_heads * head_dim]`.
        v: Buf,
    },
    /// Causal attention over the cache of a layer.
    Attention {
        /// Layer index.
        layer: usize,
        /// Heads, scale, window.
        spec: AttentionSpec,
        /// `[tokens, num_heads * head_dim]`.
        q: Buf,
        /// `[tokens, num_heads * head_dim]`.
        out: Buf,
    },
    /// `out = act(gate) * up`.
    Glu {
        /// Activation.
        act: Activation,
        /// `[_, ffn_size]`.
        gate: Buf,
        /// `[_, ffn_size]`.
        up: Buf,
        /// `[_, ffn_size]`.
        out: Buf,
    },
    /// `out = a + b`.
    Add {
        /// First term.
        a: Buf,
        /// Second term.
        b: Buf,
        /// Sum.
        out: Buf,
    },
    /// Keeps the rows whose logits are wanted.
    GatherOutputs {
        /// `[tokens, _]`.
        x: Buf,
        /// `[outputs, _]`.
        out: Buf,
    },
    /// Index of the largest logit of each row; the lowest index on ties.
    ArgMax {
        /// `[outputs, vocab_size]`.
        logits: Buf,
        /// `[outputs, 1]`, token ids.
        out: Buf,
    },
}

impl Op {
    /// The operation's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Op::Embed { .. } => "embed",
            Op::RmsNorm { .. } => "rms_norm",
            Op::MatMul { .. } => "matmul",
            Op::Rope { .. } => "rope",
            Op::KvWrite { .. } => "kv_write",
            Op::Attention { .. } => "attention",
            Op::Glu { .. } => "glu",
            Op::Add { .. } => "add",
            Op::GatherOutputs { .. } => "gather_outputs",
            Op::ArgMax { .. } => "argmax",
        }
    }

    /// The buffers it reads.
    #[must_use]
    pub fn reads(&self) -> Vec<Buf> {
        match *self {
            Op::Embed { .. } => vec![],
            Op::RmsNorm { x, .. }
            | Op::MatMul { x, .. }
            | Op::Rope { x, .. }
            | Op::GatherOutputs { x, .. } => vec![x],
            Op::KvWrite { k, v, .. } => vec![k, v],
            Op::Attention { q, .. } => vec![q],
            Op::Glu { gate, up, .. } => vec![gate, up],
            Op::Add { a, b, .. } => vec![a, b],
            Op::ArgMax { logits, .. } => vec![logits],
        }
    }

    /// The buffer it writes; `None` for an operation that writes the key/value cache.
    #[must_use]
    pub fn writes(&self) -> Option<Buf> {
        match *self {
            Op::Embed { out, .. }
            | Op::RmsNorm { out, .. }
            | Op::MatMul { out, .. }
            | Op::Rope { out, .. }
            | Op::Attention { out, .. }
            | Op::Glu { out, .. }
            | Op::Add { out, .. }
            | Op::GatherOutputs { out, .. }
            | Op::ArgMax { out, .. } => Some(out),
            Op::KvWrite { .. } => None,
        }
    }
}

/// Shape of the key/value cache that a plan needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Layers with attention.
    pub num_layers: usize,
    /// Key/value heads of a layer.
    pub num_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

/// A forward step of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Every buffer, indexed by [`Buf`].
    pub buffers: Vec<BufferInfo>,
    /// Every weight, indexed by [`Weight`].
    pub weights: Vec<WeightInfo>,
    /// Every rope table, indexed by [`Rope`].
    pub ropes: Vec<RopeSpec>,
    /// The operations in order.
    pub ops: Vec<Op>,
    /// The cache.
    pub kv: KvShape,
    /// `[outputs, vocab_size]`.
    pub logits: Buf,
    /// `[outputs, 1]`: the most likely next token.
    pub next: Buf,
    /// Entries of the vocabulary.
    pub vocab_size: usize,
}

impl Plan {
    /// Name and shape of a buffer.
    #[must_use]
    pub fn buffer(&self, b: Buf) -> &BufferInfo {
        &self.buffers[b.0 as usize]
    }

    /// Name, format and shape of a weight.
    #[must_use]
    pub fn weight(&self, w: Weight) -> &WeightInfo {
        &self.weights[w.0 as usize]
    }

    /// The buffer of a name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Buf> {
        self.buffers
            .iter()
            .position(|b| b.name == name)
            .map(|i| Buf(i as u32))
    }

    /// Bytes of weights that a step of one token reads: every matrix once, one embedding row.
    #[must_use]
    pub fn weight_bytes_per_token(&self) -> u64 {
        let read = |w: Weight| self.weight(w).bytes() as u64;
        self.ops
            .iter()
            .map(|op| match *op {
                Op::Embed { table, .. } => read(table) / self.weight(table).rows as u64,
                Op::MatMul { weight, bias, .. } => read(weight) + bias.map_or(0, read),
                Op::RmsNorm { weight, .. } => read(weight),
                _ => 0,
            })
            .sum()
    }
}
