//! A gated linear unit's two products in one pass: `out = act(gate x) * (up x)`.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | w_gate, w_up | planes | `[rows, cols]`, see [`crate::kernels::WeightFormat`] |
//! | x | f32 | `[n, cols]` |
//! | out | f32 | `[n, rows]` |
//! | n | u32 | at least 1 |
//!
//! Grid `[ceil(rows / rows_per_block), ceil(n / tokens_per_block), 1]`. The products are those of
//! [`super::GemvSpec`]. Matrices of one format share the reading of x; otherwise the block runs one
//! product after the other.

use super::dot::Tiling;
use super::gemv::{Place, check_tokens};
use super::variant::{Arithmetic, GemvVariant, Shape};
use crate::ir::{Kernel, Param};
use crate::kernels::weights::unpack::Row;
use crate::kernels::{Activation, WeightFormat};
use crate::target::Target;

/// Gate and up projection of a gated linear unit.
#[derive(Debug, Clone, PartialEq)]
pub struct GemvGluSpec {
    /// GPU to write for.
    pub target: Target,
    /// Format of the gate's matrix.
    pub gate: WeightFormat,
    /// Format of the other matrix.
    pub up: WeightFormat,
    /// Output features of each.
    pub rows: u32,
    /// Input features of each.
    pub cols: u32,
    /// Rows of x that a block computes together: 1, 2, 4 or 8.
    pub tokens_per_block: u32,
    /// Activation of the gate.
    pub activation: Activation,
    /// How the work is spread and in what arithmetic; absent: [`GemvGluSpec::default_variant`].
    pub variant: Option<GemvVariant>,
}

impl GemvGluSpec {
    /// Whether shapes and tokens are supported.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub fn check(&self) -> Result<(), String> {
        check_tokens(self.tokens_per_block)?;
        self.gate.check(self.rows, self.cols)?;
        self.up.check(self.rows, self.cols)?;
        self.variant
            .map_or(Ok(()), |variant| self.check_variant(variant))
    }

    fn check_variant(&self, variant: GemvVariant) -> Result<(), String> {
        self.shape().check(variant)?;
        let other = Shape {
            format: self.up,
            ..self.shape()
        };
        other.check(variant)
    }

    /// The shape of both products, or of the gate's when the formats differ.
    fn shape(&self) -> Shape {
        Shape {
            format: self.gate,
            rows: self.rows,
            cols: self.cols,
            matrices: if self.gate == self.up { 2 } else { 1 },
            tokens: self.tokens_per_block,
        }
    }

    /// The variant that is taken where none is named.
    pub fn default_variant(&self) -> GemvVariant {
        self.shape().default_variant()
    }

    /// Every variant worth measuring for the shape, as [`super::GemvSpec::variants`].
    pub fn variants(&self) -> Vec<GemvVariant> {
        let mut variants = self.shape().variants();
        variants.retain(|variant| self.check_variant(*variant).is_ok());
        variants
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
        let weights = self.gate.bytes(self.rows, self.cols) + self.up.bytes(self.rows, self.cols);
        let passes = tokens.div_ceil(u64::from(self.tokens_per_block));
        passes * weights + 4 * tokens * (u64::from(self.rows) + u64::from(self.cols))
    }

    /// The parameters in launch order.
    pub fn params(&self) -> Vec<Param> {
        vec![
            Param::input::<u8>("w_gate"),
            Param::input::<u8>("w_up"),
            Param::input::<f32>("x"),
            Param::output::<f32>("out"),
            Param::scalar::<u32>("n"),
        ]
    }

    /// The kernel, named after all that its text depends on.
    pub fn kernel(&self) -> Kernel {
        let GemvGluSpec {
            gate,
            up,
            rows,
            cols,
            activation,
            ..
        } = *self;
        let tiling = self.tiling();
        let (tokens, per_block) = (tiling.tokens, tiling.rows_per_block());
        let formats = match gate == up {
            true => gate.name().to_owned(),
            false => format!("{}_{}", gate.name(), up.name()),
        };
        let mut name = format!("gemv_{}_{formats}_{rows}x{cols}", activation.name());
        if tokens > 1 {
            name += &format!("_t{tokens}");
        }
        name += &self.shape().suffix(self.variant);
        Kernel::new(name, self.target, |k| {
            k.doc(format!(
                "out[t, r] = {}(sum_c w_gate[r, c] * x[t, c]) * sum_c w_up[r, c] * x[t, c], \
                 r < {rows}, c < {cols}, t < n;\nw_gate is {}, w_up {}. \
                 Grid [ceil({rows} / {per_block}), ceil(n / {tokens}), 1].",
                activation.name(),
                gate.name(),
                up.name()
            ));
            k.block_size(tiling.threads());
            tiling.bound_registers(k);
            k.declare(self.params());
            let (w_gate, w_up) = (k.bind::<u8>("w_gate"), k.bind::<u8>("w_up"));
            let (x, out) = (k.bind::<f32>("x"), k.bind::<f32>("out"));
            let place = Place::new(k, tiling, rows);
            let matrix = |tiling: Tiling, w| -> Vec<Row<'_>> {
                place
                    .rows()
                    .iter()
                    .map(|r| Row::new(k, tiling.geometry, w, *r))
                    .collect()
            };
            let (gates, ups) = if gate == up {
                let stage = k.shared("stage", tiling.shared_floats());
                let mut both = matrix(tiling, w_gate);
                both.extend(matrix(tiling, w_up));
                let mut gates = place.dot(tiling, x, stage).products(&both);
                let ups = gates.split_off(tiling.rows_per_slot as usize);
                (gates, ups)
            } else {
                let beside = tiling.beside(up);
                let floats = tiling.shared_floats().max(beside.shared_floats());
                let stage = k.shared("stage", floats);
                let gates = place
                    .dot(tiling, x, stage)
                    .products(&matrix(tiling, w_gate));
                k.barrier();
                let ups = place.dot(beside, x, stage).products(&matrix(beside, w_up));
                (gates, ups)
            };
            place.for_outputs(|row, r, token, t| {
                let gate = activation.apply(k, gates[row][token]);
                out.store(t * rows + r, gate * ups[row][token]);
            });
        })
    }
}

pub(in crate::kernels) fn representative(target: Target) -> Vec<GemvGluSpec> {
    let spec = |gate, up, tokens_per_block, activation| GemvGluSpec {
        target,
        gate,
        up,
        rows: 8960,
        cols: 1536,
        tokens_per_block,
        activation,
        variant: None,
    };
    let mut specs = vec![
        spec(WeightFormat::Q4K, WeightFormat::Q4K, 1, Activation::Silu),
        spec(WeightFormat::Q4K, WeightFormat::Q6K, 1, Activation::Silu),
        spec(WeightFormat::Q8_0, WeightFormat::Q8_0, 4, Activation::Gelu),
    ];
    let default = specs[0].default_variant();
    let of_one_format = [
        (Arithmetic::F16x2, default.lanes, 16),
        (Arithmetic::Dp4a, default.lanes, 16),
        (Arithmetic::Dp4a, 32, 8),
    ];
    specs.extend(of_one_format.map(|(arithmetic, lanes, width)| {
        let spec = spec(WeightFormat::Q4K, WeightFormat::Q4K, 1, Activation::Silu);
        let variant = GemvVariant {
            arithmetic,
            lanes,
            width,
            ..default
        };
        GemvGluSpec {
            variant: Some(variant),
            ..spec
        }
    }));
    specs
}
