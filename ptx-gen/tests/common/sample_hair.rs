//! Sampling where little decides: launches for kernels that are nearly right.

use gannet_ptx_gen::kernels::sample_math::{gumbel, mass, random_words, score};
use gannet_ptx_gen::kernels::{SampleParams, SampleSpec};

use super::Random;
use super::sample::{self, Slot, Step, alone, near_ties, settings, telling};

/// Few steps of one row each that leave little room for a kernel that is nearly right: what
/// decides is one unit of mass, one depth, one rounding or one place in the row.
pub fn hair(spec: &SampleSpec) -> Vec<Step> {
    let mut steps = vec![long_window(spec)];
    steps.extend(windows(spec));
    steps.extend(lists(spec));
    steps.extend(narrowed(spec));
    steps.extend(barely(spec));
    steps.extend(same_score(spec));
    steps.extend(equals(spec));
    steps
}

/// A slot with settings and no history.
fn fresh(params: SampleParams) -> Slot {
    let history = Vec::new();
    Slot { params, history }
}

/// Penalties of as many tokens as the window has, most of them several times, the last of the
/// vocabulary and the first beyond it among them; logits around zero.
fn long_window(spec: &SampleSpec) -> Step {
    let last = spec.vocab_size - 1;
    // The second block of a row begins at token 2048.
    let token = |i: u32| match i % 16 {
        0 => last,
        1 => last + 1,
        2 => 2047,
        3 => 2048,
        4 => 2050,
        _ => 61 * (i % 37) % last,
    };
    let history = (0..spec.window_max + 5).map(token).collect();
    let params = SampleParams {
        repetition: 1.5,
        presence: 0.75,
        frequency: 0.25,
        window: spec.window_max,
        ..settings(0x1234_5678_9ABC_DEF0)
    };
    let slot = Slot { params, history };
    let logits = near_ties(&slot, spec.vocab_size as usize, 1.0);
    sample::one(spec, slot, &logits)
}

/// The largest logit is that of a token among the latest, the only one, the last one of which no
/// more are looked at, or one that a thread of the second warp has.
fn windows(spec: &SampleSpec) -> [Step; 3] {
    let mut long = vec![500; spec.window_max as usize - 1];
    long.push(9);
    [
        (vec![9], spec.window_max),
        (vec![2, 9], 1),
        (long, spec.window_max),
    ]
    .map(|(history, window)| {
        let params = SampleParams {
            inv_temperature: 0.0,
            repetition: 1.5,
            presence: 0.75,
            window,
            ..settings(0x1234_5678_9ABC_DEF0)
        };
        // Tokens 1 and 2 are as good as equal, and token 1 lies where the ring has no tokens yet.
        let mut logits = vec![-7.0; spec.vocab_size as usize];
        let (one, two) = if window == 1 { (1.9, 2.0) } else { (2.0, 1.9) };
        for (token, logit) in [(1, one), (2, two), (9, 2.5)] {
            logits[token] = logit;
        }
        sample::one(spec, Slot { params, history }, &logits)
    })
}

/// Near ties among as many tokens as fit in a list, and among one more.
fn lists(spec: &SampleSpec) -> [Step; 2] {
    let n = spec.vocab_size as usize;
    [0, 1].map(|more| {
        let params = SampleParams {
            top_k: u32::MAX,
            ..settings(5 + more)
        };
        let mut logits = near_ties(&fresh(params), n, 2.0);
        let room = n.div_ceil(2) + more as usize;
        logits[..n - room].fill(f32::NEG_INFINITY);
        alone(spec, params, &logits)
    })
}

/// Top-p after top-k, ending exactly at a token or one unit of mass beyond it: among logits of all
/// sizes, among some so close to each other that their masses overflow a word, and far below the
/// largest.
fn narrowed(spec: &SampleSpec) -> Vec<Step> {
    let n = spec.vocab_size as usize;
    let mut random = Random::new(5);
    let wide: Vec<f32> = random.gaussians(n).iter().map(|v| v * 4.0).collect();
    let heavy: Vec<f32> = (0..n)
        .map(|i| {
            if i < 200 {
                -((i / 2) as f32) / 65_536.0
            } else {
                -50.0
            }
        })
        .collect();
    let far = [
        0.0f32, 1.5, 16.5, 17.0, 17.25, 18.0, 19.5, 20.0, 20.5, 60.0, 200.0, 300.0,
    ];
    let far: Vec<f32> = (0..n)
        .map(|i| far.get(i / 9).filter(|_| i % 9 == 4))
        .map(|below| below.map_or(f32::NEG_INFINITY, |below| -below))
        .collect();
    // Rounded, the second depth would be the third.
    let close: Vec<f32> = (0..n)
        .map(|i| [0.0, -4.5e-8, -7.2e-8].get(i).copied().unwrap_or(-50.0))
        .collect();
    let few = |logits, n, top_k| {
        let params = SampleParams {
            top_k,
            ..telling(logits, n)
        };
        alone(spec, params, logits)
    };
    let share = |logits: &Vec<f32>, top_k: usize, n: usize, more: u128| {
        let mut sorted = logits.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let weight = |l: &f32| u128::from(mass(sorted[0] - l));
        let total: u128 = sorted[..top_k].iter().map(weight).sum();
        let sum: u128 = sorted[..n].iter().map(weight).sum();
        let params = SampleParams {
            top_k: top_k as u32,
            top_p: ((sum + more) << 32).div_ceil(total) as u32,
            ..telling(logits, n)
        };
        alone(spec, params, logits)
    };
    let least = SampleParams {
        top_k: 9,
        top_p: 1,
        ..telling(&far, 1)
    };
    vec![
        share(&wide, 60, 20, 0),
        share(&wide, 60, 20, 1),
        share(&wide, 60, 7, 0),
        share(&wide, 60, 7, 1),
        share(&heavy, 60, 12, 0),
        share(&heavy, 61, 20, 1),
        share(&far, 9, 4, 0),
        share(&far, 9, 6, 1),
        share(&far, 12, 6, 0),
        few(&far, 7, 7),
        few(&far, 10, 10),
        few(&close, 2, 2),
        alone(spec, least, &far),
    ]
}

/// Draws between two tokens, one of them with a random word near the smallest or the largest, that
/// are won or lost by the last bits of a score.
fn barely(spec: &SampleSpec) -> Vec<Step> {
    let n = spec.vocab_size as usize;
    let word = |p: &SampleParams, i: usize| random_words(p.seed, p.draws, i as u32 / 4)[i % 4];
    let mut steps = Vec::new();
    for flip in [0, u32::MAX] {
        let mut params = SampleParams {
            top_k: 5,
            ..settings(9)
        };
        // Of the four tokens of a thread the first one's arithmetic stands for all.
        let rare =
            |params: &SampleParams| (0..n).step_by(4).find(|i| (word(params, *i) ^ flip) < 4096);
        let rare = loop {
            match rare(&params) {
                Some(i) => break i,
                None => params.draws += 1,
            }
        };
        let other = (rare + n / 2) % n;
        let apart = gumbel(word(&params, rare)) - gumbel(word(&params, other));
        let (high, low) = if apart > 0.0 {
            (other, rare)
        } else {
            (rare, other)
        };
        let lead = |below: f32| {
            let after = score(below, 1.0, word(&params, low));
            after - score(0.0, 1.0, word(&params, high))
        };
        let belows =
            (-64..64).map(|i| f32::from_bits(apart.abs().to_bits().wrapping_add_signed(i)));
        let belows: Vec<f32> = belows.collect();
        for sign in [1.0, -1.0] {
            let close = belows.iter().filter(|b| lead(**b) * sign > 0.0);
            let close = close.min_by(|a, b| lead(**a).abs().total_cmp(&lead(**b).abs()));
            let mut logits = vec![f32::NEG_INFINITY; n];
            logits[high] = 0.0;
            logits[low] = -close.unwrap();
            steps.push(alone(spec, params, &logits));
        }
    }
    steps
}

/// Draws that two tokens win with the same score: tokens of one quad, of two threads, of two warps,
/// and of two blocks.
fn same_score(spec: &SampleSpec) -> Vec<Step> {
    let n = spec.vocab_size as usize;
    let pairs = [1, 5, 200, n - 9].map(|apart| same_score_of(spec, apart));
    pairs.into_iter().collect()
}

/// A draw that a token among the first eight wins with the same score as one `apart` later.
fn same_score_of(spec: &SampleSpec, apart: usize) -> Step {
    let n = spec.vocab_size as usize;
    let mut params = settings(8);
    loop {
        for first in 0..8 {
            let second = first + apart;
            let points = |below: f32, i: usize| {
                let word = random_words(params.seed, params.draws, i as u32 / 4)[i % 4];
                score(below, 1.0, word)
            };
            let lead = points(0.0, first) - points(0.0, second);
            let (high, low) = if lead > 0.0 {
                (second, first)
            } else {
                (first, second)
            };
            if points(lead.abs(), low) == points(0.0, high) {
                let mut logits = vec![-40.0; n];
                logits[high] = 0.0;
                logits[low] = -lead.abs();
                return alone(spec, params, &logits);
            }
        }
        params.draws += 1;
    }
}

/// Equal logits without a temperature, the lower index with a higher lane, a higher warp or in
/// a later block; the last token's the largest by far, or infinite ones, with one.
fn equals(spec: &SampleSpec) -> Vec<Step> {
    let n = spec.vocab_size as usize;
    let at = |tokens: [usize; 2], value: f32, inv_temperature: f32| {
        let params = SampleParams {
            inv_temperature,
            ..settings(3)
        };
        let mut logits = vec![-7.0; n];
        // Not a number, at the first place that a thread looks at.
        logits[160] = f32::NAN;
        for i in tokens {
            logits[i % n] = value;
        }
        alone(spec, params, &logits)
    };
    vec![
        at([70, 1030], 2.0, 0.0),
        at([161, 1030], 2.0, 0.0),
        at([163, 700], 2.0, 0.0),
        at([4, 7], 2.0, 0.0),
        // In two blocks, and in the last one.
        at([2, n - 1], 2.0, 0.0),
        at([n - 4, n - 1], 2.0, 0.0),
        at([n - 1, n - 1], 9.0, 1.0),
        at([200, 90], f32::INFINITY, 1.0),
    ]
}
