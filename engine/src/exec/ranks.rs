//! Several executors as one: the ranks of a partitioned plan in lockstep.
//!
//! Every rank runs its share of a unit; where the plan has a collective, what all ranks have is read,
//! put together on the host in the order of the ranks, and written to all of them. So results depend on
//! the number of ranks (sums are of other terms) but not on the run.
//!
//! To whoever holds it, it is an executor of the whole plan: buffers, units and logits are those of
//! the whole.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::decode::{HostDecode, check_sequences, decode_on_host};
use super::{DecodeStart, Executor, ExecutorKind, HostQueue, Inspect, Limits, Stats, Step};
use crate::Error;
use crate::kv::BlockTable;
use crate::lower::{Shape, Unit};
use crate::model::Model;
use crate::plan::{Buf, Collective, Partition, Plan, Rows, partition};
use crate::settings::SamplerOn;

/// Runs a plan on several ranks.
pub struct RankedExecutor {
    model: Arc<Model>,
    partition: Partition,
    /// At least one.
    ranks: Vec<Box<dyn Executor>>,
    units: HashMap<Shape, Arc<Vec<Joint>>>,
    steps: u64,
    queue: HostQueue,
}

/// A unit of the whole plan: units of the ranks, and what they do together behind them.
#[derive(Debug, Clone)]
struct Joint {
    unit: Unit,
    /// Of each rank.
    parts: Range<usize>,
    collective: Option<(Collective, Buf, Buf)>,
}

impl RankedExecutor {
    /// Cuts the plan of a model for `ranks` ranks and makes an executor of each with `make`, which
    /// gets the model as the rank sees it.
    ///
    /// # Errors
    /// A plan that cannot be cut so, or what `make` says.
    pub fn new(
        model: &Arc<Model>,
        ranks: usize,
        mut make: impl FnMut(Arc<Model>) -> Result<Box<dyn Executor>, Error>,
    ) -> Result<RankedExecutor, Error> {
        let partition = partition(model.plan(), ranks)?;
        let shares = partition.plans().iter();
        let ranks = shares
            .map(|plan| make(Arc::new(model.of_rank(Arc::clone(plan)))))
            .collect::<Result<_, _>>()?;
        Ok(RankedExecutor {
            model: Arc::clone(model),
            partition,
            ranks,
            units: HashMap::new(),
            steps: 0,
            queue: HostQueue::default(),
        })
    }

    /// The units of a shape, found at its first use.
    fn joints(&mut self, shape: Shape) -> Result<Arc<Vec<Joint>>, Error> {
        if let Some(found) = self.units.get(&shape) {
            return Ok(Arc::clone(found));
        }
        let mut of_first: Option<Vec<Unit>> = None;
        for rank in &mut self.ranks {
            let units = rank.inspect().units(shape)?;
            let first = of_first.get_or_insert_with(|| units.clone());
            let alike = |(a, b): (&Unit, &Unit)| a.ops == b.ops;
            if first.len() != units.len() || !first.iter().zip(&units).all(alike) {
                return Err(Error::internal("ranks lower one step to different units"));
            }
        }
        let made = Arc::new(self.join(of_first.unwrap_or_default())?);
        self.units.insert(shape, Arc::clone(&made));
        Ok(made)
    }

    /// Units of a rank as units of the whole plan: a collective goes with what it is of.
    fn join(&self, units: Vec<Unit>) -> Result<Vec<Joint>, Error> {
        let plan = &self.partition.plans()[0];
        let mut joints: Vec<Joint> = Vec::new();
        for (i, mut unit) in units.into_iter().enumerate() {
            let collective = unit.ops.iter().find_map(|&op| plan.ops[op].collective());
            let Some(collective) = collective else {
                let origins = unit.ops.iter().map(|&op| self.partition.origin(op));
                unit.ops = origins.collect();
                joints.push(Joint {
                    unit,
                    parts: i..i + 1,
                    collective: None,
                });
                continue;
            };
            let (_, given, got) = collective;
            let before = joints
                .last_mut()
                .filter(|joint| joint.unit.writes.contains(&given));
            let Some(before) = before else {
                let name = &plan.buffer(given).name;
                let why = format!("a collective of {name} does not follow what makes it");
                return Err(Error::internal(why));
            };
            before.parts.end = i + 1;
            before.collective = Some(collective);
            for b in before.unit.writes.iter_mut().filter(|b| **b == given) {
                *b = got;
            }
        }
        Ok(joints)
    }

    fn run_joint(&mut self, step: &Step<'_>, joint: &Joint) -> Result<(), Error> {
        for rank in &mut self.ranks {
            for part in joint.parts.clone() {
                rank.inspect().run_unit(step, part)?;
            }
        }
        match joint.collective {
            Some((how, given, got)) => self.meet(how, given, got),
            None => Ok(()),
        }
    }

    /// Puts together what all ranks have in `given` and writes it to `got` of all.
    fn meet(&mut self, how: Collective, given: Buf, got: Buf) -> Result<(), Error> {
        let shares = self.shares(given)?;
        let Some(shares) = shares else {
            let why = "a rank has nothing to give to the others";
            return Err(Error::internal(why));
        };
        let together = match how {
            Collective::Sum => sum(shares),
            Collective::Concatenate => {
                let widths = self.partition.plans().iter();
                let widths = widths.map(|plan| plan.buffer(given).cols);
                concatenate(&widths.collect::<Vec<_>>(), &shares)
            }
        };
        let mut ranks = self.ranks.iter_mut();
        ranks.try_for_each(|rank| rank.inspect().write(got, &together))
    }

    /// What each rank has in a buffer; `None` where one has nothing.
    fn shares(&mut self, b: Buf) -> Result<Option<Vec<Vec<f32>>>, Error> {
        let ranks = self.ranks.iter_mut();
        ranks.map(|rank| rank.inspect().read(b)).collect()
    }
}

/// Sums of the same elements, in the order of the shares.
fn sum(shares: Vec<Vec<f32>>) -> Vec<f32> {
    let mut shares = shares.into_iter();
    let mut total = shares.next().unwrap_or_default();
    for share in shares {
        total.iter_mut().zip(share).for_each(|(t, s)| *t += s);
    }
    total
}

/// Rows of `widths` columns side by side.
fn concatenate(widths: &[usize], shares: &[Vec<f32>]) -> Vec<f32> {
    let rows = match (widths, shares) {
        ([width, ..], [share, ..]) => share.len() / width,
        _ => 0,
    };
    let row = |row: usize| {
        let shares = shares.iter().zip(widths);
        shares.flat_map(move |(share, &width)| &share[row * width..][..width])
    };
    (0..rows).flat_map(row).copied().collect()
}

impl Executor for RankedExecutor {
    fn kind(&self) -> ExecutorKind {
        self.ranks[0].kind()
    }

    fn plan(&self) -> &Plan {
        self.model.plan()
    }

    fn limits(&self) -> Limits {
        self.ranks[0].limits()
    }

    fn run(&mut self, step: &Step<'_>) -> Result<(), Error> {
        let joints = self.joints(step.shape())?;
        self.begin(step)?;
        for joint in joints.iter() {
            let plan = self.model.plan();
            let of_outputs = |&b: &Buf| plan.buffer(b).rows == Rows::Outputs;
            // Without outputs the head has nothing to do.
            if step.outputs().is_empty() && joint.unit.writes.iter().any(of_outputs) {
                continue;
            }
            self.run_joint(step, joint)?;
        }
        self.steps += 1;
        Ok(())
    }

    fn logits(&mut self) -> Result<&[f32], Error> {
        self.ranks[0].logits()
    }

    fn next(&mut self) -> Result<&[u32], Error> {
        self.ranks[0].next()
    }

    fn decode(
        &mut self,
        sequences: &[DecodeStart<'_>],
        steps: usize,
        table: &BlockTable,
        on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        check_sequences(self, sequences, steps)?;
        let how = HostDecode {
            padded: self.kind().runs_kernels(),
            sampler_on: SamplerOn::Device,
        };
        decode_on_host(self, sequences, steps, table, how, on_token)
    }

    fn host_queue(&mut self) -> &mut HostQueue {
        &mut self.queue
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        let mut ranks = self.ranks.iter_mut();
        ranks.try_for_each(|rank| rank.copy_blocks(pairs))
    }

    fn save_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        let mut ranks = self.ranks.iter_mut();
        ranks.try_for_each(|rank| rank.save_blocks(pairs))
    }

    fn restore_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        let mut ranks = self.ranks.iter_mut();
        ranks.try_for_each(|rank| rank.restore_blocks(pairs))
    }

    fn stats(&self) -> Stats {
        let launches = self.ranks.iter().map(|rank| rank.stats().launches);
        Stats {
            steps: self.steps,
            launches: launches.sum(),
            ..Stats::default()
        }
    }

    fn inspect(&mut self) -> &mut dyn Inspect {
        self
    }
}

impl Inspect for RankedExecutor {
    fn units(&mut self, shape: Shape) -> Result<Vec<Unit>, Error> {
        let joints = self.joints(shape)?;
        Ok(joints.iter().map(|joint| joint.unit.clone()).collect())
    }

    fn poison(&mut self) -> Result<(), Error> {
        let mut ranks = self.ranks.iter_mut();
        ranks.try_for_each(|rank| rank.inspect().poison())
    }

    fn begin(&mut self, step: &Step<'_>) -> Result<(), Error> {
        let mut ranks = self.ranks.iter_mut();
        ranks.try_for_each(|rank| rank.inspect().begin(step))
    }

    fn run_unit(&mut self, step: &Step<'_>, unit: usize) -> Result<(), Error> {
        let joints = self.joints(step.shape())?;
        self.run_joint(step, &joints[unit])
    }

    fn read(&mut self, b: Buf) -> Result<Option<Vec<f32>>, Error> {
        if self.partition.columns(b, 0).is_none() {
            return self.ranks[0].inspect().read(b);
        }
        let Some(shares) = self.shares(b)? else {
            return Ok(None);
        };
        let cols = self.model.plan().buffer(b).cols;
        let mut whole = Vec::new();
        for (rank, share) in shares.iter().enumerate() {
            let Some(columns) = self.partition.columns(b, rank) else {
                continue;
            };
            let rows = share.chunks_exact(columns.len());
            whole.resize(rows.len() * cols, 0.0);
            // Columns that several ranks hold are the same on all.
            for (to, from) in whole.chunks_exact_mut(cols).zip(rows) {
                to[columns.clone()].copy_from_slice(from);
            }
        }
        Ok(Some(whole))
    }

    fn write(&mut self, b: Buf, data: &[f32]) -> Result<(), Error> {
        let cols = self.model.plan().buffer(b).cols;
        for (i, rank) in self.ranks.iter_mut().enumerate() {
            match self.partition.columns(b, i) {
                None => rank.inspect().write(b, data)?,
                Some(columns) => {
                    let rows = data.chunks_exact(cols);
                    let share = rows.flat_map(|row| &row[columns.clone()]).copied();
                    rank.inspect().write(b, &share.collect::<Vec<f32>>())?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_meet_in_the_order_of_their_ranks() {
        // Not associative: the order shows.
        let shares = vec![vec![1e8f32], vec![1.0], vec![-1e8]];
        assert_eq!(sum(shares), [0.0]);
        let shares = [vec![1.0, 2.0, 5.0, 6.0], vec![3.0, 7.0]];
        assert_eq!(
            concatenate(&[2, 1], &shares),
            [1.0, 2.0, 3.0, 5.0, 6.0, 7.0]
        );
    }
}
