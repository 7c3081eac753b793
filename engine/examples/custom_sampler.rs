//! A sampler of one's own: top-n-sigma, by a hook that sees all logits before a token is chosen.
//! `cargo run --example custom_sampler [MODEL.gguf]`
//!
//! A hook that leaves one token alone, all others at minus infinity, chooses by itself.

use std::sync::Arc;

use gannet_engine::{Engine, Error, GenerateOptions, Model, Request, Sampling, Settings};

const DEMONSTRATION: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../cli/models/rustdoc-tiny-Q4_K_M.gguf"
);

/// Keeps tokens whose logit is within `n` standard deviations of the greatest
/// (<https://arxiv.org/abs/2411.07641>).
fn top_n_sigma(n: f32) -> impl FnMut(&[u32], &mut [f32]) + Send {
    move |_tokens, logits| {
        let count = logits.len() as f32;
        let mean = logits.iter().sum::<f32>() / count;
        let squares: f32 = logits.iter().map(|l| (l - mean).powi(2)).sum();
        let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let least = greatest - n * (squares / count).sqrt();
        for logit in logits.iter_mut().filter(|logit| **logit < least) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

fn main() -> Result<(), Error> {
    let file = std::env::args().nth(1);
    let model = Arc::new(Model::open(file.as_deref().unwrap_or(DEMONSTRATION))?);
    let engine = Engine::new(&model, &Settings::default())?;
    let mut request = Request::new("The borrow checker").with_options(GenerateOptions {
        max_tokens: 30,
        sampling: Sampling {
            temperature: 1.5,
            ..Sampling::default()
        },
        ..GenerateOptions::default()
    });
    request.logit_hook = Some(Box::new(top_n_sigma(1.0)));
    println!("The borrow checker{}", engine.submit(request).wait()?.text);
    Ok(())
}
