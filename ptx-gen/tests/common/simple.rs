//! Kernels that move or map rows, with their plain meaning.

use gannet_ptx_gen::interp::LaunchArg;
use gannet_ptx_gen::kernels::{
    Activation, AddSpec, ArgmaxSpec, GatherRowsSpec, GluSpec, KvWriteSpec, LayerNormSpec, Map,
    MapSpec, NO_TOKEN, NormAddNormSpec, RmsNormSpec, RopeKind, RopeSpec, StreamReadSpec,
};
use gannet_ptx_gen::target::Target;

use super::trial::{Bytes, End, Launch, Trial};
use super::{Random, kv, rotation};

/// Sums of vectors of these lengths, the last one in place.
pub fn add(target: Target, lengths: &[u32]) -> Trial {
    let spec = AddSpec { target };
    let launch = |(i, n): (usize, &u32)| {
        let mut random = Random::new(u64::from(*n));
        let (a, b) = (random.gaussians(*n as usize), random.gaussians(*n as usize));
        let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        let end = End::Bytes(sum.bytes());
        let launch = Launch::new(spec.grid(*n));
        let launch = if i + 1 == lengths.len() {
            launch.in_out(&a, end).input(&b).again(0)
        } else {
            launch.input(&a).input(&b).output(4 * a.len(), end)
        };
        launch.scalar(LaunchArg::U32(*n))
    };
    Trial {
        kernel: spec.kernel(),
        launches: lengths.iter().enumerate().map(launch).collect(),
    }
}

/// The activation's formula.
pub fn plain(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => {
            let c = (2.0 / std::f64::consts::PI).sqrt();
            x / 2.0 * (1.0 + (c * (x + 0.044_715 * x.powi(3))).tanh())
        }
    }
}

/// Gated units of vectors of these lengths, and of gates at which exponentials overflow.
pub fn glu(target: Target, activation: Activation, lengths: &[u32]) -> Trial {
    let spec = GluSpec { target, activation };
    let launch = |n: &u32| {
        let mut random = Random::new(u64::from(*n));
        let (g, u) = (random.gaussians(*n as usize), random.gaussians(*n as usize));
        let product = |(&g, &u): (&f32, &f32)| plain(activation, g.into()) * f64::from(u);
        Launch::new(spec.grid(*n))
            .input(&g)
            .input(&u)
            .floats(g.iter().zip(&u).map(product).collect(), 1e-12)
            .scalar(LaunchArg::U32(*n))
    };
    let gate = [-1e30f32, -200.0, -90.0, 90.0, 200.0, 1e30, 0.0, -0.0];
    let end = End::Each {
        values: gate.map(|v| f64::from(v).max(0.0)).to_vec(),
        absolute: 1e-30,
        relative: 0.0,
    };
    let extremes = Launch::new(spec.grid(8))
        .input(&gate)
        .input(&[1f32; 8])
        .output(32, end)
        .scalar(LaunchArg::U32(8));
    Trial {
        kernel: spec.kernel(),
        launches: lengths.iter().map(launch).chain([extremes]).collect(),
    }
}

/// The function's formula.
fn mapped(map: Map, x: f64) -> f64 {
    match map {
        Map::Scale(factor) => x * f64::from(factor),
        Map::Softcap(cap) => f64::from(cap) * (x / f64::from(cap)).tanh(),
        Map::Activate(activation) => plain(activation, x),
    }
}

/// Functions of vectors of these lengths, the last one in place, and of values at which exponentials
/// overflow.
pub fn map(target: Target, map: Map, lengths: &[u32]) -> Trial {
    let spec = MapSpec { target, map };
    let launch = |(i, n): (usize, &u32)| {
        let mut random = Random::new(u64::from(*n));
        let x: Vec<f32> = (random.gaussians(*n as usize).iter())
            .map(|v| 20.0 * v)
            .collect();
        let values: Vec<f64> = x.iter().map(|&v| mapped(map, v.into())).collect();
        let launch = Launch::new(spec.grid(*n));
        let launch = if i + 1 == lengths.len() {
            let nmse = 1e-12;
            launch.in_out(&x, End::Near { values, nmse }).again(0)
        } else {
            launch.input(&x).floats(values, 1e-12)
        };
        launch.scalar(LaunchArg::U32(*n))
    };
    let extremes = [-1e30f32, -200.0, 200.0, 1e30, 0.0, -0.0];
    let end = End::Each {
        values: extremes.map(|v| mapped(map, v.into())).to_vec(),
        absolute: 1e-5,
        relative: 1e-6,
    };
    let extremes = Launch::new(spec.grid(6))
        .input(&extremes)
        .output(24, end)
        .scalar(LaunchArg::U32(6));
    Trial {
        kernel: spec.kernel(),
        launches: (lengths.iter().enumerate().map(launch))
            .chain([extremes])
            .collect(),
    }
}

/// How large the values of a row are: from one down to where `eps` decides, but for the second row,
/// whose squares f32 does not hold.
fn size(r: u32) -> f32 {
    match r {
        1 => 3e30,
        _ => 10f32.powi(-(r as i32)),
    }
}

/// A norm of rows, then the same in place.
pub fn rms_norm(spec: RmsNormSpec, rows: u32) -> Trial {
    let dim = spec.dim as usize;
    let mut random = Random::new(u64::from(spec.dim));
    let x: Vec<f32> = (0..rows)
        .flat_map(|r| random.gaussians(dim).into_iter().map(move |v| v * size(r)))
        .collect();
    let w = random.gaussians(dim);
    let added = match spec.residual {
        true => random.gaussians(x.len()),
        false => vec![0.0; x.len()],
    };
    let expected: Vec<f64> = x
        .chunks_exact(dim)
        .flat_map(|row| {
            let mean = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / dim as f64;
            let scale = 1.0 / (mean + f64::from(spec.eps)).sqrt();
            let w = &w;
            (0..dim).map(move |i| f64::from(row[i]) * scale * f64::from(w[i]))
        })
        .zip(&added)
        .map(|(normed, added)| normed + f64::from(*added))
        .collect();
    let nmse = 1e-12;
    let end = || End::Near {
        values: expected.clone(),
        nmse,
    };
    let apart = Launch::new(spec.grid(rows)).input(&x).input(&w);
    let apart = apart.floats(expected.clone(), nmse);
    let in_place = Launch::new(spec.grid(rows)).in_out(&x, end()).input(&w);
    let mut launches = vec![apart, in_place.again(0)];
    if spec.residual {
        launches = (launches.into_iter())
            .map(|launch| launch.input(&added))
            .collect();
        // In the residual's place.
        let onto = Launch::new(spec.grid(rows)).input(&x).input(&w);
        launches.push(onto.in_out(&added, end()).again(2));
    }
    Trial {
        kernel: spec.kernel(),
        launches,
    }
}

/// A layer norm of rows of different size, the last so small that `eps` decides, around means that
/// are far from zero: of rows apart, then in place.
pub fn layer_norm(spec: LayerNormSpec, rows: u32) -> Trial {
    let dim = spec.dim as usize;
    let mut random = Random::new(u64::from(spec.dim));
    let row = |r: u32, values: Vec<f32>| {
        values
            .into_iter()
            .map(move |v| (v + 3.0 * r as f32) * size(r))
    };
    let x: Vec<f32> = (0..rows)
        .flat_map(|r| row(r, random.gaussians(dim)))
        .collect();
    let (w, bias) = (random.gaussians(dim), random.gaussians(dim));
    let added = |i: usize| if spec.bias { f64::from(bias[i]) } else { 0.0 };
    let mut expected = Vec::new();
    for row in x.chunks_exact(dim) {
        let row: Vec<f64> = row.iter().map(|&v| v.into()).collect();
        let mean = row.iter().sum::<f64>() / dim as f64;
        let squares = row.iter().map(|v| (v - mean).powi(2));
        let variance = squares.sum::<f64>() / dim as f64;
        let scale = 1.0 / (variance + f64::from(spec.eps)).sqrt();
        let normed = row.iter().enumerate();
        expected.extend(normed.map(|(i, v)| (v - mean) * scale * f64::from(w[i]) + added(i)));
    }
    let nmse = 1e-12;
    let end = End::Near {
        values: expected.clone(),
        nmse,
    };
    let apart = Launch::new(spec.grid(rows)).input(&x).input(&w);
    let apart = apart.floats(expected, nmse);
    let in_place = Launch::new(spec.grid(rows)).in_out(&x, end).input(&w);
    let launches = [apart, in_place.again(0)].map(|launch| match spec.bias {
        true => launch.input(&bias),
        false => launch,
    });
    Trial {
        kernel: spec.kernel(),
        launches: launches.into(),
    }
}

/// A norm, a sum and a norm of rows, apart and over their inputs.
pub fn norm_add_norm(spec: NormAddNormSpec, rows: u32) -> Trial {
    let dim = spec.dim as usize;
    let mut random = Random::new(u64::from(spec.dim));
    let mut sized = |first: u32| -> Vec<f32> {
        (first..first + rows)
            .flat_map(|r| random.gaussians(dim).into_iter().map(move |v| v * size(r)))
            .collect()
    };
    // Sums of one size, so that each counts: all large or all small.
    let (x, residual) = match rows {
        1 => (sized(1), sized(1)),
        _ => (sized(0), sized(2)),
    };
    let (w, w_next) = (random.gaussians(dim), random.gaussians(dim));
    let norm = |row: &[f64], w: &[f32]| -> Vec<f64> {
        let mean = row.iter().map(|v| v * v).sum::<f64>() / dim as f64;
        let scale = 1.0 / (mean + f64::from(spec.eps)).sqrt();
        row.iter()
            .zip(w)
            .map(|(v, &w)| v * scale * f64::from(w))
            .collect()
    };
    let (mut out, mut next) = (Vec::new(), Vec::new());
    for (x, r) in x.chunks_exact(dim).zip(residual.chunks_exact(dim)) {
        let x: Vec<f64> = x.iter().map(|&v| v.into()).collect();
        let normed = norm(&x, &w);
        let sum: Vec<f64> = normed
            .iter()
            .zip(r)
            .map(|(n, &r)| n + f64::from(r))
            .collect();
        next.extend(norm(&sum, &w_next));
        out.extend(sum);
    }
    let near = |values: &[f64]| End::Near {
        values: values.to_vec(),
        nmse: 1e-12,
    };
    let apart = Launch::new(spec.grid(rows))
        .input(&x)
        .input(&w)
        .input(&residual)
        .input(&w_next)
        .floats(out.clone(), 1e-12)
        .floats(next.clone(), 1e-12);
    let over = Launch::new(spec.grid(rows))
        .in_out(&x, near(&next))
        .input(&w)
        .in_out(&residual, near(&out))
        .input(&w_next)
        .again(2)
        .again(0);
    Trial {
        kernel: spec.kernel(),
        launches: vec![apart, over],
    }
}

/// Rotations of four rows, one of them at no position, apart and in place.
pub fn rope(spec: RopeSpec) -> Trial {
    let lengths = [1u32, 6, 0, 3];
    let mut random = Random::new(9);
    let x = random.gaussians(lengths.len() * (spec.num_heads * spec.head_dim) as usize);
    let table = random.gaussians(6 * spec.rot_dim as usize);
    let values = rotated(&spec, &x, &lengths, &table);
    let nmse = 1e-12;
    let apart = Launch::new(spec.grid(4))
        .input(&x)
        .input(&lengths)
        .input(&table);
    let in_place = Launch::new(spec.grid(4))
        .in_out(
            &x,
            End::Near {
                values: values.clone(),
                nmse,
            },
        )
        .input(&lengths)
        .input(&table);
    Trial {
        kernel: spec.kernel(),
        launches: vec![apart.floats(values, nmse), in_place.again(0)],
    }
}

fn rotated(spec: &RopeSpec, x: &[f32], lengths: &[u32], table: &[f32]) -> Vec<f64> {
    let (dim, rot) = (spec.head_dim as usize, spec.rot_dim as usize);
    let mut out: Vec<f64> = x.iter().map(|&v| v.into()).collect();
    let row = spec.num_heads as usize * dim;
    for (t, row) in out.chunks_exact_mut(row).enumerate() {
        let position = lengths[t].max(1) as usize - 1;
        for head in row.chunks_exact_mut(dim) {
            for i in 0..rot / 2 {
                let (a, b) = match spec.kind {
                    RopeKind::Interleaved => (2 * i, 2 * i + 1),
                    RopeKind::Neox => (i, i + rot / 2),
                };
                let angle = &table[position * rot + 2 * i..];
                let (cos, sin) = (f64::from(angle[0]), f64::from(angle[1]));
                let (x, y) = (head[a], head[b]);
                head[a] = x * cos - y * sin;
                head[b] = x * sin + y * cos;
            }
        }
    }
    out
}

/// Keys and values of four rows of two slots, one row dead; what no row writes stays zero.
pub fn kv_write(spec: KvWriteSpec) -> Trial {
    let (tokens, blocks) = (spec.block_tokens, spec.max_blocks);
    // The dead row's slot is none.
    let (lengths, slots) = ([tokens + 1, 1, 0, 3 * tokens], [1u32, 0, u32::MAX / 2, 1]);
    let heads = spec.num_kv_heads as usize;
    let dim = spec.head_dim as usize;
    // Slot 1's blocks in descending order, slot 0's from its second on; past the third the table is not
    // read.
    let mut table = vec![u32::MAX; 2 * blocks as usize];
    for i in 0..3 {
        table[i] = (i as u32 + 1) % 3;
        table[blocks as usize + i] = 5 - i as u32;
    }
    let mut random = Random::new(4);
    let row = heads * dim;
    let sources = [random.gaussians(4 * row), random.gaussians(4 * row)];
    let len = 6 * row * tokens as usize;
    let written = |source: &[f32]| {
        let mut pool = vec![0f32; len];
        for t in [0usize, 1, 3] {
            let position = lengths[t] - 1;
            let block = table[(slots[t] * blocks + position / tokens) as usize] as usize;
            for h in 0..heads {
                for i in 0..dim {
                    let line = (block * heads + h) * tokens as usize + (position % tokens) as usize;
                    pool[line * dim + i] = source[t * row + h * dim + i];
                }
            }
        }
        kv::pool(spec.kv_type, &pool, dim, tokens as usize)
    };
    let [k, v] = &sources;
    let mut turned = k.clone();
    let angles = spec.rope.map(|kind| {
        let angles = rotation::angles(&mut random, 3 * tokens, spec.head_dim);
        rotation::rotate(kind, spec.head_dim, &mut turned, &lengths, &angles);
        angles
    });
    let [k_pool, v_pool] = [&turned, v].map(|s| written(s));
    let empty = vec![0u8; k_pool.len()];
    let launch = Launch::new(spec.grid(4))
        .input(k)
        .input(v)
        .input(&lengths)
        .input(&slots)
        .input(&table);
    let launch = angles.iter().fold(launch, |launch, a| launch.input(a));
    let launch = launch
        .in_out(&empty, End::Bytes(k_pool))
        .in_out(&empty, End::Bytes(v_pool));
    Trial {
        kernel: spec.kernel(),
        launches: vec![launch],
    }
}

/// Rows of minus infinity, of NaN, of many equals with some NaN between, with one largest value
/// (at an end, or somewhere: in many places, as the way to the result depends on it) or two, and of
/// values far below zero.
pub fn argmax(spec: ArgmaxSpec) -> Trial {
    let n = spec.vocab_size as usize;
    let mut random = Random::new(u64::from(spec.vocab_size));
    let rows = 63;
    let mut logits: Vec<f32> = (0..rows * n)
        .map(|_| random.below(50) as f32 - 25.0)
        .collect();
    logits[..n].fill(f32::NEG_INFINITY);
    logits[n..2 * n].fill(f32::NAN);
    for i in (0..5 * n).step_by(3) {
        logits[i] = if i < 2 * n { logits[i] } else { f32::NAN };
    }
    logits[6 * n - 1] = 100.0;
    logits[6 * n] = 100.0;
    for logit in &mut logits[7 * n..8 * n] {
        *logit -= 1000.0;
    }
    // One largest value at each of the places that a thread reads in a turn.
    for row in 8..28 {
        let read = row as u32 - 8;
        let at = read / 4 * 4096 + 4 * random.below(900) + read % 4;
        logits[row * n + at as usize % n] = 100.0;
    }
    // Two: in neighbouring threads and lanes, in those two away, .. and anywhere.
    for row in 28..42 {
        let (first, bit) = (random.below(n as u32) as usize, row - 28);
        let second = if bit < 10 {
            first ^ (1 << bit)
        } else {
            random.below(n as u32) as usize
        };
        for at in [first, second % n] {
            logits[row * n + at] = 100.0;
        }
    }
    // Two again, the first one in a thread that is 1, 2, 4, .. behind.
    let (stride, width) = if n.is_multiple_of(4) {
        (4096, 4)
    } else {
        (1024, 1)
    };
    for row in 42..52 {
        let bit = 1 << (row - 42);
        let thread = random.below(1024) as usize & !bit;
        for at in [(thread | bit) * width, stride + thread * width] {
            logits[row * n + at % n] = 100.0;
        }
    }
    // Nothing that could win, the first one not even minus infinity.
    logits[52 * n..53 * n].fill(f32::NEG_INFINITY);
    logits[52 * n] = f32::NAN;
    logits[53 * n..54 * n].fill(7.0);
    // The first of a second turn.
    logits[54 * n + stride % n] = 100.0;
    // Minus infinity may be anywhere; NaN or plus infinity nowhere, whatever is beside them.
    for at in (0..3 * n).step_by(2) {
        logits[55 * n + at] = f32::NEG_INFINITY;
    }
    for (row, spoilt) in (56..62).zip([f32::NAN, f32::INFINITY].into_iter().cycle()) {
        logits[row * n + random.below(n as u32) as usize] = spoilt;
    }
    // Sums of these would overflow.
    for (i, value) in logits[62 * n..].iter_mut().enumerate() {
        *value = match i % 16 {
            15 => f32::NEG_INFINITY,
            _ => value.abs() * 1e37,
        };
    }
    let best = |row: &[f32]| {
        if row.iter().any(|v| v.is_nan() || *v == f32::INFINITY) {
            return NO_TOKEN;
        }
        let mut best = (f32::NEG_INFINITY, NO_TOKEN);
        for (i, &v) in row.iter().enumerate() {
            if v > best.0 {
                best = (v, i as u32);
            }
        }
        best.1
    };
    let expected: Vec<u32> = logits.chunks_exact(n).map(best).collect();
    // In several launches, so that a mutant need not run them all.
    let launches = logits.chunks(9 * n).zip(expected.chunks(9));
    let launch = |(logits, expected): (&[f32], &[u32])| {
        Launch::new(spec.grid(expected.len() as u32))
            .input(logits)
            .output(4 * expected.len(), End::Bytes(expected.bytes()))
    };
    Trial {
        kernel: spec.kernel(),
        launches: launches.map(launch).collect(),
    }
}

/// Three of six rows.
pub fn gather_rows(spec: GatherRowsSpec) -> Trial {
    let dim = spec.dim as usize;
    let x = Random::new(1).gaussians(6 * dim);
    let indices = [5u32, 0, 5];
    let row = |&i: &u32| x[i as usize * dim..][..dim].to_vec();
    let expected: Vec<f32> = indices.iter().flat_map(row).collect();
    let launch = Launch::new(spec.grid(3))
        .input(&x)
        .input(&indices)
        .output(12 * dim, End::Bytes(expected.bytes()));
    Trial {
        kernel: spec.kernel(),
        launches: vec![launch],
    }
}

/// Reads of buffers by three blocks. What a thread read shows only where it folds to one word, so
/// there are launches in which exactly one thread's share does.
pub fn stream_read(target: Target) -> Trial {
    const FOLD: u32 = 0x9E37_79B9;
    let spec = StreamReadSpec { target };
    let (blocks, each, threads) = (3usize, 2048usize, 256usize);
    let launch = |n16: usize, reader: Option<usize>| {
        let mut random = Random::new(n16 as u64);
        let mut data: Vec<u32> = (0..4 * n16.max(1)).map(|_| random.bits() as u32).collect();
        if let Some(reader) = reader {
            let owner = |word: usize| word / each % blocks * threads + word % threads;
            let own: Vec<usize> = (0..4 * n16).filter(|i| owner(i / 4) == reader).collect();
            let fold = own.iter().fold(0, |fold, i| fold ^ data[*i]);
            data[own[0]] ^= fold ^ FOLD;
        }
        let sink = if reader.is_some() { FOLD } else { 7 };
        Launch::new([blocks as u32, 1, 1])
            .input(&data)
            .in_out(&[7u32], End::Bytes([sink].bytes()))
            .scalar(LaunchArg::U64(n16 as u64))
    };
    // Whole and ragged turns, and none at all.
    let quiet = [0, 1, 2047, 2048, 6144 + 300, 7000];
    let read = [
        (1, 0),
        (2047, 254),
        (2047, 255),
        (2048, 255),
        (6144 + 300, 5),
        (6144 + 300, 100),
        (7000, 10),
        (13_000, 256 + 17),
        (13_000, 512),
    ];
    Trial {
        kernel: spec.kernel(),
        launches: (quiet.into_iter().map(|n16| launch(n16, None)))
            .chain(
                read.into_iter()
                    .map(|(n16, reader)| launch(n16, Some(reader))),
            )
            .collect(),
    }
}
