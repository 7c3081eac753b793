//! Products of a weight matrix with a few rows of activations:
//! `out[t, r] = sum_c w[r, c] * x[t, c] (+ bias[r]) (+ residual[t, r])`.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | w | planes | `[rows, cols]`, see [`crate::kernels::WeightFormat`] |
//! | x | f32 | `[n, cols]` |
//! | out | f32, may be residual | `[n, rows]` |
//! | bias, if the spec says so | f32 | `[rows]` |
//! | residual, if the spec says so | f32 | `[n, rows]` |
//! | n | u32 | at least 1 |
//!
//! Grid `[ceil(rows / rows_per_block), ceil(n / tokens_per_block), 1]`. Weights are read once for
//! `tokens_per_block` rows of x, so `ceil(n / tokens_per_block)` times in all; see `bytes`.
//! Weights are exact, activations and sums f32 unless the variant says otherwise
//! ([`super::Arithmetic`]); the result of a row of x depends on neither `n` nor `tokens_per_block`
//! ([`super::dot`] says how).
//!
//! PTX instructions a weight with one token in the default variant, everything included, at
//! 4096 x 4096: F32 2.9, F16 3.3,
//! BF16 3.8, Q4_0 4.9, Q8_0 5.4, Q4_K 6.0, Q5_K 6.8, Q6_K 6.2. One of them is, for the quantised
//! formats, a copy between register types that costs nothing. Every further token adds one FMA
//! and its share of reading x.
//!
//! Weights move once per `tokens_per_block` tokens: `rows * cols / block_len * block_bytes`
//! bytes; x and out move 4 bytes an element.

use super::dot::{Dot, Tiling};
use super::epilogue::{Epilogue, Outputs};
use super::variant::{Arithmetic, GemvVariant, Shape};
use crate::build::{Builder, Ptr, Shared, Val};
use crate::ir::{Kernel, Param};
use crate::kernels::WeightFormat;
use crate::kernels::weights::unpack::Row;
use crate::target::Target;

/// A matrix-vector product.
#[derive(Debug, Clone, PartialEq)]
pub struct GemvSpec {
    /// GPU to write for.
    pub target: Target,
    /// Format of the matrix.
    pub format: WeightFormat,
    /// Output features.
    pub rows: u32,
    /// Input features.
    pub cols: u32,
    /// Rows of x that a block computes together: 1, 2, 4 or 8.
    pub tokens_per_block: u32,
    /// What is added to the sums.
    pub epilogue: Epilogue,
    /// Whether the launch behind may start while the one in front runs: it then reads early nothing
    /// that either writes ([`Builder::launch_dependents`]). From sm_90 on.
    pub hands_over: bool,
    /// How the work is spread and in what arithmetic; absent: [`GemvSpec::default_variant`].
    pub variant: Option<GemvVariant>,
}

impl GemvSpec {
    /// Whether shape and tokens are supported.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub fn check(&self) -> Result<(), String> {
        check_tokens(self.tokens_per_block)?;
        self.format.check(self.rows, self.cols)?;
        self.variant
            .map_or(Ok(()), |variant| self.shape().check(variant))
    }

    fn shape(&self) -> Shape {
        Shape {
            format: self.format,
            rows: self.rows,
            cols: self.cols,
            matrices: 1,
            tokens: self.tokens_per_block,
        }
    }

    /// The variant that is taken where none is named.
    pub fn default_variant(&self) -> GemvVariant {
        self.shape().default_variant()
    }

    /// Every variant worth measuring for the shape, whatever `variant` says: the default one, then
    /// by arithmetic. At most about 50.
    pub fn variants(&self) -> Vec<GemvVariant> {
        self.shape().variants()
    }

    fn tiling(&self) -> Tiling {
        self.shape().tiling(self.variant)
    }

    /// Blocks for `tokens` rows of x.
    pub fn grid(&self, tokens: u32) -> [u32; 3] {
        let blocks = self.rows.div_ceil(self.tiling().rows_per_block());
        [blocks, tokens.div_ceil(self.tokens_per_block), 1]
    }

    /// Bytes moved for `tokens` rows of x, x counted once.
    pub fn bytes(&self, tokens: u64) -> u64 {
        let (rows, cols) = (u64::from(self.rows), u64::from(self.cols));
        let passes = tokens.div_ceil(u64::from(self.tokens_per_block));
        passes * self.format.bytes(self.rows, self.cols)
            + 4 * tokens * cols
            + self.epilogue.bytes(rows, tokens)
    }

    /// The parameters in launch order.
    pub fn params(&self) -> Vec<Param> {
        let mut params = vec![Param::input::<u8>("w"), Param::input::<f32>("x")];
        params.extend(self.epilogue.params());
        params.push(Param::scalar::<u32>("n"));
        params
    }

    /// The kernel, named after all that its text depends on.
    pub fn kernel(&self) -> Kernel {
        let GemvSpec {
            format,
            rows,
            cols,
            epilogue,
            ..
        } = *self;
        let tiling = self.tiling();
        let mut name = format!("gemv_{}_{rows}x{cols}{}", format.name(), epilogue.suffix());
        let extra = epilogue.formula();
        if tiling.tokens > 1 {
            name += &format!("_t{}", tiling.tokens);
        }
        name += &self.shape().suffix(self.variant);
        if self.hands_over && self.target.has_hopper() {
            name += "_h";
        }
        Kernel::new(name, self.target, |k| {
            let per_block = tiling.rows_per_block();
            k.doc(format!(
                "out[t, r] = sum_c w[r, c] * x[t, c]{extra}, r < {rows}, c < {cols}, t < n; w is \
                 {}.\nGrid [ceil({rows} / {per_block}), ceil(n / {}), 1].",
                format.name(),
                tiling.tokens
            ));
            k.block_size(tiling.threads());
            if self.hands_over {
                k.launch_dependents();
            }
            tiling.bound_registers(k);
            k.declare(self.params());
            let (w, x) = (k.bind::<u8>("w"), k.bind::<f32>("x"));
            let outputs = Outputs::bind(k);
            let place = Place::new(k, tiling, rows);

            let matrix: Vec<_> = place
                .rows()
                .iter()
                .map(|r| Row::new(k, tiling.geometry, w, *r))
                .collect();
            let dot = place.dot(tiling, x, k.shared("stage", tiling.shared_floats()));
            let products = dot.products(&matrix);
            place.for_outputs(|row, r, token, t| {
                outputs.store(r, t * rows + r, products[row][token]);
            });
        })
    }
}

/// Refuses counts of tokens that no kernel is written for.
pub(super) fn check_tokens(tokens: u32) -> Result<(), String> {
    if matches!(tokens, 1 | 2 | 4 | 8) {
        return Ok(());
    }
    Err(format!(
        "{tokens} tokens a block; 1, 2, 4 and 8 are supported"
    ))
}

/// The rows and tokens of a slot: which it is to compute, and which of them exist.
pub(super) struct Place<'k> {
    k: &'k Builder,
    tiling: Tiling,
    rows: u32,
    /// First row of the slot; its others follow at a distance of one row a slot of the block.
    first_row: Val<'k, u32>,
    first_token: Val<'k, u32>,
    n: Val<'k, u32>,
}

impl<'k> Place<'k> {
    /// Binds `n`.
    pub(super) fn new(k: &'k Builder, tiling: Tiling, rows: u32) -> Place<'k> {
        let n = k.bind_value::<u32>("n");
        let first_row =
            k.block_x() * tiling.rows_per_block() + k.thread_x() / tiling.geometry.lanes;
        let first_token = k.block_y() * tiling.tokens;
        Place {
            k,
            tiling,
            rows,
            first_row,
            first_token,
            n,
        }
    }

    fn row(&self, i: u32) -> Val<'k, u32> {
        self.first_row + i * (self.tiling.threads() / self.tiling.geometry.lanes)
    }

    /// Whether the last block has fewer rows than the others.
    fn ragged(&self) -> bool {
        !self.rows.is_multiple_of(self.tiling.rows_per_block())
    }

    /// The slot's rows; those past the matrix are replaced by the last one.
    pub(super) fn rows(&self) -> Vec<Val<'k, u32>> {
        let row = |i| match self.ragged() {
            false => self.row(i),
            true => self.row(i).min(self.rows - 1),
        };
        (0..self.tiling.rows_per_slot).map(row).collect()
    }

    /// The product's inner part; tokens past `n` are replaced by the last one.
    pub(super) fn dot(&self, tiling: Tiling, x: Ptr<'k, f32>, stage: Shared<'k, f32>) -> Dot<'k> {
        let token = |i| match i {
            // The grid has no block whose first token is past the end.
            0 => self.first_token,
            _ => (self.first_token + i).min(self.n - 1),
        };
        let tokens = (0..self.tiling.tokens).map(token).collect();
        Dot {
            k: self.k,
            tiling,
            x,
            tokens,
            stage,
        }
    }

    /// Calls `write(row of the slot, row, token of the block, token)` for each output that exists,
    /// in the first lane of the slot, which alone has the products.
    pub(super) fn for_outputs(
        &self,
        mut write: impl FnMut(usize, Val<'k, u32>, usize, Val<'k, u32>),
    ) {
        let k = self.k;
        let writes = (k.thread_x() % self.tiling.geometry.lanes).eq(0);
        for token in 0..self.tiling.tokens {
            let t = self.first_token + token;
            let writes = match token {
                0 => writes,
                _ => writes & t.lt(self.n),
            };
            for i in 0..self.tiling.rows_per_slot {
                let r = self.row(i);
                let exists = match self.ragged() {
                    false => writes,
                    true => writes & r.lt(self.rows),
                };
                k.if_(exists, || write(i as usize, r, token as usize, t));
            }
        }
    }
}

pub(in crate::kernels) fn representative(target: Target) -> Vec<GemvSpec> {
    let spec = |format, rows, cols, tokens_per_block| GemvSpec {
        target,
        format,
        rows,
        cols,
        tokens_per_block,
        epilogue: Epilogue::default(),
        hands_over: false,
        variant: None,
    };
    let mut specs = WeightFormat::ALL
        .map(|format| spec(format, 1000, 768, 1))
        .to_vec();
    specs.push(GemvSpec {
        epilogue: Epilogue {
            bias: true,
            residual: false,
        },
        hands_over: true,
        ..spec(WeightFormat::Q4K, 2048, 1536, 1)
    });
    let adding = Epilogue {
        bias: false,
        residual: true,
    };
    specs.push(GemvSpec {
        epilogue: adding,
        ..spec(WeightFormat::Q6K, 1536, 8960, 1)
    });
    specs.push(spec(WeightFormat::Q4K, 4096, 14336, 8));
    specs.push(spec(WeightFormat::F16, 576, 64, 4));
    let of = |spec: GemvSpec, arithmetic| {
        let default = spec.default_variant();
        let variant = GemvVariant {
            arithmetic,
            ..default
        };
        let spec = GemvSpec {
            variant: Some(variant),
            ..spec
        };
        spec.check().is_ok().then_some(spec)
    };
    for arithmetic in [Arithmetic::F16x2, Arithmetic::Dp4a] {
        let small = WeightFormat::ALL.map(|format| spec(format, 1000, 768, 1));
        specs.extend(small.into_iter().filter_map(|spec| of(spec, arithmetic)));
        let several = spec(WeightFormat::Q4K, 4096, 14336, 8);
        let long = GemvSpec {
            epilogue: adding,
            ..spec(WeightFormat::Q6K, 1536, 8960, 1)
        };
        specs.extend(
            [several, long]
                .into_iter()
                .filter_map(|spec| of(spec, arithmetic)),
        );
    }
    specs.extend(
        [
            (WeightFormat::Q4K, Arithmetic::F32, 8),
            (WeightFormat::Q4_0, Arithmetic::F16x2, 4),
            (WeightFormat::Q6K, Arithmetic::Dp4a, 4),
        ]
        .map(|(format, arithmetic, width)| {
            let spec = spec(format, 1000, 768, 1);
            let variant = GemvVariant {
                arithmetic,
                lanes: 32,
                width,
                ..spec.default_variant()
            };
            GemvSpec {
                variant: Some(variant),
                ..spec
            }
        }),
    );
    specs
}
