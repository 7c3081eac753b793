//! Sampling with its plain meaning: sorted candidates, one token at a time.

use std::collections::BTreeMap;

use gannet_ptx_gen::kernels::sample_math::{depth, mass, random_words, score};
use gannet_ptx_gen::kernels::{NO_TOKEN, SampleParams};

/// A slot before a launch.
#[derive(Clone)]
pub struct Slot {
    pub params: SampleParams,
    pub history: Vec<u32>,
}

/// The logits of a slot, penalised.
pub fn penalised(slot: &Slot, logits: &[f32]) -> Vec<f32> {
    let p = &slot.params;
    let mut logits = logits.to_vec();
    let start = slot.history.len().saturating_sub(p.window as usize);
    let mut recent: BTreeMap<u32, u32> = BTreeMap::new();
    for token in &slot.history[start..] {
        *recent.entry(*token).or_default() += 1;
    }
    for (token, count) in recent {
        if let Some(l) = logits.get_mut(token as usize) {
            let scaled = if *l > 0.0 {
                *l / p.repetition
            } else {
                *l * p.repetition
            };
            *l = scaled - (p.frequency * count as f32 + p.presence);
        }
    }
    logits
}

/// What penalties and filters come to; of logits that are no numbers plus infinity and [`NO_TOKEN`], or
/// minus infinity where nothing is above it.
pub struct Found {
    pub max: f32,
    pub top: u32,
    /// Depth of the last token that is kept.
    pub limit: u32,
    /// Whether there is a draw; else the token is `top`.
    pub draws: bool,
}

impl Found {
    /// As the kernels write it.
    pub fn words(&self) -> [u32; 4] {
        let draws = u32::from(self.draws);
        [self.max.to_bits(), self.top, self.limit, draws]
    }
}

/// What the settings of a slot make of penalised logits.
pub fn find(p: &SampleParams, logits: &[f32]) -> Found {
    let numbers = (0..logits.len()).filter(|i| logits[*i] > f32::NEG_INFINITY);
    let mut kept: Vec<usize> = numbers.collect();
    kept.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    let mut found = Found {
        max: f32::NEG_INFINITY,
        top: NO_TOKEN,
        limit: u32::MAX,
        draws: false,
    };
    if logits.iter().any(|l| l.is_nan() || *l == f32::INFINITY) {
        found.max = f32::INFINITY;
        return found;
    }
    let Some(&top) = kept.first() else {
        return found;
    };
    let max = logits[top];
    // Plus and minus zero are equal.
    let top = kept.iter().take_while(|i| logits[**i] == max).min();
    let top = *top.unwrap();
    (found.max, found.top) = (logits[top], top as u32);
    if p.inv_temperature == 0.0 {
        return found;
    }
    found.draws = true;
    let below = |i: &usize| max - logits[*i];
    let deep = |i: &usize| depth(below(i));
    if p.top_k > 0 {
        found.limit = deep(&kept[(p.top_k as usize).min(kept.len()) - 1]);
        kept.retain(|i| deep(i) <= found.limit);
    }
    if p.top_p > 0 {
        let weight = |i: &usize| u64::from(mass(below(i)));
        let total: u64 = kept.iter().map(weight).sum();
        let wanted = ((u128::from(total) * u128::from(p.top_p)) >> 32).max(1) as u64;
        let mut sum = 0;
        let reaches = |i: &&usize| {
            sum += weight(i);
            sum >= wanted
        };
        found.limit = deep(kept.iter().find(reaches).unwrap());
    }
    found.limit = found.limit.min(p.min_p_depth);
    found
}

/// The token that a slot draws.
pub fn draw(p: &SampleParams, found: &Found, logits: &[f32]) -> u32 {
    if !found.draws {
        return found.top;
    }
    let mut best = (f32::NEG_INFINITY, found.top);
    for (i, logit) in logits.iter().enumerate() {
        let below = found.max - logit;
        if *logit > f32::NEG_INFINITY && depth(below) <= found.limit {
            let word = random_words(p.seed, p.draws, i as u32 / 4)[i % 4];
            let score = score(below, p.inv_temperature, word);
            if score > best.0 {
                best = (score, i as u32);
            }
        }
    }
    best.1
}

/// The token that a slot chooses.
pub fn choose(slot: &Slot, logits: &[f32]) -> u32 {
    let logits = penalised(slot, logits);
    draw(&slot.params, &find(&slot.params, &logits), &logits)
}
