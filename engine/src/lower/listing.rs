//! A lowered step as text: the page on which a step can be read, from operations to kernels.
//!
//! Every unit shows the lines of its operations as the plan has them, and below its launches: kernel,
//! blocks, and each parameter with what is bound to it. `<` is read, `>` is written, `<>` is both,
//! `=` is a number.

use std::fmt;

use gannet_ptx_gen::ir::Access;

use super::{Lowered, LoweredLaunch};
use crate::plan::Plan;

/// What [`Lowered::listing`] gives.
pub struct Listing<'a> {
    plan: &'a Plan,
    lowered: &'a Lowered,
}

impl Lowered {
    /// The step as text, its operations those of the plan that it was lowered from.
    #[must_use]
    pub fn listing<'a>(&'a self, plan: &'a Plan) -> Listing<'a> {
        Listing {
            plan,
            lowered: self,
        }
    }
}

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lowered {
            shape,
            kernels,
            launches,
            units,
            ..
        } = self.lowered;
        writeln!(
            f,
            "{:?} of {} rows, {} outputs: {} units, {} launches, {} kernels",
            shape.kind,
            shape.rows,
            shape.outputs,
            units.len(),
            launches.len(),
            kernels.len()
        )?;
        for (i, unit) in units.iter().enumerate() {
            writeln!(f)?;
            for &op in &unit.ops {
                writeln!(f, "{}", self.plan.line(&self.plan.ops[op]))?;
            }
            for launch in launches.iter().filter(|launch| launch.unit == i) {
                self.launch(f, launch)?;
            }
        }
        Ok(())
    }
}

impl Listing<'_> {
    fn launch(&self, f: &mut fmt::Formatter<'_>, launch: &LoweredLaunch) -> fmt::Result {
        let spec = &self.lowered.kernels[launch.kernel];
        let shape = self.lowered.shape;
        let [x, y, z] = self.lowered.grid(launch, shape);
        writeln!(f, "    {} [{x}, {y}, {z}]", spec.kernel().name)?;
        let params = spec.params();
        let bound = params.iter().zip(&launch.args).map(|(param, arg)| {
            let how = match param.pointee.map(|pointee| pointee.access) {
                None => "=",
                Some(Access::Read) => "<",
                Some(Access::Write) => ">",
                Some(Access::ReadWrite) => "<>",
            };
            format!("{} {how} {}", param.name, arg.describe(self.plan, shape))
        });
        writeln!(f, "        {}", bound.collect::<Vec<_>>().join(", "))
    }
}
