//! What is served, held against what was held against the CPU.
//!
//! A unit that computes right does not make a step right: a graph may miss a launch or keep an old
//! address, and prompts and batches run on kernels of their own. So whole steps run as they are
//! served, on positions of the cache that nobody has written, and then by launches that were looked
//! at before: the same launches must give the same bits, others nearly the same.
//!
//! - A decoded token, and the tokens of a batch of all slots: replayed, against launch by launch.
//! - That batch, of each of two slots: against the slot alone.
//! - A chunk of a prompt on the kernels for many rows: against the same tokens in short steps, by
//!   the residual stream that leaves the last layer, row by row.
//!
//! Where launch by launch no numbers come out either, the model has none of these tokens.

use std::ops::{ControlFlow, Range};

use super::{BATCH_STEPS, Coverage, PROMPT, SLACK, tokens};
use crate::Error;
use crate::exec::sample::Sampling;
use crate::exec::trace::{Replay, explain_row, is_finite, is_idle};
use crate::exec::{DecodeStart, Inspect, Step, StepRows};
use crate::kv::BlockTable;
use crate::plan::{Op, StepRow};
use crate::tools::parity::{
    ALONE_LIMIT, BufferRow, Report, alone_limit, bit_equal, compare_tokens, error,
};

/// Runs what the sizes of the executor allow; a report of each step.
pub(super) fn check(
    device: &mut dyn Inspect,
    coverage: Coverage,
    table: &mut BlockTable,
) -> Result<Vec<Report>, Error> {
    let vocab_size = device.plan().vocab_size;
    let first = tokens(0, coverage.positions(), vocab_size);
    let mut done = coverage.prompt + 1;
    let mut reports = Vec::new();
    if coverage.decoded {
        done += 1;
        let sequence = [first[..done].to_vec()];
        reports.push(replayed(device, &sequence, table)?.0);
    }
    if coverage.chunk > 0 {
        let range = done..done + coverage.chunk;
        done = range.end;
        reports.extend(chunk(device, &first, range, table)?);
    }
    if coverage.batch > 0 {
        let sequences = (0..coverage.batch).map(|slot| match slot {
            0 => first[..done].to_vec(),
            _ => Vec::new(),
        });
        reports.extend(batch(device, sequences.collect(), table)?);
    }
    Ok(reports)
}

/// What a step gives: logits of its outputs, and the most likely tokens.
type Results = (Vec<f32>, Vec<u32>);

/// The step of each sequence's last token, decoded and then launch by launch, and what it gives.
fn replayed(
    device: &mut dyn Inspect,
    sequences: &[Vec<u32>],
    table: &BlockTable,
) -> Result<(Report, Results), Error> {
    let greedy = Sampling::default();
    let starts: Vec<DecodeStart<'_>> = (sequences.iter().enumerate())
        .map(|(slot, tokens)| DecodeStart::after(slot, tokens, &greedy))
        .collect();
    device.poison()?;
    let mut chosen = vec![Vec::new(); sequences.len()];
    let went = device.decode(&starts, 1, table, &mut |i, token| {
        chosen[i].push(token);
        ControlFlow::Continue(())
    });
    // Where launch by launch numbers come out, the fault is of how it is served.
    let no_numbers = match went {
        Err(Error::NotFinite(why)) => Some(why),
        other => other.map(|()| None)?,
    };
    let live = sequences.len() * device.plan().vocab_size;
    let decoded = match no_numbers {
        Some(_) => vec![f32::NAN; live],
        None => device.logits()?.to_vec(),
    };
    let rows = StepRows::last_of_each(sequences);
    let step = rows.step(table);
    let (logits, next) = unit_by_unit(device, &step)?;
    let mut report = report(device, "one launch after the other", &step);
    // What dead rows hold means nothing.
    if let Some(why) = no_numbers.filter(|_| logits[..live].iter().any(|l| !l.is_finite())) {
        return Err(why.into());
    }
    report
        .buffers
        .push(same_bits(&logits[..live], &decoded[..live]));
    for (slot, (next, chosen)) in next.iter().zip(&chosen).enumerate() {
        report
            .buffers
            .push(compare_tokens("decode", slot, &[*next], chosen));
    }
    Ok((report, (logits, next)))
}

/// A chunk of a prompt of the first slot, and then its tokens in short steps.
fn chunk(
    device: &mut dyn Inspect,
    tokens: &[u32],
    range: Range<usize>,
    table: &BlockTable,
) -> Result<Option<Report>, Error> {
    let plan = device.plan();
    let stream = plan.ops.iter().find_map(|op| match op {
        Op::GatherOutputs { x, .. } => Some(*x),
        _ => None,
    });
    let Some(stream) = stream else {
        return Ok(None);
    };
    let (name, cols) = (plan.buffer(stream).name.clone(), plan.buffer(stream).cols);
    // Without outputs nothing runs after the last layer: the stream is there when the step ends.
    let rows_of = |range: Range<usize>| {
        let start = range.start;
        StepRows::prompt(&tokens[range], 0, start)
    };
    device.poison()?;
    let whole = rows_of(range.clone());
    device.run(&whole.step(table))?;
    let found = device.read(stream)?.unwrap_or_default();
    let mut expected = Vec::new();
    for from in range.clone().step_by(PROMPT) {
        let part = rows_of(from..range.end.min(from + PROMPT));
        device.run(&part.step(table))?;
        expected.extend(device.read(stream)?.unwrap_or_default());
    }
    // Launches that were held against the CPU, on tokens of which the model makes no numbers.
    if let Some(row) = expected.chunks_exact(cols).position(|row| !is_finite(row)) {
        let replay = Replay {
            tokens: &tokens[..range.end],
            from: range.start,
            slot: 0,
            table,
        };
        return Err(replay.explain_from(range.start + row, device));
    }
    let left = format!("the same in steps of {PROMPT}");
    let mut report = report(device, &left, &whole.step(table));
    let place = Place {
        unit: "last layer",
        buffer: &name,
    };
    let rows = expected.chunks_exact(cols).zip(found.chunks_exact(cols));
    let rows = rows.map(|(l, r)| near(&place, l, r, ALONE_LIMIT));
    // One row stands for all, since one tile of a product may be wrong.
    let worst = rows.max_by(|a, b| a.nmse.total_cmp(&b.nmse));
    report
        .buffers
        .extend(worst.filter(|_| found.len() == expected.len()));
    Ok(Some(report))
}

/// A batch of all sequences, which takes each some tokens further.
fn batch(
    device: &mut dyn Inspect,
    mut sequences: Vec<Vec<u32>>,
    table: &mut BlockTable,
) -> Result<Vec<Report>, Error> {
    let vocab_size = device.plan().vocab_size;
    let starts: Vec<usize> = sequences.iter().map(Vec::len).collect();
    let full: Vec<Vec<u32>> = (starts.iter().enumerate())
        .map(|(slot, start)| tokens(slot, start + BATCH_STEPS, vocab_size))
        .collect();
    let grow = |sequences: &mut Vec<Vec<u32>>, by: usize| {
        for ((sequence, full), start) in sequences.iter_mut().zip(&full).zip(&starts) {
            *sequence = full[..start + by].to_vec();
        }
    };
    for (slot, tokens) in full.iter().enumerate() {
        table.reserve(slot, tokens.len())?;
    }
    for by in 1..BATCH_STEPS {
        grow(&mut sequences, by);
        let step = StepRows::last_of_each(&sequences);
        let (logits, _) = unit_by_unit(device, &step.step(table))?;
        for (slot, logits) in logits.chunks_exact(vocab_size).enumerate() {
            match sequences.get(slot) {
                Some(tokens) if !is_finite(logits) => has_numbers(device, tokens, slot, table)?,
                _ => {}
            }
        }
    }
    grow(&mut sequences, BATCH_STEPS);
    let (report_replayed, (together, _)) = replayed(device, &sequences, table)?;
    let rows = StepRows::last_of_each(&sequences);
    let step = rows.step(table);
    let units = device.units(step.shape())?;
    let mut report = report(device, "each sequence alone", &step);
    for slot in [0, sequences.len() - 1] {
        let (start, tokens) = (starts[slot], &sequences[slot]);
        let mut alone = Vec::new();
        let mut limit = ALONE_LIMIT;
        for at in start..tokens.len() {
            let rows = StepRows::of_slot(tokens, slot, at..at + 1);
            let step = rows.step(table);
            (alone, _) = unit_by_unit(device, &step)?;
            limit = alone_limit(&device.units(step.shape())?, &units);
        }
        let together = &together[slot * vocab_size..][..vocab_size];
        let place = Place {
            unit: "logits",
            buffer: &format!("logits of slot {slot}"),
        };
        report.buffers.push(near(&place, &alone, together, limit));
    }
    Ok(vec![report_replayed, report])
}

/// Runs the last token of a sequence alone.
///
/// # Errors
/// [`Error::NotFinite`] where that gives no numbers.
fn has_numbers(
    device: &mut dyn Inspect,
    tokens: &[u32],
    slot: usize,
    table: &BlockTable,
) -> Result<(), Error> {
    let row = StepRow::last(tokens, slot);
    let (alone, _) = unit_by_unit(device, &StepRows::batch([row]).step(table))?;
    match is_finite(&alone) {
        true => Ok(()),
        false => Err(explain_row(device, row, table)),
    }
}

/// Runs a step by the launches that the CPU was held against.
fn unit_by_unit(device: &mut dyn Inspect, step: &Step<'_>) -> Result<Results, Error> {
    let units = device.units(step.shape())?;
    device.begin(step)?;
    device.poison()?;
    for (i, unit) in units.iter().enumerate() {
        if !is_idle(device.plan(), unit, step) {
            device.run_unit(step, i)?;
        }
    }
    Ok((device.logits()?.to_vec(), device.next()?.to_vec()))
}

fn report(device: &dyn Inspect, left: &str, step: &Step<'_>) -> Report {
    Report {
        left: left.to_owned(),
        right: device.kind().to_string(),
        step: format!("first use, served step of {}", step.rows()),
        position: step.lengths()[0] as usize - 1,
        rows: step.rows(),
        buffers: Vec::new(),
    }
}

fn same_bits(left: &[f32], right: &[f32]) -> BufferRow {
    let (nmse, max_abs) = error(left, right);
    BufferRow {
        unit: "decode".to_owned(),
        buffer: "logits".to_owned(),
        nmse,
        max_abs,
        limit: 0.0,
        pass: bit_equal(left, right),
    }
}

/// What a row of a report is of.
struct Place<'a> {
    unit: &'a str,
    buffer: &'a str,
}

/// Results of other kernels: within the limit with slack, as everything here.
fn near(place: &Place<'_>, left: &[f32], right: &[f32], limit: f64) -> BufferRow {
    let (nmse, max_abs) = error(left, right);
    let limit = limit * SLACK;
    BufferRow {
        unit: place.unit.to_owned(),
        buffer: place.buffer.to_owned(),
        nmse,
        max_abs,
        limit,
        pass: nmse <= limit,
    }
}
