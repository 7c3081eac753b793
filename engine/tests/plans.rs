//! Plans and their lowering as text: what a family says, and what a GPU is asked to run.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;

use std::fmt::Write;

use std::sync::Arc;

use common::{model, shared};
use gannet_engine::internals::kv::KvType;
use gannet_engine::internals::lower::DeviceProfile;
use gannet_engine::internals::lower::{LowerOptions, Shape, StepKind, lower};
use gannet_engine::settings::Overrides;
use gannet_engine::settings::{Buffers, Precision};
use gannet_ptx_gen::target::Target;

fn options(buffers: Buffers) -> LowerOptions {
    LowerOptions {
        target: Target::Sm90a,
        precision: Precision::Fast,
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

/// Kernel and grid of every launch, a line each.
fn launches(name: &str, rows: usize, kind: StepKind) -> String {
    let model = micro(name);
    let shape = Shape {
        rows,
        outputs: 1,
        kind,
    };
    let lowered = lower(model.plan(), shape, &options(Buffers::Shared)).unwrap();
    let mut text = String::new();
    for launch in &lowered.launches {
        let kernel = lowered.kernels[launch.kernel].kernel().name;
        let unit = &lowered.units[launch.unit].name;
        writeln!(text, "{unit}: {kernel} {:?}", launch.grid).unwrap();
    }
    text
}

#[test]
fn a_token_and_a_prompt_lower_to_their_kernels() {
    insta::assert_snapshot!("launches_token", launches("qwen2", 1, StepKind::Prompt));
    insta::assert_snapshot!("launches_prompt", launches("qwen2", 40, StepKind::Prompt));
}

#[test]
fn many_slots_do_not_take_the_kernel_of_one_prompt() {
    let text = launches("qwen2", 40, StepKind::Batch);
    assert!(!text.contains("attention_flash"), "{text}");
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
