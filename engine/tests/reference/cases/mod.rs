//! The micro-models that executors are held against the reference on: one row a case.
//!
//! To hold a family or a switch, add a row to one of the lists of [`all`]. Every row that is not
//! plain gives other logits than the plain ones of its family, which
//! `every_case_differs_from_its_family` checks: a switch that is overlooked is felt.

mod gemma;
mod gpt2;
mod llama;
mod phi3;
mod scaling;

use super::micro::MicroModel;

pub use llama::LLAMA;

/// A micro-model and the sequences that it is asked for.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: &'static str,
    pub model: MicroModel,
    /// Lengths of the sequences.
    pub lengths: &'static [usize],
    /// Positions that a sequence may grow to.
    pub context: usize,
    /// Whether it is its family without a switch: the first of them shows what the family gives,
    /// and what distinguishes the others must not be read.
    pub is_plain: bool,
}

/// Every case runs with each of these seeds.
pub const SEEDS: [u64; 3] = [1, 2, 3];

/// Every case.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [
        gemma::CASES,
        gpt2::CASES,
        llama::CASES,
        phi3::CASES,
        scaling::CASES,
    ]
    .into_iter()
    .flatten()
}

const fn case(name: &'static str, model: MicroModel) -> Case {
    Case {
        name,
        model,
        lengths: &[1, 40],
        context: 64,
        is_plain: false,
    }
}

const fn plain(name: &'static str, model: MicroModel) -> Case {
    Case {
        is_plain: true,
        ..case(name, model)
    }
}

/// A llama of heads of `dim` elements, of which queries rotate all or, in every other size, half.
pub fn heads_of(dim: usize) -> MicroModel {
    MicroModel {
        head_dim: dim,
        rope_dim: if dim.is_multiple_of(16) { dim } else { dim / 2 },
        num_heads: 4,
        num_kv_heads: 2,
        num_layers: 1,
        ..LLAMA
    }
}

/// A Qwen 2 of heads of `dim` elements whose keys have a bias of `outliers` in a few channels.
pub fn biased(dim: usize, outliers: f64, seed: u64) -> MicroModel {
    MicroModel {
        head_dim: dim,
        rope_dim: dim,
        key_outliers: outliers,
        seed,
        ..llama::QWEN2
    }
}
