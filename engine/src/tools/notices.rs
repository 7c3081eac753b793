//! What a user should know about a model on an executor, a line each.

use gannet_ptx_gen::kernels::Arithmetic;

use crate::exec::Executor;
use crate::lower::beside_tensor_cores;
use crate::model::Model;
use crate::settings::{Overrides, Precision};

/// What to know about a context that is longer than what the model was trained for.
pub(super) fn beyond_trained(model: &Model, context: usize) -> Option<String> {
    let trained = model.hparams().context_length;
    let notice = format!(
        "the model was trained for {trained} positions, not for {context}: beyond {trained} its text and \
         its figures say little"
    );
    (context > trained).then_some(notice)
}

/// What to know about caches that have another type than was asked for.
pub(super) fn beside_biases(executor: &dyn Executor) -> Option<String> {
    let asked = executor.limits().kv_type;
    let caches = &executor.plan().caches;
    let others = caches.iter().filter(|cache| cache.kv_type(asked) != asked);
    let count = others.clone().count();
    let widest = others.max_by(|a, b| a.key_bias.total_cmp(&b.key_bias))?;
    let notice = format!(
        "the cache is {} instead of {} in {count} of {} layers: beside their keys' biases (up to {:.0}) \
         little would be left of the rest",
        widest.kv_type(asked).name(),
        asked.name(),
        caches.len(),
        widest.key_bias,
    );
    executor.kind().runs_kernels().then_some(notice)
}

/// What to know about shapes that kernels on tensor cores refuse.
pub(super) fn on_slower_kernels(executor: &dyn Executor, precision: Precision) -> Option<String> {
    let target = executor.target().filter(|_| precision == Precision::Fast)?;
    let kv_type = executor.limits().kv_type;
    let refusals = beside_tensor_cores(executor.plan(), target, kv_type);
    let reasons = refusals.iter().map(|refusal| {
        let more = match refusal.count {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        format!("{}{more} ({})", refusal.first, refusal.why)
    });
    let reasons: Vec<String> = reasons.collect();
    (!reasons.is_empty()).then(|| {
        format!(
            "prompts and batches run on slower kernels where tensor cores do not take a shape: {}",
            reasons.join(", ")
        )
    })
}

/// What to know about a variant that rounds activations to bytes.
pub(super) fn of_bytes(executor: &dyn Executor, overrides: Overrides) -> Option<String> {
    let variant = (overrides.gemv).filter(|variant| variant.arithmetic == Arithmetic::Dp4a)?;
    let notice = format!(
        "matrix-vector products of variant {variant} round activations to 8 bits: faster, less exact"
    );
    executor.kind().runs_kernels().then_some(notice)
}
