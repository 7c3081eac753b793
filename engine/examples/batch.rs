//! Many prompts at once, by plain calls and without a thread. `cargo run --example batch [MODEL.gguf]`

use std::ops::ControlFlow;
use std::sync::Arc;

use gannet_engine::{Batch, Error, GenerateOptions, Model, Settings};

const DEMONSTRATION: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../cli/models/rustdoc-tiny-Q4_K_M.gguf"
);

fn main() -> Result<(), Error> {
    let file = std::env::args().nth(1);
    let model = Arc::new(Model::open(file.as_deref().unwrap_or(DEMONSTRATION))?);
    // Three sequences share each step; the fourth prompt joins when one of them ends.
    let settings = Settings {
        slots: Some(3),
        ..Settings::default()
    };
    let mut batch = Batch::new(&model, &settings)?;
    let mut prompts = Vec::new();
    for prompt in [
        "Ownership is",
        "A trait",
        "fn main() {",
        "The borrow checker",
    ] {
        let options = GenerateOptions {
            max_tokens: 12,
            ..GenerateOptions::default()
        };
        prompts.push((batch.add_text(prompt, options)?, prompt));
    }
    for (id, generation) in batch.run_to_end(|_, _| ControlFlow::Continue(())) {
        let prompt = prompts.iter().find(|(of, _)| *of == id).map(|(_, p)| *p);
        println!("{}{:?}", prompt.unwrap_or_default(), generation?.text);
    }
    Ok(())
}
