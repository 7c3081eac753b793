//! Makes a GGUF file with a key and a tensor, and reads it again. `cargo run --example write OUT.gguf`

use gannet_gguf::{Gguf, TensorType, Writer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("name a file to write")?;
    let mut writer = Writer::new();
    writer.set("general.architecture", "example")?;
    writer.set("example.block_count", 1u32)?;
    writer.tensor("output_norm.weight", &[2], TensorType::F32)?;
    let mut data = writer.start(std::fs::File::create(&path)?)?;
    // Tensors follow in order, one at a time, so that all need not fit in memory.
    let weights = [1f32, 2.0].map(f32::to_le_bytes).concat();
    data.tensor("output_norm.weight", &weights)?;
    data.finish()?;
    let file = Gguf::open(&path)?;
    let norm = file.tensor("output_norm.weight").ok_or("it was written")?;
    assert_eq!(file.data(norm), weights);
    println!(
        "{path}: {} keys, {} tensors",
        file.metadata().iter().count(),
        file.tensors().len()
    );
    Ok(())
}
