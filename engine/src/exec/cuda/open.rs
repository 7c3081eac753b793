//! A GPU ready for work: driver, device, context, target and compiled-kernel cache.

use std::path::PathBuf;
use std::sync::Arc;

use gannet_cuda_runtime::{Context, CubinCache, Device, DeviceProperties, Driver};
use gannet_ptx_gen::target::Target;

use crate::error::{CudaError, Error, NoDevice};
use crate::lower::DeviceProfile;
use crate::model::{Phase, Span};
use crate::settings::machine::{self, Machine};
use crate::settings::{DiskCache, Overrides};

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

/// Why a GPU could not be opened. Unlike [`Error`] it can be cloned: whoever asks for a device that
/// was opened once gets the same answer.
#[derive(Debug, Clone)]
pub(super) enum OpenError {
    /// It cannot be used.
    NoDevice(NoDevice),
    /// It failed.
    Driver(CudaError),
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Error {
        match error {
            OpenError::NoDevice(why) => Error::NoDevice(why),
            OpenError::Driver(source) => Error::Driver { source },
        }
    }
}

impl From<NoDevice> for OpenError {
    fn from(why: NoDevice) -> OpenError {
        OpenError::NoDevice(why)
    }
}

impl From<CudaError> for OpenError {
    fn from(source: CudaError) -> OpenError {
        OpenError::Driver(source)
    }
}

impl Gpu {
    /// Opens a GPU by index.
    ///
    /// # Errors
    /// [`Error::NoDevice`]: no driver, no such device, or one older than the kernels need;
    /// [`Error::Driver`]: it is there and failed.
    pub fn open(index: usize, disk_cache: &DiskCache) -> Result<Gpu, Error> {
        Ok(Gpu::try_open(index, disk_cache)?)
    }

    pub(super) fn try_open(index: usize, disk_cache: &DiskCache) -> Result<Gpu, OpenError> {
        let (driver, driver_span) = Span::time(Phase::Driver, Driver::load);
        // Whatever keeps the driver from starting or from naming the device, there is none to use.
        let driver = driver.map_err(NoDevice::Driver)?;
        let device = driver.device(index).map_err(NoDevice::Driver)?;
        let version = driver.version()?;
        let properties = device.properties()?;
        let (major, minor) = properties.compute_capability;
        let target = Target::for_device(major, minor).ok_or_else(|| NoDevice::TooOld {
            name: properties.name.clone(),
            capability: (major, minor),
        })?;
        let cubins = disk_cache.cubin_folder();
        let cache = cubins.map_or_else(CubinCache::disabled, CubinCache::new);
        let (context, context_span) = Span::time(Phase::Context, || enter(device, &properties));
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
    pub fn profile_file(&self, disk_cache: &DiskCache) -> Option<PathBuf> {
        let cache = disk_cache.folder.as_deref()?;
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
    pub fn profile(
        &self,
        disk_cache: &DiskCache,
        overrides: Overrides,
    ) -> Result<DeviceProfile, Error> {
        DeviceProfile::load(self.profile_file(disk_cache).as_deref(), overrides)
    }
}

/// What the driver answers where a device has no memory left for a context, and where another
/// process has it for itself.
const BUSY: [u32; 2] = [2, 46];

/// A context on a device.
fn enter(device: Device, properties: &DeviceProperties) -> Result<Arc<Context>, OpenError> {
    Context::new(device).map_err(|source| not_entered(source, &properties.name))
}

fn not_entered(source: CudaError, name: &str) -> OpenError {
    let busy = |code: u32| BUSY.contains(&code);
    match source.driver_error().is_some_and(|e| busy(e.code)) {
        true => OpenError::NoDevice(NoDevice::Busy {
            name: name.to_owned(),
            source,
        }),
        false => OpenError::Driver(source),
    }
}

#[cfg(test)]
mod tests {
    use gannet_cuda_runtime::DriverError;

    use super::*;

    #[test]
    fn a_device_that_takes_nobody_in_is_none_and_one_that_fails_is_an_error() {
        let opened = |code| {
            let refused = DriverError {
                code,
                name: "CUDA_ERROR_X".to_owned(),
                text: "x".to_owned(),
                call: "cuX",
            };
            Error::from(not_entered(CudaError::Driver(refused), "a GPU"))
        };
        for code in BUSY {
            let error = opened(code);
            assert!(matches!(error, Error::NoDevice(NoDevice::Busy { .. })));
            assert!(error.to_string().contains("a GPU"), "{error}");
        }
        for code in [1, 214, 999] {
            assert!(matches!(opened(code), Error::Driver { .. }), "{code}");
        }
    }
}
