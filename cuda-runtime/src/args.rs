//! Arguments: packed bytes that were checked against the kernel's parameter list.
//!
//! Passing too few arguments, or a `u32` where the kernel reads a `u64`, makes the driver read past
//! what it was given. Here the count, the size and the alignment of each argument are compared with
//! the parameter list before the driver sees anything.
//!
//! Always holds: a [`PackedArgs`] has exactly the bytes its layout asks for, padding zeroed, and
//! keeps every buffer it names alive.

use std::sync::Arc;

use crate::error::Error;
use crate::kernel::{KernelSignature, Layout, LoadedKernel};
use crate::memory::Buffer;

/// Packs arguments in order. Mistakes are kept and reported by [`Args::finish`], so that calls can
/// be chained.
///
/// ```
/// use gannet_cuda_runtime::{Args, KernelSignature, ParamSpec};
///
/// let spec = KernelSignature {
///     name: "scale".into(),
///     params: vec![ParamSpec::scalar("n", 4), ParamSpec::scalar("factor", 8)],
///     block: [256, 1, 1],
///     dynamic_shared: 0,
/// };
/// let args = Args::for_spec(&spec)?.u32(7).f64(0.5).finish()?;
/// assert_eq!(args.bytes().len(), 16); // 4, 4 of padding, 8
/// let error = Args::for_spec(&spec)?.u32(7).u32(1).finish().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "arguments of kernel scale: argument 1 (factor) has 4 bytes, the parameter 8",
/// );
/// # Ok::<(), gannet_cuda_runtime::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "arguments do nothing until `finish`"]
pub struct Args {
    layout: Arc<Layout>,
    bytes: Vec<u8>,
    next: usize,
    buffers: Vec<Buffer>,
    error: Option<String>,
}

impl Args {
    /// Starts packing for a loaded kernel.
    pub fn for_kernel(kernel: &LoadedKernel) -> Args {
        Args::new(Arc::clone(kernel.layout()))
    }

    /// Starts packing for a specification, without a device.
    ///
    /// # Errors
    /// [`Error::Spec`] when the specification contradicts itself.
    pub fn for_spec(spec: &KernelSignature) -> Result<Args, Error> {
        Ok(Args::new(Arc::new(Layout::new(spec)?)))
    }

    fn new(layout: Arc<Layout>) -> Args {
        let bytes = vec![0; layout.bytes];
        Args {
            layout,
            bytes,
            next: 0,
            buffers: Vec::new(),
            error: None,
        }
    }

    /// The address of a buffer, which is kept alive as long as the arguments are.
    pub fn ptr(mut self, buffer: &Buffer) -> Args {
        self.buffers.push(buffer.clone());
        self.bytes(&buffer.ptr().to_ne_bytes())
    }

    /// An 8-bit integer.
    pub fn u8(self, value: u8) -> Args {
        self.bytes(&[value])
    }

    /// A 16-bit integer, or the bits of an f16 or bf16.
    pub fn u16(self, value: u16) -> Args {
        self.bytes(&value.to_ne_bytes())
    }

    /// A 32-bit unsigned integer.
    pub fn u32(self, value: u32) -> Args {
        self.bytes(&value.to_ne_bytes())
    }

    /// A 32-bit signed integer.
    pub fn i32(self, value: i32) -> Args {
        self.bytes(&value.to_ne_bytes())
    }

    /// A 64-bit unsigned integer. Addresses go through [`Args::ptr`], which keeps the memory.
    pub fn u64(self, value: u64) -> Args {
        self.bytes(&value.to_ne_bytes())
    }

    /// A 64-bit signed integer.
    pub fn i64(self, value: i64) -> Args {
        self.bytes(&value.to_ne_bytes())
    }

    /// A 32-bit float.
    pub fn f32(self, value: f32) -> Args {
        self.bytes(&value.to_ne_bytes())
    }

    /// A 64-bit float.
    pub fn f64(self, value: f64) -> Args {
        self.bytes(&value.to_ne_bytes())
    }

    /// A parameter of any other type, as its bytes.
    pub fn bytes(mut self, value: &[u8]) -> Args {
        let index = self.next;
        self.next += 1;
        let Some(param) = self.layout.params.get(index) else {
            return self;
        };
        if param.size == value.len() {
            let offset = self.layout.offsets[index];
            self.bytes[offset..offset + value.len()].copy_from_slice(value);
        } else if self.error.is_none() {
            self.error = Some(format!(
                "argument {index} ({}) has {} bytes, the parameter {}",
                param.name,
                value.len(),
                param.size
            ));
        }
        self
    }

    /// The packed bytes, if they match the parameters.
    ///
    /// # Errors
    /// [`Error::Args`] naming the first argument whose size differs, or both counts.
    pub fn finish(self) -> Result<PackedArgs, Error> {
        let count = self.layout.params.len();
        let reason = match self.error {
            Some(reason) => reason,
            None if self.next != count => {
                format!("{} given, {count} parameters", self.next)
            }
            None => {
                let Args {
                    layout,
                    bytes,
                    buffers,
                    ..
                } = self;
                return Ok(PackedArgs {
                    layout,
                    bytes,
                    buffers,
                });
            }
        };
        Err(Error::Args {
            kernel: self.layout.kernel.clone(),
            reason,
        })
    }
}

/// Checked arguments of one launch.
#[derive(Debug, Clone)]
pub struct PackedArgs {
    layout: Arc<Layout>,
    bytes: Vec<u8>,
    buffers: Vec<Buffer>,
}

impl PackedArgs {
    /// The bytes as the kernel reads them.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The buffers named, in order.
    #[must_use]
    pub fn buffers(&self) -> &[Buffer] {
        &self.buffers
    }

    /// Sets an argument that was packed as a 32-bit number.
    ///
    /// # Errors
    /// [`Error::Args`] when there is no such argument, or it has another size.
    pub fn set_u32(&mut self, index: usize, value: u32) -> Result<(), Error> {
        let Layout {
            params, offsets, ..
        } = &*self.layout;
        let place = params.get(index).zip(offsets.get(index));
        match place.filter(|(param, _)| param.size == 4) {
            Some((_, &offset)) => {
                self.bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
                Ok(())
            }
            None => Err(Error::Args {
                kernel: self.layout.kernel.clone(),
                reason: format!("argument {index} is no number of 4 bytes"),
            }),
        }
    }

    /// Whether they were packed for these parameters.
    pub(crate) fn fits(&self, layout: &Arc<Layout>) -> bool {
        Arc::ptr_eq(&self.layout, layout) || self.layout.params == layout.params
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::ParamSpec;

    fn spec() -> KernelSignature {
        KernelSignature {
            name: "k".into(),
            params: vec![
                ParamSpec::scalar("a", 4),
                ParamSpec::pointer("b"),
                ParamSpec::scalar("c", 2),
            ],
            block: [1, 1, 1],
            dynamic_shared: 0,
        }
    }

    fn args() -> Args {
        Args::for_spec(&spec()).unwrap()
    }

    #[test]
    fn packs_at_offsets_with_zero_padding() {
        let packed = args()
            .u32(0x0403_0201)
            .u64(0x1122_3344_5566_7788)
            .u16(0xBBAA)
            .finish();
        let expected = [
            1, 2, 3, 4, 0, 0, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
        ];
        let packed = packed.unwrap();
        assert_eq!(packed.bytes()[..16], expected);
        assert_eq!(packed.bytes()[16..], [0xAA, 0xBB]);
    }

    #[test]
    fn wrong_counts_and_sizes() {
        let text = |args: Args| args.finish().unwrap_err().to_string();
        assert!(text(args()).contains("0 given, 3 parameters"));
        assert!(text(args().u32(1).u64(2)).contains("2 given, 3 parameters"));
        let many = args().u32(1).u64(2).u16(3).u8(4).u8(5);
        assert!(text(many).contains("5 given, 3 parameters"));
        assert!(text(args().u64(1).u32(2).u16(3)).contains("argument 0 (a) has 8 bytes"));
        assert!(text(args().bytes(&[])).contains("argument 0 (a) has 0 bytes"));
    }

    #[test]
    fn a_number_can_be_set_again() {
        let mut packed = args().u32(1).u64(2).u16(3).finish().unwrap();
        packed.set_u32(0, 9).unwrap();
        let expected = args().u32(9).u64(2).u16(3).finish().unwrap();
        assert_eq!(packed.bytes(), expected.bytes());
        for other in [1, 2, 3] {
            assert!(packed.set_u32(other, 7).is_err(), "{other}");
        }
        assert_eq!(packed.bytes(), expected.bytes());
    }

    #[test]
    fn fits_equal_parameters_only() {
        let packed = args().u32(1).u64(2).u16(3).finish().unwrap();
        assert!(packed.fits(&Arc::new(Layout::new(&spec()).unwrap())));
        let mut other = spec();
        other.params.pop();
        assert!(!packed.fits(&Arc::new(Layout::new(&other).unwrap())));
    }
}
