//! Plans and their lowering as text: what a family says, and what a GPU is asked to run.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;

use std::fmt::Write;

use std::sync::Arc;

use common::{model, shared};
use gannet_engine::internals::kv::KvType;
use gannet_engine::internals::lower::{DeviceProfile, KernelSpec, PATTERNS};
use gannet_engine::internals::lower::{LowerOptions, Lowered, Shape, StepKind, lower};
use gannet_engine::internals::plan::{Activation, AttentionConfig, Linear, Plan};
use gannet_engine::internals::plan::{PlanBuilder, RopeFactors, RopeKind, RopeTable};
use gannet_engine::internals::plan::{WeightInfo, WeightView};
use gannet_engine::settings::{Buffers, Overrides, Precision, RuleSet};
use gannet_ptx_gen::kernels::{AttentionDecodeSpec, GemmBatchSpec, GemvSpec};
use gannet_ptx_gen::target::Target;
use gannet_quant::Format;

fn options(buffers: Buffers) -> LowerOptions {
    LowerOptions {
        target: Target::Sm90a,
        precision: Precision::Fast,
        batch_invariant: false,
        multiprocessors: 132,
        max_blocks: 8,
        kv_type: KvType::F16,
        buffers,
        profile: Arc::new(DeviceProfile::built_in(Overrides::default())),
    }
}

fn micro(name: &str) -> std::sync::Arc<gannet_engine::Model> {
    let path = shared("plans", &format!("golden/arch/{name}/{name}.gguf"));
    model(&path.expect("the repository ships it"))
}

#[test]
fn a_family_reads_like_its_network() {
    insta::assert_snapshot!("plan_qwen3", micro("qwen3").plan());
}

fn lowered(plan: &Plan, rows: usize, kind: StepKind, overrides: Overrides) -> Lowered {
    let shape = Shape {
        rows,
        outputs: 1,
        kind,
    };
    let options = LowerOptions {
        profile: Arc::new(DeviceProfile::built_in(overrides)),
        ..options(Buffers::Shared)
    };
    lower(plan, shape, &options).unwrap()
}

/// Kernel and grid of every launch, a line each.
fn launches(name: &str, rows: usize, kind: StepKind) -> String {
    let model = micro(name);
    let lowered = lowered(model.plan(), rows, kind, Overrides::default());
    let mut text = String::new();
    for launch in &lowered.launches {
        let kernel = lowered.kernels[launch.kernel].kernel().name;
        let unit = &lowered.units[launch.unit].name;
        let grid = lowered.grid(launch, lowered.shape);
        writeln!(text, "{unit}: {kernel} {grid:?}").unwrap();
    }
    text
}

#[test]
fn a_token_and_a_prompt_lower_to_their_kernels() {
    insta::assert_snapshot!("launches_token", launches("qwen2", 1, StepKind::Prompt));
    insta::assert_snapshot!("launches_prompt", launches("qwen2", 40, StepKind::Prompt));
}

/// A token and a prompt as the pages on which a step can be read.
#[test]
fn a_step_reads_from_operations_to_kernels() {
    let model = micro("qwen2");
    for (name, rows) in [("step_token", 1), ("step_prompt", 40)] {
        let lowered = lowered(model.plan(), rows, StepKind::Prompt, Overrides::default());
        insta::assert_snapshot!(name, lowered.listing(model.plan()));
    }
}

/// In what order the operations of a layer's attention stand.
#[derive(Clone, Copy)]
enum Order {
    /// Queries, keys and values, as a network is read.
    Natural,
    /// Queries behind the write to the cache, where attention wants them.
    QueriesLast,
}

/// A decoder of two layers whose heads are large enough for every kernel.
fn decoder(order: Order) -> Plan {
    let attention = AttentionConfig {
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 128,
        scale: 0.1,
        softcap: None,
        window: None,
    };
    let p = &mut PlanBuilder::new();
    let weight = |p: &mut PlanBuilder, name: &str, format, rows, cols| {
        let view = WeightView::whole(0, 0, rows, cols);
        p.weight(WeightInfo {
            name: name.to_owned(),
            format,
            rows,
            cols,
            view,
        })
    };
    let matrix = |p: &mut PlanBuilder, name: &str, rows, cols| Linear {
        weight: weight(p, name, Format::Q8_0, rows, cols),
        bias: None,
    };
    let rope = p.rope_table(RopeTable {
        kind: RopeKind::Neox,
        rot_dim: 128,
        base: 1e4,
        scale: 1.0,
        yarn: None,
        magnitude: 1.0,
        factors: RopeFactors::Ones,
    });
    let embedding = weight(p, "token_embd.weight", Format::Q8_0, 512, 256);
    let x = p.embed(embedding);
    let mut x = p.scale(x, 16.0);
    for layer in 0..2 {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let norm = weight(p, &name("attn_norm"), Format::F32, 1, 256);
        let cache = p.cache(&format!("blk.{layer}.cache"), 1, 128);
        let [q, k, v] = [("attn_q", 256), ("attn_k", 128), ("attn_v", 128)]
            .map(|(part, rows)| matrix(p, &name(part), rows, 256));
        let h = p.rms_norm(x, norm, 1e-6);
        let attended = match order {
            Order::Natural => {
                let (q, k, v) = (p.matmul(h, q), p.matmul(h, k), p.matmul(h, v));
                let (q, k) = (p.rope(q, rope, 2, 128), p.rope(k, rope, 1, 128));
                p.kv_write(cache, k, v);
                p.attention(layer, q, cache, attention)
            }
            Order::QueriesLast => {
                let (k, v) = (p.matmul(h, k), p.matmul(h, v));
                let k = p.rope(k, rope, 1, 128);
                p.kv_write(cache, k, v);
                let q = p.matmul(h, q);
                let q = p.rope(q, rope, 2, 128);
                p.attention(layer, q, cache, attention)
            }
        };
        let o = matrix(p, &name("attn_output"), 256, 256);
        let o = p.matmul(attended, o);
        x = p.add(x, o);
        let (gate, up) = (
            matrix(p, &name("ffn_gate"), 512, 256),
            matrix(p, &name("ffn_up"), 512, 256),
        );
        let (gate, up) = (p.matmul(x, gate), p.matmul(x, up));
        let hidden = p.glu(Activation::Silu, gate, up);
        let down = matrix(p, &name("ffn_down"), 256, 512);
        let down = p.matmul(hidden, down);
        let norm = weight(p, &name("post_ffw_norm"), Format::F32, 1, 256);
        let down = p.rms_norm(down, norm, 1e-6);
        x = p.add(x, down);
    }
    let x = p.gather_outputs(x);
    let logits = p.matmul(
        x,
        Linear {
            weight: embedding,
            bias: None,
        },
    );
    std::mem::take(p).finish(logits)
}

/// Families write what a network computes; when it runs is for lowering to say.
#[test]
fn launches_do_not_depend_on_the_order_in_which_a_layer_is_written() {
    let listing = |order, rows, kind| {
        let plan = decoder(order);
        let lowered = lowered(&plan, rows, kind, Overrides::default());
        // The numbers of operations differ; their lines do not.
        lowered.listing(&plan).to_string()
    };
    for (rows, kind) in [
        (1, StepKind::Prompt),
        (8, StepKind::Batch),
        (40, StepKind::Prompt),
    ] {
        let [natural, last] =
            [Order::Natural, Order::QueriesLast].map(|order| listing(order, rows, kind));
        assert_eq!(natural, last, "{rows} rows");
        let hands_over = natural.contains("_h [");
        assert_eq!(hands_over, rows == 1, "{natural}");
    }
}

/// Every rule can be left out, which shows, and leaves the others as they are.
#[test]
fn a_rule_that_is_left_out_leaves_its_operations_apart() {
    let plan = decoder(Order::Natural);
    let ops = |without: RuleSet| -> Vec<(String, Vec<usize>)> {
        let overrides = Overrides {
            without,
            ..Overrides::default()
        };
        let lowered = lowered(&plan, 1, StepKind::Prompt, overrides);
        let units = lowered.units.into_iter();
        units.map(|unit| (unit.name, unit.ops)).collect()
    };
    let all = ops(RuleSet::default());
    for pattern in PATTERNS {
        let apart = ops(std::iter::once(pattern.rule).collect());
        let of_rule = |(name, _): &&(String, Vec<usize>)| {
            let buffer = name.strip_prefix(pattern.unit);
            buffer.is_some_and(|buffer| buffer.is_empty() || buffer.starts_with(' '))
        };
        let kind = |units: &[(String, Vec<usize>)]| units.iter().filter(of_rule).count();
        assert_eq!(kind(&apart), 0, "{}", pattern.name);
        assert!(kind(&all) > 0, "{}: {all:?}", pattern.name);
        let others = all.iter().filter(|unit| unit.1.len() > 1 && !of_rule(unit));
        for unit in others {
            assert!(apart.contains(unit), "{}: {unit:?}", pattern.name);
        }
        let mut covered: Vec<usize> = apart.into_iter().flat_map(|(_, ops)| ops).collect();
        covered.sort_unstable();
        let every: Vec<usize> = (0..plan.ops.len()).collect();
        assert_eq!(covered, every, "{}: each operation once", pattern.name);
    }
}

#[test]
fn many_slots_do_not_take_the_kernel_of_one_prompt() {
    let text = launches("qwen2", 40, StepKind::Batch);
    assert!(!text.contains("attention_flash"), "{text}");
}

/// Whoever runs prompts lowers a class of lengths once.
#[test]
fn lengths_of_one_class_lower_alike() {
    const MAX_ROWS: usize = 200;
    for name in ["qwen2", "gemma3", "phi3"] {
        let model = micro(name);
        for (precision, kv_type, batch_invariant) in [
            (Precision::Fast, KvType::F16, false),
            (Precision::Fast, KvType::F32, false),
            (Precision::Exact, KvType::F16, false),
            (Precision::Fast, KvType::F16, true),
            (Precision::Exact, KvType::F32, true),
        ] {
            let options = LowerOptions {
                precision,
                kv_type,
                batch_invariant,
                ..options(Buffers::Shared)
            };
            for (outputs, kind) in [
                (0, StepKind::Prompt),
                (1, StepKind::Prompt),
                (5, StepKind::Batch),
                (21, StepKind::Batch),
            ] {
                let shape = |rows: usize| Shape {
                    rows,
                    outputs: rows.min(outputs),
                    kind,
                };
                for rows in (9..=MAX_ROWS).step_by(3) {
                    let class = shape(rows).class(MAX_ROWS, 64);
                    let of_class = lower(model.plan(), class, &options).unwrap();
                    let own = lower(model.plan(), shape(rows), &options).unwrap();
                    assert!(own.scratch_bytes <= of_class.scratch_bytes, "{name} {rows}");
                    let same = Lowered {
                        shape: own.shape,
                        scratch_bytes: own.scratch_bytes,
                        ..of_class
                    };
                    assert!(same == own, "{name}, {precision:?}, {kind:?}, {rows} rows");
                }
            }
        }
    }
}

#[test]
fn shared_memory_never_holds_two_live_buffers() {
    for name in ["llama", "qwen2", "qwen3"] {
        let model = micro(name);
        let plan = model.plan();
        for rows in [1, 40] {
            let shape = Shape {
                rows,
                outputs: 1,
                kind: StepKind::Prompt,
            };
            let lowered = lower(plan, shape, &options(Buffers::Shared)).unwrap();
            let distinct = lower(plan, shape, &options(Buffers::Distinct)).unwrap();
            assert!(lowered.storage.sizes.len() < distinct.storage.sizes.len());
            // Replay the units, keeping what each slot holds.
            let mut holds = vec![None; lowered.storage.sizes.len()];
            for unit in &lowered.units {
                for b in &unit.reads {
                    let slot = lowered.storage.slot[b.0 as usize].expect("read, so made");
                    assert_eq!(holds[slot], Some(*b), "{name}: {} reads it", unit.name);
                }
                for b in &unit.writes {
                    let slot = lowered.storage.slot[b.0 as usize].expect("written, so made");
                    let read = |r: &gannet_engine::internals::plan::Buf| {
                        lowered.storage.slot[r.0 as usize] == Some(slot)
                    };
                    assert!(!unit.reads.iter().any(read), "{}", unit.name);
                    holds[slot] = Some(*b);
                }
            }
        }
    }
}

/// A kernel without what says how many rows it takes at once, or how it overlaps: what it computes of a
/// row is the same by its contract.
fn of_any_rows(spec: &KernelSpec) -> KernelSpec {
    match spec.clone() {
        KernelSpec::GemmBatch(spec) => GemmBatchSpec { tokens: 64, ..spec }.into(),
        KernelSpec::Gemv(spec) => GemvSpec {
            tokens_per_block: 1,
            hands_over: false,
            ..spec
        }
        .into(),
        KernelSpec::AttentionDecode(spec) => AttentionDecodeSpec {
            overlaps: false,
            ..spec
        }
        .into(),
        other => other,
    }
}

/// The kernels of a step in order, as far as what they compute of a row goes.
fn kernels_of_any_rows(plan: &Plan, shape: Shape, options: &LowerOptions) -> Vec<KernelSpec> {
    let lowered = lower(plan, shape, options).unwrap();
    let kernels = lowered
        .launches
        .iter()
        .map(|launch| &lowered.kernels[launch.kernel]);
    kernels.map(of_any_rows).collect()
}

/// Products in parts of their columns, attention in splits, gated units, prompts: none of them may be
/// chosen by the rows of a step, nor by the context.
#[test]
fn rows_are_computed_alike_however_many_there_are() {
    let shapes = [1, 2, 3, 4, 5, 8, 9, 16, 33, 64, 65, 200, 512].map(|rows| {
        [StepKind::Prompt, StepKind::Batch].map(|kind| Shape {
            rows,
            outputs: rows.min(7),
            kind,
        })
    });
    let made_up = decoder(Order::Natural);
    let models = ["llama", "qwen2", "gemma2", "gemma3", "phi3"].map(micro);
    let plans = models.iter().map(|model| &**model.plan());
    let plans = plans.chain([&made_up]);
    for (at, plan) in plans.enumerate() {
        for (precision, kv_type) in [
            (Precision::Fast, KvType::F16),
            (Precision::Fast, KvType::F32),
            (Precision::Exact, KvType::Int8),
        ] {
            let kernels = |shape, batch_invariant, max_blocks| {
                let options = LowerOptions {
                    precision,
                    kv_type,
                    batch_invariant,
                    max_blocks,
                    ..options(Buffers::Shared)
                };
                kernels_of_any_rows(plan, shape, &options)
            };
            let expected = kernels(shapes[0][0], true, 512);
            for shape in shapes.into_iter().flatten() {
                assert_eq!(kernels(shape, true, 512), expected, "{at}: {shape:?}");
            }
            let [one, many] = [shapes[0][1], shapes[12][0]].map(|s| kernels(s, false, 512));
            assert_ne!(one, many, "by default they are");
            let splits = |kernels: Vec<KernelSpec>| -> Vec<u32> {
                let splits = kernels.iter().filter_map(|spec| match spec {
                    KernelSpec::AttentionMerge(spec) => Some(spec.splits),
                    _ => None,
                });
                splits.collect()
            };
            let short = splits(kernels(shapes[0][0], true, 8));
            assert_eq!(short, splits(expected), "{at}: by context");
        }
    }
}
