//! Text as it comes, with a limit, sampling and a stop. `cargo run --example streaming [MODEL.gguf]`

use std::io::Write;
use std::sync::Arc;

use gannet_engine::{Engine, Error, GenerateOptions, Model, Request, Sampling, Settings, Update};

const DEMONSTRATION: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../cli/models/rustdoc-tiny-Q4_K_M.gguf"
);

fn main() -> Result<(), Error> {
    let file = std::env::args().nth(1);
    let model = Arc::new(Model::open(file.as_deref().unwrap_or(DEMONSTRATION))?);
    let engine = Engine::new(&model, &Settings::default())?;
    let options = GenerateOptions {
        max_tokens: 40,
        stop: vec!["\n\n".to_owned()],
        sampling: Sampling {
            temperature: 0.8,
            top_p: 0.95,
            seed: 7,
            ..Sampling::default()
        },
        ..GenerateOptions::default()
    };
    let mut handle =
        engine.submit(Request::new("Ownership is a set of rules").with_options(options));
    print!("Ownership is a set of rules");
    // Dropping the handle ends the request at any time.
    while let Some(update) = handle.next_update() {
        match update {
            Update::Token { text, .. } => print!("{text}"),
            Update::Ended(result) => println!("\n[{:?}]", result?.finish),
            _ => {}
        }
        let _ = std::io::stdout().flush();
    }
    Ok(())
}
