//! Steps of the sampler whose tokens are known: settings, logits and launches.

use gannet_ptx_gen::kernels::sample_math::{depth, gumbel, mass, random_words, score};
use gannet_ptx_gen::kernels::{SampleParams, SampleSpec};

use super::Random;
pub use super::sample_model::Slot;
use super::sample_model::{draw, find, penalised};
use super::trial::{Bytes, End, Launch, Trial};

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

/// Logits of a kind: smooth, with ties, peaked, flat, wide, with minus infinity, with what is no number,
/// or without any.
pub fn logits(random: &mut Random, kind: u32, n: usize) -> Vec<f32> {
    let mut row = random.gaussians(n);
    let place = random.below(n as u32) as usize;
    match kind % 10 {
        0 => row.iter_mut().for_each(|v| *v *= 3.0),
        1 => row.iter_mut().for_each(|v| *v = (*v * 4.0).round() / 2.0),
        2 => row[n / 2] = 30.0,
        3 => row.iter_mut().for_each(|v| *v = *v * 1e-3 - 11.0),
        4 => row.iter_mut().for_each(|v| *v *= 120.0),
        5 => {
            for v in &mut row {
                match random.below(3) {
                    0 => *v = f32::NEG_INFINITY,
                    _ => *v *= 2.0,
                }
            }
        }
        6 => {
            for (i, v) in row.iter_mut().enumerate() {
                *v = if i % 2 == 0 {
                    f32::NAN
                } else {
                    f32::NEG_INFINITY
                };
            }
        }
        7 => row[place] = f32::NAN,
        8 => row[place] = f32::INFINITY,
        _ => row.fill(f32::NEG_INFINITY),
    }
    row
}

/// A step of the sampler: a launch of each kernel.
pub struct Step {
    pub filter: Launch,
    pub draw: Launch,
}

/// Both kernels, and their launches.
pub fn trials(spec: &SampleSpec, steps: impl IntoIterator<Item = Step>) -> [Trial; 2] {
    let launches = steps.into_iter().map(|step| (step.filter, step.draw));
    let (filters, draws) = launches.unzip();
    let trial = |kernel, launches| Trial { kernel, launches };
    [
        trial(spec.filter_kernel(), filters),
        trial(spec.draw_kernel(), draws),
    ]
}

/// What a buffer holds where nothing is written.
const UNTOUCHED: u32 = 0xABCD_EF01;

/// A step whose `r`-th row is that of slot `rows[r]`, or dead. The slots go on.
pub fn step(spec: &SampleSpec, slots: &mut [Slot], rows: &[Option<u32>], logits: &[f32]) -> Step {
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
    let state = |slots: &[Slot]| {
        let params: Vec<u32> = slots.iter().flat_map(words).collect();
        (params, slots.iter().flat_map(ring).collect::<Vec<u32>>())
    };
    let (params, history) = state(slots);
    let untouched = |n: usize| vec![UNTOUCHED; n * rows.len()];
    let (mut after, mut found, mut out) = (logits.to_vec(), untouched(4), untouched(1));
    for (r, slot) in rows.iter().enumerate() {
        let Some(slot) = slot else { continue };
        let slot = &mut slots[*slot as usize];
        let row = &mut after[r * vocab..(r + 1) * vocab];
        row.copy_from_slice(&penalised(slot, row));
        let finds = find(&slot.params, row);
        found[4 * r..4 * r + 4].copy_from_slice(&finds.words());
        out[r] = draw(&slot.params, &finds, row);
        slot.history.push(out[r]);
        slot.params.draws = slot.params.draws.wrapping_add(1);
    }
    let (params_after, history_after) = state(slots);
    let lengths: Vec<u32> = rows.iter().map(|r| u32::from(r.is_some())).collect();
    let places: Vec<u32> = rows.iter().map(|r| r.unwrap_or(0)).collect();
    let parts = |launch: Launch| {
        let scratch = 4 * spec.scratch(rows.len());
        launch
            .output(scratch, End::Unchanged)
            .output(scratch, End::Unchanged)
            .input(&vec![0u32; rows.len()])
    };
    let filter = Launch::new(spec.filter_grid(rows.len() as u32))
        .in_out(logits, End::Bytes(after.bytes()))
        .input(&lengths)
        .input(&places)
        .input(&params)
        .input(&history);
    let draw = Launch::new(spec.draw_grid(rows.len() as u32))
        .input(&after)
        .input(&lengths)
        .input(&places)
        .in_out(&params, End::Bytes(params_after.bytes()))
        .in_out(&history, End::Bytes(history_after.bytes()))
        .input(&found);
    Step {
        filter: parts(filter).in_out(&untouched(4), End::Bytes(found.bytes())),
        draw: parts(draw).in_out(&untouched(1), End::Bytes(out.bytes())),
    }
}

/// `turns` steps of `rows` rows, the second one dead, with settings and logits of all kinds from the
/// `first` on and slots in another order than rows.
pub fn of_all_kinds(spec: &SampleSpec, first: u64, rows: u32, turns: u32) -> Vec<Step> {
    let mut random = Random::new(first ^ u64::from(spec.vocab_size));
    let mut slots: Vec<Slot> = (0..u64::from(rows))
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
    (0..turns)
        .map(|_| step(spec, &mut slots, &places, &logits))
        .collect()
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

/// A step of one row.
pub fn one(spec: &SampleSpec, mut slot: Slot, logits: &[f32]) -> Step {
    step(spec, std::slice::from_mut(&mut slot), &[Some(0)], logits)
}

/// A step of one row whose slot has no history.
pub fn alone(spec: &SampleSpec, params: SampleParams, logits: &[f32]) -> Step {
    let history = Vec::new();
    one(spec, Slot { params, history }, logits)
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

/// Steps of one row in which a filter ends exactly at a token, or one unit of mass beyond it.
fn edges(spec: &SampleSpec, logits: &[f32], n: usize) -> Vec<Step> {
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

/// Steps of one row each in which little decides: for kernels that are nearly right.
pub fn sharp(spec: &SampleSpec) -> Vec<Step> {
    let n = spec.vocab_size as usize;
    let mut random = Random::new(3);
    let mut steps = Vec::new();
    for seed in 0..6 {
        let flat: Vec<f32> = random.gaussians(n).iter().map(|v| v * 0.01).collect();
        steps.push(alone(spec, settings(seed), &flat));
    }
    for seed in 0..3 {
        let all = settings(seed);
        let few = SampleParams { top_k: 9, ..all };
        let logits = ties(&all, n);
        steps.extend([all, few].map(|params| alone(spec, params, &logits)));
    }
    // Spread wide, so that each mass is another one, down to nothing.
    let wide: Vec<f32> = random.gaussians(n).iter().map(|v| v * 4.0).collect();
    steps.extend([1, 3, 20].into_iter().flat_map(|at| edges(spec, &wide, at)));
    // Depths at the borders of bins of all widths, and beyond the last bin.
    let depths = [
        0u32, 1, 1023, 1024, 0xF_FFFF, 0x10_0000, 0x10_0001, 0x20_0000, 0x2F_FC00, 0x2F_FFFF,
    ];
    let border = |i: usize| match depths.get(i / 3) {
        Some(depth) if i.is_multiple_of(3) => -(*depth as f32) / 16_777_216.0,
        _ if i % 7 == 1 => -70.0 - i as f32 / 64.0,
        _ => -1.0 - i as f32 / 4096.0,
    };
    let borders: Vec<f32> = (0..n).map(border).collect();
    steps.extend((1..10).flat_map(|at| edges(spec, &borders, at)));
    // More mass in a bin than a word holds.
    let heavy: Vec<f32> = (0..n).map(|i| -(i as f32) / 65_536.0).collect();
    steps.extend([4, 40].into_iter().flat_map(|at| edges(spec, &heavy, at)));
    steps
}

/// A step of 16 rows with near ties under every setting, filters that end exactly at a token or
/// exactly before one among them.
pub fn near(spec: &SampleSpec, seed: u64) -> Step {
    let rows = near_rows(spec, seed);
    let (mut slots, logits): (Vec<Slot>, Vec<Vec<f32>>) = rows.into_iter().unzip();
    let places: Vec<Option<u32>> = (0..16).map(Some).collect();
    step(spec, &mut slots, &places, &logits.concat())
}

/// Some rows of [`near`], each in a step of its own.
pub fn near_each(spec: &SampleSpec, seed: u64, which: &[usize]) -> Vec<Step> {
    let rows = near_rows(spec, seed);
    let chosen = which.iter().map(|row| &rows[*row]);
    let alone = |(slot, logits): &(Slot, Vec<f32>)| one(spec, slot.clone(), logits);
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
