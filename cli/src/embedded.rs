//! The model that the program carries, so that `gannet run` prints text with no download.
//!
//! `models/MODEL_CARD.md` says what it is. It is behind the default feature `embedded-model`.

use gannet_engine::{Error, Model, ModelOptions};
use gannet_gguf::Gguf;

use crate::failure::Failure;

/// The name of its file.
pub(crate) const FILE: &str = "rustdoc-tiny-Q4_K_M.gguf";

/// What it is called by programs that ask for it.
pub(crate) const ID: &str = "rustdoc-tiny";

/// What stands for its path in messages.
#[cfg(feature = "embedded-model")]
const NAME: &str = "embedded:rustdoc-tiny-Q4_K_M.gguf";

/// Bytes that start at a multiple of 64, as a mapped file does: tensors in it are then aligned
/// for the types that they are read as.
#[cfg(feature = "embedded-model")]
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

#[cfg(feature = "embedded-model")]
static MODEL: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/models/rustdoc-tiny-Q4_K_M.gguf"
)));

/// What it is.
pub(crate) const ABOUT: &str = "the embedded demonstration model: 12 million weights trained on Rust \
                                documentation; a base model, which continues text and follows no \
                                instructions";

/// The embedded model.
pub(crate) fn model(options: &ModelOptions) -> Result<Model, Failure> {
    Ok(open(options)?)
}

/// The embedded model.
#[cfg(feature = "embedded-model")]
pub(crate) fn open(options: &ModelOptions) -> Result<Model, Error> {
    Model::from_bytes(NAME, &MODEL.0, options)
}

/// The container of the embedded model.
#[cfg(feature = "embedded-model")]
pub(crate) fn container() -> Result<Gguf, Failure> {
    Ok(Gguf::from_static(NAME, &MODEL.0)?)
}

/// Says that there is none.
#[cfg(not(feature = "embedded-model"))]
pub(crate) fn open(_: &ModelOptions) -> Result<Model, Error> {
    Err(Error::Request(NONE.to_owned()))
}

/// Says that there is none.
#[cfg(not(feature = "embedded-model"))]
pub(crate) fn container() -> Result<Gguf, Failure> {
    Err(Failure::Work(NONE.to_owned()))
}

#[cfg(not(feature = "embedded-model"))]
const NONE: &str = "no model given, and this build carries none; give one with -m FILE.gguf, or build \
                    with the feature embedded-model";

#[cfg(all(test, feature = "embedded-model"))]
mod tests {
    #[test]
    fn tensors_are_aligned_for_the_types_in_them() {
        let model = super::container().unwrap();
        for t in model.tensors() {
            assert_eq!(model.data(t).as_ptr().align_offset(32), 0, "{}", t.name);
        }
    }
}
