//! Randomly edited files: none runs with other logits than what it says.
//!
//! Every edit of a file of each family ends in one of two ways: the model runs with the logits of the
//! f64 reference, which reads the edited file by itself, or it is refused with a line that names what
//! was edited. An edit that is known to change nothing is not refused.
//!
//! `GANNET_EDITS=all` makes 10,000 files of each family; otherwise a sample of them.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod catalogue;
mod edit;
mod file;
mod named;
#[path = "../reference/mod.rs"]
mod reference;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use edit::Edit;
use file::File;
use gannet_engine::internals::model::of_container;
use gannet_engine::settings::Precision;
use gannet_engine::tools::{eval, make_executor};
use gannet_engine::{DeviceChoice, Model, ModelOptions, Settings};
use gannet_gguf::Gguf;
use reference::cases::{self, Case};
use reference::micro::{self, Random};
use reference::{Reference, kld};

/// Tokens of a sequence: more than the windows of the models that have one.
const TOKENS: usize = 20;
/// The most layers of a model: deeper ones take long and show nothing else.
const MOST_LAYERS: usize = 7;

/// A file before it is edited.
struct Base {
    case: &'static Case,
    gguf: Gguf,
    tokens: Vec<u32>,
    logits: Vec<f64>,
}

impl Base {
    fn new(case: &'static Case, vocab: &Path) -> Base {
        let gguf = Gguf::from_vec("base", case.model.bytes(vocab)).unwrap();
        let reference = Reference::of(&gguf).unwrap();
        let tokens = micro::tokens(reference.vocab_size(), TOKENS, 1);
        Base {
            logits: reference.logits(&tokens, case.context),
            case,
            tokens,
            gguf,
        }
    }
}

/// How many files ended how.
#[derive(Debug, Default)]
struct Ends {
    ran: usize,
    ran_as_before: usize,
    refused: usize,
}

fn vocab() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/arch/llama/llama.gguf")
}

fn count() -> usize {
    match std::env::var_os("GANNET_EDITS").is_some_and(|edits| edits == "all") {
        true => 10_000,
        false => 500,
    }
}

fn family(arch: &str) {
    let (ends, wrong) = trials(arch, count(), &ModelOptions::default());
    println!("{arch}: {} files, {ends:?}, {} wrong", count(), wrong.len());
    assert!(ends.ran > 0 && ends.ran_as_before > 0 && ends.refused > 0);
    assert!(wrong.is_empty(), "{arch}:\n{}", wrong.join("\n"));
}

/// How that many edited files of a family end, opened with `options`, and what is wrong with them.
fn trials(arch: &str, count: usize, options: &ModelOptions) -> (Ends, Vec<String>) {
    let vocab = vocab();
    let is_base = |case: &&Case| case.model.arch == arch && case.model.num_layers <= MOST_LAYERS;
    let bases: Vec<Base> = (cases::all().filter(is_base))
        .map(|case| Base::new(case, &vocab))
        .collect();
    assert!(!bases.is_empty());
    let mut random = Random::new(7, arch);
    let (mut ends, mut wrong) = (Ends::default(), Vec::new());
    for trial in 0..count {
        let base = &bases[edit::below(&mut random, bases.len())];
        let (bytes, edit) = edited(base, &mut random);
        if let Err(why) = judge(base, bytes, options, &edit, &mut ends) {
            wrong.push(format!(
                "{trial} of {}, {}: {why}",
                base.case.name, edit.what
            ));
        }
    }
    (ends, wrong)
}

/// A model that is opened whatever its file has besides is one that the trials notice.
#[test]
fn what_is_passed_over_is_noticed() {
    let mut options = ModelOptions::default();
    options.ignore_unknown = true;
    let (_, wrong) = trials("llama", 200, &options);
    let noticed = wrong.iter().filter(|w| w.contains("nothing reads"));
    assert!(noticed.count() > 10, "{}", wrong.join("\n"));
    let noticed = wrong.iter().filter(|w| w.contains("llama reads no"));
    assert!(noticed.count() > 5, "{}", wrong.join("\n"));
}

/// A file with one edit, now and then two, that the container can hold.
fn edited(base: &Base, random: &mut Random) -> (Vec<u8>, Edit) {
    loop {
        let mut file = File::of(&base.gguf);
        let mut edit = edit::edit(&mut file, random);
        if edit::below(random, 5) == 0 {
            let second = edit::edit(&mut file, random);
            edit.what = format!("{}, then {}", edit.what, second.what);
            edit.names.extend(second.names);
            edit.is_nothing &= second.is_nothing;
        }
        if let Ok(bytes) = file.bytes() {
            return (bytes, edit);
        }
    }
}

/// What is wrong with how an edited file ended, if anything.
fn judge(
    base: &Base,
    bytes: Vec<u8>,
    options: &ModelOptions,
    edit: &Edit,
    ends: &mut Ends,
) -> Result<(), String> {
    let opened = Gguf::from_vec("edited", bytes.clone())
        .map_err(gannet_engine::Error::from)
        .and_then(|gguf| of_container(gguf, options));
    match opened.and_then(|model| exact_cpu(model, base)) {
        Ok(found) => {
            let gguf = Gguf::from_vec("edited", bytes).map_err(|e| e.to_string())?;
            let reference = Reference::of(&gguf);
            let reference =
                reference.map_err(|why| format!("runs, though the reference cannot: {why}"))?;
            let expected = reference.logits(&base.tokens, base.case.context);
            if edit.is_nothing && expected != base.logits {
                return Err("changes the reference".to_owned());
            }
            match edit.is_nothing {
                true => ends.ran_as_before += 1,
                false => ends.ran += 1,
            }
            compare(&expected, &found, reference.vocab_size())
        }
        Err(e) => {
            ends.refused += 1;
            let line = e.to_string();
            let names_it = edit.names.iter().any(|name| line.contains(name.as_str()));
            match (edit.is_nothing, names_it && !line.contains('\n')) {
                (true, _) => Err(format!("is refused: {line}")),
                (false, false) => Err(format!("is refused without a name: {line}")),
                (false, true) => Ok(()),
            }
        }
    }
}

fn exact_cpu(model: Model, base: &Base) -> Result<Vec<f64>, gannet_engine::Error> {
    let settings = Settings {
        device: DeviceChoice::Cpu,
        precision: Precision::Exact,
        context: Some(base.case.context),
        max_outputs: Some(TOKENS),
        ..Settings::default()
    };
    let mut executor = make_executor(&Arc::new(model), &settings)?.executor;
    let mut found = Vec::new();
    eval::logits(executor.as_mut(), &base.tokens, 0, |_, row| {
        found.extend(row.iter().map(|&l| f64::from(l)));
        Ok(())
    })?;
    Ok(found)
}

fn compare(expected: &[f64], found: &[f64], vocab: usize) -> Result<(), String> {
    if expected.len() != found.len() {
        return Err(format!("{} logits, not {}", found.len(), expected.len()));
    }
    let rows = expected.chunks_exact(vocab).zip(found.chunks_exact(vocab));
    let worst = rows.map(|(a, b)| kld(a, b)).fold(0.0, f64::max);
    let pairs = expected.iter().zip(found);
    let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    match worst <= 1e-9 && difference <= 1e-3 {
        true => Ok(()),
        false => Err(format!(
            "has other logits: KLD {worst:e}, difference {difference:e}"
        )),
    }
}

macro_rules! families {
    ($($arch:ident)*) => { $(
        #[test]
        fn $arch() {
            family(stringify!($arch));
        }
    )*

        #[test]
        fn every_family_is_edited() {
            let archs = [$(stringify!($arch)),*];
            for family in gannet_engine::internals::model::FAMILIES {
                assert!(archs.contains(&family.arch), "{}", family.arch);
            }
        }
    };
}

families! { llama qwen2 qwen3 gemma2 gemma3 phi3 gpt2 }
