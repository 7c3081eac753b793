//! What every product does with its sums before it stores them: one description for all kernels.

use crate::build::{Builder, Ptr, Val};
use crate::ir::Param;

/// What is added to the sums of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Epilogue {
    /// `bias[r]`, f32 `[rows]`.
    pub bias: bool,
    /// `residual[t, r]`, f32 `[n, rows]`; the output may lie in the same place.
    pub residual: bool,
}

impl Epilogue {
    /// The parameters that say where results go and what is added, in launch order.
    pub(super) fn params(self) -> Vec<Param> {
        let mut params = vec![Param::output::<f32>("out")];
        params.extend(self.bias.then(|| Param::input::<f32>("bias")));
        params.extend(self.residual.then(|| Param::input::<f32>("residual")));
        params
    }

    /// What it adds to a formula.
    pub(super) fn formula(self) -> String {
        let bias = if self.bias { " + bias[r]" } else { "" };
        let residual = if self.residual {
            " + residual[t, r]"
        } else {
            ""
        };
        format!("{bias}{residual}")
    }

    /// What it adds to the name of a kernel.
    pub(super) fn suffix(self) -> String {
        let bias = if self.bias { "_bias" } else { "" };
        let residual = if self.residual { "_add" } else { "" };
        format!("{bias}{residual}")
    }

    /// Bytes of `tokens` rows of `rows` results, and of what is added to them.
    pub(super) fn bytes(self, rows: u64, tokens: u64) -> u64 {
        let outputs = tokens * rows * (1 + u64::from(self.residual));
        4 * (outputs + rows * u64::from(self.bias))
    }
}

/// Where results go, and what is added to them.
pub(super) struct Outputs<'k> {
    pub(super) out: Ptr<'k, f32>,
    pub(super) bias: Option<Ptr<'k, f32>>,
    pub(super) residual: Option<Ptr<'k, f32>>,
}

impl<'k> Outputs<'k> {
    /// Binds the parameters that an [`Epilogue`] declares.
    pub(super) fn bind(k: &'k Builder) -> Outputs<'k> {
        Outputs {
            out: k.bind("out"),
            bias: k.bind_if("bias"),
            residual: k.bind_if("residual"),
        }
    }

    /// With a bias that threads share, which goes through the read-only path.
    pub(super) fn sharing_bias(self) -> Outputs<'k> {
        Outputs {
            bias: self.bias.map(Ptr::read_only),
            ..self
        }
    }

    /// Stores one result: the sum of row `r` goes to element `at`.
    pub(super) fn store(&self, r: Val<'k, u32>, at: Val<'k, u32>, sum: Val<'k, f32>) {
        let biased = self.bias.map_or(sum, |bias| sum + bias.load(r));
        self.store_biased(at, biased);
    }

    /// Stores one result whose bias has been added.
    pub(super) fn store_biased(&self, at: Val<'k, u32>, sum: Val<'k, f32>) {
        let residual = self.residual.map(|residual| residual.load(at));
        self.out.store(at, residual.map_or(sum, |v| sum + v));
    }

    /// Stores the results of rows `r` and `r + 1`, both even, from element `at` on.
    pub(super) fn store_pair(&self, r: Val<'k, u32>, at: Val<'k, u32>, sums: [Val<'k, f32>; 2]) {
        let add = |sums: [Val<'k, f32>; 2], v: [Val<'k, f32>; 2]| [sums[0] + v[0], sums[1] + v[1]];
        let mut sums = sums;
        if let Some(bias) = self.bias {
            sums = add(sums, bias.load_vec::<2>(r));
        }
        if let Some(residual) = self.residual {
            sums = add(sums, residual.load_vec::<2>(at));
        }
        self.out.store_vec(at, sums);
    }
}
