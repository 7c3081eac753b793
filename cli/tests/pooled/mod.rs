//! A model that has vectors of texts, for the tests of more than one program.

use std::path::Path;

use gannet_gguf::{Gguf, Writer};

/// Writes the embedded model's file with a pooling of its own: the mean.
pub(crate) fn write_pooled(to: &Path) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let gguf = Gguf::open(here.join("models/rustdoc-tiny-Q4_K_M.gguf")).unwrap();
    let mut writer = Writer::new();
    for (key, value) in gguf.metadata().iter() {
        writer.set(key, value).unwrap();
    }
    writer.set("llama.pooling_type", 1u32).unwrap();
    for t in gguf.tensors() {
        writer.tensor(&t.name, &t.dims, t.ty).unwrap();
    }
    let mut data = writer.start(std::fs::File::create(to).unwrap()).unwrap();
    for t in gguf.tensors() {
        data.tensor(&t.name, gguf.data(t)).unwrap();
    }
    data.finish().unwrap();
}
