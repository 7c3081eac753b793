//! An executor of which calls fail, for tests of those that drive one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gannet_gguf::{Gguf, TensorInfo, TensorType, Writer};
use half::f16;

use crate::Error;
use crate::exec::cpu::CpuExecutor;
use crate::exec::guarded::{Call, Guard, Guarded, planted};
use crate::exec::{Executor, Limits};
use crate::model::Model;
use crate::settings::{Buffers, Precision};

/// A small generator: the same numbers every time.
pub(in crate::serve) struct Random(u64);

impl Random {
    pub(in crate::serve) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491)
    }

    pub(in crate::serve) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % n as u64) as usize
    }

    pub(in crate::serve) fn once_in(&mut self, n: usize) -> bool {
        n > 0 && self.below(n) == 0
    }
}

pub(in crate::serve) fn micro() -> Arc<Model> {
    Arc::new(Model::open(micro_file()).unwrap())
}

fn micro_file() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    folder.join("tests/data/golden/arch/llama/llama.gguf")
}

/// The same without numbers for one token: its row of the embedding has a NaN.
pub(in crate::serve) fn micro_without(token: u32) -> Arc<Model> {
    let file = Gguf::open(micro_file()).unwrap();
    let embedding = file.tensor("token_embd.weight").unwrap();
    assert_eq!(embedding.ty, TensorType::F32);
    let at = embedding.offset + u64::from(token) * embedding.dims[0] * 4;
    let mut bytes = std::fs::read(micro_file()).unwrap();
    bytes[at as usize..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    Arc::new(Model::open(file.path()).unwrap())
}

/// The same with its matrices in F16.
pub(in crate::serve) fn micro_f16() -> Arc<Model> {
    let file = Gguf::open(micro_file()).unwrap();
    let mut writer = Writer::new();
    for (key, value) in file.metadata().iter() {
        writer.set(key, value).unwrap();
    }
    let is_matrix = |t: &TensorInfo| t.dims.len() > 1;
    for tensor in file.tensors() {
        let ty = match is_matrix(tensor) {
            true => TensorType::F16,
            false => tensor.ty,
        };
        writer.tensor(&tensor.name, &tensor.dims, ty).unwrap();
    }
    let mut data = writer.start(Vec::new()).unwrap();
    for tensor in file.tensors() {
        let bytes = file.data(tensor);
        let halves = |bytes: &[u8]| -> Vec<u8> {
            assert_eq!(tensor.ty, TensorType::F32);
            let values = bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b));
            values
                .flat_map(|x| f16::from_f32(x).to_le_bytes())
                .collect()
        };
        match is_matrix(tensor) {
            true => data.tensor(&tensor.name, &halves(bytes)).unwrap(),
            false => data.tensor(&tensor.name, bytes).unwrap(),
        }
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), data.finish().unwrap()).unwrap();
    // The map keeps it once the name is gone.
    Arc::new(Model::open(file.path()).unwrap())
}

pub(in crate::serve) fn cpu(model: &Arc<Model>, limits: Limits) -> CpuExecutor {
    CpuExecutor::new(Arc::clone(model), Precision::Exact, limits, Buffers::Shared).unwrap()
}

/// Calls fail at random, before they do anything or after they have.
pub(in crate::serve) struct Failing {
    pub(in crate::serve) random: Random,
    /// One call in so many fails; none for 0.
    pub(in crate::serve) rate: usize,
    /// One failure in so many takes the executor with it.
    pub(in crate::serve) fatal: usize,
    is_lost: bool,
}

impl Failing {
    /// An executor that is to fail.
    pub(in crate::serve) fn executor(
        inner: CpuExecutor,
        random: Random,
        rate: usize,
        fatal: usize,
    ) -> Box<dyn Executor> {
        let failing = Failing {
            random,
            rate,
            fatal,
            is_lost: false,
        };
        Box::new(Guarded::new(Box::new(inner), failing))
    }

    fn guard(&mut self) -> Result<(), Error> {
        let fails = self.is_lost || self.random.once_in(self.rate);
        self.is_lost |= fails && self.random.once_in(self.fatal);
        match fails {
            true => Err(planted()),
            false => Ok(()),
        }
    }
}

impl Guard for Failing {
    fn before(&mut self, _: Call) -> Result<(), Error> {
        self.guard()
    }

    fn after(&mut self, _: Call) -> Result<(), Error> {
        self.guard()
    }

    fn holds_back(&mut self) -> bool {
        // The device is slow now and then.
        self.random.once_in(5)
    }

    fn is_lost(&mut self) -> bool {
        self.is_lost
    }
}
