//! The driver and its devices: proof that libcuda is there, and what each GPU is.
//!
//! Always holds: a [`Driver`] exists only after `cuInit` succeeded with at least one device, so
//! whatever holds one may call the driver.

use std::fmt;
use std::sync::OnceLock;

use crate::error::{DriverError, Error};
use crate::ffi::{Api, sys};

/// The oldest driver this crate runs on, as the CUDA version it serves (driver branch 525).
const OLDEST: (u32, u32) = (12, 0);

/// Proof that the CUDA driver is loaded and initialised.
#[derive(Clone, Copy)]
pub struct Driver {
    api: &'static Api,
}

impl Driver {
    /// Loads libcuda and initialises it, once a process; later calls return the first answer.
    ///
    /// # Errors
    /// One line each: the library is missing, the driver is older than CUDA 12.0, or it sees no
    /// device; otherwise what `cuInit` returned.
    #[doc(alias = "cuInit")]
    pub fn load() -> Result<Driver, Error> {
        static LOADED: OnceLock<Result<Api, Error>> = OnceLock::new();
        match LOADED.get_or_init(load) {
            Ok(api) => Ok(Driver { api }),
            Err(error) => Err(error.clone()),
        }
    }

    pub(crate) fn api(self) -> &'static Api {
        self.api
    }

    /// The newest CUDA version the driver serves, as major and minor.
    ///
    /// # Errors
    /// What the driver returned.
    #[doc(alias = "cuDriverGetVersion")]
    pub fn version(&self) -> Result<(u32, u32), Error> {
        Ok(version(self.api)?)
    }

    /// The number of devices, after `CUDA_VISIBLE_DEVICES`.
    ///
    /// # Errors
    /// What the driver returned.
    #[doc(alias = "cuDeviceGetCount")]
    pub fn device_count(&self) -> Result<usize, Error> {
        Ok(usize::try_from(self.api.device_get_count()?).unwrap_or(0))
    }

    /// Device number `index`, counted from 0.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] past the last one.
    #[doc(alias = "cuDeviceGet")]
    pub fn device(&self, index: usize) -> Result<Device, Error> {
        let count = self.device_count()?;
        let ordinal = i32::try_from(index).ok().filter(|_| index < count);
        let ordinal = ordinal.ok_or(Error::NoSuchDevice { index, count })?;
        Ok(Device {
            driver: *self,
            index,
            raw: self.api.device_get(ordinal)?,
        })
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("version", &version(self.api).ok())
            .finish()
    }
}

fn load() -> Result<Api, Error> {
    let api = Api::load()?;
    // The version needs no initialisation, and explains a failed one better than its code does.
    let found = version(&api)?;
    if found < OLDEST {
        return Err(Error::DriverTooOld { found });
    }
    api.init().map_err(|error| match error.code {
        DriverError::NO_DEVICE => Error::NoDevice,
        _ => Error::Driver(error),
    })?;
    if api.device_get_count()? < 1 {
        return Err(Error::NoDevice);
    }
    Ok(api)
}

fn version(api: &Api) -> Result<(u32, u32), DriverError> {
    let version = u32::try_from(api.driver_get_version()?).unwrap_or(0);
    Ok((version / 1000, version % 1000 / 10))
}

/// One GPU.
#[derive(Debug, Clone, Copy)]
pub struct Device {
    driver: Driver,
    index: usize,
    raw: i32,
}

impl Device {
    /// The driver this device came from.
    #[must_use]
    pub fn driver(&self) -> Driver {
        self.driver
    }

    /// The number it was asked for by.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn raw(&self) -> i32 {
        self.raw
    }

    /// Its name and figures.
    ///
    /// # Errors
    /// What the driver returned.
    #[doc(alias = "cuDeviceGetAttribute")]
    pub fn properties(&self) -> Result<DeviceProperties, Error> {
        use sys::CUdevice_attribute as A;
        let api = self.driver.api();
        let get = |attribute: A| -> Result<u32, Error> {
            let value = api.device_get_attribute(attribute as u32, self.raw)?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        // A driver that dropped an attribute (clock rates are deprecated) leaves the figure 0.
        let hint = |attribute: A| get(attribute).unwrap_or(0);
        Ok(DeviceProperties {
            name: api.device_get_name(self.raw)?,
            compute_capability: (
                get(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                get(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            multiprocessors: get(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            total_memory: api.device_total_mem(self.raw)?,
            l2_bytes: get(A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
            max_shared_per_block_optin: get(
                A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?,
            shared_per_sm: get(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
            regs_per_sm: get(A::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR)?,
            max_threads_per_sm: get(A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?,
            clock_khz: hint(A::CU_DEVICE_ATTRIBUTE_CLOCK_RATE),
            memory_clock_khz: hint(A::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE),
            bus_width: hint(A::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH),
            uuid: api.device_get_uuid(self.raw)?,
            pci: api.device_get_pci_bus_id(self.raw)?,
        })
    }
}

/// What a device is: figures as the driver gives them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceProperties {
    /// Marketing name, such as `NVIDIA H200`.
    pub name: String,
    /// Compute capability, major and minor: `(9, 0)` for Hopper.
    pub compute_capability: (u32, u32),
    /// Number of streaming multiprocessors.
    pub multiprocessors: u32,
    /// Device memory in bytes.
    pub total_memory: usize,
    /// L2 cache in bytes.
    pub l2_bytes: u32,
    /// Most shared memory one block can have, in bytes, static and dynamic together.
    pub max_shared_per_block_optin: u32,
    /// Shared memory of one multiprocessor in bytes.
    pub shared_per_sm: u32,
    /// 32-bit registers of one multiprocessor.
    pub regs_per_sm: u32,
    /// Threads resident on one multiprocessor at most.
    pub max_threads_per_sm: u32,
    /// Peak core clock in kHz; 0 when the driver does not say.
    pub clock_khz: u32,
    /// Peak memory clock in kHz; 0 when the driver does not say.
    pub memory_clock_khz: u32,
    /// Width of the memory bus in bits; 0 when the driver does not say.
    pub bus_width: u32,
    /// The device's identity, stable across reboots; [`DeviceProperties::uuid_text`] prints it.
    pub uuid: [u8; 16],
    /// PCI address, `domain:bus:device.function`.
    pub pci: String,
}

impl DeviceProperties {
    /// The UUID as tools print it: `GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
    #[must_use]
    pub fn uuid_text(&self) -> String {
        let mut text = String::from("GPU-");
        for (i, byte) in self.uuid.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            text.push_str(&format!("{byte:02x}"));
        }
        text
    }

    /// Peak memory bandwidth by the figures, in bytes a second (two transfers a clock); 0 unknown.
    #[must_use]
    pub fn peak_bandwidth(&self) -> u64 {
        2 * u64::from(self.memory_clock_khz) * 1000 * u64::from(self.bus_width) / 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loading_never_panics() {
        match Driver::load() {
            Ok(driver) => assert!(driver.version().unwrap() >= OLDEST),
            Err(error) => {
                assert!(!error.to_string().contains('\n'), "{error}");
                // The answer is remembered.
                assert_eq!(Driver::load().unwrap_err().to_string(), error.to_string());
            }
        }
    }
}
