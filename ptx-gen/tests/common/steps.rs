//! Trials of the kernels between steps: what was chosen goes into the step state.

use gannet_ptx_gen::interp::LaunchArg;
use gannet_ptx_gen::kernels::{AdvanceSpec, FeedSpec};
use gannet_ptx_gen::target::Target;

use super::trial::{Bytes, End, Launch, Trial};

/// Two steps across the end of the ring: rows that go on, that are dead and that are full, without a
/// limit, in front of one and at one. Where outputs are gathered, every other row is none, and there may
/// be more.
pub fn advance(spec: AdvanceSpec) -> Trial {
    let (width, ring_len) = (spec.num_slots as usize, spec.ring_len as usize);
    let (outputs, rows) = match spec.gathers {
        true => (width - width / 3, 2 * width),
        false => (width, width),
    };
    let indices: Vec<u32> = match spec.gathers {
        true => (0..outputs as u32).map(|i| 2 * i + 1).collect(),
        false => (0..outputs as u32).collect(),
    };
    let next: Vec<u32> = (0..outputs as u32).map(|i| 100 + i).collect();
    // All different.
    let slots: Vec<u32> = (0..rows as u32).rev().collect();
    let mut tokens: Vec<u32> = (0..rows as u32).map(|s| s + 1).collect();
    let length = |s: u32| [1, 0, spec.context - 1, spec.context, 5][s as usize % 5];
    let mut lengths: Vec<u32> = (0..rows as u32).map(length).collect();
    // The last that a row sees, or one more, or two.
    let beyond = |s: u32| [None, Some(0), Some(1), Some(2)][s as usize / 5 % 4];
    let limit = |s: u32| beyond(s).map_or(0, |more| length(s) + more);
    let limits: Vec<u32> = (0..rows as u32).map(limit).collect();
    let mut positions: Vec<u32> = lengths.iter().map(|l| l.saturating_sub(1)).collect();
    let mut latest: Vec<u32> = (0..rows as u32).map(|s| 1000 + s).collect();
    let done = spec.ring_len * 7 - 1;
    let mut ring = vec![0u32; width * ring_len + 1];
    let launch = Launch::new(spec.grid()).turns(2).input(&next);
    let before = (
        tokens.clone(),
        lengths.clone(),
        ring.clone(),
        positions.clone(),
        latest.clone(),
    );
    for turn in 0..2 {
        for (i, s) in indices.iter().map(|&s| s as usize).enumerate() {
            if lengths[s] == 0 {
                continue;
            }
            tokens[s] = next[i];
            latest[slots[s] as usize] = next[i];
            let is_last = limits[s] > 0 && lengths[s] >= limits[s];
            lengths[s] = match is_last {
                true => 0,
                false => (lengths[s] + 1).min(spec.context),
            };
            positions[s] = lengths[s].saturating_sub(1);
            ring[(done as usize + turn) % ring_len * width + i] = next[i];
        }
    }
    ring[width * ring_len] = done + 2;
    let launch = launch
        .in_out(&before.0, End::Bytes(tokens.bytes()))
        .in_out(&before.1, End::Bytes(lengths.bytes()))
        .input(&limits)
        .input(&slots)
        .in_out(&before.4, End::Bytes(latest.bytes()))
        .in_out(&[done], End::Bytes([done + 2].bytes()))
        .in_out(&before.2, End::Bytes(ring.bytes()));
    let launch = match spec.positions {
        true => launch.in_out(&before.3, End::Bytes(positions.bytes())),
        false => launch,
    };
    let launch = match spec.gathers {
        true => (launch.input(&indices)).scalar(LaunchArg::U32(outputs as u32)),
        false => launch,
    };
    Trial {
        kernel: spec.kernel(),
        launches: vec![launch],
    }
}

/// Tokens that are known, and such as were chosen.
pub fn feed(target: Target, lengths: &[u32]) -> Trial {
    let spec = FeedSpec { target };
    let launch = |&n: &u32| {
        let known = |i: u32| !i.is_multiple_of(3);
        let slots: Vec<u32> = (0..n).map(|i| (i * 7 + 1) % 11).collect();
        let latest: Vec<u32> = (0..11).map(|s| 500 + s).collect();
        let given = |i: u32| if known(i) { i } else { FeedSpec::CHOSEN };
        let fed = |i: u32| match known(i) {
            true => i,
            false => latest[slots[i as usize] as usize],
        };
        let fed: Vec<u32> = (0..n).map(fed).collect();
        Launch::new(spec.grid(n))
            .in_out(
                &(0..n).map(given).collect::<Vec<_>>(),
                End::Bytes(fed.bytes()),
            )
            .input(&slots)
            .input(&latest)
            .scalar(LaunchArg::U32(n))
    };
    Trial {
        kernel: spec.kernel(),
        launches: lengths.iter().map(launch).collect(),
    }
}
