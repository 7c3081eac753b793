//! Products with packed weights, against f64 over the dequantised weights.

use gannet_ptx_gen::interp::Arg;
use gannet_ptx_gen::kernels::{
    EmbedSpec, GemmBatchSpec, GemmSpec, GemvGluSpec, GemvSpec, WeightFormat,
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
    /// The first rows' weights; row `r` has those of `r % DISTINCT`.
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
        let data: Vec<u8> = data
            .iter()
            .copied()
            .cycle()
            .take(rows * row_bytes)
            .collect();
        let matrix = Matrix::new(format, rows, cols, &data).unwrap();
        Weights {
            packed: repack::pack(&matrix).unwrap().1,
            values,
            cols,
        }
    }

    pub fn row(&self, r: usize) -> &[f32] {
        &self.values[r % DISTINCT * self.cols..][..self.cols]
    }

    /// The weights rounded to f16; for the reference only.
    fn halves(&self) -> Weights {
        Weights {
            packed: Vec::new(),
            values: halves(&self.values),
            cols: self.cols,
        }
    }

    /// `[n, rows]` products in f64, of the first `rows` rows.
    fn times(&self, x: &[f32], rows: usize) -> Vec<f64> {
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

/// Rounded to f16; what exceeds it becomes its largest value.
fn halves(x: &[f32]) -> Vec<f32> {
    let half = |x: &f32| half::f16::from_f32(x.clamp(-65504.0, 65504.0)).to_f32();
    x.iter().map(half).collect()
}

/// How many of a product's blocks of rows run.
#[derive(Clone, Copy)]
pub enum Part {
    All,
    /// So many blocks from the first on.
    Blocks(u32),
}

/// The shape of a product and how near its results must be.
struct Shape {
    rows: usize,
    cols: usize,
    nmse: f64,
    part: Part,
    /// Whether all activations exceed f16, which count as its largest value.
    outliers: bool,
    /// Whether weights and activations are rounded to f16, as the kernel's contract says.
    halves: bool,
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
        more: (bool, bool),
        grid: impl Fn(u32) -> [u32; 3],
        tokens: &[u32],
    ) -> Vec<Launch> {
        self.launches_with(w, more, grid, tokens, |launch, _| launch)
    }

    /// [`Shape::launches`] with what `parts` adds before n.
    fn launches_with(
        &self,
        w: &Weights,
        (bias, residual): (bool, bool),
        grid: impl Fn(u32) -> [u32; 3],
        tokens: &[u32],
        parts: impl Fn(Launch, u32) -> Launch,
    ) -> Vec<Launch> {
        let (rows, cols) = (self.rows, self.cols);
        let most = *tokens.iter().max().unwrap() as usize;
        let mut random = Random::new(2);
        let mut x = random.gaussians(most * cols);
        if self.outliers {
            x.iter_mut().for_each(|x| *x = 1e9f32.copysign(*x));
        }
        let biases = random.gaussians(rows);
        let residuals = random.gaussians(most * rows);
        let launch = |&tokens: &u32| {
            let (grid, looked_at) = self.launched(grid(tokens));
            let n = tokens as usize;
            let x = &x[..n * cols];
            let mut values = if self.halves {
                w.halves().times(&halves(x), looked_at)
            } else {
                w.times(x, looked_at)
            };
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
            parts(launch, tokens).scalar(Arg::U32(tokens))
        };
        tokens.iter().map(launch).collect()
    }
}

/// A matrix-vector product of each of these numbers of tokens.
pub fn gemv(spec: GemvSpec, tokens: &[u32], part: Part) -> Trial {
    spec.check().unwrap();
    let w = Weights::new(spec.format, spec.rows, spec.cols, 1);
    let shape = Shape {
        rows: spec.rows as usize,
        cols: spec.cols as usize,
        nmse: 1e-12,
        part,
        outliers: false,
        halves: false,
    };
    let more = (spec.bias, spec.residual);
    Trial {
        kernel: spec.kernel(),
        launches: shape.launches(&w, more, |n| spec.grid(n), tokens),
    }
}

/// A product on tensor cores of each of these numbers of tokens.
pub fn gemm(spec: GemmSpec, tokens: &[u32], part: Part) -> Trial {
    on_tensor_cores(spec, tokens, part, false)
}

/// A product on tensor cores of 47 tokens whose activations exceed f16, and the weights where
/// their format can.
pub fn gemm_of_outliers(spec: GemmSpec) -> Trial {
    on_tensor_cores(spec, &[47], Part::All, true)
}

fn on_tensor_cores(spec: GemmSpec, tokens: &[u32], part: Part, outliers: bool) -> Trial {
    spec.check().unwrap();
    let large = matches!(spec.format, WeightFormat::F32 | WeightFormat::BF16) && outliers;
    let size = if large { 1e6 } else { 1.0 };
    let w = Weights::of_size(size, spec.format, spec.rows, spec.cols, 1);
    let shape = Shape {
        rows: spec.rows as usize,
        cols: spec.cols as usize,
        nmse: 1e-9,
        part,
        outliers,
        halves: true,
    };
    let more = (spec.bias, spec.residual);
    Trial {
        kernel: spec.kernel(),
        launches: shape.launches(&w, more, |n| spec.grid(n), tokens),
    }
}

/// A product of a batch of each of these numbers of tokens.
pub fn gemm_batch(spec: GemmBatchSpec, tokens: &[u32], part: Part) -> Trial {
    spec.check().unwrap();
    let w = Weights::new(spec.format, spec.rows, spec.cols, 1);
    let shape = Shape {
        rows: spec.rows as usize,
        cols: spec.cols as usize,
        nmse: 1e-6,
        part,
        outliers: false,
        halves: true,
    };
    let more = (spec.bias, spec.residual);
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
    let gate = Weights::new(spec.gate, spec.rows, spec.cols, 13);
    let up = Weights::new(spec.up, spec.rows, spec.cols, 14);
    let shape = Shape {
        rows: spec.rows as usize,
        cols: spec.cols as usize,
        nmse: 1e-11,
        part,
        outliers: false,
        halves: false,
    };
    let launch = |n: &u32| {
        let (grid, looked_at) = shape.launched(spec.grid(*n));
        let mut x = Random::new(15).gaussians(*n as usize * shape.cols);
        x.iter_mut().for_each(|x| *x *= 1.0 / 16.0);
        let ups = up.times(&x, looked_at);
        let both = gate.times(&x, looked_at).into_iter().zip(ups);
        let values = both.map(|(g, u)| plain(spec.activation, g) * u).collect();
        Launch::new(grid)
            .input(&gate.packed)
            .input(&up.packed)
            .input(&x)
            .output(4 * *n as usize * shape.rows, shape.end(values, looked_at))
            .scalar(Arg::U32(*n))
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
    // Exact: a scaled code is one product, rounded as the reference rounds it.
    let end = End::Each {
        values: rows.map(|v| f64::from(*v)).collect(),
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
