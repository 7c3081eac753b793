//! A GPU ready for work: driver, device, context, target and compiled-kernel cache.

use std::path::PathBuf;
use std::sync::Arc;

use gannet_cuda_runtime::{Context, CubinCache, DeviceProperties, Driver};
use gannet_ptx_gen::target::Target;

use crate::Error;
use crate::lower::DeviceProfile;
use crate::model::{Phase, Span};
use crate::settings::{Config, Machine, Overrides, machine};

/// An open GPU.
pub struct Gpu {
    /// The driver's context.
    pub context: Arc<Context>,
    /// What the device is.
    pub properties: DeviceProperties,
    /// What kernels are written for.
    pub target: Target,
    /// Where compiled kernels are kept.
    pub cache: CubinCache,
    /// What it took to open it.
    pub opening: Vec<Span>,
    /// Newest CUDA that the driver serves: major, minor.
    pub driver: (u32, u32),
}

impl Gpu {
    /// Opens a GPU by index.
    ///
    /// # Errors
    /// No driver, no such device, or one older than the kernels need.
    pub fn open(index: usize, config: &Config) -> Result<Gpu, Error> {
        let (driver, driver_span) = Span::time(Phase::Driver, Driver::load);
        let driver = driver?;
        let version = driver.version()?;
        let device = driver.device(index)?;
        let properties = device.properties()?;
        let (major, minor) = properties.compute_capability;
        let target = target_for(major, minor).ok_or_else(|| {
            Error::Cuda(format!(
                "{} has compute capability {major}.{minor}; 7.5 or newer is needed",
                properties.name
            ))
        })?;
        let cache = match &config.cache_dir {
            Some(dir) if config.cubin_cache => CubinCache::new(dir.join("cubin")),
            _ => CubinCache::disabled(),
        };
        let (context, context_span) = Span::time(Phase::Context, || Context::new(device));
        Ok(Gpu {
            context: context?,
            properties,
            target,
            cache,
            opening: vec![driver_span, context_span],
            driver: version,
        })
    }

    /// Where this device's profile is kept; `None` without a cache folder.
    #[must_use]
    pub fn profile_file(&self, config: &Config) -> Option<PathBuf> {
        let cache = config.cache_dir.as_deref()?;
        Some(DeviceProfile::file(cache, &self.machine()))
    }

    /// What measurements on this device are valid for.
    #[must_use]
    pub fn machine(&self) -> Machine {
        Machine {
            device: self.properties.name.clone(),
            uuid: self.properties.uuid_text(),
            driver: self.driver,
            release: machine::driver_release(),
            build: machine::build(),
        }
    }

    /// Which variants run here.
    ///
    /// # Errors
    /// A profile that cannot be read.
    pub fn profile(&self, config: &Config, overrides: Overrides) -> Result<DeviceProfile, Error> {
        DeviceProfile::load(self.profile_file(config).as_deref(), overrides)
    }
}

/// The newest target that a compute capability runs.
#[must_use]
pub fn target_for(major: u32, minor: u32) -> Option<Target> {
    match (major, minor) {
        (..=6, _) | (7, ..=4) => None,
        (7, _) => Some(Target::Sm75),
        (8, 0..=5) => Some(Target::Sm80),
        (8, 6..=8) => Some(Target::Sm86),
        (8, _) => Some(Target::Sm89),
        (9, 0) => Some(Target::Sm90a),
        (9, _) => Some(Target::Sm89),
        (10, _) => Some(Target::Sm100),
        (11, _) => Some(Target::Sm100),
        _ => Some(Target::Sm120),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_gets_a_target_that_it_runs() {
        assert_eq!(target_for(7, 0), None);
        assert_eq!(target_for(7, 5), Some(Target::Sm75));
        assert_eq!(target_for(8, 6), Some(Target::Sm86));
        assert_eq!(target_for(9, 0), Some(Target::Sm90a));
        assert_eq!(target_for(12, 1), Some(Target::Sm120));
    }
}
