//! What a batch does when calls of its executor fail, and when callers break.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::{Batch, SeqId};
use crate::Error;
use crate::exec::Limits;
use crate::model::Model;
use crate::serve::engine::failing::{Failing, Random, cpu, micro};
use crate::serve::session::{Event, Finish, GenerateOptions};

fn limits(slots: usize) -> Limits {
    Limits {
        max_rows: 24,
        ..Limits::new(slots, 160)
    }
}

fn options(seed: usize) -> GenerateOptions {
    let mut options = GenerateOptions {
        max_tokens: 8 + seed % 9,
        ignore_eog: true,
        ..GenerateOptions::default()
    };
    options.sampling.temperature = if seed.is_multiple_of(2) { 0.8 } else { 0.0 };
    options.sampling.seed = seed as u64;
    options
}

fn prompt(seed: usize) -> Vec<u32> {
    let token = |i: usize| ((i * 7 + seed * 31 + 1) % 200) as u32;
    (0..3 + seed * 11 % 50).map(token).collect()
}

fn alone(model: &Arc<Model>, seed: usize) -> Vec<u32> {
    let mut batch = Batch::of(model, Box::new(cpu(model, limits(1))), None);
    batch.add(&prompt(seed), options(seed)).unwrap();
    let (_, result) = batch.run_to_end(|_, _| ControlFlow::Continue(())).remove(0);
    result.unwrap().tokens
}

/// A call in so many fails: who had rows in the step hears why, the rest give what each gives alone, and
/// nobody is missing.
#[test]
fn sequences_outlive_a_step_that_fails() {
    let model = micro();
    let texts: Vec<_> = (0..12).map(|seed| alone(&model, seed)).collect();
    let (mut failed, mut whole) = (0, 0);
    for round in 0..60 {
        let executor = Failing::executor(cpu(&model, limits(3)), Random::new(round), 25, 0);
        let mut batch = Batch::of(&model, executor, None);
        let mut ids: HashMap<SeqId, usize> = HashMap::new();
        for seed in 0..texts.len() {
            ids.insert(batch.add(&prompt(seed), options(seed)).unwrap(), seed);
        }
        let mut told: HashMap<SeqId, Vec<u32>> = HashMap::new();
        let mut ended = HashSet::new();
        while !batch.is_idle() {
            let finished = batch.step(|id, event| {
                if let Event::Token { id: token, text } = event {
                    let tokens = told.entry(id).or_default();
                    // Bytes that no character was made of come with the last token once more.
                    let is_rest = tokens.len() == texts[ids[&id]].len();
                    assert!(!is_rest || !text.is_empty());
                    if !is_rest {
                        tokens.push(token);
                    }
                }
                ControlFlow::Continue(())
            });
            for (id, result) in finished {
                assert!(ended.insert(id), "{id} ended twice");
                let (text, told) = (&texts[ids[&id]], told.remove(&id).unwrap_or_default());
                assert_eq!(told, text[..told.len()]);
                match result {
                    Ok(generation) => {
                        assert_eq!((&generation.tokens, &told), (text, text));
                        whole += 1;
                    }
                    Err(Error::Step(_)) => failed += 1,
                    Err(other) => panic!("{other}"),
                }
            }
        }
        assert_eq!(ended.len(), texts.len(), "round {round}");
        assert_eq!(batch.table().blocks_in_use(), 0);
    }
    assert!(
        failed > 60 && whole > 60,
        "{failed} failed, {whole} did not"
    );
}

/// An executor that never works again after its first failure: everybody hears of it, and where it could
/// not be emptied nobody is taken any more.
#[test]
fn a_lost_executor_ends_everything_and_takes_no_more() {
    let model = micro();
    let mut lost = 0;
    for round in 0..20 {
        let executor = Failing::executor(cpu(&model, limits(2)), Random::new(round), 9, 1);
        let mut batch = Batch::of(&model, executor, None);
        for seed in 0..9 {
            batch.add(&prompt(seed), options(seed)).unwrap();
        }
        let finished = batch.run_to_end(|_, _| ControlFlow::Continue(()));
        let ids: HashSet<SeqId> = finished.iter().map(|(id, _)| *id).collect();
        assert_eq!((finished.len(), ids.len()), (9, 9), "round {round}");
        assert!(finished[8].1.is_err(), "round {round}");
        if finished.iter().any(|f| matches!(f.1, Err(Error::Lost(_)))) {
            lost += 1;
            let refused = batch.add(&prompt(0), options(0));
            assert!(matches!(refused, Err(Error::Lost(_))), "{refused:?}");
        }
        assert!(batch.is_idle());
    }
    assert!(lost > 0);
}

/// Whoever breaks hears nothing more, whichever event it breaks at.
#[test]
fn who_breaks_hears_nothing_more() {
    let model = micro();
    let text = alone(&model, 4);
    for most in 1..text.len() + 2 {
        let mut batch = Batch::of(&model, Box::new(cpu(&model, limits(2))), None);
        let breaks = batch.add(&prompt(4), options(4)).unwrap();
        let other = batch.add(&prompt(5), options(5)).unwrap();
        let (mut events, mut tokens) = (0, Vec::new());
        let finished = batch.run_to_end(|id, event| {
            if id == other {
                return ControlFlow::Continue(());
            }
            events += 1;
            if let Event::Token { id, .. } = event {
                tokens.push(id);
            }
            match events < most {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        });
        assert_eq!(events, most);
        let mut finished: HashMap<_, _> = finished.into_iter().collect();
        let generation = finished.remove(&breaks).unwrap().unwrap();
        assert_eq!(generation.finish, Finish::Stopped);
        assert_eq!(generation.tokens, tokens);
        assert!(text.starts_with(&tokens));
        assert_eq!(
            finished.remove(&other).unwrap().unwrap().finish,
            Finish::Length
        );
    }
}
