//! Kernels: an entry of a module together with its parameter list and block shape.
//!
//! Always holds: a [`LoadedKernel`] exists only when its specification agrees with itself, with what the
//! driver compiled (where the driver can tell) and with the device's limits.

#![allow(unsafe_code)]

use std::sync::Arc;

use crate::context::Context;
use crate::error::Error;
use crate::ffi::{Handle, sys};
use crate::module::Loaded;

/// Dynamic shared memory a kernel can have without asking for more, in bytes.
const PLAIN_SHARED: u32 = 48 << 10;
/// Bytes of parameters that PTX 8.1 allows at most.
const MOST_PARAM_BYTES: usize = 32_764;

/// One kernel parameter, as the PTX entry declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamSpec {
    /// Its name, for messages.
    pub name: String,
    /// Bytes.
    pub size: usize,
    /// Alignment in bytes, a power of two.
    pub align: usize,
}

impl ParamSpec {
    /// A parameter of `size` bytes aligned to `align`.
    pub fn new(name: impl Into<String>, size: usize, align: usize) -> ParamSpec {
        ParamSpec {
            name: name.into(),
            size,
            align,
        }
    }

    /// A scalar: aligned to its size.
    pub fn scalar(name: impl Into<String>, size: usize) -> ParamSpec {
        ParamSpec::new(name, size, size)
    }

    /// A 64-bit address.
    pub fn pointer(name: impl Into<String>) -> ParamSpec {
        ParamSpec::scalar(name, 8)
    }
}

/// What a caller knows of a kernel: its entry, its parameters in order, and how it is launched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelSignature {
    /// The `.entry` name.
    pub name: String,
    /// The parameters, in order.
    pub params: Vec<ParamSpec>,
    /// Threads in x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
}

/// Where each parameter lies in the packed argument bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) kernel: String,
    pub(crate) params: Vec<ParamSpec>,
    pub(crate) offsets: Vec<usize>,
    pub(crate) bytes: usize,
}

impl Layout {
    /// Places each parameter at the next multiple of its alignment, as the PTX ISA does.
    pub(crate) fn new(spec: &KernelSignature) -> Result<Layout, Error> {
        let mut offsets = Vec::with_capacity(spec.params.len());
        let mut bytes = 0_usize;
        for param in &spec.params {
            let wrong = |what: &str| Error::Spec {
                kernel: spec.name.clone(),
                reason: format!(
                    "parameter {}: {what} (size {}, alignment {})",
                    param.name, param.size, param.align
                ),
            };
            if param.size == 0 || param.size > MOST_PARAM_BYTES {
                return Err(wrong("size must be 1 to 32764 bytes"));
            }
            if !param.align.is_power_of_two() || param.align > 128 {
                return Err(wrong("alignment must be a power of two of at most 128"));
            }
            let offset = bytes.next_multiple_of(param.align);
            offsets.push(offset);
            bytes = offset + param.size;
            if bytes > MOST_PARAM_BYTES {
                return Err(wrong("the parameters take more than 32764 bytes"));
            }
        }
        Ok(Layout {
            kernel: spec.name.clone(),
            params: spec.params.clone(),
            offsets,
            bytes,
        })
    }
}

/// What the driver says of a compiled kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct KernelAttributes {
    /// Registers a thread.
    pub registers: u32,
    /// Local memory a thread in bytes; above 0 means spilled registers or local arrays.
    pub local_bytes: u32,
    /// Static shared memory a block in bytes.
    pub static_shared: u32,
    /// Constant memory in bytes.
    pub const_bytes: u32,
    /// Threads one block can have at most.
    pub max_threads: u32,
    /// The architecture of the machine code, 90 for sm_90.
    pub binary_version: u32,
}

/// A kernel that can be launched. Cloning is cheap; a clone keeps the module loaded.
#[derive(Debug, Clone)]
pub struct LoadedKernel {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    module: Arc<Loaded>,
    function: Handle<sys::CUfunc_st>,
    layout: Arc<Layout>,
    attributes: KernelAttributes,
    block: [u32; 3],
    dynamic_shared: u32,
}

impl LoadedKernel {
    pub(crate) fn new(module: Arc<Loaded>, spec: &KernelSignature) -> Result<LoadedKernel, Error> {
        let layout = Arc::new(Layout::new(spec)?);
        let threads = block_threads(spec)?;
        let function = module.function(&spec.name)?;
        let wrong = |reason: String| Error::Spec {
            kernel: spec.name.clone(),
            reason,
        };
        let context = module.context();

        if let Some(declared) = module.declared_params(&spec.name)
            && declared != layout.params.len()
        {
            return Err(wrong(format!(
                "{} parameters given, the text declares {declared}",
                layout.params.len()
            )));
        }
        compare_params(context, function, &layout)?;
        let attributes = attributes(context, function)?;
        if threads > attributes.max_threads {
            return Err(wrong(format!(
                "a block of {threads} threads, {} at most as compiled",
                attributes.max_threads
            )));
        }
        let properties = context.properties();
        let shared = attributes.static_shared.saturating_add(spec.dynamic_shared);
        if shared > properties.max_shared_per_block_optin {
            return Err(wrong(format!(
                "{shared} bytes of shared memory, the device has {} a block",
                properties.max_shared_per_block_optin
            )));
        }
        if shared > PLAIN_SHARED {
            let attribute =
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as u32;
            // All the device has, not what this launch needs: the limit belongs to the compiled
            // function, which another specification may share with more.
            let most = properties.max_shared_per_block_optin - attributes.static_shared;
            let bytes = i32::try_from(most).unwrap_or(i32::MAX);
            // SAFETY: the module is live.
            context.call(|api| unsafe { api.func_set_attribute(function, attribute, bytes) })?;
        }
        let (block, dynamic_shared) = (spec.block, spec.dynamic_shared);
        let inner = Inner {
            module,
            function,
            layout,
            attributes,
            block,
            dynamic_shared,
        };
        Ok(LoadedKernel {
            inner: Arc::new(inner),
        })
    }

    /// The entry's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.layout.kernel
    }

    /// The parameters, in order.
    #[must_use]
    pub fn params(&self) -> &[ParamSpec] {
        &self.inner.layout.params
    }

    /// Threads in x, y and z.
    #[must_use]
    pub fn block(&self) -> [u32; 3] {
        self.inner.block
    }

    /// Dynamic shared memory in bytes.
    #[must_use]
    pub fn dynamic_shared(&self) -> u32 {
        self.inner.dynamic_shared
    }

    /// What the driver says of it.
    #[must_use]
    #[doc(alias = "cuFuncGetAttribute")]
    pub fn attributes(&self) -> KernelAttributes {
        self.inner.attributes
    }

    /// The context it is loaded in.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        self.inner.module.context()
    }

    /// Blocks of this kernel that fit one multiprocessor at once.
    ///
    /// # Errors
    /// What the driver returned.
    #[doc(alias = "cuOccupancyMaxActiveBlocksPerMultiprocessor")]
    pub fn blocks_per_multiprocessor(&self) -> Result<u32, Error> {
        let threads = self.inner.block.iter().product();
        let blocks = self.context().call(|api| {
            // SAFETY: the module is live while `self` is.
            unsafe {
                api.occupancy_max_active_blocks(self.function(), threads, self.dynamic_shared())
            }
        })?;
        Ok(u32::try_from(blocks).unwrap_or(0))
    }

    /// Allows clusters of more than 8 blocks, which not every device can run.
    pub(crate) fn allow_large_clusters(&self) -> Result<(), Error> {
        use sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED as A;
        // SAFETY: the module is live while `self` is.
        self.context()
            .call(|api| unsafe { api.func_set_attribute(self.function(), A as u32, 1) })
    }

    pub(crate) fn function(&self) -> Handle<sys::CUfunc_st> {
        self.inner.function
    }

    pub(crate) fn layout(&self) -> &Arc<Layout> {
        &self.inner.layout
    }
}

/// Threads of a block, after checking that each dimension is one the hardware has.
fn block_threads(spec: &KernelSignature) -> Result<u32, Error> {
    let [x, y, z] = spec.block;
    let fits = (1..=1024).contains(&x) && (1..=1024).contains(&y) && (1..=64).contains(&z);
    match fits {
        true => Ok(x * y * z),
        false => Err(Error::Spec {
            kernel: spec.name.clone(),
            reason: format!("block {x} x {y} x {z} is outside 1..1024 x 1..1024 x 1..64"),
        }),
    }
}

/// Compares the specification's parameters with the compiled ones, where the driver can list them.
fn compare_params(
    context: &Context,
    function: Handle<sys::CUfunc_st>,
    layout: &Layout,
) -> Result<(), Error> {
    let wrong = |reason| {
        Err(Error::Spec {
            kernel: layout.kernel.clone(),
            reason,
        })
    };
    if !context.api().can_list_params() {
        return Ok(());
    }
    let info = |index| {
        // SAFETY: the caller holds the module.
        context.call(|api| Ok(unsafe { api.func_get_param_info(function, index) }))
    };
    for (index, (param, &offset)) in layout.params.iter().zip(&layout.offsets).enumerate() {
        match info(index)? {
            Some(found) if found == (offset, param.size) => {}
            Some((at, size)) => {
                return wrong(format!(
                    "parameter {index} ({}) is {} bytes at {offset}, the compiled one {size} at {at}",
                    param.name, param.size
                ));
            }
            None => {
                return wrong(format!("the compiled kernel has {index} parameters"));
            }
        }
    }
    // Their number was compared with the text: asking the driver past the last parameter is an
    // error that tools such as compute-sanitizer report.
    Ok(())
}

fn attributes(
    context: &Context,
    function: Handle<sys::CUfunc_st>,
) -> Result<KernelAttributes, Error> {
    use sys::CUfunction_attribute as A;
    let get = |attribute: A| -> Result<u32, Error> {
        // SAFETY: the caller holds the module.
        let value =
            context.call(|api| unsafe { api.func_get_attribute(attribute as u32, function) })?;
        Ok(u32::try_from(value).unwrap_or(0))
    };
    Ok(KernelAttributes {
        registers: get(A::CU_FUNC_ATTRIBUTE_NUM_REGS)?,
        local_bytes: get(A::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
        static_shared: get(A::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?,
        const_bytes: get(A::CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES)?,
        max_threads: get(A::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
        binary_version: get(A::CU_FUNC_ATTRIBUTE_BINARY_VERSION)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(params: Vec<ParamSpec>) -> KernelSignature {
        KernelSignature {
            name: "k".into(),
            params,
            block: [32, 1, 1],
            dynamic_shared: 0,
        }
    }

    #[test]
    fn offsets_are_aligned() {
        let params = vec![
            ParamSpec::scalar("a", 4),
            ParamSpec::pointer("b"),
            ParamSpec::scalar("c", 2),
            ParamSpec::new("map", 128, 64),
            ParamSpec::scalar("d", 1),
        ];
        let layout = Layout::new(&spec(params)).unwrap();
        assert_eq!(layout.offsets, [0, 8, 16, 64, 192]);
        assert_eq!(layout.bytes, 193);
        assert_eq!(Layout::new(&spec(vec![])).unwrap().bytes, 0);
    }

    #[test]
    fn bad_parameters() {
        for (size, align) in [
            (0, 1),
            (8, 0),
            (8, 3),
            (8, 256),
            (40_000, 4),
            (usize::MAX, 4),
        ] {
            let bad = spec(vec![ParamSpec::new("p", size, align)]);
            assert!(
                matches!(Layout::new(&bad), Err(Error::Spec { .. })),
                "{size} {align}"
            );
        }
        let many = spec(vec![ParamSpec::scalar("p", 8); 5000]);
        assert!(Layout::new(&many).is_err());
    }

    #[test]
    fn block_shapes() {
        let with = |block| {
            block_threads(&KernelSignature {
                block,
                ..spec(vec![])
            })
        };
        assert_eq!(with([32, 4, 2]).unwrap(), 256);
        for bad in [[0, 1, 1], [1025, 1, 1], [1, 1, 65], [u32::MAX, u32::MAX, 1]] {
            assert!(with(bad).is_err());
        }
    }
}
