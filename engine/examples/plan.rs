//! What a family is: hyper-parameters and a plan, the only description of a network. Shows those of a model.
//! `cargo run --example plan [MODEL.gguf]`
//!
//! A family of one's own is a file beside those of the engine, which writes such a plan; the guide's page
//! about families says how. What is used here may change with any release.

use gannet_engine::internals::model::FAMILIES;
use gannet_engine::{Error, Model};

const DEMONSTRATION: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../cli/models/rustdoc-tiny-Q4_K_M.gguf"
);

fn main() -> Result<(), Error> {
    for family in FAMILIES {
        println!("{:<8} {}", family.arch, family.models);
    }
    let file = std::env::args().nth(1);
    let model = Model::open(file.as_deref().unwrap_or(DEMONSTRATION))?;
    let plan = model.plan();
    println!("\n{:#?}\n", model.hparams());
    // The first layer is enough to see how the rest goes.
    for op in plan.ops.iter().take(20) {
        println!("{}", plan.line(op));
    }
    println!("and {} more", plan.ops.len().saturating_sub(20));
    Ok(())
}
