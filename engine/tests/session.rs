//! A session over several prompts, where its tokens are chosen, the sizes it refuses, and what its
//! measurements say.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

#[path = "common/chooses.rs"]
mod chooses;
mod common;
#[path = "common/omitted.rs"]
mod omitted;

use std::ops::ControlFlow;
use std::sync::Arc;

use chooses::the_cpu_chooses_alone;
use common::{model, shared};
use gannet_engine::Finish;
use gannet_engine::settings::Precision;
use gannet_engine::settings::{MAX_CONTEXT, MAX_SLOTS};
use gannet_engine::tokenizer::{DecodeOptions, EncodeOptions};
use gannet_engine::tools::make_executor;
use gannet_engine::{
    DeviceChoice, Error, Event, ExecutorChoice, GenerateOptions, Generation, Model, Sampling,
    Session, Settings,
};

/// The demonstration model, which the repository ships.
fn tiny() -> Arc<Model> {
    let part = "models/rustdoc-tiny-Q4_K_M.gguf";
    model(&shared("session", part).expect("the model is in the repository"))
}

fn on(device: DeviceChoice) -> Settings {
    Settings {
        device,
        precision: Precision::Exact,
        context: Some(96),
        ..Settings::default()
    }
}

fn cpu(model: &Arc<Model>) -> Session {
    Session::new(model, &on(DeviceChoice::Cpu)).unwrap()
}

fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens,
        ignore_eog: true,
        ..GenerateOptions::default()
    }
}

fn continued(session: &mut Session, prompt: &[u32], options: &GenerateOptions) -> Generation {
    let go_on = |_: Event<'_>| ControlFlow::Continue(());
    session.generate_tokens(prompt, options, go_on).unwrap()
}

const FIRST: [u32; 5] = [310, 27, 1404, 99, 512];
const SECOND: [u32; 3] = [77, 1301, 6];

/// Two prompts one after the other give what one prompt of everything gives: the last token of the
/// first generation counts.
#[test]
fn a_second_prompt_follows_all_that_was_given_out() {
    let model = tiny();
    let sampled = Sampling {
        temperature: 0.9,
        top_k: 50,
        repetition_penalty: 1.3,
        seed: 11,
        ..Sampling::default()
    };
    for sampling in [Sampling::default(), sampled] {
        for max_tokens in [1, 2, 7] {
            let options = GenerateOptions {
                sampling: sampling.clone(),
                ..options(max_tokens)
            };
            let (mut twice, mut once) = (cpu(&model), cpu(&model));
            let first = continued(&mut twice, &FIRST, &options);
            assert_eq!(first.finish, Finish::Length);
            let second = continued(&mut twice, &SECOND, &options);
            assert_eq!(second.prompt_tokens, SECOND.len());

            let all = [&FIRST[..], &first.tokens, &SECOND].concat();
            assert_eq!(
                second.tokens,
                continued(&mut once, &all, &options).tokens,
                "{max_tokens} tokens, {sampling:?}"
            );
            let logits = |session: &mut Session| session.executor().logits().unwrap().to_vec();
            assert_eq!(logits(&mut twice), logits(&mut once));
        }
    }
}

fn text(session: &mut Session, prompt: &str, options: &GenerateOptions) -> Generation {
    let go_on = |_: Event<'_>| ControlFlow::Continue(());
    session.generate(prompt, options, go_on).unwrap()
}

/// Texts one after another begin once: the second is continued as part of the first.
#[test]
fn a_second_text_goes_on_without_a_beginning() {
    let model = tiny();
    let tokenizer = model.tokenizer();
    let mut twice = cpu(&model);
    let first = text(&mut twice, "Ownership is", &options(4));
    assert_eq!(first.prompt_tokens, 5, "with the token that begins a text");
    let second = text(&mut twice, " and then", &options(4));
    let plain = tokenizer.encode(" and then", EncodeOptions::default());
    assert_eq!(second.prompt_tokens, plain.len());
    let begin = tokenizer.encode_prompt(&[], "Ownership is", true);
    let all = [&begin[..], &first.tokens, &plain].concat();
    let once = continued(&mut cpu(&model), &all, &options(4));
    assert_eq!(second.tokens, once.tokens);
    // After a clear a text begins again, and one that has its beginning gets no second.
    for prompt in ["Ownership is", "<|begin_of_text|>Ownership is"] {
        twice.clear();
        let again = text(&mut twice, prompt, &options(4));
        assert_eq!(
            (again.prompt_tokens, again.tokens),
            (5, first.tokens.clone())
        );
    }
}

/// An empty text is the beginning of one, or nothing.
#[test]
fn an_empty_text_is_a_beginning_or_an_error() {
    let model = tiny();
    let mut session = cpu(&model);
    let begun = text(&mut session, "", &options(3));
    assert_eq!((begun.prompt_tokens, begun.tokens.len()), (1, 3));
    let refused = session.generate("", &options(3), |_| ControlFlow::Continue(()));
    assert!(refused.unwrap_err().to_string().contains("no tokens"));
    // What was refused is not part of the sequence.
    let bos = model.tokenizer().bos().unwrap();
    let all = [&[bos], &begun.tokens[..], &SECOND].concat();
    let expected = continued(&mut cpu(&model), &all, &options(3));
    let second = continued(&mut session, &SECOND, &options(3));
    assert_eq!(second.tokens, expected.tokens);
}

/// Tokens that stop a text are not part of it; those that no model has are refused.
#[test]
fn stop_tokens_end_a_text() {
    let model = tiny();
    let plain = continued(&mut cpu(&model), &FIRST, &options(12));
    let stop = plain.tokens[6];
    let at = plain.tokens.iter().position(|&t| t == stop).unwrap();
    let stopping = GenerateOptions {
        stop_tokens: vec![8191, stop],
        ..options(12)
    };
    let stopped = continued(&mut cpu(&model), &FIRST, &stopping);
    assert_eq!(stopped.finish, Finish::StopString);
    assert_eq!(stopped.tokens, plain.tokens[..at]);
    let beyond = GenerateOptions {
        stop_tokens: vec![8192],
        ..options(12)
    };
    let refused = cpu(&model).generate_tokens(&FIRST, &beyond, |_| ControlFlow::Continue(()));
    assert!(refused.unwrap_err().to_string().contains("8192"));
}

/// A stop string that ends inside the last token given out: that token was never fed.
#[test]
fn a_token_cut_by_a_stop_string_counts() {
    let model = tiny();
    let encode = EncodeOptions {
        add_special: true,
        parse_special: false,
    };
    let prompt = model.tokenizer().encode("Ownership is", encode);
    let plain = continued(&mut cpu(&model), &prompt, &options(24));
    let text_of = |tokens: &[u32]| model.tokenizer().decode(tokens, DecodeOptions::default());
    // All but the first letter of a token, where no text before it has that.
    let found = (1..plain.tokens.len()).find_map(|at| {
        let (before, text) = (text_of(&plain.tokens[..at]), text_of(&plain.tokens[..=at]));
        let piece = text.strip_prefix(&before).filter(|p| p.is_ascii())?;
        let stop = piece.get(1..).filter(|stop| stop.len() > 1)?;
        (text.find(stop) == Some(before.len() + 1)).then(|| (at, stop.to_owned()))
    });
    let (at, stop) = found.expect("a token of several letters");
    let stopping = GenerateOptions {
        stop: vec![stop],
        ..options(24)
    };
    let mut session = cpu(&model);
    let stopped = continued(&mut session, &prompt, &stopping);
    assert_eq!(stopped.finish, Finish::StopString);
    assert_eq!(stopped.tokens, plain.tokens[..=at]);
    let second = continued(&mut session, &SECOND, &options(6));
    let all = [&prompt[..], &stopped.tokens, &SECOND].concat();
    let expected = continued(&mut cpu(&model), &all, &options(6));
    assert_eq!(second.tokens, expected.tokens);
}

/// A callback that breaks inside a prompt ends it there, with all that came before in place.
#[test]
fn a_prompt_that_is_broken_off_leaves_what_was_computed() {
    let model = tiny();
    let settings = Settings {
        max_rows: Some(2),
        ..on(DeviceChoice::Cpu)
    };
    let mut session = Session::new(&model, &settings).unwrap();
    let first = continued(&mut session, &FIRST, &options(3));
    let mut seen = Vec::new();
    let broken = session.generate_tokens(&SECOND, &options(3), |event| {
        seen.push(event == Event::Prompt { done: 2, total: 3 });
        ControlFlow::Break(())
    });
    let broken = broken.unwrap();
    assert_eq!((broken.finish, broken.prompt_tokens), (Finish::Stopped, 2));
    assert_eq!(
        seen,
        [true],
        "steps of two tokens: eight before, and two of the prompt"
    );
    let again = continued(&mut session, &[9], &options(4));
    let all = [&FIRST[..], &first.tokens, &SECOND[..2], &[9]].concat();
    let expected = continued(&mut cpu(&model), &all, &options(4));
    assert_eq!(again.tokens, expected.tokens);
}

#[test]
fn a_full_context_takes_no_more() {
    let model = tiny();
    let settings = Settings {
        context: Some(8),
        ..on(DeviceChoice::Cpu)
    };
    let mut session = Session::new(&model, &settings).unwrap();
    let full = continued(&mut session, &FIRST, &options(100));
    assert_eq!(
        (full.tokens.len(), full.finish),
        (4, Finish::Context),
        "three that fit, and the one after them"
    );
    session.clear();
    let asked = continued(&mut session, &FIRST, &options(4));
    assert_eq!(
        (asked.tokens, asked.finish),
        (full.tokens.clone(), Finish::Length)
    );
    let refused = session.generate_tokens(&[1], &options(1), |_| ControlFlow::Continue(()));
    let Err(Error::ContextFull { tokens, context }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((tokens, context), (10, 8));
    session.clear();
    assert_eq!(
        continued(&mut session, &FIRST, &options(4)).tokens,
        full.tokens
    );
}

#[test]
fn the_cpu_chooses_for_interpreted_kernels() {
    the_cpu_chooses_alone(&tiny(), on(DeviceChoice::Interp));
}

/// Sizes past every device are refused before anything is allocated.
#[test]
fn sizes_that_cannot_be_are_refused() {
    let model = tiny();
    let refused = |options: Settings| make_executor(&model, &options).err().unwrap();
    for device in [DeviceChoice::Cpu, DeviceChoice::Interp] {
        for context in [MAX_CONTEXT + 1, 999_999_999_999, usize::MAX] {
            let error = refused(Settings {
                context: Some(context),
                ..on(device)
            });
            assert!(matches!(error, Error::TooLarge { .. }), "{error}");
        }
        for slots in [MAX_SLOTS + 1, usize::MAX] {
            let error = refused(Settings {
                slots: Some(slots),
                ..on(device)
            });
            assert!(matches!(error, Error::TooLarge { .. }), "{error}");
        }
        // Within the limits of either, and more than any machine has.
        let error = refused(Settings {
            context: Some(MAX_CONTEXT),
            slots: Some(MAX_SLOTS),
            ..on(device)
        });
        assert!(matches!(error, Error::Memory { .. }), "{error}");
    }
}

#[test]
fn an_executor_of_a_gpu_is_not_replaced_by_the_cpu() {
    let test = "an_executor_of_a_gpu_is_not_replaced_by_the_cpu";
    if gannet_cuda_runtime::Driver::load().is_ok() {
        eprintln!("skipped: {test}: this machine has a GPU");
        return;
    }
    let model = tiny();
    let named = Settings {
        executor: ExecutorChoice::Graph,
        ..on(DeviceChoice::Auto)
    };
    let error = make_executor(&model, &named).err().unwrap().to_string();
    assert!(error.contains("executor graph needs a GPU"), "{error}");
    let made = make_executor(&model, &on(DeviceChoice::Auto)).unwrap();
    assert!(made.notice.unwrap().contains("running on the CPU"));
}

/// One time for each token given out, and one less to wait for: the first is the prompt's.
#[test]
fn every_token_has_its_times() {
    let model = tiny();
    let mut session = cpu(&model);
    let generation = continued(&mut session, &FIRST, &options(6));
    let times = session.times();
    assert_eq!(
        (times.wait.count, times.text.count, times.callback.count),
        (5, 6, 6)
    );
    assert!(times.wait.total >= times.wait.max && times.wait.max >= times.wait.mean());
    let spent = times.wait.total + times.text.total + times.callback.total;
    assert!(spent + times.prompt <= generation.prompt_time + generation.decode_time);
    continued(&mut session, &SECOND, &options(1));
    assert_eq!(session.times().wait.count, 0, "of the last generation only");
}
