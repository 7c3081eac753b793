//! The families: a file each, which reads like its network, and a row in [`FAMILIES`].

mod gemma2;
mod gemma3;
mod gpt2;
mod llama;
mod phi3;
mod qwen2;
mod qwen3;

use super::rope::BASES;
use super::{Binder, FactorTensors};
use crate::Error;
use crate::plan::{Buf, Plan, PlanBuilder};

/// A model family: its name in `general.architecture` and the function that writes its plan.
pub struct Family {
    /// The value of `general.architecture`.
    pub arch: &'static str,
    /// Models it runs, for people.
    pub models: &'static str,
    pub(super) norms: Norms,
    /// Whether positions turn queries and keys, by the keys of a rope.
    pub(super) rotates: bool,
    build: fn(&mut PlanBuilder, &Binder<'_>) -> Result<Buf, Error>,
}

/// How a family's norms are computed, and so which key has their epsilon.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Norms {
    RootMeanSquare,
    Layer,
}

impl Family {
    /// Writes the plan of a model.
    pub(super) fn plan(&self, b: &Binder<'_>) -> Result<Plan, Error> {
        let mut p = PlanBuilder::new();
        let logits = (self.build)(&mut p, b)?;
        Ok(p.finish(logits))
    }
}

/// Every supported family.
pub const FAMILIES: &[Family] = &[
    llama::FAMILY,
    qwen2::FAMILY,
    qwen3::FAMILY,
    gemma2::FAMILY,
    gemma3::FAMILY,
    phi3::FAMILY,
    gpt2::FAMILY,
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_family_file_has_its_row() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model/families");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
            .filter(|name| name != "mod")
            .collect();
        files.sort();
        let mut rows: Vec<&str> = FAMILIES.iter().map(|f| f.arch).collect();
        rows.sort_unstable();
        assert_eq!(files, rows);
    }
}
