//! A device that opens while a model's file does.

use std::sync::Arc;

use super::cuda::{Gpu, OpeningGpu};
use crate::Error;
use crate::settings::{Config, DeviceChoice, SessionOptions};

/// A device that is being opened on a thread of its own, or none. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Opening {
    gpu: Option<OpeningGpu>,
}

impl Opening {
    /// Begins to open the GPU that the options name, if they name one: call this before opening a
    /// model, and both happen at once. Whether it can be opened is found when a session is made.
    #[must_use]
    pub fn start(options: &SessionOptions) -> Opening {
        let index = match options.device {
            DeviceChoice::Auto => 0,
            DeviceChoice::Cuda(index) => index,
            DeviceChoice::Cpu | DeviceChoice::Interp => return Opening::default(),
        };
        Opening {
            gpu: Some(OpeningGpu::start(index, &options.config)),
        }
    }

    /// The GPU of an index: the one that is being opened, or one that is opened now.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub(crate) fn gpu(&self, index: usize, config: &Config) -> Result<Arc<Gpu>, Error> {
        match &self.gpu {
            Some(opening) if opening.index() == index => opening.wait(),
            _ => Ok(Arc::new(Gpu::open(index, config)?)),
        }
    }
}
