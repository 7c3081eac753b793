//! What a user should know about a model on an executor, a line each.

use crate::exec::Executor;
use crate::model::Model;

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
