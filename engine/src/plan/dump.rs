//! A plan as text, one operation a line: what `gannet ptx -m`, tests and reviews look at.

use std::fmt;

use super::{Column, Element, Op, Plan, Rows, Weight};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for op in &self.ops {
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
                written.push(format!(
                    "{}: {element}[{rows}, {}] = ",
                    info.name, info.cols
                ));
            }
            for cache in op.writes_cache() {
                written.push(format!("{}: ", self.cache(cache).name));
            }
            write!(f, "{}", written.join(", "))?;
            write!(f, "{}(", op.name())?;
            for (i, b) in op.reads().into_iter().enumerate() {
                write!(
                    f,
                    "{}{}",
                    if i > 0 { ", " } else { "" },
                    self.buffer(b).name
                )?;
            }
            writeln!(f, "){}", self.attributes(op))?;
        }
        Ok(())
    }
}

impl Plan {
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
