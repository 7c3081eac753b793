//! What a user is told of how a model runs: shapes that tensor cores do not take, and products of bytes.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;
mod reference;

use std::path::PathBuf;
use std::sync::Arc;

use common::{model, shared};
use gannet_engine::settings::{Overrides, Precision};
use gannet_engine::tools::make_executor;
use gannet_engine::{DeviceChoice, Model, Settings};
use reference::cases::LLAMA;
use reference::micro::MicroModel;

fn vocab(test: &str) -> Option<PathBuf> {
    shared(test, "golden/arch/llama/llama.gguf")
}

fn notice(model: &Arc<Model>, change: impl Fn(&mut Settings)) -> Option<String> {
    let mut settings = Settings {
        device: DeviceChoice::Interp,
        context: Some(32),
        ..Settings::default()
    };
    change(&mut settings);
    make_executor(model, &settings).unwrap().notice
}

#[test]
fn shapes_that_tensor_cores_refuse_are_told() {
    let Some(vocab) = vocab("notices of refused shapes") else {
        return;
    };
    for (hidden_size, ffn_size, expected) in [
        (64, 96, &[][..]),
        (
            64,
            80,
            &[
                "blk.0.ffn_down.weight and 1 more",
                "(a product over 80 columns",
            ],
        ),
        (
            48,
            96,
            &[
                "blk.0.attn_k.weight and 10 more",
                "(a product over 48 columns",
            ],
        ),
        (
            40,
            100,
            &["over 40 columns", "over 100 columns", "multiples of 32"],
        ),
    ] {
        let file = MicroModel {
            hidden_size,
            ffn_size,
            ..LLAMA
        };
        let file = file.file(&vocab);
        let model = model(file.path());
        let told = notice(&model, |_| ());
        let what = format!("{hidden_size} {ffn_size}: {told:?}");
        assert_eq!(told.is_none(), expected.is_empty(), "{what}");
        for words in expected {
            let times = told.as_ref().unwrap().matches(words).count();
            assert!(times == 1 || *words == "multiples of 32", "{words}, {what}");
        }
        if let Some(told) = &told {
            assert!(
                told.contains("slower kernels") && !told.contains('\n'),
                "{what}"
            );
        }
        // Nothing of them runs on tensor cores.
        assert_eq!(notice(&model, |s| s.precision = Precision::Exact), None);
        assert_eq!(notice(&model, |s| s.device = DeviceChoice::Cpu), None);
    }
}

#[test]
fn products_of_bytes_are_told() {
    let test = "notices of products of bytes";
    let Some(file) = shared(test, "models/rustdoc-tiny-Q4_K_M.gguf") else {
        return;
    };
    let model = model(&file);
    let with = |variant: &str| {
        let gemv = variant.parse().ok();
        notice(&model, |s| {
            s.overrides = Overrides {
                gemv,
                ..Overrides::default()
            }
        })
    };
    for variant in ["dp4a-l32-w16-r1-b4", "dp4a-l16-w16-r2-b8"] {
        let told = with(variant).unwrap();
        assert!(
            told.contains(variant) && told.contains("to 8 bits"),
            "{told}"
        );
    }
    assert_eq!(with("f32-l32-w16-r2-b4"), None);
    assert_eq!(with("f16x2-l16-w16-r2-b8"), None);
}
