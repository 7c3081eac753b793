//! A device that opens while a model's file does.

use std::sync::Arc;

use super::cuda::{Gpu, OpeningGpu};
use crate::Error;
use crate::settings::{DiskCache, Settings};

/// A device that is being opened on a thread of its own, or none. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Opening {
    gpu: Option<OpeningGpu>,
}

impl Opening {
    /// Begins to open the GPU that the settings name, if they name one: call this before opening a
    /// model, and both happen at once. Whether it can be opened is found when a session is made.
    #[must_use]
    pub fn start(settings: &Settings) -> Opening {
        let start = |index| OpeningGpu::start(index, &settings.disk_cache);
        Opening {
            gpu: settings.device.gpu().map(start),
        }
    }

    /// The GPU of an index: the one that is being opened, or one that is opened now.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub(crate) fn gpu(&self, index: usize, disk_cache: &DiskCache) -> Result<Arc<Gpu>, Error> {
        match &self.gpu {
            Some(opening) if opening.index() == index => opening.wait(),
            _ => Ok(Arc::new(Gpu::open(index, disk_cache)?)),
        }
    }
}
