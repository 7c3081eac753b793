//! A plan as text, one operation a line: what `gannet ptx -m`, tests and reviews look at.

use std::fmt;

use super::{Column, Element, Op, Plan, Rows, Weight};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ops
            .iter()
            .try_for_each(|op| writeln!(f, "{}", self.line(op)))
    }
}

impl Plan {
    /// An operation as text: what it writes, its name, what it reads, and what else it depends on.
    #[must_use]
    pub fn line(&self, op: &Op) -> String {
        let mut written = Vec::new();
        for out in op.writes() {
            let info = self.buffer(out);
            let rows = match info.rows {
                Rows::Tokens => "T",
                Rows::Outputs => "O",
            };
            let element = match info.element {
                Element::F32 => "f32",
                Element::U32 => "u32",
            };
            let (name, cols) = (&info.name, info.cols);
            written.push(format!("{name}: {element}[{rows}, {cols}] = "));
        }
        for cache in op.writes_cache() {
            written.push(format!("{}: ", self.cache(cache).name));
        }
        let reads = op.reads().into_iter();
        let reads: Vec<&str> = reads.map(|b| self.buffer(b).name.as_str()).collect();
        let (written, name, reads) = (written.join(", "), op.name(), reads.join(", "));
        format!("{written}{name}({reads}){}", self.attributes(op))
    }

    fn attributes(&self, op: &Op) -> String {
        let weight = |w: Weight| {
            let w = self.weight(w);
            format!("{} {}[{}, {}]", w.name, w.format.name(), w.rows, w.cols)
        };
        match op {
            Op::Embed { table, by, .. } => match by {
                Column::Token => format!(" {}", weight(*table)),
                by => format!(" {} by {}", weight(*table), by.name()),
            },
            Op::RmsNorm { weight: w, eps, .. } => format!(" {} eps {eps:e}", weight(*w)),
            Op::LayerNorm {
                weight: w,
                bias,
                eps,
                ..
            } => {
                let bias = bias.map_or(String::new(), |b| format!(" + {}", self.weight(b).name));
                format!(" {}{bias} eps {eps:e}", weight(*w))
            }
            Op::MatMul {
                weight: w, bias, ..
            } => {
                let bias = bias.map_or(String::new(), |b| format!(" + {}", self.weight(b).name));
                format!(" {}{bias}", weight(*w))
            }
            Op::Rope {
                rope,
                num_heads,
                head_dim,
                ..
            } => {
                format!(" {num_heads} x {head_dim}, {}", self.ropes[rope.0 as usize])
            }
            Op::KvWrite { .. } => String::new(),
            Op::Attention { cache, spec, .. } => format!(
                " {}, {} heads over {} of {}, scale {}",
                self.cache(*cache).name,
                spec.num_heads,
                spec.num_kv_heads,
                spec.head_dim,
                spec.scale
            ),
            Op::Glu { act, .. } | Op::Activate { act, .. } => format!(" {act:?}"),
            Op::Scale { factor, .. } => format!(" {factor}"),
            Op::Softcap { cap, .. } => format!(" {cap}"),
            Op::Add { .. }
            | Op::GatherOutputs { .. }
            | Op::ArgMax { .. }
            | Op::AllReduce { .. }
            | Op::AllGather { .. } => String::new(),
        }
    }
}
