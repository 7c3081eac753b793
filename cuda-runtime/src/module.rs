//! Modules: PTX in, kernels out, by the driver's own compiler.
//!
//! PTX goes through the driver's linker because that is the interface that gives the machine code
//! back, which the cache keeps. Where the linker refuses what the loader takes, the loader is
//! asked; the error reported is the loader's.
//!
//! Always holds: a module is unloaded only when no kernel, launch or graph names it and the device
//! is idle; loading from several threads at once works, since each load has its own state.

#![allow(unsafe_code)]

use core::ffi::c_void;
use std::ffi::{CStr, CString};
use std::iter;
use std::sync::Arc;

use crate::cache::{CubinCache, CubinKey};
use crate::context::{Context, wait_for_device};
use crate::error::{DriverError, Error};
use crate::ffi::{Api, Handle, sys};
use crate::jit::{JitError, log_text};
use crate::kernel::{KernelSignature, LoadedKernel};

/// PTX text and what to call it in messages.
#[derive(Debug, Clone, Copy)]
pub struct ModuleSource<'a> {
    /// A name for messages: the kernel's, when the module has one.
    pub name: &'a str,
    /// The text of one PTX module.
    pub ptx: &'a str,
    /// The architecture it was written for, such as `sm_90a`; for messages and for telling the
    /// linker about architecture-specific targets.
    pub target: &'a str,
}

/// A loaded module. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Module {
    inner: Arc<Loaded>,
}

#[derive(Debug)]
pub(crate) struct Loaded {
    context: Arc<Context>,
    handle: Handle<sys::CUmod_st>,
    name: String,
    log: String,
    from_cache: bool,
    /// Parameters of each entry, as the text declares them.
    entries: Vec<(String, usize)>,
}

impl Loaded {
    /// How many parameters the text gives the entry `name`.
    pub(crate) fn declared_params(&self, name: &str) -> Option<usize> {
        let entry = self.entries.iter().find(|(entry, _)| entry == name);
        entry.map(|&(_, params)| params)
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// The entry `name`.
    pub(crate) fn function(&self, name: &str) -> Result<Handle<sys::CUfunc_st>, Error> {
        let missing = || Error::KernelMissing {
            module: self.name.clone(),
            kernel: name.to_owned(),
        };
        let symbol = CString::new(name).map_err(|_| missing())?;
        // SAFETY: the module is live while `self` is.
        let found = self
            .context
            .call(|api| unsafe { api.module_get_function(self.handle, &symbol) });
        found.map_err(|error| match error.driver_error() {
            // CUDA_ERROR_NOT_FOUND.
            Some(e) if e.code == 500 => missing(),
            _ => error,
        })
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.context.release(|api| {
            // A kernel of this module may still be running. If the device cannot be waited for
            // (it is dead, or there is a capture in progress), the module is left loaded.
            wait_for_device(api)?;
            // SAFETY: loaded in `Module::load`, unloaded once, the device is idle, and every
            // kernel holds an `Arc` of this object.
            unsafe { api.module_unload(self.handle) }
        });
    }
}

impl Module {
    /// Loads `source`, from `cache` when it was compiled there before, and stores it there
    /// otherwise.
    ///
    /// # Errors
    /// [`Error::Jit`] with name, log and numbered lines when it does not compile;
    /// [`Error::Invalid`] when the text holds a NUL; otherwise what the driver returned. A cache
    /// that can't be read or written is no error.
    #[doc(alias = "cuModuleLoadDataEx")]
    #[doc(alias = "cuLinkAddData")]
    pub fn load(
        context: &Arc<Context>,
        source: ModuleSource<'_>,
        cache: &CubinCache,
    ) -> Result<Module, Error> {
        let text = |text: &str| {
            CString::new(text).map_err(|_| Error::Invalid {
                what: "PTX",
                reason: format!("the text of {} holds a NUL character", source.name),
            })
        };
        let (ptx, name) = (text(source.ptx)?, text(source.name)?);
        let version = context.device().driver().version()?;
        let key = CubinKey::new(source.ptx, context.properties().compute_capability, version);

        let cached = cache.get(key).and_then(|cubin| {
            // A sound entry that the driver refuses all the same is compiled anew.
            context.call(|api| load_cubin(api, &cubin)).ok()
        });
        let from_cache = cached.is_some();
        let (handle, log) = match cached {
            Some(handle) => (handle, String::new()),
            None => compile(context, source, &ptx, &name, |cubin| {
                let _ = cache.put(key, cubin);
            })?,
        };
        context.counters().modules.add();
        if !from_cache {
            context.counters().compilations.add();
        }
        Ok(Module {
            inner: Arc::new(Loaded {
                context: Arc::clone(context),
                handle,
                name: source.name.to_owned(),
                log,
                from_cache,
                entries: entries(source.ptx),
            }),
        })
    }

    /// The entry that `spec` describes, ready to launch.
    ///
    /// # Errors
    /// [`Error::KernelMissing`]; [`Error::Spec`] when the specification contradicts the compiled
    /// kernel or the device.
    #[doc(alias = "cuModuleGetFunction")]
    pub fn kernel(&self, spec: &KernelSignature) -> Result<LoadedKernel, Error> {
        LoadedKernel::new(Arc::clone(&self.inner), spec)
    }

    /// The name it was loaded under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Whether it came from the cache.
    #[must_use]
    pub fn from_cache(&self) -> bool {
        self.inner.from_cache
    }

    /// What the compiler had to say; empty when it came from the cache.
    #[must_use]
    pub fn log(&self) -> &str {
        &self.inner.log
    }
}

/// Every `.entry` of a PTX text with the number of its parameters.
fn entries(ptx: &str) -> Vec<(String, usize)> {
    let lines = ptx
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""));
    let code = lines.collect::<Vec<_>>().join("\n");
    code.split(".entry")
        .skip(1)
        .map(|after| {
            // A kernel without parameters may go without the parentheses too.
            let head = after.split('{').next().unwrap_or("");
            let (name, params) = head.split_once('(').unwrap_or((head, ""));
            let params = params.split(')').next().unwrap_or("");
            let name = name.split_whitespace().next().unwrap_or("");
            (name.to_owned(), params.matches(".param").count())
        })
        .collect()
}

/// Compiles and loads, and gives the machine code to `store` where there is some.
fn compile(
    context: &Context,
    source: ModuleSource<'_>,
    ptx: &CStr,
    name: &CStr,
    store: impl FnOnce(&[u8]),
) -> Result<(Handle<sys::CUmod_st>, String), Error> {
    // The linker's own choice first; an architecture-specific target (sm_90a) is named to it if
    // that fails.
    let named = accelerated_target(source.target).map(Some);
    for target in iter::once(None).chain(named) {
        let mut options = JitOptions::new(target);
        let linked = context.call(|api| link(api, ptx, name, &mut options));
        if let Err(error) = &linked
            && error.is_fatal()
        {
            return Err(error.clone());
        }
        if let Ok(cubin) = linked
            && let Ok(handle) = context.call(|api| load_cubin(api, &cubin))
        {
            store(&cubin);
            return Ok((handle, options.info()));
        }
    }
    let mut options = JitOptions::new(None);
    let loaded = context.call(|api| {
        let image = ptx.as_ptr().cast();
        // SAFETY: the image is NUL-terminated text and the values fit their options.
        unsafe { api.module_load_data_ex(image, &mut options.names, &mut options.values) }
    });
    match loaded {
        Ok(handle) => Ok((handle, options.info())),
        Err(Error::Driver(driver)) if !driver.is_sticky() => {
            let error = JitError::new(
                source.name,
                source.target,
                source.ptx,
                driver,
                options.errors(),
            );
            Err(Error::Jit(Box::new(error)))
        }
        Err(error) => Err(error),
    }
}

/// PTX to machine code.
fn link(
    api: &Api,
    ptx: &CStr,
    name: &CStr,
    options: &mut JitOptions,
) -> Result<Vec<u8>, DriverError> {
    // SAFETY: the values fit their options, and `options` outlives the state, which is destroyed
    // below whatever happens.
    let state = unsafe { api.link_create(&mut options.names, &mut options.values) }?;
    // SAFETY: the state is live until `link_destroy`, and the text ends in NUL.
    let cubin = unsafe { api.link_add_ptx(state, ptx, name) }
        // SAFETY: as above.
        .and_then(|()| unsafe { api.link_complete(state) });
    // SAFETY: made above, destroyed once; the cubin was copied.
    let destroyed = unsafe { api.link_destroy(state) };
    cubin.and_then(|cubin| destroyed.map(|()| cubin))
}

fn load_cubin(api: &Api, cubin: &[u8]) -> Result<Handle<sys::CUmod_st>, DriverError> {
    // SAFETY: the cubin is what the driver's linker made: just now, or earlier and stored with a
    // checksum over all of it.
    unsafe { api.module_load_data_ex(cubin.as_ptr(), &mut [], &mut []) }
}

/// The `CUjit_target` of `sm_90a` and its like, `None` for plain targets: the number after `sm_`
/// on top of the base that cuda.h gives accelerated targets.
fn accelerated_target(target: &str) -> Option<u32> {
    const BASE: u32 = 0x1_0000;
    let number = target.strip_prefix("sm_")?.strip_suffix('a')?;
    number
        .parse::<u32>()
        .ok()
        .filter(|&n| n < 1000)
        .map(|n| BASE + n)
}

/// Log buffers and options of one compilation, in the form the driver takes: an array of option
/// numbers and one of pointer-sized values.
struct JitOptions {
    names: Vec<u32>,
    values: Vec<*mut c_void>,
    // The driver keeps the addresses of these while it works, so they are never moved or resized.
    info: Box<[u8]>,
    error: Box<[u8]>,
}

impl JitOptions {
    const LOG_BYTES: usize = 16 << 10;

    fn new(target: Option<u32>) -> JitOptions {
        use sys::CUjit_option as O;
        let mut info = vec![0; Self::LOG_BYTES].into_boxed_slice();
        let mut error = vec![0; Self::LOG_BYTES].into_boxed_slice();
        // One byte less than there is: the last one stays the terminator.
        let size = (Self::LOG_BYTES - 1) as *mut c_void;
        let mut names = vec![
            O::CU_JIT_INFO_LOG_BUFFER as u32,
            O::CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES as u32,
            O::CU_JIT_ERROR_LOG_BUFFER as u32,
            O::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES as u32,
            O::CU_JIT_LOG_VERBOSE as u32,
        ];
        let mut values = vec![
            info.as_mut_ptr().cast(),
            size,
            error.as_mut_ptr().cast(),
            size,
            core::ptr::without_provenance_mut(1),
        ];
        if let Some(target) = target {
            names.push(O::CU_JIT_TARGET as u32);
            values.push(core::ptr::without_provenance_mut(target as usize));
        }
        JitOptions {
            names,
            values,
            info,
            error,
        }
    }

    fn info(&self) -> String {
        log_text(&self.info)
    }

    fn errors(&self) -> String {
        log_text(&self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_their_parameters_are_counted() {
        let ptx = "// .entry none(.param .u64 p)\n.version 7.0\n.visible .entry add(\n\t.param .u64 \
                   add_x,\n\t.param .align 4 .b8 t[8]\n)\n.reqntid 32\n{ ret; }\n.entry nothing\n{ ret; }";
        let expected = [("add".to_owned(), 2), ("nothing".to_owned(), 0)];
        assert_eq!(entries(ptx), expected);
    }

    #[test]
    fn accelerated_targets() {
        assert_eq!(accelerated_target("sm_90a"), Some(0x1_005A));
        assert_eq!(accelerated_target("sm_100a"), Some(0x1_0064));
        assert_eq!(accelerated_target("sm_90"), None);
        assert_eq!(accelerated_target("a"), None);
        assert_eq!(accelerated_target("sm_a"), None);
        assert_eq!(accelerated_target("sm_99999a"), None);
    }
}
