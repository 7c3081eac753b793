//! Sampling where little decides: launches for kernels that are nearly right.

use gannet_ptx_gen::kernels::sample_math::{gumbel, mass, random_words, score};
use gannet_ptx_gen::kernels::{SampleParams, SampleSpec};

use super::Random;
use super::sample::{Slot, alone, launch, near_ties, settings, telling};
use super::trial::Launch;

/// Few launches of one row each that leave little room for a kernel that is nearly right: what
/// decides is one unit of mass, one depth, one rounding or one place in the row.
pub fn hair(spec: &SampleSpec) -> Vec<Launch> {
    let mut launches = vec![long_window(spec)];
    launches.extend(windows(spec));
    launches.extend(lists(spec));
    launches.extend(narrowed(spec));
    launches.extend(barely(spec));
    launches.extend(misleading(spec));
    launches.extend(same_score(spec));
    launches.extend(equals(spec));
    launches
}

/// A slot with settings and no history.
fn fresh(params: SampleParams) -> Slot {
    let history = Vec::new();
    Slot { params, history }
}

/// Penalties of as many tokens as the window has, most of them several times, the last of the
/// vocabulary and the first beyond it among them; logits around zero.
fn long_window(spec: &SampleSpec) -> Launch {
    let last = spec.vocab_size - 1;
    let token = |i: u32| match i % 16 {
        0 => last,
        1 => last + 1,
        i => 7 * i,
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
    launch(spec, &[slot], &[Some(0)], &logits, 1)
}

/// The largest logit is that of a token among the latest, the only one, the last one of which no
/// more are looked at, or one that a thread of the second warp has.
fn windows(spec: &SampleSpec) -> [Launch; 3] {
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
        launch(spec, &[Slot { params, history }], &[Some(0)], &logits, 1)
    })
}

/// Near ties among as many tokens as fit in a list, and among one more.
fn lists(spec: &SampleSpec) -> [Launch; 2] {
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
fn narrowed(spec: &SampleSpec) -> Vec<Launch> {
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
fn barely(spec: &SampleSpec) -> Vec<Launch> {
    let n = spec.vocab_size as usize;
    let word = |p: &SampleParams, i: usize| random_words(p.seed, p.draws, i as u32 / 4)[i % 4];
    let mut launches = Vec::new();
    for flip in [0, u32::MAX] {
        let mut params = SampleParams {
            top_k: 5,
            ..settings(9)
        };
        let rare = |params: &SampleParams| (0..n).find(|i| (word(params, *i) ^ flip) < 4096);
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
            launches.push(alone(spec, params, &logits));
        }
    }
    launches
}

/// Draws whose winner has the second largest bound of its thread, which has it in its first or in
/// its second turn: for vocabularies of more tokens than four a thread.
fn misleading(spec: &SampleSpec) -> Vec<Launch> {
    let n = spec.vocab_size as usize;
    let unit = |word: u32| (f64::from(word) + 0.5) / 4_294_967_296.0;
    // Both belong to thread 1 of 256.
    [(5, 1029), (1029, 5)]
        .into_iter()
        .filter(|(a, b)| *a.max(b) < n)
        .map(|(loose, winner)| {
            let mut params = settings(31);
            loop {
                let word = |i: usize| random_words(params.seed, params.draws, i as u32 / 4)[i % 4];
                let (v, w) = (unit(word(loose)), unit(word(winner)));
                if v > 0.9 && (0.05..0.3).contains(&w) {
                    let mut logits = vec![f32::NEG_INFINITY; n];
                    logits[loose] = 0.0;
                    logits[winner] = (w.ln() - v.ln() - 0.05) as f32;
                    return alone(spec, params, &logits);
                }
                params.draws += 1;
            }
        })
        .collect()
}

/// A draw that two tokens win with the same score, of which one thread has both in the list, the
/// one with the higher index first where one warp after the other copies its tokens.
fn same_score(spec: &SampleSpec) -> Option<Launch> {
    let (n, threads) = (spec.vocab_size as usize, 256);
    let listed = n - n.div_ceil(2)..n;
    let mut order = Vec::new();
    for (warp, turn) in (0..8).flat_map(|warp| (0..n.div_ceil(4 * threads)).map(move |t| (warp, t)))
    {
        for (j, lane) in (0..4).flat_map(|j| (0..32).map(move |lane| (j, lane))) {
            order.push(4 * (threads * turn + 32 * warp + lane) + j);
        }
    }
    order.retain(|token| listed.contains(token));
    let pairs = order.iter().zip(&order[threads..]);
    let pairs: Vec<(usize, usize)> = pairs.map(|(a, b)| (*a, *b)).collect();
    for draws in 0..100 {
        let params = SampleParams {
            top_k: u32::MAX,
            draws,
            ..settings(8)
        };
        let points = |below: f32, i: usize| {
            score(
                below,
                1.0,
                random_words(params.seed, draws, i as u32 / 4)[i % 4],
            )
        };
        for &(first, second) in pairs.iter().filter(|(a, b)| a > b) {
            let apart = points(0.0, first) - points(0.0, second);
            let (high, low) = if apart > 0.0 {
                (second, first)
            } else {
                (first, second)
            };
            if points(apart.abs(), low) == points(0.0, high) {
                let mut logits = vec![-40.0; n];
                logits[..listed.start].fill(f32::NEG_INFINITY);
                logits[high] = 0.0;
                logits[low] = -apart.abs();
                return Some(alone(spec, params, &logits));
            }
        }
    }
    None
}

/// Equal logits without a temperature, the lower index with a higher lane or a higher warp, and
/// infinite ones with one.
fn equals(spec: &SampleSpec) -> Vec<Launch> {
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
        at([200, 90], f32::INFINITY, 1.0),
    ]
}
