//! One interface over the containers that weights come from.
//!
//! A plan names parts of tensors of a source; whoever reads weights asks the source for bytes, and
//! does not know what kind of file they lie in.

use std::path::Path;

use gannet_gguf::Gguf;
use gannet_quant::Format;

/// A tensor of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceTensor<'a> {
    /// Its number in the source.
    pub index: usize,
    /// Elements of each dimension, the contiguous one first.
    pub dims: &'a [u64],
    /// Block format; `None` for a type that cannot be computed with.
    pub format: Option<Format>,
    /// What the container calls the type.
    pub type_name: &'a str,
}

/// A container of tensors, open and checked: sizes of tensors are those of their shapes.
pub trait Source: Send + Sync {
    /// The file, for messages.
    fn path(&self) -> &Path;

    /// The tensor of a name.
    fn find(&self, name: &str) -> Option<SourceTensor<'_>>;

    /// The stored bytes of a tensor, rows one after the other.
    fn bytes(&self, index: usize) -> &[u8];
}

impl Source for Gguf {
    fn path(&self) -> &Path {
        Gguf::path(self)
    }

    fn find(&self, name: &str) -> Option<SourceTensor<'_>> {
        let tensor = self.tensor(name)?;
        let index = self
            .tensors()
            .iter()
            .position(|t| std::ptr::eq(t, tensor))?;
        Some(SourceTensor {
            index,
            dims: &tensor.dims,
            format: Format::from_ggml_id(tensor.ty.id()),
            type_name: tensor.ty.name(),
        })
    }

    fn bytes(&self, index: usize) -> &[u8] {
        self.data(&self.tensors()[index])
    }
}
