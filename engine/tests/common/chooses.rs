//! That the CPU chooses tokens where it is asked to, whatever a device would.

use std::ops::ControlFlow;
use std::sync::Arc;

use gannet_engine::settings::{Faults, Precision};
use gannet_engine::tools::make_executor;
use gannet_engine::{
    Error, Event, ExecutorChoice, GenerateOptions, Model, SamplerOn, Session, Settings,
};

use crate::omitted::{Prompt, places, table};

/// With the launch left out that finds the most likely token on the device, only the CPU's own code
/// can find it.
pub(crate) fn the_cpu_chooses_alone(model: &Arc<Model>, options: Settings) {
    let mut plain = Settings {
        precision: Precision::Fast,
        executor: ExecutorChoice::Eager,
        context: Some(32),
        ..options
    };
    // The gate would find out.
    plain.gate = false;
    let four = GenerateOptions {
        max_tokens: 4,
        ignore_eog: true,
        ..GenerateOptions::default()
    };
    let mut executor = make_executor(model, &plain).unwrap().executor;
    let executor = executor.as_mut();
    let prompt = Prompt::new(1, 0, executor.plan().vocab_size);
    let table = table(executor);
    let step = prompt.step(&table);
    executor.run(&step).unwrap();
    let all = places(executor.inspect(), &step).unwrap();
    let argmax = all.iter().find(|p| p.unit.starts_with("argmax")).unwrap();
    let generate = |omit_launch, sampler_on| {
        let settings = Settings {
            faults: Faults {
                omit_launch,
                ..Faults::default()
            },
            sampler_on,
            ..plain.clone()
        };
        let mut session = Session::new(model, &settings)?;
        let go_on = |_: Event<'_>| ControlFlow::Continue(());
        let generation = session.generate_tokens(&step.tokens()[..1], &four, go_on)?;
        Ok::<_, Error>(generation.tokens)
    };
    let expected = generate(None, SamplerOn::Device).unwrap();
    assert_eq!(generate(None, SamplerOn::Cpu).unwrap(), expected);
    let omitted = Some(argmax.launch);
    assert_eq!(generate(omitted, SamplerOn::Cpu).unwrap(), expected);
    // Where it is the device's, it is missed.
    let missed = generate(omitted, SamplerOn::Device);
    assert!(missed.is_err() || missed.unwrap() != expected);
}
