//! Qwen 2 and 2.5: Llama with biases on Q, K and V and rope pairs half a head apart.

use super::{Binder, Family, Norms, llama};
use crate::Error;
use crate::plan::{Buf, PlanBuilder, RopeKind};

pub(super) const FAMILY: Family = Family {
    arch: "qwen2",
    models: "Qwen 2, Qwen 2.5, QwQ, R1 distillations of them",
    norms: Norms::RootMeanSquare,
    rotates: true,
    build,
};

fn build(p: &mut PlanBuilder, b: &Binder<'_>) -> Result<Buf, Error> {
    llama::decoder(p, b, RopeKind::Neox)
}
