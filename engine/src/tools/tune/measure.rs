//! Measures every variant of every product of a model on the device that runs it.
//!
//! Each product shape is timed as it is served: all launches of that shape in a step, one after the
//! other in a graph, on the model's own weights, which a fill larger than the cache has pushed out
//! before. A variant counts only where its results stay within its limit of the reference
//! arithmetic's on the same inputs, in every kernel of the shape: with a bias, with a sum. The
//! reference is the first variant, the most exact ones first, that stays within its limit of a
//! sample that the CPU computes.

use std::collections::HashMap;

use gannet_ptx_gen::ir::Access;
use gannet_ptx_gen::kernels::GemvVariant;
use rayon::prelude::*;

use super::{TuneOptions, TunedShape, VariantTime};
use crate::Error;
use crate::exec::cuda::{CudaExecutor, Trial, Trials};
use crate::lower::profile::ProductShape;
use crate::lower::{Arg, KernelSpec, Lowered};
use crate::plan::Buf;
use crate::tools::gate::Reference;

/// Variants this close to the fastest are timed a second time.
const CLOSE: f64 = 1.10;
/// How much slower than the fastest of a round a choice may be and count as confirmed.
const CONFIRMED: f64 = 1.01;
/// Rounds in which a choice may be confirmed.
const CONFIRMATIONS: u32 = 6;

/// The launches of one product shape in a step.
struct Group {
    shape: ProductShape,
    /// Indices into the step's launches, and the kernels that they run.
    members: Vec<(usize, KernelSpec)>,
}

/// Times the variants of all products in steps of `options.tokens` rows.
///
/// # Errors
/// The device failed.
pub(super) fn products(
    executor: &mut CudaExecutor,
    options: &TuneOptions,
    on_shape: &mut dyn FnMut(&TunedShape),
) -> Result<Vec<TunedShape>, Error> {
    let mut tuned: Vec<TunedShape> = Vec::new();
    for &rows in &options.tokens {
        let trials = executor.trials(rows)?;
        let groups = groups(trials.lowered());
        if groups.is_empty() {
            let why = format!("a step of {rows} rows has no products to measure");
            return Err(Error::Request(why));
        }
        for group in groups {
            if tuned.iter().any(|t| t.shape == group.shape) {
                continue;
            }
            let bench = GroupBench {
                trials: &trials,
                group: &group,
            };
            let shape = bench.run(options)?;
            on_shape(&shape);
            tuned.push(shape);
        }
    }
    Ok(tuned)
}

/// The product shapes of a step with their launches, in the order of their first.
fn groups(lowered: &Lowered) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (i, launch) in lowered.launches.iter().enumerate() {
        let spec = &lowered.kernels[launch.kernel];
        let shape = match spec {
            KernelSpec::Gemv(spec) => ProductShape::of(spec),
            KernelSpec::GemvGlu(spec) => ProductShape::of_gated(spec),
            _ => continue,
        };
        match groups.iter_mut().find(|g| g.shape == shape) {
            Some(group) => group.members.push((i, spec.clone())),
            None => groups.push(Group {
                shape,
                members: vec![(i, spec.clone())],
            }),
        }
    }
    groups
}

/// The same kernel as another variant.
fn with_variant(spec: &KernelSpec, variant: GemvVariant) -> KernelSpec {
    match spec.clone() {
        KernelSpec::Gemv(spec) => KernelSpec::Gemv(gannet_ptx_gen::kernels::GemvSpec {
            variant: Some(variant),
            ..spec
        }),
        KernelSpec::GemvGlu(spec) => KernelSpec::GemvGlu(gannet_ptx_gen::kernels::GemvGluSpec {
            variant: Some(variant),
            ..spec
        }),
        other => other,
    }
}

/// The variants of a kernel, and the one that the built-in choice takes.
fn variants(spec: &KernelSpec) -> (Vec<GemvVariant>, Option<GemvVariant>) {
    match spec {
        KernelSpec::Gemv(spec) => (spec.variants(), Some(spec.default_variant())),
        KernelSpec::GemvGlu(spec) => (spec.variants(), Some(spec.default_variant())),
        _ => (Vec::new(), None),
    }
}

/// The built-in choice, then the most exact ones.
fn exact_first(mut variants: Vec<GemvVariant>, built_in: GemvVariant) -> Vec<GemvVariant> {
    variants.sort_by_key(|v| (*v != built_in, v.arithmetic));
    variants
}

/// Holds the results of variants against each other.
#[derive(Default)]
struct Judge {
    /// Results that the CPU has been asked about, by launch.
    reference: Option<Vec<Vec<f32>>>,
}

impl Judge {
    /// The error of results: against the reference where there is one, otherwise by `sampled`. The
    /// first that stay within their limit are the reference.
    fn error(
        &mut self,
        found: Vec<Vec<f32>>,
        limit: f64,
        sampled: impl Fn(&[Vec<f32>]) -> Result<f64, Error>,
    ) -> Result<f64, Error> {
        if let Some(reference) = &self.reference {
            let errors = reference.iter().zip(&found).map(|(a, b)| nmse(a, b));
            return Ok(errors.fold(0.0, f64::max));
        }
        let error = sampled(&found)?;
        if error <= limit {
            if let Some(v) = found.iter().flatten().find(|v| !v.is_finite()) {
                return Err(spoilt(*v));
            }
            self.reference = Some(found);
        }
        Ok(error)
    }
}

/// One group on the device.
struct GroupBench<'a> {
    trials: &'a Trials<'a>,
    group: &'a Group,
}

impl GroupBench<'_> {
    fn run(&self, options: &TuneOptions) -> Result<TunedShape, Error> {
        let first = &self.group.members[0].1;
        let (all, built_in) = variants(first);
        let Some(built_in) = built_in else {
            return Err(Error::internal(format!("{first:?} has no variants")));
        };
        let compiled: Vec<(GemvVariant, Result<Trial, Error>)> = exact_first(all, built_in)
            .into_par_iter()
            .map(|variant| (variant, self.trial(variant)))
            .collect();
        self.fill_inputs(&self.group.members)?;
        let mut judge = Judge::default();
        let mut times = Vec::new();
        let mut ran: Vec<(GemvVariant, Trial)> = Vec::new();
        for (variant, trial) in compiled {
            let limit = variant.limit();
            let mut time = VariantTime {
                variant,
                seconds: f64::INFINITY,
                nmse: f64::INFINITY,
                limit,
                local_bytes: 0,
                refused: None,
            };
            match trial {
                Err(why) => time.refused = Some(why.to_string()),
                Ok(mut trial) => {
                    time.local_bytes = trial.local_bytes();
                    let found = self.outputs(&trial)?;
                    let sampled = |found: &[Vec<f32>]| self.sampled_error(found);
                    time.nmse = judge.error(found, limit, sampled)?;
                    time.seconds = self.trials.seconds(&mut trial, options.repeats)?;
                    ran.push((variant, trial));
                }
            }
            times.push(time);
        }
        let usable = |t: &&VariantTime| t.passes() && (options.int8 || t.limit <= options.limit);
        let fastest = |times: &[VariantTime]| {
            let best = times.iter().filter(usable);
            best.min_by(|a, b| a.seconds.total_cmp(&b.seconds))
                .map(|t| (t.variant, t.seconds))
        };
        let (_, best) = fastest(&times).unwrap_or((built_in, f64::INFINITY));
        // The closest race is run again, longer: the first round's winner may just have been lucky.
        let close: Vec<VariantTime> = times
            .iter()
            .filter(usable)
            .filter(|t| t.seconds <= best * CLOSE)
            .cloned()
            .collect();
        let mut again = |rounds: usize| -> Result<Vec<VariantTime>, Error> {
            close
                .iter()
                .map(|t| {
                    let trial = ran.iter_mut().find(|(variant, _)| *variant == t.variant);
                    let seconds = match trial {
                        Some((_, trial)) => self.trials.seconds(trial, rounds * options.repeats)?,
                        None => t.seconds,
                    };
                    Ok(VariantTime {
                        seconds,
                        ..t.clone()
                    })
                })
                .collect()
        };
        // A choice is confirmed by a round that had no say in it; until then that has a say, too.
        let mut rounds = again(3)?;
        let mut chosen = built_in;
        let mut over_best = 1.0;
        for round in 1..=CONFIRMATIONS {
            chosen = fastest(&rounds).map_or(built_in, |(variant, _)| variant);
            let next = again(3)?;
            let own = next.iter().find(|t| t.variant == chosen);
            let confirmed = fastest(&next).zip(own);
            over_best = confirmed.map_or(1.0, |((_, best), own)| own.seconds / best);
            if over_best <= CONFIRMED {
                break;
            }
            for (t, next) in rounds.iter_mut().zip(next) {
                // The mean of all rounds so far.
                t.seconds += (next.seconds - t.seconds) / f64::from(round + 1);
            }
        }
        times.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let lowered = self.trials.lowered();
        let launch = &lowered.launches[self.group.members[0].0];
        Ok(TunedShape {
            shape: self.group.shape,
            launches: self.group.members.len(),
            bytes: lowered.launch_bytes(launch),
            chosen,
            built_in,
            over_best,
            times,
        })
    }

    /// The group's launches with another variant of their kernels.
    fn trial(&self, variant: GemvVariant) -> Result<Trial, Error> {
        let members: Vec<(usize, KernelSpec)> = (self.group.members.iter())
            .map(|(i, spec)| (*i, with_variant(spec, variant)))
            .collect();
        self.trials.compile(&members)
    }

    /// Buffers that a launch of the group names, and what it does with them.
    fn buffers(&self, launch: usize) -> Vec<(Buf, Access)> {
        let lowered = self.trials.lowered();
        let accesses = lowered.accesses(&lowered.launches[launch]).into_iter();
        let buffers = accesses.filter_map(|(arg, access)| {
            let Arg::Buffer(b) = arg else { return None };
            Some((b, access))
        });
        buffers.collect()
    }

    /// Random activations with outliers, as models have them, in everything that is read.
    fn fill_inputs(&self, members: &[(usize, KernelSpec)]) -> Result<(), Error> {
        for (i, _) in members {
            for (which, (b, _)) in self.buffers(*i).into_iter().enumerate() {
                let mut state = 0x9E37_79B9_7F4A_7C15u64 ^ which as u64;
                let elements = self.trials.len(b).unwrap_or(0);
                let values: Vec<f32> = (0..elements).map(|at| normal(&mut state, at)).collect();
                self.trials.write(b, &values)?;
            }
        }
        Ok(())
    }

    /// The first launch of each kernel, as indices into the group's members.
    fn looked_at(&self) -> Vec<usize> {
        let members = &self.group.members;
        let first = |&i: &usize| members[..i].iter().all(|(_, spec)| *spec != members[i].1);
        (0..members.len()).filter(first).collect()
    }

    /// What the launches that are looked at compute from the random activations: others, which the
    /// timing ran, may have written to the memory that they read.
    fn outputs(&self, trial: &Trial) -> Result<Vec<Vec<f32>>, Error> {
        let output = |member: usize| {
            let members = &self.group.members[member..=member];
            self.fill_inputs(members)?;
            let missing = || Error::internal("a product without an output");
            let mut buffers = self.buffers(members[0].0).into_iter();
            let written = buffers.find(|(_, access)| *access != Access::Read);
            let (out, _) = written.ok_or_else(missing)?;
            let elements = self.trials.len(out).ok_or_else(missing)?;
            self.trials.write(out, &vec![f32::NAN; elements])?;
            self.trials.launch(trial, member)?;
            self.trials.read(out)?.ok_or_else(missing)
        };
        self.looked_at().into_iter().map(output).collect()
    }

    /// The error of what the launches that are looked at computed, against a sample that the CPU
    /// computes from the same activations.
    fn sampled_error(&self, found: &[Vec<f32>]) -> Result<f64, Error> {
        let (lowered, model) = (self.trials.lowered(), self.trials.model());
        let reference = Reference::new(model, 1)?;
        let mut worst = 0.0;
        for (member, found) in self.looked_at().into_iter().zip(found) {
            let members = &self.group.members[member..=member];
            self.fill_inputs(members)?;
            let unit = &lowered.units[lowered.launches[members[0].0].unit];
            let mut made: HashMap<Buf, Vec<f32>> = HashMap::new();
            for &b in &unit.reads {
                if let Some(values) = self.trials.read(b)? {
                    made.insert(b, values);
                }
            }
            let sampled = reference.sampled(unit, &made);
            for expected in sampled.unwrap_or_default() {
                if let Some(v) = expected.values.iter().find(|v| !v.is_finite()) {
                    return Err(spoilt(*v));
                }
                let error = nmse(&expected.values, &expected.pick(model.plan(), found));
                worst = f64::max(worst, error);
            }
        }
        Ok(worst)
    }
}

/// Why there is nothing to measure.
fn spoilt(value: f32) -> Error {
    Error::Request(format!(
        "a product of the model's weights gives {value} where activations are ordinary; check the \
         weights in the model file"
    ))
}

/// Something like a normal variate, every 97th fifty times as large.
fn normal(state: &mut u64, at: usize) -> f32 {
    let mut sum = 0.0;
    for _ in 0..4 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        sum += (*state >> 40) as f32 / (1 << 24) as f32 - 0.5;
    }
    let scale = if at.is_multiple_of(97) { 50.0 } else { 1.0 };
    sum * 1.732 * scale
}

/// `sum((a - b)^2) / sum(a^2)`; infinite where one is not finite.
fn nmse(a: &[f32], b: &[f32]) -> f64 {
    let (mut difference, mut norm) = (0.0, 0.0);
    for (&a, &b) in a.iter().zip(b) {
        if !a.is_finite() || !b.is_finite() {
            return f64::INFINITY;
        }
        difference += (f64::from(a) - f64::from(b)).powi(2);
        norm += f64::from(a).powi(2);
    }
    if difference == 0.0 {
        0.0
    } else {
        difference / f64::max(norm, f64::MIN_POSITIVE)
    }
}

#[cfg(test)]
mod tests {
    use gannet_ptx_gen::kernels::{Arithmetic, Epilogue, GemvSpec, WeightFormat};
    use gannet_ptx_gen::target::Target;

    use super::*;

    #[test]
    fn the_built_in_variant_and_exact_ones_come_first() {
        let spec = GemvSpec {
            target: Target::Sm80,
            format: WeightFormat::Q4K,
            rows: 1536,
            cols: 8960,
            tokens_per_block: 1,
            epilogue: Epilogue {
                bias: false,
                residual: true,
            },
            hands_over: false,
            variant: None,
        };
        let all = spec.variants();
        let ordered = exact_first(all.clone(), all[3]);
        assert_eq!((ordered[0], ordered.len()), (all[3], all.len()));
        let arithmetic: Vec<Arithmetic> = ordered[1..].iter().map(|v| v.arithmetic).collect();
        assert!(arithmetic.is_sorted(), "{arithmetic:?}");
        assert_eq!(arithmetic[0], Arithmetic::F32);
    }

    /// The default variant may be refused or wrong on some GPU: the next one is held against the
    /// CPU then, and others against that.
    #[test]
    fn the_first_that_the_cpu_agrees_with_is_the_reference() {
        let mut judge = Judge::default();
        let asked = std::cell::Cell::new(0);
        let cpu = |found: &[Vec<f32>]| {
            asked.set(asked.get() + 1);
            Ok(nmse(&[1.0, 2.0], &found[0][..2]))
        };
        let right = vec![vec![1.0, 2.0, 3.0], vec![4.0]];
        let mut error = |found| judge.error(found, 1e-6, cpu).unwrap();
        assert!(error(vec![vec![1.0, 2.5, 3.0], vec![4.0]]) > 1e-6);
        assert_eq!(
            error(vec![vec![f32::NAN, 2.0, 3.0], vec![4.0]]),
            f64::INFINITY
        );
        assert_eq!(error(right.clone()), 0.0);
        assert_eq!(asked.get(), 3);
        // Held against all results of every kernel now, not against a sample.
        assert_eq!(error(right), 0.0);
        assert!(error(vec![vec![1.0, 2.0, 3.5], vec![4.0]]) > 1e-3);
        assert!(error(vec![vec![1.0, 2.0, 3.0], vec![5.0]]) > 1e-3);
        assert_eq!(asked.get(), 3);
    }
}
