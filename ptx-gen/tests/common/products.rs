//! Products with packed weights, against f64 over the dequantised weights.

use gannet_ptx_gen::interp::LaunchArg;
use gannet_ptx_gen::kernels::{
    Arithmetic, EmbedSpec, Epilogue, GemmBatchSpec, GemmSpec, GemvGluSpec, GemvSpec, WeightFormat,
};
use gannet_quant::{Format, Matrix, repack};

use super::Random;
use super::simple::plain;
use super::trial::{End, Launch, Trial};

pub fn quant_format(format: WeightFormat) -> Format {
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

/// Rows after which those of a large matrix repeat: a prime, so that no tile does.
const DISTINCT: usize = 101;

/// A random matrix.
pub struct Weights {
    /// As the GPU reads it.
    packed: Vec<u8>,
    /// The first rows as a file has them; row `r` is `r % DISTINCT`.
    stored: Vec<u8>,
    /// Their weights.
    values: Vec<f32>,
    cols: usize,
}

impl Weights {
    pub fn new(format: WeightFormat, rows: u32, cols: u32, seed: u64) -> Weights {
        Weights::of_size(1.0, format, rows, cols, seed)
    }

    /// Weights of that standard deviation.
    fn of_size(size: f32, format: WeightFormat, rows: u32, cols: u32, seed: u64) -> Weights {
        let (rows, cols) = (rows as usize, cols as usize);
        let distinct = rows.min(DISTINCT);
        let format = quant_format(format);
        let mut values = Random::new(seed).gaussians(distinct * cols);
        values.iter_mut().for_each(|v| *v *= size);
        let row_bytes = format.row_bytes(cols).unwrap();
        let mut data = vec![0; distinct * row_bytes];
        format.quantize(&values, &mut data).unwrap();
        format.dequantize(&data, &mut values).unwrap();
        let stored = data;
        let data: Vec<u8> = stored
            .iter()
            .copied()
            .cycle()
            .take(rows * row_bytes)
            .collect();
        let matrix = Matrix::new(format, rows, cols, &data).unwrap();
        Weights {
            packed: repack::pack(&matrix).unwrap().1,
            stored,
            values,
            cols,
        }
    }

    pub fn row(&self, r: usize) -> &[f32] {
        &self.values[r % DISTINCT * self.cols..][..self.cols]
    }

    /// The weights rounded to f16; for the reference only.
    fn halves(&self) -> Weights {
        self.with_values(halves(&self.values))
    }

    /// The weights as products of batches have them: scale and offset are rounded before.
    fn scaled_in_halves(&self, format: WeightFormat) -> Weights {
        let runs = match format {
            WeightFormat::Q4K | WeightFormat::Q5K | WeightFormat::Q6K => runs(format, &self.stored),
            _ => return self.halves(),
        };
        let each = self.values.len() / runs.len();
        let rounded = |(values, (scale, offset)): (&[f32], (f64, f64))| -> Vec<f32> {
            let half = |v: f64| half::f16::from_f64(v).to_f64();
            let weight = |v: &f32| {
                let code = ((f64::from(*v) - offset) / scale).round();
                let code = if scale == 0.0 { 0.0 } else { code };
                half(code * half(scale) + half(offset)) as f32
            };
            values.iter().map(weight).collect()
        };
        let values = self.values.chunks(each).zip(runs).flat_map(rounded);
        self.with_values(values.collect())
    }

    fn with_values(&self, values: Vec<f32>) -> Weights {
        Weights {
            packed: Vec::new(),
            stored: Vec::new(),
            values,
            cols: self.cols,
        }
    }

    /// `[n, rows]` products in f64, of the first `rows` rows.
    pub fn times(&self, x: &[f32], rows: usize) -> Vec<f64> {
        let dot = |w: &[f32], x: &[f32]| -> f64 {
            let products = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
            products.sum()
        };
        x.chunks(self.cols)
            .flat_map(|x| {
                let distinct: Vec<f64> = (0..rows.min(DISTINCT))
                    .map(|r| dot(self.row(r), x))
                    .collect();
                (0..rows).map(move |r| distinct[r % DISTINCT])
            })
            .collect()
    }
}

/// Rounded to f16.
fn halves(x: &[f32]) -> Vec<f32> {
    let half = |x: &f32| half::f16::from_f32(*x).to_f32();
    x.iter().map(half).collect()
}

/// Which activations exceed f16.
#[derive(Clone, Copy, PartialEq)]
enum Outliers {
    None,
    /// One of every third token.
    Some,
    All,
}

impl Outliers {
    /// Makes those of `x`, `[n, cols]`, outliers.
    fn plant(self, x: &mut [f32], cols: usize) {
        for (t, row) in x.chunks_mut(cols).enumerate() {
            match self {
                Outliers::None => {}
                Outliers::Some if t % 3 == 1 => row[t * 7 % cols] = -1e5,
                Outliers::Some => {}
                Outliers::All => row.iter_mut().for_each(|x| *x = 1e9f32.copysign(*x)),
            }
        }
    }
}

/// Activations as a matrix-vector product of this arithmetic rounds them: 32 columns of a row
/// share a scale. For halves it may be fewer, which only tells where columns are so much smaller
/// than their neighbours that they don't count.
pub fn rounded(arithmetic: Arithmetic, x: &[f32], cols: usize) -> Vec<f32> {
    let group = |x: &[f32]| -> Vec<f32> {
        let most = x.iter().fold(2f32.powi(-100), |most, x| most.max(x.abs()));
        let power = f32::from_bits(most.to_bits() & 0x7F80_0000);
        let round = |x: &f32| match arithmetic {
            Arithmetic::F32 => *x,
            Arithmetic::F16x2 => half::f16::from_f32(*x / power).to_f32() * power,
            Arithmetic::Dp4a => {
                let inverse = f64::from(1.0 / most * 127.0);
                (f64::from(*x) * inverse).round_ties_even() as f32 * (most * (1.0 / 127.0))
            }
        };
        x.iter().map(round).collect()
    };
    let rows = x.chunks(cols);
    rows.flat_map(|row| row.chunks(32))
        .flat_map(group)
        .collect()
}

/// How near results come to a product of activations so rounded.
fn nearness(arithmetic: Arithmetic) -> f64 {
    match arithmetic {
        Arithmetic::F32 => 1e-12,
        Arithmetic::F16x2 => 5e-7,
        Arithmetic::Dp4a => 1e-11,
    }
}

/// Scale and offset of every run of weights that share them, of K-quants as a file has them.
fn runs(format: WeightFormat, stored: &[u8]) -> Vec<(f64, f64)> {
    let half = |b: &[u8]| half::f16::from_le_bytes([b[0], b[1]]).to_f64();
    let block = |b: &[u8]| -> Vec<(f64, f64)> {
        if format == WeightFormat::Q6K {
            let scale = |s: &u8| (half(&b[208..]) * f64::from(*s as i8), 0.0);
            return b[192..208].iter().map(scale).collect();
        }
        let (d, dmin, s) = (half(b), half(&b[2..]), &b[4..16]);
        let integers = |i: usize| match i {
            0..4 => (s[i] & 63, s[i + 4] & 63),
            _ => (
                s[i + 4] & 15 | s[i - 4] >> 6 << 4,
                s[i + 4] >> 4 | s[i] >> 6 << 4,
            ),
        };
        let run = |i| {
            let (scale, min) = integers(i);
            (d * f64::from(scale), -dmin * f64::from(min))
        };
        (0..8).map(run).collect()
    };
    let bytes = format.block_bytes() as usize;
    stored.chunks(bytes).flat_map(block).collect()
}

/// How many of a product's blocks of rows run.
#[derive(Clone, Copy)]
pub enum Part {
    All,
    /// So many blocks from the first on.
    Blocks(u32),
}

/// What of a product is rounded before it is computed.
#[derive(Clone, Copy)]
enum Rounding {
    /// Activations and weights to f16.
    Halves,
    /// Activations, by groups.
    Groups(Arithmetic),
    /// Activations and weights to f16, and before that the weights' scales and offsets in this format.
    Scaled(WeightFormat),
    /// Activations and weights to sums of two terms, which differ from them by less than is looked at.
    Terms,
}

/// How products on tensor cores round that round weights and activations of a format to f16 so, and how
/// near results come to that.
fn on_cores(format: WeightFormat, halves: (Rounding, f64), outliers: Outliers) -> (Rounding, f64) {
    match format {
        WeightFormat::F32 => (Rounding::Terms, 4e-11),
        _ if outliers == Outliers::None => halves,
        // Of what exceeds f16, and beside that little of anything else.
        _ => (halves.0, 1e-12),
    }
}

/// The shape of a product and how near its results must be.
struct Shape {
    rows: usize,
    cols: usize,
    nmse: f64,
    part: Part,
    outliers: Outliers,
    /// How weights and activations are rounded, as the kernel's contract says.
    rounding: Rounding,
}

impl Shape {
    /// The launched part of a grid, and how many of the rows that it computes are looked at.
    fn launched(&self, grid: [u32; 3]) -> ([u32; 3], usize) {
        match self.part {
            Part::All => (grid, self.rows),
            Part::Blocks(n) => {
                let [x, y, z] = grid;
                // A block has at least as many rows as an even division gives it.
                let rows = n.min(x) as usize * self.rows.div_ceil(x as usize);
                ([n.min(x), y, z], rows.min(self.rows))
            }
        }
    }

    /// From `[n, looked at]` what the output holds.
    fn end(&self, values: Vec<f64>, looked_at: usize) -> End {
        let nmse = self.nmse;
        if looked_at == self.rows {
            return End::Near { values, nmse };
        }
        let at = |i: usize| i / looked_at * self.rows + i % looked_at;
        End::Sampled {
            at: (0..values.len()).map(at).collect(),
            values,
            nmse,
        }
    }

    /// Launches of `tokens` tokens of arguments w, x, out, perhaps bias and residual, and n. With
    /// a residual, the output takes its place.
    fn launches(
        &self,
        w: &Weights,
        more: Epilogue,
        grid: impl Fn(u32) -> [u32; 3],
        tokens: &[u32],
    ) -> Vec<Launch> {
        self.launches_with(w, more, grid, tokens, |launch, _| launch)
    }

    /// [`Shape::launches`] with what `parts` adds before n.
    fn launches_with(
        &self,
        w: &Weights,
        Epilogue { bias, residual }: Epilogue,
        grid: impl Fn(u32) -> [u32; 3],
        tokens: &[u32],
        parts: impl Fn(Launch, u32) -> Launch,
    ) -> Vec<Launch> {
        let (rows, cols) = (self.rows, self.cols);
        let most = *tokens.iter().max().unwrap() as usize;
        let mut random = Random::new(2);
        let mut x = random.gaussians(most * cols);
        self.outliers.plant(&mut x, cols);
        let biases = random.gaussians(rows);
        let residuals = random.gaussians(most * rows);
        let launch = |&tokens: &u32| {
            let (grid, looked_at) = self.launched(grid(tokens));
            let n = tokens as usize;
            let x = &x[..n * cols];
            let mut values = match self.rounding {
                Rounding::Groups(arithmetic) => w.times(&rounded(arithmetic, x, cols), looked_at),
                Rounding::Halves => w.halves().times(&halves(x), looked_at),
                Rounding::Scaled(format) => w.scaled_in_halves(format).times(&halves(x), looked_at),
                Rounding::Terms => w.times(x, looked_at),
            };
            // What f16 does not hold is computed in f32.
            for (i, v) in values
                .iter_mut()
                .enumerate()
                .filter(|(_, v)| !v.is_finite())
            {
                let x = &x[i / looked_at * cols..][..cols];
                let products = w.row(i % looked_at).iter().zip(x);
                *v = products.map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            }
            for (i, v) in values.iter_mut().enumerate() {
                let (t, r) = (i / looked_at, i % looked_at);
                if bias {
                    *v += f64::from(biases[r]);
                }
                if residual {
                    *v += f64::from(residuals[t * rows + r]);
                }
            }
            let end = self.end(values, looked_at);
            let mut launch = Launch::new(grid).input(&w.packed).input(x);
            launch = if residual {
                launch.in_out(&residuals[..n * rows], end)
            } else {
                launch.output(4 * n * rows, end)
            };
            if bias {
                launch = launch.input(&biases);
            }
            if residual {
                launch = launch.again(2);
            }
            parts(launch, tokens).scalar(LaunchArg::U32(tokens))
        };
        tokens.iter().map(launch).collect()
    }
}

/// A matrix-vector product of each of these numbers of tokens.
pub fn gemv(spec: GemvSpec, tokens: &[u32], part: Part) -> Trial {
    spec.check().unwrap();
    let variant = spec.variant.unwrap_or_else(|| spec.default_variant());
    let w = Weights::new(spec.format, spec.rows, spec.cols, 1);
    let shape = Shape {
        rows: spec.rows as usize,
        cols: spec.cols as usize,
        nmse: nearness(variant.arithmetic),
        part,
        outliers: Outliers::None,
        rounding: Rounding::Groups(variant.arithmetic),
    };
    let more = spec.epilogue;
    Trial {
        kernel: spec.kernel(),
        launches: shape.launches(&w, more, |n| spec.grid(n), tokens),
    }
}

/// A matrix-vector product of a token in which every 32 columns hold one that is a million times
/// as large as the others, each time in another place.
pub fn gemv_of_outliers(spec: GemvSpec) -> Trial {
    let arithmetic = spec
        .variant
        .unwrap_or_else(|| spec.default_variant())
        .arithmetic;
    let w = Weights::new(spec.format, spec.rows, spec.cols, 1);
    let mut x = Random::new(5).gaussians(spec.cols as usize);
    for (i, x) in x.iter_mut().enumerate() {
        if (i % 32) == (i / 32) % 32 {
            *x *= 1e6;
        }
    }
    let mut trial = gemv_of(&spec, &w, &x);
    let values = w.times(&rounded(arithmetic, &x, x.len()), spec.rows as usize);
    let launch = Launch::new(spec.grid(1)).input(&w.packed).input(&x);
    let launch = launch.floats(values, nearness(arithmetic));
    trial.launches = vec![launch.scalar(LaunchArg::U32(1))];
    trial
}

/// A matrix-vector product of these weights and activations, whose results are not judged.
pub fn gemv_of(spec: &GemvSpec, w: &Weights, x: &[f32]) -> Trial {
    spec.check().unwrap();
    let tokens = (x.len() / spec.cols as usize) as u32;
    let launch = Launch::new(spec.grid(tokens))
        .input(&w.packed)
        .input(x)
        .output(4 * (tokens * spec.rows) as usize, End::Unchanged)
        .scalar(LaunchArg::U32(tokens));
    Trial {
        kernel: spec.kernel(),
        launches: vec![launch],
    }
}

/// A product on tensor cores of each of these numbers of tokens.
pub fn gemm(spec: GemmSpec, tokens: &[u32], part: Part) -> Trial {
    on_tensor_cores(spec, tokens, part, Outliers::None)
}

/// A product on tensor cores of 47 tokens whose activations exceed f16, and the weights where
/// their format can.
pub fn gemm_of_outliers(spec: GemmSpec) -> Trial {
    let mut trial = on_tensor_cores(spec, &[47], Part::All, Outliers::All);
    let some = on_tensor_cores(spec, &[47], Part::All, Outliers::Some);
    trial.launches.extend(some.launches);
    trial
}

fn on_tensor_cores(spec: GemmSpec, tokens: &[u32], part: Part, outliers: Outliers) -> Trial {
    spec.check().unwrap();
    let large = matches!(spec.format, WeightFormat::F32 | WeightFormat::BF16);
    let large = large && outliers == Outliers::All;
    let size = if large { 1e6 } else { 1.0 };
    let w = Weights::of_size(size, spec.format, spec.rows, spec.cols, 1);
    let (rounding, nmse) = on_cores(spec.format, (Rounding::Halves, 1e-9), outliers);
    let shape = Shape {
        rows: spec.rows as usize,
        cols: spec.cols as usize,
        nmse,
        part,
        outliers,
        rounding,
    };
    let more = spec.epilogue;
    Trial {
        kernel: spec.kernel(),
        launches: shape.launches(&w, more, |n| spec.grid(n), tokens),
    }
}

/// A product of a batch of each of these numbers of tokens.
pub fn gemm_batch(spec: GemmBatchSpec, tokens: &[u32], part: Part) -> Trial {
    of_batch(spec, tokens, part, Outliers::None)
}

/// A product of a batch of 11 tokens whose activations exceed f16, and the weights where their
/// format can, and of one of 12, of which some do, but not the last.
pub fn gemm_batch_of_outliers(spec: GemmBatchSpec) -> Trial {
    let mut trial = of_batch(spec, &[11], Part::All, Outliers::All);
    let some = of_batch(spec, &[12], Part::All, Outliers::Some);
    trial.launches.extend(some.launches);
    trial
}

fn of_batch(spec: GemmBatchSpec, tokens: &[u32], part: Part, outliers: Outliers) -> Trial {
    spec.check().unwrap();
    let large = matches!(spec.format, WeightFormat::F32 | WeightFormat::BF16);
    let large = large && outliers == Outliers::All;
    let size = if large { 1e6 } else { 1.0 };
    let w = Weights::of_size(size, spec.format, spec.rows, spec.cols, 1);
    let halves = (Rounding::Scaled(spec.format), 1e-10);
    let (rounding, nmse) = on_cores(spec.format, halves, outliers);
    let shape = Shape {
        rows: spec.rows as usize,
        cols: spec.cols as usize,
        nmse,
        part,
        outliers,
        rounding,
    };
    let more = spec.epilogue;
    let parts = |launch: Launch, n: u32| {
        let counters = vec![0u32; spec.counters(n)];
        match spec.splits {
            1 => launch,
            _ => launch
                .output(spec.scratch_bytes(n), End::Unchanged)
                .input(&counters),
        }
    };
    let launches = shape.launches_with(&w, more, |n| spec.grid(n), tokens, parts);
    Trial {
        kernel: spec.kernel(),
        launches,
    }
}

/// A gated unit of each of these numbers of tokens.
pub fn gemv_glu(spec: GemvGluSpec, tokens: &[u32], part: Part) -> Trial {
    spec.check().unwrap();
    let variant = spec.variant.unwrap_or_else(|| spec.default_variant());
    let gate = Weights::new(spec.gate, spec.rows, spec.cols, 13);
    let up = Weights::new(spec.up, spec.rows, spec.cols, 14);
    let shape = Shape {
        rows: spec.rows as usize,
        cols: spec.cols as usize,
        nmse: 10.0 * nearness(variant.arithmetic),
        part,
        outliers: Outliers::None,
        rounding: Rounding::Groups(variant.arithmetic),
    };
    let launch = |n: &u32| {
        let (grid, looked_at) = shape.launched(spec.grid(*n));
        let mut x = Random::new(15).gaussians(*n as usize * shape.cols);
        x.iter_mut().for_each(|x| *x *= 1.0 / 16.0);
        let seen = rounded(variant.arithmetic, &x, shape.cols);
        let ups = up.times(&seen, looked_at);
        let both = gate.times(&seen, looked_at).into_iter().zip(ups);
        let values = both.map(|(g, u)| plain(spec.activation, g) * u).collect();
        Launch::new(grid)
            .input(&gate.packed)
            .input(&up.packed)
            .input(&x)
            .output(4 * *n as usize * shape.rows, shape.end(values, looked_at))
            .scalar(LaunchArg::U32(*n))
    };
    Trial {
        kernel: spec.kernel(),
        launches: tokens.iter().map(launch).collect(),
    }
}

/// Rows of the first, the last and, past the end, again the last token.
pub fn embed(spec: EmbedSpec) -> Trial {
    spec.check().unwrap();
    let w = Weights::new(spec.format, spec.vocab_size, spec.hidden_size, 16);
    let last = spec.vocab_size - 1;
    let tokens = [3.min(last), 0, last, last + 1, u32::MAX];
    let rows = tokens.iter().flat_map(|t| w.row((*t).min(last) as usize));
    // Exact: a scaled code is one product, rounded as the reference rounds it, and its scale another.
    let scale = spec.scale.unwrap_or(1.0);
    let end = End::Each {
        values: rows.map(|v| f64::from(v * scale)).collect(),
        absolute: 0.0,
        relative: 0.0,
    };
    let hidden = spec.hidden_size as usize;
    let launch = Launch::new(spec.grid(tokens.len() as u32))
        .input(&w.packed)
        .input(&tokens)
        .output(4 * tokens.len() * hidden, end);
    Trial {
        kernel: spec.kernel(),
        launches: vec![launch],
    }
}
