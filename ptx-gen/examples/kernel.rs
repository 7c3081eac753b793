//! A kernel as a Rust function: its text, and what an interpreter makes of it.
//! `cargo run --example kernel --features interp`

use gannet_ptx_gen::interp::{LaunchArg, Memory, Options, launch};
use gannet_ptx_gen::{ir::Kernel, target::Target};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // out[block] = the largest of 256 numbers.
    let kernel = Kernel::new("largest", Target::Sm80, |k| {
        k.block_size(256);
        let (x, out) = (k.input::<f32>("x"), k.output::<f32>("out"));
        let largest = k.warp_max(x.load(k.block_x() * 256 + k.thread_x()));
        let of_warps = k.shared::<f32>("of_warps", 8);
        k.if_(k.lane().eq(0), || of_warps.store(k.warp(), largest));
        k.barrier();
        // Whole warps reduce, so every warp does, and one thread stores.
        let largest = k.lanes_reduce(of_warps.load(k.lane() % 8), 8, |a, b| a.max(b));
        k.if_(k.thread_x().eq(0), || out.store(k.block_x(), largest));
    });
    println!("{}", kernel.ptx()?);
    let numbers: Vec<f32> = (0..512).map(|i| ((i * 37) % 509) as f32).collect();
    let mut memory = Memory::new();
    let (x, out) = (memory.alloc_from(&numbers), memory.alloc_from(&[0f32; 2]));
    let args = [LaunchArg::U64(x), LaunchArg::U64(out)];
    let stats = launch(&kernel, [2, 1, 1], &args, &memory, &Options::default())?;
    let of = |half: &[f32]| half.iter().copied().fold(f32::MIN, f32::max);
    let expected = [of(&numbers[..256]), of(&numbers[256..])];
    assert_eq!(memory.read::<f32>(out, 2)?, expected);
    println!("// {expected:?} after {stats:?}");
    Ok(())
}
