//! Launches: a kernel, its grid and its arguments as data, and the one way to put it on a stream.
//!
//! Always holds: what a launch asks of the hardware is checked in [`Launch::check`], and its bytes
//! take one path to the driver, whether it runs eagerly, under capture or as a graph node.

#![allow(unsafe_code)]

use crate::args::PackedArgs;
use crate::error::Error;
use crate::ffi::RawLaunch;
use crate::kernel::LoadedKernel;
use crate::stream::Stream;

/// One launch of one kernel.
#[derive(Debug, Clone)]
pub struct Launch {
    /// What runs.
    pub kernel: LoadedKernel,
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Its arguments.
    pub args: PackedArgs,
    /// Blocks of a cluster in x, y and z; each divides the grid's. `None`: as the PTX says.
    pub cluster: Option<[u32; 3]>,
    /// Lets it start before the launch in front of it has finished: its `griddepcontrol.wait` is
    /// then what orders the two. A kernel without that instruction must not set this.
    pub programmatic: bool,
}

impl Launch {
    /// A plain launch: no cluster, starts when the one before it is done.
    #[must_use]
    pub fn new(kernel: &LoadedKernel, grid: [u32; 3], args: PackedArgs) -> Launch {
        Launch {
            kernel: kernel.clone(),
            grid,
            args,
            cluster: None,
            programmatic: false,
        }
    }

    /// The same launch with programmatic ordering.
    #[must_use]
    pub fn programmatic(self) -> Launch {
        Launch {
            programmatic: true,
            ..self
        }
    }

    /// The same launch in clusters.
    #[must_use]
    pub fn cluster(self, blocks: [u32; 3]) -> Launch {
        Launch {
            cluster: Some(blocks),
            ..self
        }
    }

    /// Checks everything that can be checked without running it.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let kernel = self.kernel.name();
        if !self.args.fits(self.kernel.layout()) {
            let reason = "they were packed for another parameter list".to_owned();
            return Err(Error::Args {
                kernel: kernel.to_owned(),
                reason,
            });
        }
        for buffer in self.args.buffers() {
            self.kernel.context().same(buffer.context(), "buffer")?;
        }
        check_shape(self.grid, self.cluster).map_err(|reason| Error::LaunchConfig {
            kernel: kernel.to_owned(),
            reason,
        })?;
        if self
            .cluster
            .is_some_and(|blocks| blocks.iter().product::<u32>() > 8)
        {
            self.kernel.allow_large_clusters()?;
        }
        Ok(())
    }

    pub(crate) fn raw(&self) -> RawLaunch<'_> {
        RawLaunch {
            function: self.kernel.function(),
            grid: self.grid,
            block: self.kernel.block(),
            dynamic_shared: self.kernel.dynamic_shared(),
            args: self.args.bytes(),
            cluster: self.cluster,
            programmatic: self.programmatic,
        }
    }

    /// Puts it on a stream: the one place where a kernel is launched outside a graph.
    pub(crate) fn issue(&self, stream: &Stream) -> Result<(), Error> {
        stream.context().same(self.kernel.context(), "kernel")?;
        self.check()?;
        stream.context().call(|api| {
            // SAFETY: stream and module are live while borrowed; the arguments were packed for
            // this parameter list. What the kernel does with the addresses it is given is up to
            // its PTX: the device isolates its faults from the host, as sticky errors.
            unsafe { api.launch_kernel_ex(&self.raw(), stream.handle()) }
        })
    }
}

impl Stream {
    /// Queues one launch; does not wait.
    ///
    /// The buffers it names must be kept until the stream has passed it (freeing one waits for the
    /// device, so the worst that dropping early costs is that wait).
    ///
    /// # Errors
    /// [`Error::Args`] or [`Error::LaunchConfig`] before the driver is called; otherwise what the
    /// driver returned. An error of the kernel itself shows at the next wait.
    #[doc(alias = "cuLaunchKernelEx")]
    pub fn launch(&self, launch: &Launch) -> Result<(), Error> {
        launch.issue(self)?;
        self.context().counters().launches.add();
        Ok(())
    }
}

/// Limits of every device since sm_50 (CUDA programming guide, "Compute Capabilities").
fn check_shape(grid: [u32; 3], cluster: Option<[u32; 3]>) -> Result<(), String> {
    let [x, y, z] = grid;
    let fits = (1..=0x7FFF_FFFF).contains(&x) && [y, z].iter().all(|n| (1..=65_535).contains(n));
    if !fits {
        return Err(format!(
            "grid {x} x {y} x {z} is outside 1..2147483647 x 1..65535 x 1..65535"
        ));
    }
    let Some(blocks) = cluster else { return Ok(()) };
    let [cx, cy, cz] = blocks;
    let size = blocks
        .iter()
        .try_fold(1_u32, |product, &n| product.checked_mul(n));
    if !size.is_some_and(|size| (1..=16).contains(&size)) {
        return Err(format!(
            "cluster {cx} x {cy} x {cz} is not of 1 to 16 blocks"
        ));
    }
    if grid
        .iter()
        .zip(blocks)
        .any(|(grid, cluster)| grid % cluster != 0)
    {
        return Err(format!(
            "cluster {cx} x {cy} x {cz} does not divide grid {x} x {y} x {z}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        assert!(check_shape([1, 1, 1], None).is_ok());
        assert!(check_shape([0x7FFF_FFFF, 65_535, 65_535], None).is_ok());
        for bad in [[0, 1, 1], [1, 0, 1], [1, 1, 65_536], [0x8000_0000, 1, 1]] {
            assert!(check_shape(bad, None).is_err(), "{bad:?}");
        }
        assert!(check_shape([8, 4, 2], Some([4, 2, 1])).is_ok());
        for bad in [[3, 1, 1], [0, 1, 1], [8, 4, 1], [u32::MAX, u32::MAX, 2]] {
            assert!(check_shape([8, 4, 2], Some(bad)).is_err(), "{bad:?}");
        }
    }
}
