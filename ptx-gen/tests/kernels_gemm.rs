//! Products on tensor cores in the interpreter, against f64 over dequantised weights.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Random, nmse};
use gannet_ptx_gen::interp::{Arg, Memory, Options, launch};
use gannet_ptx_gen::kernels::{GemmSpec, StreamReadSpec, WeightFormat};
use gannet_ptx_gen::target::Target;
use gannet_quant::{Format, Matrix, repack};

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

fn spec(target: Target, format: WeightFormat, rows: u32, cols: u32) -> GemmSpec {
    let (bias, residual) = (false, false);
    GemmSpec {
        target,
        format,
        rows,
        cols,
        bias,
        residual,
    }
}

/// One product: its operands, and the outputs that are looked at.
struct Case {
    spec: GemmSpec,
    packed: Vec<u8>,
    weights: Vec<f32>,
    x: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
}

impl Case {
    fn new(spec: GemmSpec, n: u32) -> Case {
        let (rows, cols) = (spec.rows as usize, spec.cols as usize);
        let mut random = Random::new(u64::from(spec.rows + 7 * spec.cols));
        let format = quant_format(spec.format);
        let mut weights = random.gaussians(rows * cols);
        let mut data = vec![0; rows * format.row_bytes(cols).unwrap()];
        format.quantize(&weights, &mut data).unwrap();
        format.dequantize(&data, &mut weights).unwrap();
        let matrix = Matrix::new(format, rows, cols, &data).unwrap();
        Case {
            spec,
            packed: repack::pack(&matrix).unwrap().1,
            weights,
            x: random.gaussians(n as usize * cols),
            bias: random.gaussians(rows),
            residual: random.gaussians(n as usize * rows),
        }
    }

    /// Runs the first `n` tokens; with a residual, the output takes its place.
    fn run(&self, n: u32) -> Vec<f32> {
        let spec = &self.spec;
        spec.check().unwrap();
        let kernel = spec.kernel();
        kernel
            .ptx()
            .unwrap_or_else(|e| panic!("{}: {e}", kernel.name));
        let len = (n * spec.rows) as usize;
        let mut memory = Memory::new();
        let w = memory.alloc_from(&self.packed);
        let x = memory.alloc_from(&self.x[..(n * spec.cols) as usize]);
        let out = if spec.residual {
            memory.alloc_from(&self.residual[..len])
        } else {
            memory.alloc_poisoned(4 * len as u64)
        };
        let mut args = [w, x, out].map(Arg::U64).to_vec();
        if spec.bias {
            args.push(Arg::U64(memory.alloc_from(&self.bias)));
        }
        if spec.residual {
            args.push(Arg::U64(out));
        }
        args.push(Arg::U32(n));
        let options = Options {
            track_shared: true,
            ..Options::default()
        };
        if let Err(fault) = launch(&kernel, spec.grid(n), &args, &memory, &options) {
            panic!("{}: {fault}", kernel.name);
        }
        memory.read::<f32>(out, len).unwrap()
    }

    fn expected(&self, t: usize, r: usize) -> f64 {
        let (rows, cols) = (self.spec.rows as usize, self.spec.cols as usize);
        let (w, x) = (&self.weights[r * cols..], &self.x[t * cols..]);
        let mut sum: f64 = (w[..cols].iter().zip(x))
            .map(|(w, x)| f64::from(*w) * f64::from(*x))
            .sum();
        if self.spec.bias {
            sum += f64::from(self.bias[r]);
        }
        if self.spec.residual {
            sum += f64::from(self.residual[t * rows + r]);
        }
        sum
    }

    /// Runs all tokens and compares some `rows` of the outputs of each.
    fn check(&self, n: u32, sampled: usize) {
        let found = self.run(n);
        let rows = self.spec.rows as usize;
        let apart = rows.div_ceil(sampled);
        let mut some = Vec::new();
        let mut expected = Vec::new();
        for t in 0..n as usize {
            for r in (0..rows).step_by(apart).chain([rows - 1]) {
                some.push(found[t * rows + r]);
                expected.push(self.expected(t, r));
            }
        }
        let error = nmse(&some, &expected);
        let name = self.spec.kernel().name;
        assert!(error <= 1e-6, "{name}, {n} tokens: NMSE {error:e}");
    }
}

#[test]
fn every_format_with_ragged_tokens_and_rows() {
    for format in WeightFormat::ALL {
        let cols = format.block_len().max(64);
        for (rows, n) in [(64, 9), (65, 33), (1, 17), (130, 1)] {
            Case::new(spec(Target::Sm80, format, rows, 2 * cols), n).check(n, 200);
        }
    }
}

#[test]
fn short_steps() {
    let formats = [
        WeightFormat::F32,
        WeightFormat::F16,
        WeightFormat::BF16,
        WeightFormat::Q4_0,
        WeightFormat::Q8_0,
    ];
    for format in formats {
        for cols in [32, 96] {
            Case::new(spec(Target::Sm80, format, 70, cols), 5).check(5, 200);
        }
    }
}

#[test]
fn every_tile_on_old_and_new_targets() {
    for target in [Target::Sm75, Target::Sm80, Target::Sm90a] {
        for rows in [200, 600, 4100] {
            let n = if rows == 600 { 65 } else { 3 };
            Case::new(spec(target, WeightFormat::Q4K, rows, 256), n).check(n, 100);
        }
    }
}

#[test]
fn large_tiles_of_every_format() {
    for format in WeightFormat::ALL {
        let case = Case::new(spec(Target::Sm80, format, 4096, 256), 2);
        case.check(2, 60);
    }
}

#[test]
fn real_columns() {
    for (format, cols) in [
        (WeightFormat::Q4K, 1536),
        (WeightFormat::Q6K, 8960),
        (WeightFormat::Q8_0, 576),
        (WeightFormat::F16, 896),
    ] {
        Case::new(spec(Target::Sm80, format, 64, cols), 20).check(20, 20);
    }
}

#[test]
fn bias_and_residual_in_place() {
    for rows in [64, 65, 70] {
        for (bias, residual) in [(true, false), (false, true), (true, true)] {
            let spec = GemmSpec {
                bias,
                residual,
                ..spec(Target::Sm80, WeightFormat::Q8_0, rows, 128)
            };
            Case::new(spec, 9).check(9, 100);
        }
    }
}

#[test]
fn a_tokens_result_depends_on_it_alone() {
    let case = Case::new(spec(Target::Sm80, WeightFormat::Q5K, 80, 512), 65);
    let all = case.run(65);
    for n in [1, 9, 17, 64] {
        let some = case.run(n);
        let same = some
            .iter()
            .zip(&all)
            .all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{n} tokens");
    }
}

#[test]
fn outliers_of_activations_do_not_become_infinite() {
    for target in [Target::Sm75, Target::Sm80] {
        let mut case = Case::new(spec(target, WeightFormat::F32, 64, 64), 2);
        case.x[5] = 1e9;
        case.x[64 + 6] = -1e9;
        assert!(case.run(2).iter().all(|v| v.is_finite()));
    }
}

#[test]
fn unsupported_shapes_are_refused() {
    for (format, rows, cols) in [
        (WeightFormat::F16, 64, 48),
        (WeightFormat::F32, 64, 0),
        (WeightFormat::Q4K, 64, 288),
        (WeightFormat::Q8_0, 0, 64),
    ] {
        assert!(spec(Target::Sm80, format, rows, cols).check().is_err());
    }
}

#[test]
fn reading_everything_stores_nothing() {
    let spec = StreamReadSpec {
        target: Target::Sm80,
    };
    let kernel = spec.kernel();
    kernel.ptx().unwrap();
    // 3 blocks, whole and ragged turns, and none at all.
    for n16 in [0u64, 1, 2047, 2048, 3 * 2048 + 300, 7000] {
        let mut memory = Memory::new();
        let data = memory.alloc_zeroed(16 * n16.max(1));
        let sink = memory.alloc_from(&[7u32]);
        let args = [Arg::U64(data), Arg::U64(sink), Arg::U64(n16)];
        launch(&kernel, [3, 1, 1], &args, &memory, &Options::default()).unwrap();
        assert_eq!(memory.read::<u32>(sink, 1).unwrap(), [7]);
    }
}
