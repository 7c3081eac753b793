//! Last pass: the arguments of launches, by the names of their kernels' parameters.
//!
//! A kernel declares its parameters; a unit gives arguments by name, and so does every step (its
//! inputs, the block table, scratch). A launch takes what its kernel declares. A parameter that nobody
//! gives is an error, and so is what a unit gives and none of its kernels takes; what a unit gives
//! stands before what the step does. What a launch reads
//! and writes is what the kernel declares of each pointer, and nothing else says it again.

use gannet_ptx_gen::ir::{Access, Param};

use super::node::{Node, NodeKind};
use super::select::{Chosen, Selected};
use super::{Activations, Arg, Count, KernelSpec, Lowered, Shape, Unit};
use crate::Error;
use crate::plan::{Buf, Column, Op, Plan, Weight};

/// Arguments by the names of parameters.
#[derive(Debug, Clone)]
pub(crate) struct Named<T>(Vec<(&'static str, T)>);

impl<T: Clone> Named<T> {
    /// Those of a list.
    pub(crate) fn new(given: impl IntoIterator<Item = (&'static str, T)>) -> Named<T> {
        Named(given.into_iter().collect())
    }

    /// The same names with what a function makes of their arguments.
    pub(crate) fn map<U>(self, f: impl Fn(T) -> U) -> Named<U> {
        let mapped = self.0.into_iter().map(|(name, arg)| (name, f(arg)));
        Named(mapped.collect())
    }

    /// These and one more.
    pub(crate) fn with(mut self, name: &'static str, arg: T) -> Named<T> {
        self.0.push((name, arg));
        self
    }

    fn get(&self, name: &str) -> Option<T> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map(|(_, arg)| arg.clone())
    }

    /// The arguments of a kernel whose parameters take all of these and no others, in order.
    ///
    /// # Errors
    /// A parameter without an argument, or an argument without a parameter.
    pub(crate) fn bind(&self, kernel: &KernelSpec) -> Result<Vec<T>, Error> {
        let params = kernel.params();
        self.check_taken(&[(kernel, &params)])?;
        let args = params.iter().map(|param| {
            let found = self.get(&param.name);
            found.ok_or_else(|| unbound(kernel, param))
        });
        args.collect()
    }

    /// Refuses an argument that no kernel takes.
    fn check_taken(&self, kernels: &[(&KernelSpec, &[Param])]) -> Result<(), Error> {
        let is_taken = |name: &str| {
            let mut params = kernels.iter().flat_map(|(_, params)| params.iter());
            params.any(|param| param.name == name)
        };
        match self.0.iter().find(|(name, _)| !is_taken(name)) {
            None => Ok(()),
            Some((name, _)) => {
                let kernels: Vec<_> = kernels.iter().map(|(kernel, _)| kernel.name()).collect();
                let kernels = kernels.join(", ");
                Err(Error::internal(format!("no parameter {name} of {kernels}")))
            }
        }
    }
}

fn unbound(kernel: &KernelSpec, param: &Param) -> Error {
    let (kernel, param) = (kernel.name(), &param.name);
    Error::internal(format!("nothing is bound to parameter {param} of {kernel}"))
}

/// Appends the launches of a unit, and the unit.
pub(super) fn bind(plan: &Plan, selected: Selected, lowered: &mut Lowered) -> Result<(), Error> {
    let given = given(&selected.node.kind);
    let params: Vec<_> = selected.kernels.iter().map(|c| c.spec.params()).collect();
    let kernels: Vec<_> = (selected.kernels.iter().zip(&params))
        .map(|(chosen, params)| (&chosen.spec, params.as_slice()))
        .collect();
    given.check_taken(&kernels)?;
    let (mut reads, mut writes): (Vec<Buf>, Vec<Buf>) = (Vec::new(), Vec::new());
    if selected.kernels.is_empty() {
        // What ranks do together: whoever holds them reads and writes.
        reads.clone_from(&selected.node.reads);
        writes.clone_from(&selected.node.writes);
    }
    let mut activations = Activations::default();
    for (chosen, params) in selected.kernels.iter().zip(&params) {
        let args = arguments(plan, lowered.shape, chosen, params, &given)?;
        let add = |to: &mut Vec<Buf>, b: Buf| {
            if !to.contains(&b) {
                to.push(b);
            }
        };
        for (arg, access) in accesses(&args, params) {
            let Arg::Buffer(b) = arg else { continue };
            if access != Access::Write && !writes.contains(&b) {
                add(&mut reads, b);
            }
            if access != Access::Read {
                add(&mut writes, b);
            }
        }
        activations = activations.max(chosen.spec.activations());
        lowered.push(chosen, args);
    }
    let Node { ops, .. } = &selected.node;
    let weights = ops.iter().flat_map(|&op| plan.ops[op].weights());
    let converted = weights.map(|w| Activations::of_converted(plan.weight(w).format));
    activations = converted.fold(activations, Activations::max);
    let name = selected.node.name(plan);
    if !same(&reads, &selected.node.reads) || !same(&writes, &selected.node.writes) {
        return Err(Error::internal(format!(
            "{name}: its kernels read {reads:?} and write {writes:?}, its operations read {:?} and \
             write {:?}",
            selected.node.reads, selected.node.writes
        )));
    }
    lowered.scratch_bytes = lowered.scratch_bytes.max(selected.scratch_bytes);
    lowered.units.push(Unit {
        name,
        ops: ops.clone(),
        reads,
        writes,
        activations,
    });
    Ok(())
}

fn same(a: &[Buf], b: &[Buf]) -> bool {
    a.len() == b.len() && a.iter().all(|x| b.contains(x))
}

/// Arguments that are pointers, and what the kernel does through them.
pub(super) fn accesses<'a>(
    args: &'a [Arg],
    params: &'a [Param],
) -> impl Iterator<Item = (Arg, Access)> + 'a {
    let pointers = args.iter().zip(params);
    pointers.filter_map(|(&arg, param)| Some((arg, param.pointee?.access)))
}

fn arguments(
    plan: &Plan,
    shape: Shape,
    chosen: &Chosen,
    params: &[Param],
    given: &Named<Arg>,
) -> Result<Vec<Arg>, Error> {
    let of_step = of_step(chosen.count);
    let args = params.iter().map(|param| {
        let arg = given.get(&param.name).or_else(|| of_step.get(&param.name));
        let arg = arg.ok_or_else(|| unbound(&chosen.spec, param))?;
        if matches!(arg, Arg::Count(_)) != param.pointee.is_none() {
            let (kernel, param) = (chosen.spec.name(), &param.name);
            let what = arg.describe(plan, shape);
            return Err(Error::internal(format!("{what} is no {param} of {kernel}")));
        }
        Ok(arg)
    });
    args.collect()
}

/// What every launch may name: the inputs of the step, and memory that units share.
fn of_step(count: Count) -> Named<Arg> {
    let inputs = Column::ALL.iter().map(|&c| (c.name(), Arg::Input(c)));
    Named::new(inputs.chain([
        ("table", Arg::BlockTable),
        // Of attention in splits, and of products in splits.
        ("partials", Arg::Scratch),
        ("counters", Arg::Counters),
        // Rows of a launch, or elements.
        ("n", Arg::Count(count)),
    ]))
}

/// What a unit gives its launches.
fn given(kind: &NodeKind) -> Named<Arg> {
    let buffer = Arg::Buffer;
    match *kind {
        NodeKind::Op(ref op) => given_by_op(op),
        NodeKind::MatMulAdd {
            x,
            weight,
            bias,
            residual,
            out,
        } => {
            let bias = bias.map(|bias| ("bias", Arg::Weight(bias)));
            let product = [
                ("w", Arg::Weight(weight)),
                ("x", buffer(x)),
                ("residual", buffer(residual)),
                ("out", buffer(out)),
            ];
            Named::new(product.into_iter().chain(bias))
        }
        NodeKind::NormAdd {
            x,
            weight,
            eps: _,
            residual,
            out,
        } => Named::new([
            ("x", buffer(x)),
            ("w", Arg::Weight(weight)),
            ("residual", buffer(residual)),
            ("out", buffer(out)),
        ]),
        NodeKind::NormAddNorm {
            x,
            weight,
            eps: _,
            residual,
            sum,
            next_weight,
            out,
        } => Named::new([
            ("x", buffer(x)),
            ("w", Arg::Weight(weight)),
            ("residual", buffer(residual)),
            ("w_next", Arg::Weight(next_weight)),
            ("out", buffer(sum)),
            ("next", buffer(out)),
        ]),
        NodeKind::ScaledEmbed {
            table,
            by,
            factor: _,
            out,
        } => looked_up(table, by, out),
        NodeKind::GatedMatMul {
            act: _,
            x,
            gate,
            up,
            out,
        } => Named::new([
            ("w_gate", Arg::Weight(gate)),
            ("w_up", Arg::Weight(up)),
            ("x", buffer(x)),
            ("out", buffer(out)),
        ]),
        NodeKind::RotatedKvWrite { cache, rope, k, v } => Named::new([
            ("k", buffer(k)),
            ("v", buffer(v)),
            ("angles", Arg::RopeTable(rope)),
            ("keys", Arg::Keys(cache)),
            ("values", Arg::Values(cache)),
        ]),
        NodeKind::RotatedAttention {
            cache,
            spec: _,
            rope,
            q,
            out,
        } => Named::new([
            ("q", buffer(q)),
            ("angles", Arg::RopeTable(rope)),
            ("keys", Arg::Keys(cache)),
            ("values", Arg::Values(cache)),
            ("out", buffer(out)),
        ]),
    }
}

/// Rows of a table. Its kernel calls what it looks up tokens, whatever they are here.
fn looked_up(table: Weight, by: Column, out: Buf) -> Named<Arg> {
    Named::new([
        ("w", Arg::Weight(table)),
        ("tokens", Arg::Input(by)),
        ("out", Arg::Buffer(out)),
    ])
}

fn given_by_op(op: &Op) -> Named<Arg> {
    let buffer = Arg::Buffer;
    match *op {
        Op::Embed { table, by, out } => looked_up(table, by, out),
        Op::RmsNorm {
            x,
            weight,
            eps: _,
            out,
        } => Named::new([
            ("x", buffer(x)),
            ("w", Arg::Weight(weight)),
            ("out", buffer(out)),
        ]),
        Op::MatMul {
            x,
            weight,
            bias,
            out,
        }
        | Op::LayerNorm {
            x,
            weight,
            bias,
            eps: _,
            out,
        } => {
            let bias = bias.map(|bias| ("bias", Arg::Weight(bias)));
            let given = [
                ("w", Arg::Weight(weight)),
                ("x", buffer(x)),
                ("out", buffer(out)),
            ];
            Named::new(given.into_iter().chain(bias))
        }
        Op::Rope {
            x,
            rope,
            num_heads: _,
            head_dim: _,
            out,
        } => Named::new([
            ("x", buffer(x)),
            ("angles", Arg::RopeTable(rope)),
            ("out", buffer(out)),
        ]),
        Op::KvWrite { cache, k, v } => Named::new([
            ("k", buffer(k)),
            ("v", buffer(v)),
            ("keys", Arg::Keys(cache)),
            ("values", Arg::Values(cache)),
        ]),
        Op::Attention {
            cache,
            spec: _,
            q,
            out,
        } => Named::new([
            ("q", buffer(q)),
            ("keys", Arg::Keys(cache)),
            ("values", Arg::Values(cache)),
            ("out", buffer(out)),
        ]),
        Op::Glu {
            act: _,
            gate,
            up,
            out,
        } => Named::new([
            ("gate", buffer(gate)),
            ("up", buffer(up)),
            ("out", buffer(out)),
        ]),
        Op::Add { a, b, out } => Named::new([
            ("x", buffer(a)),
            ("residual", buffer(b)),
            ("out", buffer(out)),
        ]),
        Op::Activate { act: _, x, out }
        | Op::Scale { x, factor: _, out }
        | Op::Softcap { x, cap: _, out } => Named::new([("x", buffer(x)), ("out", buffer(out))]),
        Op::GatherOutputs { x, out } => Named::new([("x", buffer(x)), ("out", buffer(out))]),
        Op::ArgMax { logits, out } => {
            Named::new([("logits", buffer(logits)), ("out", buffer(out))])
        }
        // Whoever holds the ranks does this: there is no launch to bind.
        Op::AllReduce { .. } | Op::AllGather { .. } => Named::new([]),
    }
}
