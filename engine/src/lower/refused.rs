//! Shapes that no kernel on tensor cores takes, so that slower ones compute them: what a user should know.

use gannet_ptx_gen::kernels::{AttentionFlashSpec, AttentionShape, Epilogue, GemmSpec, KvType};
use gannet_ptx_gen::target::Target;

use super::weight_format;
use crate::kv::BLOCK_TOKENS;
use crate::plan::{AttentionConfig, Op, Plan};

/// A reason why tensor cores compute a part of a plan neither for prompts nor for batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The kernel's reason.
    pub(crate) why: String,
    /// The first matrix or cache of it.
    pub(crate) first: String,
    /// How many there are.
    pub(crate) count: usize,
}

/// Why kernels on tensor cores refuse parts of a plan, each reason once, on caches of the type asked for.
pub(crate) fn beside_tensor_cores(plan: &Plan, target: Target, kv_type: KvType) -> Vec<Refusal> {
    let mut refusals: Vec<Refusal> = Vec::new();
    for op in &plan.ops {
        let refused = match *op {
            Op::MatMul { weight, .. } => {
                let info = plan.weight(weight);
                let product = GemmSpec {
                    target,
                    format: weight_format(info.format),
                    rows: info.rows as u32,
                    cols: info.cols as u32,
                    epilogue: Epilogue::default(),
                };
                product.check().err().map(|why| (why, &info.name))
            }
            Op::Attention {
                cache, ref spec, ..
            } => {
                let info = plan.cache(cache);
                let flash = flash(spec, target, info.kv_type(kv_type));
                // A cache of f32 was asked for.
                let is_why = flash.shape.kv_type == KvType::F32;
                let why = flash.check().err().filter(|_| !is_why);
                why.map(|why| (why, &info.name))
            }
            _ => None,
        };
        let Some((why, name)) = refused else {
            continue;
        };
        match refusals.iter_mut().find(|known| known.why == why) {
            Some(known) => known.count += 1,
            None => refusals.push(Refusal {
                why,
                first: name.clone(),
                count: 1,
            }),
        }
    }
    refusals
}

/// The attention of prompts on tensor cores.
fn flash(config: &AttentionConfig, target: Target, kv_type: KvType) -> AttentionFlashSpec {
    AttentionFlashSpec {
        target,
        shape: AttentionShape {
            num_heads: config.num_heads as u32,
            num_kv_heads: config.num_kv_heads as u32,
            head_dim: config.head_dim as u32,
            block_tokens: BLOCK_TOKENS as u32,
            max_blocks: 1,
            kv_type,
            scale: config.scale,
            softcap: config.softcap,
            window: config.window,
        },
        split_queries: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::plan::Weight;

    fn plan() -> Plan {
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/data/golden/arch/llama/llama.gguf"
        );
        Plan::clone(Model::open(file).unwrap().plan())
    }

    #[test]
    fn shapes_that_tensor_cores_refuse_are_told_once_each() {
        let refusals = |plan: &Plan| beside_tensor_cores(plan, Target::Sm80, KvType::F16);
        let mut plan = plan();
        assert_eq!(refusals(&plan), []);
        let weights: Vec<Weight> = (plan.ops.iter())
            .filter_map(|op| match *op {
                Op::MatMul { weight, .. } => Some(weight),
                _ => None,
            })
            .collect();
        for (weight, cols) in [(0, 72), (3, 72), (5, 100), (8, 72)] {
            plan.weights[weights[weight].0 as usize].cols = cols;
        }
        let found = refusals(&plan);
        let counts: Vec<_> = found.iter().map(|r| (r.count, r.why.as_str())).collect();
        let why =
            |cols| format!("a product over {cols} columns; tensor cores take multiples of 32");
        assert_eq!(counts, [(3, &*why(72)), (1, &*why(100))]);
        assert_eq!(found[0].first, plan.weight(weights[0]).name);
    }

    #[test]
    fn heads_that_tensor_cores_refuse_are_told_unless_the_cache_is_why() {
        let mut plan = plan();
        for op in &mut plan.ops {
            if let Op::Attention { spec, .. } = op {
                spec.head_dim = 1024;
            }
        }
        let found = beside_tensor_cores(&plan, Target::Sm75, KvType::F16);
        assert_eq!(found.len(), 1);
        assert!(found[0].why.contains("1024") && found[0].first.contains("cache"));
        assert_eq!(beside_tensor_cores(&plan, Target::Sm75, KvType::F32), []);
    }
}
