//! A first program: a model, a prompt, its continuation. `cargo run --example first [MODEL.gguf]`

use std::sync::Arc;

use gannet_engine::{Engine, Error, Model, Request, Settings};

const DEMONSTRATION: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../cli/models/rustdoc-tiny-Q4_K_M.gguf"
);

fn main() -> Result<(), Error> {
    let file = std::env::args().nth(1);
    let model = Arc::new(Model::open(file.as_deref().unwrap_or(DEMONSTRATION))?);
    // The first GPU that works, else the CPU.
    let engine = Engine::new(&model, &Settings::default())?;
    let generation = engine.submit(Request::new("Ownership is")).wait()?;
    println!("Ownership is{}", generation.text);
    Ok(())
}
