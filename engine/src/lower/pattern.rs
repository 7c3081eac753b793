//! First pass: which operations share a launch.
//!
//! The table of patterns reads like the parts of a step that one kernel computes: a pattern names the
//! operations, innermost first where they are nested, and a function that finds them by the last of
//! them. What several operations share is private to them: nothing else reads a buffer inside. An
//! operation that no pattern takes is a unit of its own. A unit stands where its last operation stood.

use std::fmt;
use std::str::FromStr;

use super::Shape;
use super::node::{Node, NodeKind};
use crate::plan::{AttentionConfig, Buf, CacheId, Op, Plan, Rope, Rows, Weight};
use crate::settings::RuleSet;

macro_rules! patterns {
    ($($(#[doc = $doc:literal])+ $rule:ident $name:literal: $unit:literal = $find:path;)*) => {
        /// A rule by which operations share a launch.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum FusionRule {
            $($(#[doc = $doc])+ $rule,)*
        }

        /// Every pattern, in the order of [`FusionRule`].
        pub const PATTERNS: &[Pattern] = &[$(Pattern {
            rule: FusionRule::$rule,
            name: $name,
            unit: $unit,
            doc: concat!($($doc),+),
            find: $find,
        },)*];
    };
}

patterns! {
    /// `add(matmul(x), residual)`: a residual sum is the epilogue of the product that it adds.
    MatMulAdd "matmul+add": "matmul+add" = residual_add;
    /// `add(residual, rms_norm(x))`: what stands behind a block is normed on its way into the sum.
    NormAdd "norm+add": "rms_norm+add" = norm_add;
    /// `rms_norm(add(residual, rms_norm(x)))`: the norm in front of the next block sees the sum while it
    /// is in registers; the sum is written, too.
    NormAddNorm "norm+add+norm": "rms_norm+add+rms_norm" = norm_add_norm;
    /// `scale(embed)`: rows of the embedding are scaled on their way out of it.
    ScaledEmbed "embed+scale": "embed+scale" = scaled_embed;
    /// `glu(matmul(x), matmul(x))`: for few rows a gated unit is one kernel.
    Gated "gated": "gated matmul" = gated;
    /// `kv_write(rope(k), v)`: keys are rotated on their way into the cache.
    RotateKeys "rotate-keys": "rope+kv_write" = rotated_kv_write;
    /// `attention(rope(q))`: queries are rotated on their way into attention.
    RotateQueries "rotate-queries": "rope+attention" = rotated_attention;
}

const _: () = assert!(PATTERNS.len() <= RuleSet::MOST, "a set holds every rule");

/// A row of the table.
pub struct Pattern {
    /// The rule.
    pub rule: FusionRule,
    /// What it is switched off by.
    pub name: &'static str,
    /// What a unit of it is called.
    pub unit: &'static str,
    /// Which operations it takes, and what they become.
    pub doc: &'static str,
    find: fn(&Operations<'_>, &Op) -> Option<Found>,
}

impl FusionRule {
    /// Its row.
    #[must_use]
    pub fn pattern(self) -> &'static Pattern {
        &PATTERNS[self as usize]
    }

    /// Whether a set has it.
    #[must_use]
    pub fn is_in(self, set: RuleSet) -> bool {
        set.contains(self as usize)
    }
}

impl fmt::Display for FusionRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.pattern().name)
    }
}

impl FromStr for FusionRule {
    type Err = String;

    fn from_str(name: &str) -> Result<FusionRule, String> {
        let found = PATTERNS.iter().find(|pattern| pattern.name == name);
        found.map(|pattern| pattern.rule).ok_or_else(|| {
            let names: Vec<_> = PATTERNS.iter().map(|pattern| pattern.name).collect();
            format!(
                "{name:?} is no rule of lowering; expected some of {}",
                names.join(", ")
            )
        })
    }
}

impl FromIterator<FusionRule> for RuleSet {
    fn from_iter<T: IntoIterator<Item = FusionRule>>(rules: T) -> RuleSet {
        let rules = rules.into_iter();
        rules.fold(RuleSet::default(), |set, rule| set.with(rule as usize))
    }
}

/// The names of the rules of a set.
#[must_use]
pub fn rule_names(set: RuleSet) -> Vec<&'static str> {
    let rules = PATTERNS.iter().filter(|pattern| pattern.rule.is_in(set));
    rules.map(|pattern| pattern.name).collect()
}

impl Node {
    /// A node of operations of a plan: it reads what none of them makes, and writes what others than
    /// they read, or nobody.
    fn new(
        ops: &Operations<'_>,
        kind: NodeKind,
        rule: Option<FusionRule>,
        covered: Vec<usize>,
    ) -> Node {
        let all = || covered.iter().map(|&i| &ops.plan.ops[i]);
        let made: Vec<Buf> = all().flat_map(Op::writes).collect();
        let read: Vec<Buf> = all().flat_map(Op::reads).collect();
        let mut reads: Vec<Buf> = Vec::new();
        for &b in read.iter().filter(|b| !made.contains(b)) {
            if !reads.contains(&b) {
                reads.push(b);
            }
        }
        let inside = |b: &Buf| read.iter().filter(|r| *r == b).count();
        let escapes = |b: &Buf| inside(b) == 0 || inside(b) < ops.readers[b.0 as usize];
        Node {
            reads,
            writes: made.into_iter().filter(escapes).collect(),
            kind,
            rule,
            ops: covered,
        }
    }
}

/// What the kernels of a step can take in.
pub trait Kernels {
    /// Whether a gated unit of the step is one kernel.
    fn gates(&self) -> bool;
    /// Whether a norm, a sum and a norm of rows of that length are one kernel.
    fn norms_twice(&self, dim: usize) -> bool;
    /// Whether keys can be rotated on their way into the cache.
    fn rotates_keys(&self, rope: Rope, cache: CacheId) -> bool;
    /// Whether queries can be rotated on their way into attention.
    fn rotates_queries(&self, rope: Rope, cache: CacheId, spec: &AttentionConfig) -> bool;
}

/// What a pattern found: what it becomes, and the operations inside besides the last.
struct Found {
    kind: NodeKind,
    inner: Vec<usize>,
}

/// The operations of a plan, as patterns look at them.
struct Operations<'a> {
    plan: &'a Plan,
    kernels: &'a dyn Kernels,
    /// Operations that read each buffer.
    readers: Vec<usize>,
    /// The operation that writes each buffer.
    writers: Vec<Option<usize>>,
}

impl Operations<'_> {
    /// The operation that makes a buffer which one other reads, and nobody besides.
    fn private(&self, b: Buf) -> Option<(usize, &Op)> {
        let is_private = self.readers[b.0 as usize] == 1 && b != self.plan.logits;
        let at = self.writers[b.0 as usize].filter(|_| is_private)?;
        Some((at, &self.plan.ops[at]))
    }

    /// The product that makes a private buffer.
    fn product(&self, b: Buf) -> Option<Product> {
        let (at, op) = self.private(b)?;
        let &Op::MatMul {
            x, weight, bias, ..
        } = op
        else {
            return None;
        };
        Some(Product {
            at,
            x,
            weight,
            bias,
        })
    }

    /// Whether a norm is of whole rows: heads that are normed one by one have another kernel.
    fn norms_rows(&self, x: Buf, weight: Weight) -> bool {
        self.plan.weight(weight).cols == self.plan.buffer(x).cols
    }

    /// A sum of which one term is a private norm of whole rows: the norm, the other term, the sum.
    fn normed_sum(&self, op: &Op) -> Option<(Norm, Buf, Buf)> {
        let &Op::Add { a, b, out } = op else {
            return None;
        };
        let norm = |normed: Buf| {
            let (at, op) = self.private(normed)?;
            let &Op::RmsNorm { x, weight, eps, .. } = op else {
                return None;
            };
            let norm = Norm { at, x, weight, eps };
            self.norms_rows(x, weight).then_some(norm)
        };
        let of = |normed, residual| Some((norm(normed)?, residual, out));
        of(b, a).or_else(|| of(a, b))
    }

    /// The rotation that makes a private buffer.
    fn rotation(&self, b: Buf) -> Option<Rotation> {
        let (at, op) = self.private(b)?;
        let &Op::Rope { x, rope, .. } = op else {
            return None;
        };
        Some(Rotation { at, x, rope })
    }
}

/// A norm of whole rows inside of a unit.
struct Norm {
    at: usize,
    x: Buf,
    weight: Weight,
    eps: f32,
}

/// A product inside of a unit.
struct Product {
    at: usize,
    x: Buf,
    weight: Weight,
    bias: Option<Weight>,
}

/// A rotation inside of a unit.
struct Rotation {
    at: usize,
    x: Buf,
    rope: Rope,
}

fn residual_add(ops: &Operations<'_>, last: &Op) -> Option<Found> {
    let &Op::Add { a, b, out } = last else {
        return None;
    };
    let of = |product: Buf, residual: Buf| Some((ops.product(product)?, residual));
    let (product, residual) = of(b, a).or_else(|| of(a, b))?;
    Some(Found {
        kind: NodeKind::MatMulAdd {
            x: product.x,
            weight: product.weight,
            bias: product.bias,
            residual,
            out,
        },
        inner: vec![product.at],
    })
}

fn norm_add(ops: &Operations<'_>, last: &Op) -> Option<Found> {
    let (norm, residual, out) = ops.normed_sum(last)?;
    Some(Found {
        kind: NodeKind::NormAdd {
            x: norm.x,
            weight: norm.weight,
            eps: norm.eps,
            residual,
            out,
        },
        inner: vec![norm.at],
    })
}

fn norm_add_norm(ops: &Operations<'_>, last: &Op) -> Option<Found> {
    let &Op::RmsNorm {
        x: sum,
        weight: next_weight,
        eps,
        out,
    } = last
    else {
        return None;
    };
    let at = ops.writers[sum.0 as usize]?;
    let (norm, residual, _) = ops.normed_sum(&ops.plan.ops[at])?;
    let is_pair = norm.eps.to_bits() == eps.to_bits() && ops.norms_rows(sum, next_weight);
    let dim = ops.plan.buffer(sum).cols;
    (is_pair && ops.kernels.norms_twice(dim)).then(|| Found {
        kind: NodeKind::NormAddNorm {
            x: norm.x,
            weight: norm.weight,
            eps,
            residual,
            sum,
            next_weight,
            out,
        },
        inner: vec![norm.at, at],
    })
}

fn scaled_embed(ops: &Operations<'_>, last: &Op) -> Option<Found> {
    let &Op::Scale { x, factor, out } = last else {
        return None;
    };
    let (at, op) = ops.private(x)?;
    let &Op::Embed { table, by, .. } = op else {
        return None;
    };
    Some(Found {
        kind: NodeKind::ScaledEmbed {
            table,
            by,
            factor,
            out,
        },
        inner: vec![at],
    })
}

fn gated(ops: &Operations<'_>, last: &Op) -> Option<Found> {
    let &Op::Glu { act, gate, up, out } = last else {
        return None;
    };
    let (gate, up) = (ops.product(gate)?, ops.product(up)?);
    let is_one = gate.x == up.x && gate.bias.is_none() && up.bias.is_none();
    (is_one && ops.kernels.gates()).then(|| Found {
        kind: NodeKind::GatedMatMul {
            act,
            x: gate.x,
            gate: gate.weight,
            up: up.weight,
            out,
        },
        inner: vec![gate.at, up.at],
    })
}

fn rotated_kv_write(ops: &Operations<'_>, last: &Op) -> Option<Found> {
    let &Op::KvWrite { cache, k, v } = last else {
        return None;
    };
    let Rotation { at, x, rope } = ops.rotation(k)?;
    ops.kernels.rotates_keys(rope, cache).then(|| Found {
        kind: NodeKind::RotatedKvWrite {
            cache,
            rope,
            k: x,
            v,
        },
        inner: vec![at],
    })
}

fn rotated_attention(ops: &Operations<'_>, last: &Op) -> Option<Found> {
    let &Op::Attention {
        cache,
        spec,
        q,
        out,
    } = last
    else {
        return None;
    };
    let Rotation { at, x, rope } = ops.rotation(q)?;
    ops.kernels
        .rotates_queries(rope, cache, &spec)
        .then(|| Found {
            kind: NodeKind::RotatedAttention {
                cache,
                spec,
                rope,
                q: x,
                out,
            },
            inner: vec![at],
        })
}

/// Groups a plan's operations into nodes, as far as the kernels of the shape allow, without the rules
/// of a set. Operations that write no rows at this shape are left out.
#[must_use]
pub fn group(plan: &Plan, shape: Shape, kernels: &dyn Kernels, without: RuleSet) -> Vec<Node> {
    let ops = Operations {
        plan,
        kernels,
        readers: count_readers(plan),
        writers: writers(plan),
    };
    let find = |op: &Op| {
        let tried = PATTERNS.iter().filter(|p| !p.rule.is_in(without));
        let mut found = tried.filter_map(|p| Some((p.rule, (p.find)(&ops, op)?)));
        found.next()
    };
    let mut nodes: Vec<Node> = Vec::new();
    let mut inside = vec![false; plan.ops.len()];
    for (i, op) in plan.ops.iter().enumerate() {
        let (kind, rule, mut covered) = match find(op) {
            Some((rule, found)) => (found.kind, Some(rule), found.inner),
            None => (NodeKind::Op(op.clone()), None, Vec::new()),
        };
        covered.iter().for_each(|&inner| inside[inner] = true);
        covered.push(i);
        covered.sort_unstable();
        nodes.push(Node::new(&ops, kind, rule, covered));
    }
    let last = |node: &Node| node.ops.last().is_some_and(|&i| !inside[i]);
    let idle = |node: &Node| {
        let of_outputs = |b: &Buf| plan.buffer(*b).rows == Rows::Outputs;
        shape.outputs == 0 && node.writes.iter().any(of_outputs)
    };
    nodes.retain(|node| last(node) && !idle(node));
    nodes
}

fn writers(plan: &Plan) -> Vec<Option<usize>> {
    let mut writers = vec![None; plan.buffers.len()];
    for (i, op) in plan.ops.iter().enumerate() {
        for b in op.writes() {
            writers[b.0 as usize] = Some(i);
        }
    }
    writers
}

fn count_readers(plan: &Plan) -> Vec<usize> {
    let mut readers = vec![0; plan.buffers.len()];
    for b in plan.ops.iter().flat_map(Op::reads) {
        readers[b.0 as usize] += 1;
    }
    readers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_found_by_their_names() {
        for (at, pattern) in PATTERNS.iter().enumerate() {
            assert_eq!(pattern.rule as usize, at, "{}", pattern.name);
            assert_eq!(pattern.name.parse(), Ok(pattern.rule));
            assert_eq!(pattern.rule.to_string(), pattern.name);
        }
        let why = "glue".parse::<FusionRule>().unwrap_err();
        assert!(PATTERNS.iter().all(|p| why.contains(p.name)), "{why}");
    }

    #[test]
    fn a_set_has_the_rules_that_it_was_made_of() {
        let set: RuleSet = [FusionRule::Gated, FusionRule::RotateQueries]
            .into_iter()
            .collect();
        for pattern in PATTERNS {
            let expected = matches!(pattern.rule, FusionRule::Gated | FusionRule::RotateQueries);
            assert_eq!(pattern.rule.is_in(set), expected, "{}", pattern.name);
        }
        assert_eq!(rule_names(set), ["gated", "rotate-queries"]);
        assert!(rule_names(RuleSet::default()).is_empty());
    }
}
