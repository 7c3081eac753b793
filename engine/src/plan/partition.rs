//! A plan cut for several ranks, each with its share of the weights and of the cache.
//!
//! Heads of attention, the hidden features of a gated unit and the vocabulary are cut into ranges of
//! columns: what makes such columns takes rows of its weight (each rank computes its own outputs from
//! the same input), what reads them takes columns of its weight (each rank computes a term of every
//! output), and an [`Op::AllReduce`] adds the terms. Everything else every rank computes for itself,
//! since it is cheap; so is the embedding, of which a step reads a few rows only.
//!
//! What is cut follows from which operation feeds which, never from names. Always holds: buffers keep
//! their numbers, operations their order, and every rank has the same operations, so that ranks can
//! run in lockstep from collective to collective.

mod cut;

use std::ops::Range;
use std::sync::Arc;

use super::{AttentionConfig, Buf, BufferInfo, Op, Plan, Weight, WeightInfo};
use crate::Error;
use cut::Cut;

/// The most ranks that are named where a number of them does not fit.
const MOST_NAMED: usize = 16;

/// What ranks do together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Collective {
    /// Adds the terms of all ranks, in their order.
    Sum,
    /// Puts the columns of all ranks side by side.
    Concatenate,
}

impl Op {
    /// What ranks do together here: what it is, the buffer that each gives and the one that each gets.
    #[must_use]
    pub fn collective(&self) -> Option<(Collective, Buf, Buf)> {
        match *self {
            Op::AllReduce { x, out } => Some((Collective::Sum, x, out)),
            Op::AllGather { x, out } => Some((Collective::Concatenate, x, out)),
            Op::Embed { .. }
            | Op::RmsNorm { .. }
            | Op::LayerNorm { .. }
            | Op::MatMul { .. }
            | Op::Rope { .. }
            | Op::KvWrite { .. }
            | Op::Attention { .. }
            | Op::Glu { .. }
            | Op::Activate { .. }
            | Op::Add { .. }
            | Op::Scale { .. }
            | Op::Softcap { .. }
            | Op::GatherOutputs { .. }
            | Op::ArgMax { .. } => None,
        }
    }
}

impl Plan {
    /// Refuses a share of a partition where nobody runs the others.
    ///
    /// # Errors
    /// The plan has collectives.
    pub fn check_alone(&self) -> Result<(), Error> {
        if self.ops.iter().all(|op| op.collective().is_none()) {
            return Ok(());
        }
        let why = "the plan is one rank's share; it runs together with those of the other ranks";
        Err(Error::Request(why.to_owned()))
    }
}

/// A plan for each rank.
#[derive(Debug, Clone)]
pub struct Partition {
    plans: Vec<Arc<Plan>>,
    cut: Cut,
    /// For each operation of a rank's plan, the operation of the whole plan that it is a part of.
    origins: Vec<usize>,
}

impl Partition {
    /// The plan of each rank. The buffers of the whole plan have their numbers in all of them.
    #[must_use]
    pub fn plans(&self) -> &[Arc<Plan>] {
        &self.plans
    }

    /// Which columns of a buffer of the whole plan a rank holds; `None`: all of them, as every rank.
    /// Ranks may hold the same columns.
    #[must_use]
    pub fn columns(&self, b: Buf, rank: usize) -> Option<Range<usize>> {
        Some(self.cut.held(b)?[rank].clone())
    }

    /// The operation of the whole plan that an operation of a rank's plan is a part of.
    #[must_use]
    pub fn origin(&self, op: usize) -> usize {
        self.origins[op]
    }
}

/// Cuts a plan for `ranks` ranks.
///
/// # Errors
/// No ranks at all; heads, hidden features or the vocabulary that so many ranks cannot share, with the
/// numbers of ranks that could; or a plan that mixes what ranks would hold apart.
pub fn partition(plan: &Plan, ranks: usize) -> Result<Partition, Error> {
    try_partition(plan, ranks).map_err(|why| {
        let fits = |&ranks: &usize| try_partition(plan, ranks).is_ok();
        let fitting: Vec<String> = (1..=MOST_NAMED)
            .filter(fits)
            .map(|ranks| ranks.to_string())
            .collect();
        let advice = match fitting.as_slice() {
            [] => "no number of ranks fits this model".to_owned(),
            fitting => format!("ranks that fit this model: {}", fitting.join(", ")),
        };
        Error::Request(format!("{why}; {advice}"))
    })
}

fn try_partition(plan: &Plan, ranks: usize) -> Result<Partition, String> {
    let cut = Cut::new(plan, ranks)?;
    let mut plans = Vec::with_capacity(ranks);
    let mut origins = Vec::new();
    for rank in 0..ranks {
        let share = Share::new(plan, &cut, rank)?;
        origins = share.origins;
        plans.push(Arc::new(share.plan));
    }
    Ok(Partition {
        plans,
        cut,
        origins,
    })
}

/// The plan of one rank in the making.
struct Share<'a> {
    whole: &'a Plan,
    cut: &'a Cut,
    rank: usize,
    plan: Plan,
    origins: Vec<usize>,
}

impl<'a> Share<'a> {
    fn new(whole: &'a Plan, cut: &'a Cut, rank: usize) -> Result<Share<'a>, String> {
        let columns = |i: usize| cut.held(Buf(i as u32)).map(|held| held[rank].len());
        let buffers = whole.buffers.iter().enumerate();
        let buffers = buffers.map(|(i, info)| BufferInfo {
            cols: columns(i).unwrap_or(info.cols),
            ..info.clone()
        });
        let mut caches = whole.caches.clone();
        for (cache, heads) in caches.iter_mut().zip(cut.cache_heads()) {
            if let Some(heads) = heads {
                cache.num_kv_heads = heads[rank].len();
            }
        }
        let mut share = Share {
            whole,
            cut,
            rank,
            plan: Plan {
                buffers: buffers.collect(),
                weights: Vec::new(),
                ropes: whole.ropes.clone(),
                ops: Vec::new(),
                caches,
                logits: whole.logits,
                next: whole.next,
                vocab_size: whole.vocab_size,
            },
            origins: Vec::new(),
        };
        for (i, op) in whole.ops.iter().enumerate() {
            share.add(op)?;
            share.origins.resize(share.plan.ops.len(), i);
        }
        Ok(share)
    }

    /// This rank's columns of a buffer.
    fn held(&self, b: Buf) -> Option<Range<usize>> {
        Some(self.cut.held(b)?[self.rank].clone())
    }

    /// Appends this rank's share of an operation.
    fn add(&mut self, op: &Op) -> Result<(), String> {
        match *op {
            Op::MatMul {
                x,
                weight,
                bias,
                out,
            } => return self.product(x, weight, bias, out),
            Op::Embed { table, by, out } => {
                let table = self.weight(self.whole.weight(table).clone());
                self.plan.ops.push(Op::Embed { table, by, out });
            }
            Op::RmsNorm {
                x,
                weight,
                eps,
                out,
            } => {
                let weight = self.weight(self.whole.weight(weight).clone());
                self.plan.ops.push(Op::RmsNorm {
                    x,
                    weight,
                    eps,
                    out,
                });
            }
            Op::LayerNorm {
                x,
                weight,
                bias,
                eps,
                out,
            } => {
                let weight = self.weight(self.whole.weight(weight).clone());
                let bias = bias.map(|bias| self.weight(self.whole.weight(bias).clone()));
                self.plan.ops.push(Op::LayerNorm {
                    x,
                    weight,
                    bias,
                    eps,
                    out,
                });
            }
            Op::Rope {
                x,
                rope,
                head_dim,
                out,
                ..
            } => self.plan.ops.push(Op::Rope {
                x,
                rope,
                num_heads: self.plan.buffer(x).cols / head_dim,
                head_dim,
                out,
            }),
            Op::Attention {
                cache,
                spec,
                q,
                out,
            } => {
                let spec = AttentionConfig {
                    num_heads: self.plan.buffer(q).cols / spec.head_dim,
                    num_kv_heads: self.plan.cache(cache).num_kv_heads,
                    ..spec
                };
                self.plan.ops.push(Op::Attention {
                    cache,
                    spec,
                    q,
                    out,
                });
            }
            Op::KvWrite { .. }
            | Op::Glu { .. }
            | Op::Activate { .. }
            | Op::Add { .. }
            | Op::Scale { .. }
            | Op::Softcap { .. }
            | Op::GatherOutputs { .. }
            | Op::ArgMax { .. } => self.plan.ops.push(op.clone()),
            Op::AllReduce { .. } | Op::AllGather { .. } => {
                return Err("a rank's plan cannot be cut again".to_owned());
            }
        }
        Ok(())
    }

    /// A product: of a rank's own outputs, or a term of all, or the same on every rank.
    fn product(
        &mut self,
        x: Buf,
        weight: Weight,
        bias: Option<Weight>,
        out: Buf,
    ) -> Result<(), String> {
        let (info, bias) = (
            self.whole.weight(weight),
            bias.map(|b| self.whole.weight(b)),
        );
        let (input, output) = (self.held(x), self.held(out));
        let head = self.cut.head(out).map(|ranges| ranges[self.rank].clone());
        let rows = output.clone().or_else(|| head.clone());
        let part = match (&input, &rows) {
            (None, None) => info.clone(),
            (None, Some(rows)) => info.outputs(rows.clone())?,
            (Some(columns), _) => info.inputs(columns.clone())?,
        };
        let bias = match (&input, &rows) {
            (None, Some(rows)) => bias.map(|bias| bias.outputs(rows.clone())).transpose()?,
            // A bias is added once: the terms of other ranks have none.
            (Some(_), _) if self.rank > 0 => None,
            (None, None) | (Some(_), _) => bias.cloned(),
        };
        let written = match (&input, &head) {
            (Some(_), _) => self.buffer(out, "term", self.plan.buffer(out).cols),
            (None, Some(rows)) => self.buffer(out, "part", rows.len()),
            (None, None) => out,
        };
        let weight = self.weight(part);
        let bias = bias.map(|bias| self.weight(bias));
        self.plan.ops.push(Op::MatMul {
            x,
            weight,
            bias,
            out: written,
        });
        if input.is_some() {
            self.plan.ops.push(Op::AllReduce { x: written, out });
        } else if head.is_some() {
            self.plan.ops.push(Op::AllGather { x: written, out });
        }
        Ok(())
    }

    /// A buffer of this rank alone, behind those of the whole plan.
    fn buffer(&mut self, of: Buf, what: &str, cols: usize) -> Buf {
        let info = self.plan.buffer(of);
        let info = BufferInfo {
            name: format!("{}.{what}", info.name),
            cols,
            ..info.clone()
        };
        self.plan.buffers.push(info);
        Buf(self.plan.buffers.len() as u32 - 1)
    }

    /// The number of a weight: operations may share one.
    fn weight(&mut self, info: WeightInfo) -> Weight {
        let known = self.plan.weights.iter().position(|w| *w == info);
        let index = known.unwrap_or_else(|| {
            self.plan.weights.push(info);
            self.plan.weights.len() - 1
        });
        Weight(index as u32)
    }
}
