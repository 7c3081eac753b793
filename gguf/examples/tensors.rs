//! What a GGUF file holds: keys, then tensors. `cargo run --example tensors MODEL.gguf`

use gannet_gguf::{Error, Gguf};

const DEMONSTRATION: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../cli/models/rustdoc-tiny-Q4_K_M.gguf"
);

fn main() -> Result<(), Error> {
    let path = std::env::args().nth(1);
    // The file is mapped, not read; what its header claims is checked before anything is handed out.
    let file = Gguf::open(path.as_deref().unwrap_or(DEMONSTRATION))?;
    println!("{}", file.metadata().str("general.architecture")?);
    for (key, _) in file.metadata().iter() {
        println!("  {key}");
    }
    for tensor in file.tensors() {
        let bytes = file.data(tensor).len();
        println!(
            "{:<28} {:?} {:?} {bytes} bytes",
            tensor.name, tensor.ty, tensor.dims
        );
    }
    Ok(())
}
