//! Decoding with the host in the loop: run a step, read its logits, choose, feed back.
//!
//! What executors without a device do, and what a device does where tokens are to be chosen by the
//! very code that the CPU uses.

use std::ops::ControlFlow;

use super::{DecodeStart, Executor, Limits, StepRows};
use crate::Error;
use crate::exec::sample::{NO_TOKEN, Sampler, argmax};
use crate::exec::trace;
use crate::kv::BlockTable;
use crate::plan::StepRow;
use crate::settings::SamplerOn;

/// How an executor decodes with the host in the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostDecode {
    /// Steps have a power of two of rows, the spare ones dead, so that few shapes are lowered.
    pub padded: bool,
    /// Who finds the most likely token; tokens are drawn on the CPU.
    pub sampler_on: SamplerOn,
}

/// A sequence under way.
struct Live {
    index: usize,
    row: StepRow,
    /// `None` takes the most likely token.
    sampler: Option<Sampler>,
    history: Vec<u32>,
    /// Steps that it still has.
    left: usize,
}

/// [`Executor::decode`] over [`Executor::run`], tokens chosen on the CPU, the most likely ones where
/// `how` says. Sequences that end leave the step.
///
/// # Errors
/// As [`Executor::decode`].
pub fn decode_on_host(
    executor: &mut dyn Executor,
    sequences: &[DecodeStart<'_>],
    steps: usize,
    table: &BlockTable,
    how: HostDecode,
    on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
) -> Result<(), Error> {
    let mut live: Vec<Live> = (sequences.iter().enumerate())
        .map(|(index, s)| Live {
            index,
            row: s.row,
            sampler: (!s.sampling.is_greedy())
                .then(|| Sampler::with_draws(s.sampling.clone(), s.draws)),
            history: s.history.to_vec(),
            left: s.own_steps(steps),
        })
        .collect();
    let vocab_size = executor.plan().vocab_size;
    for _ in 0..steps {
        if live.is_empty() {
            break;
        }
        let rows = live.iter().map(|s| s.row);
        let rows = match how.padded {
            true => StepRows::padded_batch(rows),
            false => StepRows::batch(rows),
        };
        executor.run(&rows.step(table))?;
        let greedy = live.iter().all(|s| s.sampler.is_none());
        let chosen: Vec<u32> = if greedy && how.sampler_on == SamplerOn::Device {
            executor.next()?[..live.len()].to_vec()
        } else {
            let logits = executor.logits()?.chunks_exact(vocab_size);
            (live.iter_mut().zip(logits))
                .map(|(s, logits)| match &mut s.sampler {
                    Some(sampler) => sampler.sample(logits, &s.history),
                    None => argmax(logits),
                })
                .collect()
        };
        if let Some(spoilt) = chosen.iter().position(|&token| token == NO_TOKEN) {
            return Err(trace::explain_row(
                executor.inspect(),
                live[spoilt].row,
                table,
            ));
        }
        let mut chosen = chosen.into_iter();
        live.retain_mut(|s| {
            let Some(token) = chosen.next() else {
                return false;
            };
            s.row.token = token;
            s.row.length += 1;
            s.history.push(token);
            s.left -= 1;
            on_token(s.index, token).is_continue() && s.left > 0
        });
    }
    Ok(())
}

/// Refuses copies of blocks that the cache does not have.
pub(super) fn check_blocks(limits: Limits, pairs: &[(u32, u32)]) -> Result<(), Error> {
    let outside = |&(from, to): &(u32, u32)| from.max(to) as usize >= limits.cache_blocks;
    match pairs.iter().find(|pair| outside(pair)) {
        None => Ok(()),
        Some((from, to)) => Err(Error::Request(format!(
            "no copy of cache block {from} to {to}: there are {}",
            limits.cache_blocks
        ))),
    }
}

/// Refuses places of saved blocks, `(block, place)`, that there are not.
pub(super) fn check_places(
    limits: Limits,
    pairs: impl IntoIterator<Item = (u32, u32)>,
) -> Result<(), Error> {
    let is_outside = |&(block, place): &(u32, u32)| {
        block as usize >= limits.cache_blocks || place as usize >= limits.saved_blocks
    };
    match pairs.into_iter().find(is_outside) {
        None => Ok(()),
        Some((block, place)) => Err(Error::Request(format!(
            "cache block {block} cannot be saved at {place}: there are {} blocks, and places for {}",
            limits.cache_blocks, limits.saved_blocks
        ))),
    }
}

/// The other way round.
pub(super) fn swapped(pairs: &[(u32, u32)]) -> impl Iterator<Item = (u32, u32)> {
    pairs.iter().map(|&(a, b)| (b, a))
}

/// Refuses sequences that a decode would take outside the cache.
pub(super) fn check_sequences(
    executor: &dyn Executor,
    sequences: &[DecodeStart<'_>],
    steps: usize,
) -> Result<(), Error> {
    let limits = executor.limits();
    if sequences.len() > limits.num_slots {
        return Err(Error::Request(format!(
            "{} sequences at once on an executor of {} slots; ask for more slots",
            sequences.len(),
            limits.num_slots
        )));
    }
    let positions = executor.plan().max_positions();
    let context = positions.map_or(limits.context, |most| most.min(limits.context));
    for (i, s) in sequences.iter().enumerate() {
        s.sampling.check().map_err(Error::Request)?;
        let tokens = s.row.length as usize + s.own_steps(steps).saturating_sub(1);
        if tokens > context {
            return Err(Error::ContextFull { tokens, context });
        }
        if sequences[..i]
            .iter()
            .any(|other| other.row.slot == s.row.slot)
            || s.row.length == 0
            || (steps > 0 && s.own_steps(steps) == 0)
        {
            return Err(Error::Request(format!(
                "sequence {i} has no token yet, or is at its limit, or shares slot {} with another",
                s.row.slot
            )));
        }
    }
    Ok(())
}
