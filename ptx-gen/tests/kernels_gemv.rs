//! Matrix-vector products and embeddings in the interpreter, against f64 over dequantised weights.

#![allow(clippy::unwrap_used)]

use gannet_ptx_gen::interp::{Arg, Memory, Options, launch};
use gannet_ptx_gen::ir::Kernel;
use gannet_ptx_gen::kernels::{Activation, EmbedSpec, GemvGluSpec, GemvSpec, WeightFormat, planes};
use gannet_ptx_gen::target::Target;
use gannet_quant::{Format, Matrix, repack};

const TARGET: Target = Target::Sm80;

fn quant_format(format: WeightFormat) -> Format {
    match format {
        WeightFormat::F32 => Format::F32,
        WeightFormat::F16 => Format::F16,
        WeightFormat::BF16 => Format::BF16,
        WeightFormat::Q4_0 => Format::Q4_0,
        WeightFormat::Q8_0 => Format::Q8_0,
        WeightFormat::Q4K => Format::Q4_K,
        WeightFormat::Q5K => Format::Q5_K,
        WeightFormat::Q6K => Format::Q6_K,
    }
}

/// Normally distributed numbers, the same for the same seed.
fn gaussian(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    let mut normal = || (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    (0..count).map(|_| normal() as f32).collect()
}

/// A random matrix: as the GPU reads it, and its weights.
struct Weights {
    packed: Vec<u8>,
    values: Vec<f32>,
}

fn weights(format: WeightFormat, rows: u32, cols: u32, seed: u64) -> Weights {
    let (rows, cols) = (rows as usize, cols as usize);
    let format = quant_format(format);
    let values = gaussian(seed, rows * cols);
    let mut data = vec![0; rows * format.row_bytes(cols).unwrap()];
    format.quantize(&values, &mut data).unwrap();
    let mut values = values;
    format.dequantize(&data, &mut values).unwrap();
    let matrix = Matrix::new(format, rows, cols, &data).unwrap();
    Weights {
        packed: repack::pack(&matrix).unwrap().1,
        values,
    }
}

/// `[n, rows]` products in f64.
fn reference(w: &Weights, x: &[f32], cols: u32) -> Vec<f64> {
    let cols = cols as usize;
    let dot = |w: &[f32], x: &[f32]| -> f64 {
        w.iter()
            .zip(x)
            .map(|(w, x)| f64::from(*w) * f64::from(*x))
            .sum()
    };
    let rows = |x| w.values.chunks(cols).map(move |w| dot(w, x));
    x.chunks(cols).flat_map(rows).collect()
}

fn nmse(found: &[f32], expected: &[f64]) -> f64 {
    let error: f64 = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (f64::from(*a) - b).powi(2))
        .sum();
    error / expected.iter().map(|b| b * b).sum::<f64>()
}

/// Launches over buffers: inputs, then an output of `len` f32 at place `out`.
struct Bench {
    memory: Memory,
    args: Vec<Arg>,
    out: u64,
    len: usize,
}

impl Bench {
    fn new() -> Bench {
        Bench {
            memory: Memory::new(),
            args: Vec::new(),
            out: 0,
            len: 0,
        }
    }

    fn bytes(mut self, bytes: &[u8]) -> Bench {
        let at = self.memory.alloc_from(bytes);
        self.args.push(Arg::U64(at));
        self
    }

    fn floats(mut self, values: &[f32]) -> Bench {
        let at = self.memory.alloc_from(values);
        self.args.push(Arg::U64(at));
        self
    }

    fn words(mut self, values: &[u32]) -> Bench {
        let at = self.memory.alloc_from(values);
        self.args.push(Arg::U64(at));
        self
    }

    fn out(mut self, len: usize) -> Bench {
        self.out = self.memory.alloc_poisoned(4 * len as u64);
        self.len = len;
        self.args.push(Arg::U64(self.out));
        self
    }

    fn count(mut self, n: u32) -> Bench {
        self.args.push(Arg::U32(n));
        self
    }

    fn run(&self, kernel: &Kernel, grid: [u32; 3]) -> Vec<f32> {
        kernel.verify().unwrap_or_else(|e| panic!("{e}"));
        let options = Options {
            track_shared: true,
            ..Options::default()
        };
        launch(kernel, grid, &self.args, &self.memory, &options).unwrap_or_else(|e| panic!("{e}"));
        self.memory.read::<f32>(self.out, self.len).unwrap()
    }
}

fn spec(format: WeightFormat, rows: u32, cols: u32, tokens_per_block: u32) -> GemvSpec {
    let (bias, residual) = (false, false);
    GemvSpec {
        target: TARGET,
        format,
        rows,
        cols,
        tokens_per_block,
        bias,
        residual,
    }
}

fn gemv(spec: &GemvSpec, w: &Weights, x: &[f32]) -> Vec<f32> {
    spec.check().unwrap();
    let n = x.len() as u32 / spec.cols;
    let len = (n * spec.rows) as usize;
    let bench = Bench::new().bytes(&w.packed).floats(x).out(len).count(n);
    bench.run(&spec.kernel(), spec.grid(n))
}

/// Columns to try: the least, ragged ones, those of small models, and a few real ones.
fn columns(format: WeightFormat) -> Vec<u32> {
    match format.block_len() {
        1 => vec![4, 12, 64, 112, 144, 160, 1000, 1536],
        32 => vec![32, 64, 160, 896, 1536, 4096],
        _ => vec![256, 768, 1536, 2304, 4096],
    }
}

#[test]
fn planes_are_those_that_weights_are_packed_in() {
    for format in WeightFormat::ALL {
        for (rows, cols) in [(1, 256), (7, 512), (33, 768)] {
            let packed = repack::planes(quant_format(format), rows, cols).unwrap();
            let ours = planes(format, rows as u32, cols as u32);
            assert_eq!(ours.len(), packed.planes.len());
            for (a, b) in ours.iter().zip(&packed.planes) {
                assert_eq!(a.name, b.name);
                assert_eq!(
                    (a.offset, a.row_bytes),
                    (b.offset as u64, b.bytes_per_row as u32)
                );
            }
            let block = (format.block_len() as usize, format.block_bytes() as usize);
            let quant = quant_format(format);
            assert_eq!(block, (quant.block_len(), quant.block_bytes()));
        }
    }
}

#[test]
fn one_token_of_every_format_and_shape() {
    for format in WeightFormat::ALL {
        for cols in columns(format) {
            for rows in [1, 37] {
                let w = weights(format, rows, cols, 1);
                let x = gaussian(2, cols as usize);
                let found = gemv(&spec(format, rows, cols, 1), &w, &x);
                let error = nmse(&found, &reference(&w, &x, cols));
                assert!(
                    error <= 1e-12,
                    "{} {rows}x{cols}: NMSE {error:e}",
                    format.name()
                );
            }
        }
    }
}

#[test]
fn long_rows_are_staged_in_chunks() {
    for format in WeightFormat::ALL {
        for (cols, tokens) in [(14336, 1), (8960, 1), (14336, 2), (5632, 8)] {
            let rows = 19;
            let w = weights(format, rows, cols, 3);
            let x = gaussian(4, (cols * tokens) as usize);
            let found = gemv(&spec(format, rows, cols, tokens), &w, &x);
            let error = nmse(&found, &reference(&w, &x, cols));
            assert!(
                error <= 1e-12,
                "{} x{cols} t{tokens}: NMSE {error:e}",
                format.name()
            );
        }
    }
}

#[test]
fn tall_matrices_take_several_rows_a_slot() {
    for format in WeightFormat::ALL {
        let (rows, cols) = (17001, 256);
        let w = weights(format, rows, cols, 5);
        let x = gaussian(6, cols as usize);
        let found = gemv(&spec(format, rows, cols, 1), &w, &x);
        let error = nmse(&found, &reference(&w, &x, cols));
        assert!(error <= 1e-12, "{}: NMSE {error:e}", format.name());
    }
}

#[test]
fn a_tokens_result_depends_on_it_alone() {
    for format in WeightFormat::ALL {
        let (rows, cols) = (45, 1536);
        let w = weights(format, rows, cols, 7);
        let x = gaussian(8, 9 * cols as usize);
        let alone: Vec<f32> = x
            .chunks(cols as usize)
            .flat_map(|x| gemv(&spec(format, rows, cols, 1), &w, x))
            .collect();
        assert!(nmse(&alone, &reference(&w, &x, cols)) <= 1e-12);
        for tokens_per_block in [1, 2, 4, 8] {
            for n in 1..=9 {
                let x = &x[..n * cols as usize];
                let found = gemv(&spec(format, rows, cols, tokens_per_block), &w, x);
                let same = found
                    .iter()
                    .zip(&alone)
                    .all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{} n {n}, {tokens_per_block} a block", format.name());
            }
        }
    }
}

#[test]
fn bias_and_residual_are_added() {
    let (format, rows, cols, n) = (WeightFormat::Q4K, 37, 512, 3);
    let w = weights(format, rows, cols, 9);
    let x = gaussian(10, (n * cols) as usize);
    let (bias, residual) = (
        gaussian(11, rows as usize),
        gaussian(12, (n * rows) as usize),
    );
    for tokens_per_block in [1, 4] {
        let plain = gemv(&spec(format, rows, cols, tokens_per_block), &w, &x);
        let expected: Vec<f32> = (plain.iter().zip(&residual).enumerate())
            .map(|(i, (y, r))| y + bias[i % rows as usize] + r)
            .collect();
        let spec = GemvSpec {
            bias: true,
            residual: true,
            ..spec(format, rows, cols, tokens_per_block)
        };
        // The output takes the place of the residual.
        let memory = Memory::new();
        let mut memory = memory;
        let pointers = [
            memory.alloc_from(&w.packed),
            memory.alloc_from(&x),
            memory.alloc_from(&residual),
            memory.alloc_from(&bias),
        ];
        let mut args: Vec<Arg> = pointers.map(Arg::U64).to_vec();
        args.extend([Arg::U64(pointers[2]), Arg::U32(n)]);
        launch(
            &spec.kernel(),
            spec.grid(n),
            &args,
            &memory,
            &Options::default(),
        )
        .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            memory.read::<f32>(pointers[2], expected.len()).unwrap(),
            expected
        );
    }
}

#[test]
fn gated_unit_multiplies_the_two_products() {
    let formats = [
        (WeightFormat::Q4K, WeightFormat::Q4K),
        (WeightFormat::Q4K, WeightFormat::Q6K),
        (WeightFormat::F16, WeightFormat::Q8_0),
        (WeightFormat::F32, WeightFormat::F32),
        (WeightFormat::Q6K, WeightFormat::Q6K),
    ];
    for (gate, up) in formats {
        for (rows, cols, n, tokens_per_block) in [
            (61, 768, 1, 1),
            (2, 256, 3, 2),
            (45, 1536, 11, 8),
            (21, 14336, 1, 1),
        ] {
            let (g, u) = (weights(gate, rows, cols, 13), weights(up, rows, cols, 14));
            let x = gaussian(15, (n * cols) as usize);
            let x: Vec<f32> = x.iter().map(|x| x / 16.0).collect();
            for activation in [Activation::Silu, Activation::Gelu] {
                let spec = GemvGluSpec {
                    target: TARGET,
                    gate,
                    up,
                    rows,
                    cols,
                    tokens_per_block,
                    activation,
                };
                spec.check().unwrap();
                let bench = Bench::new().bytes(&g.packed).bytes(&u.packed).floats(&x);
                let bench = bench.out((n * rows) as usize).count(n);
                let found = bench.run(&spec.kernel(), spec.grid(n));
                let act = |v: f64| match activation {
                    Activation::Silu => v / (1.0 + (-v).exp()),
                    Activation::Gelu => {
                        let inner =
                            (2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v * v * v);
                        v / 2.0 * (1.0 + inner.tanh())
                    }
                };
                let expected: Vec<f64> = (reference(&g, &x, cols).iter())
                    .zip(reference(&u, &x, cols))
                    .map(|(g, u)| act(*g) * u)
                    .collect();
                let error = nmse(&found, &expected);
                let name = spec.kernel().name;
                assert!(error <= 1e-11, "{name}: NMSE {error:e}");
            }
        }
    }
}

#[test]
fn embedding_gives_the_exact_weights() {
    for format in WeightFormat::ALL {
        for cols in columns(format).into_iter().chain([8960 / 256 * 256]) {
            let rows = 9;
            let w = weights(format, rows, cols, 16);
            let tokens = [3, 0, 8, 9, u32::MAX];
            let spec = EmbedSpec {
                target: TARGET,
                format,
                vocab_size: rows,
                hidden_size: cols,
            };
            spec.check().unwrap();
            let bench = Bench::new().bytes(&w.packed).words(&tokens);
            let bench = bench.out(tokens.len() * cols as usize);
            let found = bench.run(&spec.kernel(), spec.grid(tokens.len() as u32));
            for (t, found) in tokens.iter().zip(found.chunks(cols as usize)) {
                let row = (*t).min(rows - 1) as usize;
                assert_eq!(found, &w.values[row * cols as usize..][..cols as usize]);
            }
        }
    }
}

/// Instructions a weight, everything included; the documentation of the kernel states them.
#[test]
fn instructions_a_weight_are_few() {
    let budget = [3.0, 3.4, 3.9, 5.0, 5.5, 6.1, 6.9, 6.3];
    for (format, budget) in WeightFormat::ALL.into_iter().zip(budget) {
        let spec = spec(format, 4096, 4096, 1);
        let bytes = planes(format, spec.rows, spec.cols).last().unwrap().offset as usize
            + format.bytes(spec.rows, spec.cols) as usize;
        let mut memory = Memory::new();
        let (w, x) = (
            memory.alloc_from(&vec![0u8; bytes]),
            memory.alloc_from(&vec![0f32; 4096]),
        );
        let out = memory.alloc(4 * 4096);
        let args = [Arg::U64(w), Arg::U64(x), Arg::U64(out), Arg::U32(1)];
        let stats = launch(
            &spec.kernel(),
            [1, 1, 1],
            &args,
            &memory,
            &Options::default(),
        )
        .unwrap();
        let weights = 4096 / spec.grid(1)[0] * 4096;
        let found = stats.lane_instructions as f64 / f64::from(weights);
        assert!(
            found <= budget,
            "{}: {found:.2} instructions a weight",
            format.name()
        );
    }
}

#[test]
fn unsupported_shapes_are_refused() {
    assert!(spec(WeightFormat::Q4K, 4, 128, 1).check().is_err());
    assert!(spec(WeightFormat::F16, 4, 6, 1).check().is_err());
    assert!(spec(WeightFormat::F16, 4, 8, 3).check().is_err());
    assert!(spec(WeightFormat::F16, 0, 8, 1).check().is_err());
    assert!(spec(WeightFormat::Q8_0, u32::MAX, 32, 1).check().is_err());
}
