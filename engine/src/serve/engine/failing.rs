//! An executor of which calls fail, for tests of those that drive one.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gannet_gguf::{Gguf, TensorInfo, TensorType, Writer};
use half::f16;

use crate::Error;
use crate::exec::cpu::CpuExecutor;
use crate::exec::{DecodeStart, Executor, ExecutorKind, HostQueue, Inspect, Limits};
use crate::exec::{SlotChoice, Stats, Step};
use crate::kv::BlockTable;
use crate::model::Model;
use crate::plan::Plan;
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

/// An executor of which calls fail, before they do anything or after they have.
pub(in crate::serve) struct Failing {
    pub(in crate::serve) inner: CpuExecutor,
    pub(in crate::serve) random: Random,
    /// One call in so many fails; none for 0.
    pub(in crate::serve) rate: usize,
    /// One failure in so many takes the executor with it.
    pub(in crate::serve) fatal: usize,
    pub(in crate::serve) is_lost: bool,
    pub(in crate::serve) failures: u64,
}

impl Failing {
    fn fails(&mut self) -> bool {
        let fails = self.is_lost || self.random.once_in(self.rate);
        self.is_lost |= fails && self.random.once_in(self.fatal);
        self.failures += u64::from(fails);
        fails
    }

    fn guard(&mut self) -> Result<(), Error> {
        match self.fails() {
            true => Err(planted()),
            false => Ok(()),
        }
    }
}

fn planted() -> Error {
    Error::Interp("a planted fault".to_owned())
}

impl Executor for Failing {
    fn kind(&self) -> ExecutorKind {
        self.inner.kind()
    }

    fn plan(&self) -> &Plan {
        self.inner.plan()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn run(&mut self, step: &Step<'_>) -> Result<(), Error> {
        self.inner.run(step)
    }

    fn logits(&mut self) -> Result<&[f32], Error> {
        self.guard()?;
        self.inner.logits()
    }

    fn next(&mut self) -> Result<&[u32], Error> {
        self.inner.next()
    }

    fn decode(
        &mut self,
        sequences: &[DecodeStart<'_>],
        steps: usize,
        table: &BlockTable,
        on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.inner.decode(sequences, steps, table, on_token)
    }

    fn host_queue(&mut self) -> &mut HostQueue {
        self.inner.host_queue()
    }

    fn set_slot(&mut self, choice: &SlotChoice<'_>) -> Result<(), Error> {
        self.guard()?;
        self.inner.set_slot(choice)
    }

    fn queue(&mut self, step: &Step<'_>) -> Result<(), Error> {
        self.guard()?;
        self.inner.queue(step)?;
        if self.fails() {
            // It ran, and nobody will hear of it.
            self.inner.take(Duration::ZERO)?;
            return Err(planted());
        }
        Ok(())
    }

    fn take(&mut self, patience: Duration) -> Result<Option<Vec<u32>>, Error> {
        self.guard()?;
        // The device is slow now and then.
        match self.random.once_in(5) {
            true => Ok(None),
            false => self.inner.take(patience),
        }
    }

    fn abandon(&mut self) -> Result<(), Error> {
        self.inner.abandon()?;
        match self.is_lost {
            true => Err(planted()),
            false => Ok(()),
        }
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        self.guard()?;
        self.inner.copy_blocks(pairs)?;
        self.guard()
    }

    fn save_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        self.guard()?;
        self.inner.save_blocks(pairs)?;
        self.guard()
    }

    fn restore_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        self.guard()?;
        self.inner.restore_blocks(pairs)?;
        self.guard()
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }

    fn inspect(&mut self) -> &mut dyn Inspect {
        self.inner.inspect()
    }
}
