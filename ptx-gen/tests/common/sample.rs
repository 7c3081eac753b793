//! Sampling with its plain meaning: sorted candidates, one token at a time.

use std::collections::BTreeMap;

use gannet_ptx_gen::kernels::sample_math::{depth, gumbel, mass, random_words, score};
use gannet_ptx_gen::kernels::{SampleParams, SampleSpec};

use super::Random;
use super::trial::{Bytes, End, Launch};

/// A slot before a launch.
#[derive(Clone)]
pub struct Slot {
    pub params: SampleParams,
    pub history: Vec<u32>,
}

/// A draw at temperature 1 from everything.
pub fn settings(seed: u64) -> SampleParams {
    SampleParams {
        inv_temperature: 1.0,
        top_k: 0,
        top_p: 0,
        min_p_depth: u32::MAX,
        repetition: 1.0,
        presence: 0.0,
        frequency: 0.0,
        window: 0,
        seed,
        draws: 0,
        written: 0,
    }
}

/// A share as the parameters have it.
pub fn share(p: f64) -> u32 {
    (p * 4_294_967_296.0) as u32
}

/// Settings of every kind, one after the other.
pub fn mixed(i: u64) -> SampleParams {
    let seed = i.wrapping_mul(0x1234_5678_9ABC_DEF1);
    let base = SampleParams {
        draws: i,
        ..settings(seed)
    };
    let warm = |temperature: f32| SampleParams {
        inv_temperature: 1.0 / temperature,
        ..base
    };
    let penalised = SampleParams {
        repetition: 1.5,
        presence: 0.75,
        frequency: 0.5,
        window: 7,
        ..base
    };
    match i % 12 {
        0 => base,
        1 => warm(0.4),
        2 => warm(5.0),
        3 => SampleParams {
            top_k: 9,
            ..warm(2.0)
        },
        4 => SampleParams {
            top_p: share(0.7),
            ..warm(1.5)
        },
        5 => SampleParams {
            min_p_depth: depth(1.3),
            ..warm(3.0)
        },
        6 => SampleParams {
            top_k: 60,
            top_p: share(0.8),
            min_p_depth: depth(2.5),
            ..warm(2.0)
        },
        7 => penalised,
        8 => SampleParams {
            inv_temperature: 0.0,
            ..penalised
        },
        9 => SampleParams {
            top_k: 100_000,
            top_p: share(0.9999),
            draws: u64::from(u32::MAX),
            ..warm(4.0)
        },
        10 => SampleParams {
            top_k: 12,
            top_p: 1,
            ..warm(1.0)
        },
        _ => SampleParams {
            top_k: 1,
            ..penalised
        },
    }
}

/// Some history of a slot.
pub fn history(random: &mut Random, vocab_size: u32, len: usize) -> Vec<u32> {
    // Few different tokens, so that some occur twice; one that the vocabulary does not have.
    (0..len)
        .map(|i| match i % 5 {
            4 => vocab_size + random.below(3),
            _ => random.below(vocab_size.min(6)),
        })
        .collect()
}

/// Logits of a kind: smooth, with ties, peaked, flat, wide, with what is no number, or without any.
pub fn logits(random: &mut Random, kind: u32, n: usize) -> Vec<f32> {
    let mut row = random.gaussians(n);
    match kind % 7 {
        0 => row.iter_mut().for_each(|v| *v *= 3.0),
        1 => row.iter_mut().for_each(|v| *v = (*v * 4.0).round() / 2.0),
        2 => row[n / 2] = 30.0,
        3 => row.iter_mut().for_each(|v| *v = *v * 1e-3 - 11.0),
        4 => row.iter_mut().for_each(|v| *v *= 120.0),
        5 => {
            for v in &mut row {
                match random.below(4) {
                    0 => *v = f32::NAN,
                    1 => *v = f32::NEG_INFINITY,
                    _ => *v *= 2.0,
                }
            }
        }
        _ => row.iter_mut().enumerate().for_each(|(i, v)| {
            *v = if i % 2 == 0 {
                f32::NAN
            } else {
                f32::NEG_INFINITY
            }
        }),
    }
    row
}

/// The token that a slot chooses.
pub fn choose(slot: &Slot, logits: &[f32]) -> u32 {
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
    let numbers = (0..logits.len()).filter(|i| logits[*i] > f32::NEG_INFINITY);
    let mut kept: Vec<usize> = numbers.collect();
    kept.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    let Some(&top) = kept.first() else {
        return 0;
    };
    let max = logits[top];
    // Plus and minus zero are equal.
    let top = kept.iter().take_while(|i| logits[**i] == max).min();
    let top = *top.unwrap() as u32;
    if p.inv_temperature == 0.0 || max == f32::INFINITY {
        return top;
    }
    let below = |i: &usize| max - logits[*i];
    let deep = |i: &usize| depth(below(i));
    if p.top_k > 0 && (p.top_k as usize) < kept.len() {
        let limit = deep(&kept[p.top_k as usize - 1]);
        kept.retain(|i| deep(i) <= limit);
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
        let limit = deep(kept.iter().find(reaches).unwrap());
        kept.retain(|i| deep(i) <= limit);
    }
    kept.retain(|i| deep(i) <= p.min_p_depth);
    kept.sort_unstable();
    let mut best = (f32::NEG_INFINITY, top);
    for i in kept {
        let word = random_words(p.seed, p.draws, i as u32 / 4)[i % 4];
        let score = score(below(&i), p.inv_temperature, word);
        if score > best.0 {
            best = (score, i as u32);
        }
    }
    best.1
}

/// What a buffer of tokens holds where nothing is written.
const UNTOUCHED: u32 = 0xABCD_EF01;

/// A launch, `turns` times in a row, whose `r`-th row is that of slot `rows[r]`, or dead.
pub fn launch(
    spec: &SampleSpec,
    slots: &[Slot],
    rows: &[Option<u32>],
    logits: &[f32],
    turns: u32,
) -> Launch {
    let (vocab, window) = (spec.vocab_size as usize, spec.window_max as usize);
    let ring = |slot: &Slot| {
        // What an earlier sequence left.
        let mut ring = vec![1; window];
        for (i, token) in slot.history.iter().enumerate() {
            ring[i % window] = *token;
        }
        ring
    };
    let words = |slot: &Slot| {
        let written = slot.history.len() as u32;
        SampleParams {
            written,
            ..slot.params
        }
        .words()
    };
    let start = (
        slots.iter().flat_map(words).collect::<Vec<u32>>(),
        slots.iter().flat_map(ring).collect::<Vec<u32>>(),
    );
    let mut slots = slots.to_vec();
    let mut out = vec![UNTOUCHED; rows.len()];
    for _ in 0..turns {
        for (r, slot) in rows.iter().enumerate() {
            let Some(slot) = slot else { continue };
            let slot = &mut slots[*slot as usize];
            out[r] = choose(slot, &logits[r * vocab..(r + 1) * vocab]);
            slot.history.push(out[r]);
            slot.params.draws = slot.params.draws.wrapping_add(1);
        }
    }
    let params: Vec<u32> = slots.iter().flat_map(words).collect();
    let history: Vec<u32> = slots.iter().flat_map(ring).collect();
    let lengths: Vec<u32> = rows.iter().map(|r| u32::from(r.is_some())).collect();
    let places: Vec<u32> = rows.iter().map(|r| r.unwrap_or(0)).collect();
    Launch::new(spec.grid(rows.len() as u32))
        .input(logits)
        .input(&lengths)
        .input(&places)
        .in_out(&start.0, End::Bytes(params.bytes()))
        .in_out(&start.1, End::Bytes(history.bytes()))
        .in_out(&vec![UNTOUCHED; rows.len()], End::Bytes(out.bytes()))
        .turns(turns)
}

/// A launch of `rows` rows, the second one dead, with settings and logits of all kinds from the
/// `first` on and slots in another order than rows.
pub fn of_all_kinds(spec: &SampleSpec, first: u64, rows: u32, turns: u32) -> Launch {
    let mut random = Random::new(first ^ u64::from(spec.vocab_size));
    let slots: Vec<Slot> = (0..u64::from(rows))
        .map(|i| {
            let mut params = mixed(first + i);
            params.window = params.window.min(spec.window_max);
            let len = (first + 5 * i) as usize % (2 * spec.window_max as usize + 2);
            let history = history(&mut random, spec.vocab_size, len);
            Slot { params, history }
        })
        .collect();
    let places: Vec<Option<u32>> = (0..rows)
        .map(|r| (r != 1).then_some(rows - 1 - r))
        .collect();
    let vocab = spec.vocab_size as usize;
    let logits: Vec<f32> = (0..rows)
        .flat_map(|r| logits(&mut random, first as u32 / 3 + r, vocab))
        .collect();
    launch(spec, &slots, &places, &logits, turns)
}

/// Logits for which all scores of a slot's next draw are equal but for their rounding, so that the
/// token chosen depends on the last bit of everything and on every token that is kept.
pub fn near_ties(slot: &Slot, n: usize, shift: f32) -> Vec<f32> {
    let p = &slot.params;
    let recent = &slot.history[slot.history.len().saturating_sub(p.window as usize)..];
    let logit = |i: usize| {
        let word = random_words(p.seed, p.draws, i as u32 / 4)[i % 4];
        let after = shift - gumbel(word) / p.inv_temperature;
        let count = recent.iter().filter(|t| **t as usize == i).count();
        if count == 0 {
            return after;
        }
        let scaled = after + (p.presence + p.frequency * count as f32);
        if scaled > 0.0 {
            scaled * p.repetition
        } else {
            scaled / p.repetition
        }
    };
    (0..n).map(logit).collect()
}

/// A launch of one row whose slot has no history.
pub fn alone(spec: &SampleSpec, params: SampleParams, logits: &[f32]) -> Launch {
    let history = Vec::new();
    launch(spec, &[Slot { params, history }], &[Some(0)], logits, 1)
}

/// A draw in which of the `n` most probable tokens the last one wins, and of one more that one: it
/// tells apart a filter that keeps `n` tokens from all others.
pub fn telling(logits: &[f32], n: usize) -> SampleParams {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    let max = logits[order[0]];
    let mut params = SampleParams {
        inv_temperature: 1e-3,
        ..settings(77)
    };
    loop {
        let scores: Vec<f32> = (order[..=n].iter())
            .map(|&i| {
                let word = random_words(params.seed, params.draws, i as u32 / 4)[i % 4];
                score(max - logits[i], params.inv_temperature, word)
            })
            .collect();
        let most = |scores: &[f32]| scores.iter().fold(f32::NEG_INFINITY, |m, s| m.max(*s));
        if scores[n] > most(&scores[..n]) && scores[n - 1] > most(&scores[..n - 1]) {
            return params;
        }
        params.draws += 1;
    }
}

/// Launches of one row in which a filter ends exactly at a token, or one unit of mass beyond it.
fn edges(spec: &SampleSpec, logits: &[f32], n: usize) -> Vec<Launch> {
    let mut sorted = logits.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let weight = |l: &f32| u128::from(mass(sorted[0] - l));
    let total: u128 = sorted.iter().map(weight).sum();
    let sum: u128 = sorted[..n].iter().map(weight).sum();
    // The least share whose goal is at least so much.
    let share = |goal: u128| (goal << 32).div_ceil(total) as u32;
    let (at, after) = (telling(logits, n), telling(logits, n + 1));
    let all = [
        SampleParams {
            top_k: n as u32,
            ..at
        },
        SampleParams {
            top_p: share(sum),
            ..at
        },
        SampleParams {
            top_p: share(sum + 1),
            ..after
        },
        SampleParams {
            min_p_depth: depth(sorted[0] - sorted[n - 1]),
            ..at
        },
        SampleParams {
            top_k: n as u32 + 1,
            top_p: share(sum + 1),
            min_p_depth: depth(sorted[0] - sorted[n]) - 1,
            ..at
        },
    ];
    let row = |params| alone(spec, params, logits);
    all.map(row).into()
}

/// Logits whose scores in a draw are all the same as that of the largest logit, which is at
/// `n / 2`; minus infinity for tokens of which that cannot be had.
fn ties(params: &SampleParams, n: usize) -> Vec<f32> {
    let variate = |i: usize| gumbel(random_words(params.seed, params.draws, i as u32 / 4)[i % 4]);
    let least = variate(n / 2);
    let logit = |i: usize| {
        let below = variate(i) - least;
        let same = below > 0.0 && variate(i) - below == least;
        if same { -below } else { f32::NEG_INFINITY }
    };
    (0..n)
        .map(|i| if i == n / 2 { 0.0 } else { logit(i) })
        .collect()
}

/// Launches of one row each in which little decides: for kernels that are nearly right.
pub fn sharp(spec: &SampleSpec) -> Vec<Launch> {
    let n = spec.vocab_size as usize;
    let mut random = Random::new(3);
    let mut launches = Vec::new();
    for seed in 0..6 {
        let flat: Vec<f32> = random.gaussians(n).iter().map(|v| v * 0.01).collect();
        launches.push(alone(spec, settings(seed), &flat));
    }
    for seed in 0..3 {
        let all = settings(seed);
        let few = SampleParams { top_k: 9, ..all };
        let logits = ties(&all, n);
        launches.extend([all, few].map(|params| alone(spec, params, &logits)));
    }
    // Spread wide, so that each mass is another one, down to nothing.
    let wide: Vec<f32> = random.gaussians(n).iter().map(|v| v * 4.0).collect();
    launches.extend([1, 3, 20].into_iter().flat_map(|at| edges(spec, &wide, at)));
    // Depths at the borders of bins of all widths, and beyond the last bin.
    let steps = [
        0u32, 1, 1023, 1024, 0xF_FFFF, 0x10_0000, 0x10_0001, 0x20_0000, 0x2F_FC00, 0x2F_FFFF,
    ];
    let border = |i: usize| match steps.get(i / 3) {
        Some(depth) if i.is_multiple_of(3) => -(*depth as f32) / 16_777_216.0,
        _ if i % 7 == 1 => -70.0 - i as f32 / 64.0,
        _ => -1.0 - i as f32 / 4096.0,
    };
    let borders: Vec<f32> = (0..n).map(border).collect();
    launches.extend((1..10).flat_map(|at| edges(spec, &borders, at)));
    // More mass in a bin than a word holds.
    let heavy: Vec<f32> = (0..n).map(|i| -(i as f32) / 65_536.0).collect();
    launches.extend([4, 40].into_iter().flat_map(|at| edges(spec, &heavy, at)));
    launches
}

/// A launch of 16 rows with near ties under every setting, filters that end exactly at a token or
/// exactly before one among them.
pub fn near(spec: &SampleSpec, seed: u64) -> Launch {
    let rows = near_rows(spec, seed);
    let (slots, logits): (Vec<Slot>, Vec<Vec<f32>>) = rows.into_iter().unzip();
    let places: Vec<Option<u32>> = (0..16).map(Some).collect();
    launch(spec, &slots, &places, &logits.concat(), 1)
}

/// Some rows of [`near`], each in a launch of its own.
pub fn near_each(spec: &SampleSpec, seed: u64, which: &[usize]) -> Vec<Launch> {
    let rows = near_rows(spec, seed);
    let chosen = which.iter().map(|row| &rows[*row]);
    let alone = |(slot, logits): &(Slot, Vec<f32>)| {
        launch(spec, std::slice::from_ref(slot), &[Some(0)], logits, 1)
    };
    chosen.map(alone).collect()
}

fn near_rows(spec: &SampleSpec, seed: u64) -> Vec<(Slot, Vec<f32>)> {
    let mut random = Random::new(seed);
    let vocab = spec.vocab_size as usize;
    let mut rows = Vec::new();
    for v in 0..16u32 {
        let base = SampleParams {
            draws: random.bits(),
            ..settings(random.bits())
        };
        let heat = |inv_temperature| SampleParams {
            inv_temperature,
            ..base
        };
        let few = |top_k| SampleParams { top_k, ..base };
        let penalised = |repetition, presence, frequency| SampleParams {
            repetition,
            presence,
            frequency,
            window: 8.min(spec.window_max),
            ..base
        };
        let params = match v {
            0 => base,
            1 => heat(2.5),
            2 => few(2),
            3 => few(3),
            4 => SampleParams {
                top_k: 3,
                ..heat(0.04)
            },
            5 => SampleParams {
                top_p: share(0.03),
                ..few(7)
            },
            6 | 7 => penalised(1.5, 0.0, 0.0),
            8 | 9 => SampleParams {
                top_k: 3,
                ..penalised(0.7, 0.3, 0.45)
            },
            _ => base,
        };
        let history = history(&mut random, spec.vocab_size, 23);
        let mut slot = Slot { params, history };
        let logits = near_ties(&slot, vocab, if v % 2 == 0 { 4.0 } else { -3.0 });
        let mut sorted = logits.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let below = |i: usize| sorted[0] - sorted[i];
        let weight = |i: usize| u128::from(mass(below(i)));
        let total: u128 = (0..vocab).map(weight).sum();
        let exact = |n: usize| ((0..n).map(weight).sum::<u128>() << 32) / total;
        match v {
            10 => slot.params.top_p = exact(2) as u32,
            11 => slot.params.top_p = exact(3) as u32,
            12 => slot.params.top_p = exact(2) as u32 + 1,
            13 => slot.params.min_p_depth = depth(below(2)),
            14 => slot.params.min_p_depth = depth(below(2)) - 1,
            15 => slot.params.draws |= u64::from(u32::MAX),
            _ => {}
        }
        rows.push((slot, logits));
    }
    rows
}
