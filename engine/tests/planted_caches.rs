//! Keys and values that are no numbers, or too large for them, in caches of every type: the logits are those
//! of the reference, or an error names the operation. A cache of bytes has a scale for each head of a
//! position, which one such element makes worthless for all others.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/plants.rs"]
mod plants;
mod reference;

use common::shared;
use gannet_engine::DeviceChoice;
use gannet_engine::settings::{KvType, Precision};
use gannet_gguf::Gguf;
use plants::*;

/// Interpreted kernels on caches of a type, prompts in one step and token by token; the CPU, whose cache is
/// of f32, in both arithmetics.
fn runners_with(kv_type: KvType) -> Vec<Runner> {
    let fast = Precision::Fast;
    // Of the worst position; bytes have 6e-3 where nothing is planted.
    let limit = if kv_type == KvType::Int8 { 2e-2 } else { 2e-3 };
    let mut of_prompts = runner("prompts", (DeviceChoice::Interp, fast), limit, 1.0 / 127.0);
    of_prompts.settings.kv_type = kv_type;
    let mut of_tokens = runner("tokens", (DeviceChoice::Interp, fast), limit, 1.0 / 127.0);
    of_tokens.settings.kv_type = kv_type;
    of_tokens.settings.max_rows = Some(1);
    of_tokens.settings.max_outputs = Some(1);
    // Beside a key of such size scores are of one token, and which one roundings decide.
    if matches!(kv_type, KvType::BF16 | KvType::Int8) {
        of_prompts.largest = 1.0;
        of_tokens.largest = 1.0;
    }
    let mut all = runners();
    all.truncate(2);
    all.extend([of_prompts, of_tokens]);
    all
}

#[test]
fn keys_and_values_in_caches_of_every_type() {
    for part in ["llama", "qwen2"] {
        let part = format!("golden/arch/{part}/{part}.gguf");
        let Some(file) = shared("planted keys and values", &part) else {
            continue;
        };
        let gguf = Gguf::open(&file).unwrap();
        for kv_type in [KvType::F16, KvType::BF16, KvType::F32, KvType::Int8] {
            let runners = runners_with(kv_type);
            let mut errors = 0;
            for name in [
                "attn_k.weight",
                "attn_v.weight",
                "attn_k.bias",
                "attn_v.bias",
            ] {
                let Some(tensor) = gguf.tensor(&format!("blk.1.{name}")) else {
                    continue;
                };
                for (i, value) in (0u64..).zip(VALUES) {
                    let plant = Plant {
                        file: &file,
                        tensor,
                        element: i * 104_729 + 5,
                        value,
                    };
                    let what = format!("{value:e} in {name} of {part}, {}", kv_type.name());
                    let found = check(&plant, &runners, &what, 0.0);
                    // Not one of them has numbers where a key or a value is none.
                    let spoils = value.is_nan() || value.is_infinite() && name.ends_with("bias");
                    assert!(!spoils || found == runners.len(), "{what}: {found} errors");
                    errors += found;
                }
            }
            println!("{part}, {}: {errors} errors", kv_type.name());
        }
    }
}
