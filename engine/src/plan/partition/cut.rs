//! Which columns of which buffers ranks hold apart, found from the end of a plan to its beginning.
//!
//! Attention says that queries are cut by heads and its keys and values by the heads that those
//! need, a feed-forward unit that its features are cut by blocks of the matrix that reads them; operations
//! that keep columns apart pass that on to what they read. Where it meets a product, the product makes
//! the columns, and where the columns meet a product, its terms are added.

use std::ops::Range;

use crate::plan::{AttentionConfig, Buf, ColumnSample, Op, Plan};

/// Elements that kernels read at once: a cut within them would leave rows that they cannot read.
const ELEMENTS: usize = 4;

/// A range for each rank.
pub(super) type Ranges = Vec<Range<usize>>;

/// What ranks hold apart.
#[derive(Debug, Clone)]
pub(super) struct Cut {
    ranks: usize,
    /// Columns of each buffer; `None`: every rank has all.
    held: Vec<Option<Ranges>>,
    /// Key/value heads of each cache.
    caches: Vec<Option<Ranges>>,
    /// The output of the product that makes logits, and the vocabulary of each rank.
    head: Option<(Buf, Ranges)>,
}

impl Cut {
    pub(super) fn new(plan: &Plan, ranks: usize) -> Result<Cut, String> {
        if ranks == 0 {
            return Err("a plan runs on at least one rank".to_owned());
        }
        let mut cut = Cut {
            ranks,
            held: vec![None; plan.buffers.len()],
            caches: vec![None; plan.caches.len()],
            head: None,
        };
        if ranks == 1 {
            return Ok(cut);
        }
        for op in plan.ops.iter().rev() {
            cut.pass_back(plan, op)?;
        }
        cut.head = head(plan).map(|out| {
            let rows = plan.buffer(out).cols;
            (out, even(rows, ranks))
        });
        if let Some((out, vocabulary)) = &cut.head
            && vocabulary.iter().any(Range::is_empty)
        {
            let name = &plan.buffer(*out).name;
            return Err(format!("{ranks} ranks are more than {name} has columns"));
        }
        plan.ops.iter().try_for_each(|op| cut.check(plan, op))?;
        Ok(cut)
    }

    /// The columns of a buffer that each rank holds; `None`: all of them.
    pub(super) fn held(&self, b: Buf) -> Option<&Ranges> {
        self.held[b.0 as usize].as_ref()
    }

    /// The key/value heads of each cache that each rank holds; `None`: all of them.
    pub(super) fn cache_heads(&self) -> &[Option<Ranges>] {
        &self.caches
    }

    /// The columns of logits that each rank makes, where `out` is what the head's product makes.
    pub(super) fn head(&self, out: Buf) -> Option<&Ranges> {
        let (made, vocabulary) = self.head.as_ref()?;
        (*made == out).then_some(vocabulary)
    }

    /// From what an operation makes to what it reads.
    fn pass_back(&mut self, plan: &Plan, op: &Op) -> Result<(), String> {
        match *op {
            Op::Attention {
                cache,
                spec,
                q,
                out,
            } => {
                let name = &plan.buffer(out).name;
                let heads =
                    Heads::new(&spec, self.ranks).map_err(|why| format!("{name}: {why}"))?;
                let columns = scaled(&heads.queries, spec.head_dim);
                self.hold(plan, out, columns.clone())?;
                self.hold(plan, q, columns)?;
                let known = self.caches[cache.0 as usize].get_or_insert_with(|| heads.kv.clone());
                if *known != heads.kv {
                    let cache = &plan.cache(cache).name;
                    return Err(format!("{name} reads heads of {cache} that others do not"));
                }
            }
            Op::KvWrite { cache, k, v } => {
                if let Some(heads) = self.caches[cache.0 as usize].clone() {
                    let columns = scaled(&heads, plan.cache(cache).head_dim);
                    self.hold(plan, k, columns.clone())?;
                    self.hold(plan, v, columns)?;
                }
            }
            Op::Activate { x, out, .. } => {
                self.hold_features(plan, out)?;
                if let Some(columns) = self.held(out).cloned() {
                    self.hold(plan, x, columns)?;
                }
            }
            Op::Glu { gate, up, out, .. } => {
                self.hold_features(plan, out)?;
                if let Some(columns) = self.held(out).cloned() {
                    self.hold(plan, gate, columns.clone())?;
                    self.hold(plan, up, columns)?;
                }
            }
            Op::Rope { x, out, .. }
            | Op::RmsNorm { x, out, .. }
            | Op::LayerNorm { x, out, .. }
            | Op::Scale { x, out, .. }
            | Op::Softcap { x, out, .. }
            | Op::GatherOutputs { x, out } => {
                if let Some(columns) = self.held(out).cloned() {
                    self.hold(plan, x, columns)?;
                }
            }
            Op::Add { a, b, out } => {
                if let Some(columns) = self.held(out).cloned() {
                    self.hold(plan, a, columns.clone())?;
                    self.hold(plan, b, columns)?;
                }
            }
            Op::Embed { .. }
            | Op::MatMul { .. }
            | Op::ArgMax { .. }
            | Op::AllReduce { .. }
            | Op::AllGather { .. } => {}
        }
        Ok(())
    }

    /// Cuts the features of a feed-forward unit, unless they are.
    fn hold_features(&mut self, plan: &Plan, out: Buf) -> Result<(), String> {
        if self.held(out).is_none()
            && let Some(columns) = self.features(plan, out)?
        {
            self.hold(plan, out, columns)?;
        }
        Ok(())
    }

    /// The features of a feed-forward unit that each rank makes, in whole blocks of the matrices that read
    /// them; `None` where something else reads them.
    fn features(&self, plan: &Plan, out: Buf) -> Result<Option<Ranges>, String> {
        let mut multiple = ELEMENTS;
        for op in plan.ops.iter().filter(|op| op.reads().contains(&out)) {
            let Op::MatMul { weight, .. } = op else {
                return Ok(None);
            };
            // Blocks are powers of two.
            multiple = multiple.max(plan.weight(*weight).format.block_len());
        }
        let info = plan.buffer(out);
        let blocks = info.cols / multiple;
        if !info.cols.is_multiple_of(multiple) || blocks < self.ranks {
            return Err(format!(
                "{} has {} columns in blocks of {multiple}, too few for {} ranks",
                info.name, info.cols, self.ranks
            ));
        }
        Ok(Some(scaled(&even(blocks, self.ranks), multiple)))
    }

    fn hold(&mut self, plan: &Plan, b: Buf, columns: Ranges) -> Result<(), String> {
        let held = self.held[b.0 as usize].get_or_insert_with(|| columns.clone());
        if *held == columns {
            return Ok(());
        }
        let name = &plan.buffer(b).name;
        Err(format!("{name} would have to be cut in two ways"))
    }

    /// Refuses an operation that mixes columns which ranks hold apart.
    fn check(&self, plan: &Plan, op: &Op) -> Result<(), String> {
        let mixed = |b: Buf| {
            let name = &plan.buffer(b).name;
            Err(format!("{} mixes columns of {name}", op.name()))
        };
        let alike = |buffers: &[Buf]| match buffers
            .windows(2)
            .find(|w| self.held(w[0]) != self.held(w[1]))
        {
            Some(pair) => mixed(pair[0]),
            None => Ok(()),
        };
        match *op {
            Op::MatMul { x, weight, out, .. } => {
                if self.held(x).is_some() && (self.held(out).is_some() || self.head(out).is_some())
                {
                    return mixed(x);
                }
                let info = plan.weight(weight);
                let columns = self.held(x).into_iter().flatten();
                let multiple = info.format.block_len().max(ELEMENTS);
                let cuts = |c: &Range<usize>| {
                    !c.start.is_multiple_of(multiple) || !c.end.is_multiple_of(multiple)
                };
                match columns.into_iter().find(|c| cuts(c)) {
                    None => Ok(()),
                    Some(range) => Err(format!(
                        "{}: {} ranks would cut columns at {}, within a block of {multiple}",
                        info.name, self.ranks, range.end
                    )),
                }
            }
            Op::RmsNorm { x, weight, out, .. } | Op::LayerNorm { x, weight, out, .. } => {
                let group = plan.weight(weight).cols;
                let within =
                    |c: &Range<usize>| c.start.is_multiple_of(group) && c.end.is_multiple_of(group);
                match self.held(x) {
                    Some(columns) if !columns.iter().all(within) => mixed(x),
                    _ => alike(&[x, out]),
                }
            }
            Op::Rope { x, out, .. }
            | Op::Activate { x, out, .. }
            | Op::Scale { x, out, .. }
            | Op::Softcap { x, out, .. }
            | Op::GatherOutputs { x, out } => alike(&[x, out]),
            Op::Glu { gate, up, out, .. } => alike(&[gate, up, out]),
            Op::Add { a, b, out } => alike(&[a, b, out]),
            Op::KvWrite { k, v, .. } => alike(&[k, v]),
            Op::Attention { q, out, .. } => alike(&[q, out]),
            Op::Embed { out, .. } => self.held(out).map_or(Ok(()), |_| mixed(out)),
            Op::ArgMax { logits, .. } => self.held(logits).map_or(Ok(()), |_| mixed(logits)),
            Op::AllReduce { x, .. } | Op::AllGather { x, .. } => {
                let name = &plan.buffer(x).name;
                Err(format!("{name} is a rank's already"))
            }
        }
    }
}

/// Heads of an attention, by rank.
struct Heads {
    queries: Ranges,
    /// Those that the queries of a rank read; the same of several ranks where there are fewer.
    kv: Ranges,
}

impl Heads {
    fn new(spec: &AttentionConfig, ranks: usize) -> Result<Heads, String> {
        let (num_heads, num_kv_heads) = (spec.num_heads, spec.num_kv_heads);
        if !num_heads.is_multiple_of(ranks) {
            return Err(format!(
                "{ranks} ranks do not divide {num_heads} query heads"
            ));
        }
        // Every rank's query heads must read its key/value heads in groups of one size.
        if !num_kv_heads.is_multiple_of(ranks) && !ranks.is_multiple_of(num_kv_heads) {
            return Err(format!(
                "{ranks} ranks neither divide {num_kv_heads} key/value heads nor are a multiple of \
                 them"
            ));
        }
        let queries = even(num_heads, ranks);
        let group = num_heads / num_kv_heads;
        let kv = queries.iter();
        let kv = kv.map(|q| q.start / group..q.end.div_ceil(group)).collect();
        Ok(Heads { queries, kv })
    }
}

/// The output of the product that makes logits, through what keeps columns apart.
fn head(plan: &Plan) -> Option<Buf> {
    let mut b = plan.logits;
    loop {
        let op = &plan.ops[plan.writer(b)?];
        if let Op::MatMul { out, .. } = op {
            return Some(*out);
        }
        match op.reads().as_slice() {
            [x] if op.contract().sample == ColumnSample::Columns => b = *x,
            _ => return None,
        }
    }
}

/// Ranges that cover `0..count`, as even as can be.
fn even(count: usize, ranks: usize) -> Ranges {
    let at = |rank: usize| rank * count / ranks;
    (0..ranks).map(|rank| at(rank)..at(rank + 1)).collect()
}

fn scaled(ranges: &[Range<usize>], by: usize) -> Ranges {
    let scale = |r: &Range<usize>| r.start * by..r.end * by;
    ranges.iter().map(scale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heads(num_heads: usize, num_kv_heads: usize, ranks: usize) -> Result<Heads, String> {
        let spec = AttentionConfig {
            num_heads,
            num_kv_heads,
            head_dim: 16,
            scale: 0.25,
            softcap: None,
            window: None,
        };
        Heads::new(&spec, ranks)
    }

    #[test]
    fn ranks_share_heads_and_repeat_the_few() {
        let two = heads(8, 2, 2).unwrap();
        assert_eq!(two.queries, [0..4, 4..8]);
        assert_eq!(two.kv, [0..1, 1..2]);
        let four = heads(8, 2, 4).unwrap();
        assert_eq!(four.queries, [0..2, 2..4, 4..6, 6..8]);
        assert_eq!(four.kv, [0..1, 0..1, 1..2, 1..2]);
        let one = heads(12, 12, 3).unwrap();
        assert_eq!(one.kv, one.queries);
        assert!(heads(8, 2, 3).is_err());
        // Three query heads of a rank would read two key/value heads unevenly.
        assert!(heads(12, 6, 4).is_err());
    }

    #[test]
    fn ranges_cover_everything_once() {
        assert_eq!(even(10, 4), [0..2, 2..5, 5..7, 7..10]);
        assert_eq!(scaled(&even(5, 2), 32), [0..64, 64..160]);
    }
}
