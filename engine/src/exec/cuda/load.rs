//! Loading, with everything at once that can be: a device opened beside the model's file, and then
//! kernels compiled, weights packed and moved, the cache allocated.
//!
//! All cores pack bands of rows straight from the mapped file into pinned buffers, from which they fly:
//! the host reads and writes each byte once.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use gannet_cuda_runtime::Stream;

use super::memory::allocate;
use super::open::{Gpu, OpenError};
use super::prepare::{Kernels, Memory};
use super::weights;
use crate::Error;
use crate::exec::Limits;
use crate::exec::Load;
use crate::lower::{KernelSpec, Lowered};
use crate::model::Model;
use crate::model::{Phase, Span};
use crate::settings::DiskCache;

/// A GPU that is being opened on a thread of its own, or has been. Cloning shares it.
///
/// Starting the driver and making a context takes a few hundred milliseconds, in which a model's
/// file can be opened. The last clone that is dropped waits for the thread: a process must not end
/// while its driver starts.
#[derive(Clone)]
pub struct OpeningGpu {
    shared: Arc<Shared>,
}

/// A GPU, or why there is none.
type Opened = OnceLock<Result<Arc<Gpu>, OpenError>>;

struct Shared {
    index: usize,
    disk_cache: DiskCache,
    opened: Arc<Opened>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl OpeningGpu {
    /// Begins to open a GPU by index.
    #[must_use]
    pub fn start(index: usize, disk_cache: &DiskCache) -> OpeningGpu {
        let opened = Arc::new(Opened::new());
        let (theirs, kept) = (Arc::clone(&opened), disk_cache.clone());
        // Without a thread it is opened when it is asked for.
        let thread = std::thread::Builder::new()
            .name("open-gpu".to_owned())
            .spawn(move || {
                theirs.get_or_init(|| open(index, &kept));
            })
            .ok();
        OpeningGpu {
            shared: Arc::new(Shared {
                index,
                disk_cache: disk_cache.clone(),
                opened,
                thread: Mutex::new(thread),
            }),
        }
    }

    /// The index it is opened by.
    #[must_use]
    pub fn index(&self) -> usize {
        self.shared.index
    }

    /// The GPU, when it is open.
    ///
    /// # Errors
    /// As [`Gpu::open`], every time.
    pub fn wait(&self) -> Result<Arc<Gpu>, Error> {
        let Shared {
            index,
            disk_cache,
            opened,
            ..
        } = &*self.shared;
        Ok(opened.get_or_init(|| open(*index, disk_cache)).clone()?)
    }
}

fn open(index: usize, disk_cache: &DiskCache) -> Result<Arc<Gpu>, OpenError> {
    Gpu::try_open(index, disk_cache).map(Arc::new)
}

impl Drop for Shared {
    fn drop(&mut self) {
        let thread = self
            .thread
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // A panic there leaves nothing opened, and nobody is left to ask.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for OpeningGpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpeningGpu")
            .field("index", &self.shared.index)
            .field("open", &self.shared.opened.get().is_some())
            .finish()
    }
}

/// What is run by what is loaded.
pub(super) struct Steps<'a> {
    /// Steps of the shapes that are served from the start on.
    pub(super) shapes: &'a [Lowered],
    /// Kernels that follow the plan's in a step.
    pub(super) following: &'a [KernelSpec],
}

/// Compiles the kernels of `steps`, moves the weights and allocates the cache, all at once.
///
/// # Errors
/// The first that failed: kernels, then weights, then memory.
pub(super) fn load(
    gpu: &Gpu,
    model: &Model,
    limits: Limits,
    steps: &Steps<'_>,
    stream: &Stream,
) -> Result<(Kernels, Memory, Load), Error> {
    let before = gpu.context.statistics();
    let mut spans = gpu.opening.clone();
    let (kernels, cache, weights) = std::thread::scope(|scope| {
        let kernels = scope.spawn(|| {
            Span::time(Phase::Kernels, || {
                let mut specs = Vec::new();
                let of_plans = steps.shapes.iter().flat_map(|l| &l.kernels);
                for spec in of_plans.chain(steps.following) {
                    if !specs.contains(spec) {
                        specs.push(spec.clone());
                    }
                }
                let mut kernels = Kernels::default();
                kernels.compile(gpu, &specs).map(|()| kernels)
            })
        });
        let cache = scope.spawn(|| {
            Span::time(Phase::Cache, || {
                allocate(gpu, model, limits, steps.shapes, stream)
            })
        });
        let weights = weights::upload(&gpu.context, model);
        (kernels.join(), cache.join(), weights)
    });
    let (kernels, kernels_span) = joined(kernels)?;
    let (memory, cache_span) = joined(cache)?;
    let kernels = kernels?;
    let (weights, weight_spans) = weights?;
    let memory = Memory { weights, ..memory? };
    spans.extend(weight_spans);
    spans.extend([kernels_span, cache_span]);
    let during = gpu.context.statistics() - before;
    let load = Load {
        spans,
        bytes: model.weight_total(),
        kernels: during.modules,
        compiled: during.compilations,
    };
    Ok((kernels, memory, load))
}

/// What a thread of the load gave.
fn joined<T>(result: std::thread::Result<T>) -> Result<T, Error> {
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let first = text.and_then(|text| text.lines().next());
        let why = first.unwrap_or("it does not say why");
        Error::internal(format!("a thread of the load panicked: {why}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_panicked_is_a_broken_invariant() {
        let join = |work: fn() -> u8| joined(std::thread::spawn(work).join());
        assert_eq!(join(|| 7).unwrap(), 7);
        let error = join(|| panic!("planted\nand more")).unwrap_err();
        assert!(matches!(error, Error::Internal { .. }), "{error}");
        let line = error.to_string();
        assert!(line.contains("panicked: planted;"), "{line}");
    }

    /// On a machine without a GPU: the same error every time, and nothing left running.
    #[test]
    fn a_gpu_that_does_not_exist_fails_the_same_way_each_time() {
        let disk_cache = DiskCache::default();
        let opening = OpeningGpu::start(9999, &disk_cache);
        let clone = opening.clone();
        let (one, two) = (opening.wait(), clone.wait());
        let text = |r: Result<Arc<Gpu>, Error>| r.err().map(|e| e.to_string());
        let one = text(one).unwrap();
        assert_eq!(Some(&one), text(two).as_ref());
        assert_eq!(Some(one), text(Gpu::open(9999, &disk_cache).map(Arc::new)));
        assert!(matches!(opening.wait(), Err(Error::NoDevice(_))));
        assert_eq!(clone.index(), 9999);
    }
}
