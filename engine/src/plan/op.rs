//! The operations of a plan, each with its contract: one table.
//!
//! A row says what an operation computes, which buffers, weights and caches it names, and what may
//! be assumed of it: how far two executors may differ, and whether a sample of its columns can stand
//! for all. Whoever needs to know something of operations in general reads the table; whoever
//! computes them (`exec::cpu`, `lower`, the dump) matches every variant, so that a new row does not
//! compile until all of them have it.

use super::{Activation, AttentionConfig, Buf, CacheId, Column, Rope, Weight};

/// How far the results of two executors may differ: a class, of which parity knows the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Nothing is computed: every bit is equal.
    Exact,
    /// f32 arithmetic, in another order.
    Float,
    /// f32 arithmetic through approximate functions.
    Approximate,
    /// A product of matrices, whose inputs may be rounded.
    Product,
    /// Attention over a cache whose elements may be rounded.
    Attention,
}

/// What a sample of an operation's columns takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ColumnSample {
    /// The same columns of its inputs.
    Columns,
    /// The same rows of its weight, and whole rows of its input.
    Product,
    /// Everything: there is nothing to sample, or nothing to save.
    Whole,
}

/// What is assumed of an operation beyond what it computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Contract {
    /// How far two executors may differ.
    pub error: ErrorClass,
    /// What a sample of its columns takes.
    pub sample: ColumnSample,
}

/// A field that names one weight, or perhaps none.
trait Names {
    fn named(self) -> Option<Weight>;
}

impl Names for Weight {
    fn named(self) -> Option<Weight> {
        Some(self)
    }
}

impl Names for Option<Weight> {
    fn named(self) -> Option<Weight> {
        self
    }
}

macro_rules! operations {
    ($(
        $(#[$doc:meta])*
        $name:ident = $text:literal {
            $($(#[$field_doc:meta])* $field:ident: $ty:ty,)*
        }
        reads [$($read:ident),*], writes [$($write:ident),*],
        weights [$($weight:ident),*], looks_up [$($table:ident),*],
        reads_cache [$($seen:ident),*], writes_cache [$($kept:ident),*],
        $error:ident, $sample:ident;
    )*) => {
        /// One operation. Buffers are `[rows, cols]`; what is written comes last.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Op {
            $($(#[$doc])* $name { $($(#[$field_doc])* $field: $ty,)* },)*
        }

        impl Op {
            /// Names of all operations, in the order of the table.
            pub const NAMES: &[&str] = &[$($text),*];

            /// The operation's name.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self {
                    $(Op::$name { .. } => $text,)*
                }
            }

            /// The buffers it reads.
            #[must_use]
            pub fn reads(&self) -> Vec<Buf> {
                match self {
                    $(Op::$name { $($read,)* .. } => vec![$(*$read),*],)*
                }
            }

            /// The buffers it writes; an operation that only writes a cache writes none.
            #[must_use]
            pub fn writes(&self) -> Vec<Buf> {
                match self {
                    $(Op::$name { $($write,)* .. } => vec![$(*$write),*],)*
                }
            }

            /// The weights of which it reads every element.
            #[must_use]
            pub fn weights(&self) -> Vec<Weight> {
                match self {
                    $(Op::$name { $($weight,)* .. } => {
                        let named: &[Option<Weight>] = &[$($weight.named()),*];
                        named.iter().copied().flatten().collect()
                    })*
                }
            }

            /// The weights of which it reads a row for each of its own.
            #[must_use]
            pub fn looks_up(&self) -> Vec<Weight> {
                match self {
                    $(Op::$name { $($table,)* .. } => vec![$(*$table),*],)*
                }
            }

            /// The caches it reads.
            #[must_use]
            pub fn reads_cache(&self) -> Vec<CacheId> {
                match self {
                    $(Op::$name { $($seen,)* .. } => vec![$(*$seen),*],)*
                }
            }

            /// The caches it appends to.
            #[must_use]
            pub fn writes_cache(&self) -> Vec<CacheId> {
                match self {
                    $(Op::$name { $($kept,)* .. } => vec![$(*$kept),*],)*
                }
            }

            /// What may be assumed of it.
            #[must_use]
            pub fn contract(&self) -> Contract {
                match self {
                    $(Op::$name { .. } => Contract {
                        error: ErrorClass::$error,
                        sample: ColumnSample::$sample,
                    },)*
                }
            }
        }
    };
}

operations! {
    /// `out[t] = table[by[t]]`.
    Embed = "embed" {
        /// A row for each number that `by` may have: `[_, hidden_size]`.
        table: Weight,
        /// What rows are looked up by.
        by: Column,
        /// `[tokens, hidden_size]`.
        out: Buf,
    }
    reads [], writes [out], weights [], looks_up [table], reads_cache [], writes_cache [],
    Float, Whole;

    /// `out[g] = x[g] * weight / sqrt(mean(x[g]^2) + eps)` for each group `g` of `dim` elements,
    /// where `dim` is the weight's length (a whole row, or one head of it).
    RmsNorm = "rms_norm" {
        /// Input.
        x: Buf,
        /// `[dim]`.
        weight: Weight,
        /// Added to the mean square.
        eps: f32,
        /// Same shape as `x`.
        out: Buf,
    }
    reads [x], writes [out], weights [weight], looks_up [], reads_cache [], writes_cache [],
    Float, Whole;

    /// `out[g] = (x[g] - mean(x[g])) * weight / sqrt(mean((x[g] - mean(x[g]))^2) + eps) (+ bias)` for
    /// each group `g` of `dim` elements, where `dim` is the weight's length.
    LayerNorm = "layer_norm" {
        /// Input.
        x: Buf,
        /// `[dim]`.
        weight: Weight,
        /// `[dim]`.
        bias: Option<Weight>,
        /// Added to the variance.
        eps: f32,
        /// Same shape as `x`.
        out: Buf,
    }
    reads [x], writes [out], weights [weight, bias], looks_up [], reads_cache [], writes_cache [],
    Float, Whole;

    /// `out[t, r] = sum_c weight[r, c] * x[t, c] (+ bias[r])`.
    MatMul = "matmul" {
        /// `[_, cols]`.
        x: Buf,
        /// `[rows, cols]`.
        weight: Weight,
        /// `[rows]`.
        bias: Option<Weight>,
        /// `[_, rows]`.
        out: Buf,
    }
    reads [x], writes [out], weights [weight, bias], looks_up [], reads_cache [], writes_cache [],
    Product, Product;

    /// Rotary position embedding of every head.
    Rope = "rope" {
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
    }
    reads [x], writes [out], weights [], looks_up [], reads_cache [], writes_cache [],
    Float, Whole;

    /// Appends keys and values of the step's tokens to a cache.
    KvWrite = "kv_write" {
        /// Where to.
        cache: CacheId,
        /// `[tokens, num_kv_heads * head_dim]`.
        k: Buf,
        /// `[tokens, num_kv_heads * head_dim]`.
        v: Buf,
    }
    reads [k, v], writes [], weights [], looks_up [], reads_cache [], writes_cache [cache],
    Float, Whole;

    /// Causal attention over a cache.
    Attention = "attention" {
        /// Keys and values.
        cache: CacheId,
        /// Heads, scale, window.
        spec: AttentionConfig,
        /// `[tokens, num_heads * head_dim]`.
        q: Buf,
        /// `[tokens, num_heads * head_dim]`.
        out: Buf,
    }
    reads [q], writes [out], weights [], looks_up [], reads_cache [cache], writes_cache [],
    Attention, Whole;

    /// `out = act(gate) * up`.
    Glu = "glu" {
        /// Activation.
        act: Activation,
        /// `[_, ffn_size]`.
        gate: Buf,
        /// `[_, ffn_size]`.
        up: Buf,
        /// `[_, ffn_size]`.
        out: Buf,
    }
    reads [gate, up], writes [out], weights [], looks_up [], reads_cache [], writes_cache [],
    Approximate, Columns;

    /// `out = act(x)`.
    Activate = "activate" {
        /// Activation.
        act: Activation,
        /// Input.
        x: Buf,
        /// Same shape as `x`.
        out: Buf,
    }
    reads [x], writes [out], weights [], looks_up [], reads_cache [], writes_cache [],
    Approximate, Columns;

    /// `out = a + b`.
    Add = "add" {
        /// First term.
        a: Buf,
        /// Second term.
        b: Buf,
        /// Sum.
        out: Buf,
    }
    reads [a, b], writes [out], weights [], looks_up [], reads_cache [], writes_cache [],
    Float, Columns;

    /// `out = x * factor`.
    Scale = "scale" {
        /// Input.
        x: Buf,
        /// Factor.
        factor: f32,
        /// Same shape as `x`.
        out: Buf,
    }
    reads [x], writes [out], weights [], looks_up [], reads_cache [], writes_cache [],
    Float, Columns;

    /// `out = cap * tanh(x / cap)`.
    Softcap = "softcap" {
        /// Input.
        x: Buf,
        /// The bound of the results.
        cap: f32,
        /// Same shape as `x`.
        out: Buf,
    }
    reads [x], writes [out], weights [], looks_up [], reads_cache [], writes_cache [],
    Approximate, Columns;

    /// Keeps the rows whose logits are wanted.
    GatherOutputs = "gather_outputs" {
        /// `[tokens, _]`.
        x: Buf,
        /// `[outputs, _]`.
        out: Buf,
    }
    reads [x], writes [out], weights [], looks_up [], reads_cache [], writes_cache [],
    Exact, Whole;

    /// Index of the largest logit of each row; the lowest index on ties.
    ArgMax = "argmax" {
        /// `[outputs, vocab_size]`.
        logits: Buf,
        /// `[outputs, 1]`, token ids.
        out: Buf,
    }
    reads [logits], writes [out], weights [], looks_up [], reads_cache [], writes_cache [],
    Exact, Whole;

    /// Sum over the ranks of a plan that was cut for several: `out = x of rank 0 + x of rank 1 + ...`.
    AllReduce = "all_reduce" {
        /// This rank's term.
        x: Buf,
        /// The sum, the same on every rank; same shape as `x`.
        out: Buf,
    }
    reads [x], writes [out], weights [], looks_up [], reads_cache [], writes_cache [],
    Float, Whole;

    /// Columns of all ranks of a plan that was cut for several, in the order of the ranks.
    AllGather = "all_gather" {
        /// This rank's columns.
        x: Buf,
        /// All columns, the same on every rank.
        out: Buf,
    }
    reads [x], writes [out], weights [], looks_up [], reads_cache [], writes_cache [],
    Exact, Whole;
}
