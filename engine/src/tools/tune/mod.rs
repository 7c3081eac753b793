//! Finding the fastest variant of every product of a model on a device: `gannet tune`.

mod measure;

use std::collections::BTreeMap;
use std::sync::Arc;

use gannet_ptx_gen::kernels::GemvVariant;

use crate::Error;
use crate::exec::cuda::{CudaExecutor, Gpu};
use crate::lower::profile::{DeviceProfile, ProductShape};
use crate::model::Model;
use crate::settings::{Overrides, Settings};

/// What to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct TuneOptions {
    /// Rows of activations: 1, 2, 4 or 8 each.
    pub tokens: Vec<usize>,
    /// Timings of each variant.
    pub repeats: usize,
    /// Allow variants that round activations to 8 bits.
    pub int8: bool,
    /// Largest limit of a variant that counts unless `int8`.
    pub limit: f64,
}

impl Default for TuneOptions {
    fn default() -> Self {
        TuneOptions {
            tokens: vec![1, 2, 4, 8],
            repeats: 5,
            int8: false,
            limit: 1e-6,
        }
    }
}

/// One variant's measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct VariantTime {
    /// The variant.
    pub variant: GemvVariant,
    /// Median time of a launch in seconds; infinite where it was refused.
    pub seconds: f64,
    /// Error of its results against the reference arithmetic's.
    pub nmse: f64,
    /// The largest error that it may have.
    pub limit: f64,
    /// Bytes of local memory that a thread of its kernels takes at most: what the driver's compiler could
    /// not keep in registers. The time counts them.
    pub local_bytes: u32,
    /// Why it could not run.
    pub refused: Option<String>,
}

impl VariantTime {
    /// Whether it ran and stayed within its limit.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.refused.is_none() && self.nmse <= self.limit
    }
}

/// One product shape's measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct TunedShape {
    /// The shape.
    pub shape: ProductShape,
    /// Launches of it in a step.
    pub launches: usize,
    /// Bytes that a launch must move.
    pub bytes: u64,
    /// What the profile takes.
    pub chosen: GemvVariant,
    /// What it would take without measurement.
    pub built_in: GemvVariant,
    /// Time of the chosen variant over the fastest one's, in a measurement made after the choice.
    pub over_best: f64,
    /// All variants, the fastest first.
    pub times: Vec<VariantTime>,
}

impl TunedShape {
    /// The measurement of a variant.
    #[must_use]
    pub fn time_of(&self, variant: GemvVariant) -> Option<&VariantTime> {
        self.times.iter().find(|t| t.variant == variant)
    }
}

/// What a tuning found.
#[derive(Debug, Clone, PartialEq)]
pub struct TuneReport {
    /// Name of the GPU.
    pub device: String,
    /// Where the profile was written; `None` where there is no cache folder.
    pub file: Option<std::path::PathBuf>,
    /// The shapes.
    pub shapes: Vec<TunedShape>,
}

/// Measures every variant of every product of a model and writes what is fastest to the profile.
///
/// # Errors
/// The device is no GPU or failed, or the profile can't be written.
pub fn run(
    model: &Arc<Model>,
    settings: &Settings,
    tune: &TuneOptions,
    on_shape: &mut dyn FnMut(&TunedShape),
) -> Result<TuneReport, Error> {
    let index = settings.device.gpu().ok_or_else(|| {
        let device = settings.device;
        Error::Request(format!("{device} has nothing to tune; only GPUs have"))
    })?;
    if tune.tokens.is_empty() || tune.tokens.iter().any(|t| ![1, 2, 4, 8].contains(t)) {
        return Err(Error::Request(
            "products are tuned for 1, 2, 4 or 8 rows".to_owned(),
        ));
    }
    settings.overrides.check(model.plan())?;
    let gpu = Arc::new(Gpu::open(index, &settings.disk_cache)?);
    let settings = measured(settings, tune);
    let mut executor = CudaExecutor::new(&gpu, model, &settings)?;
    let shapes = measure::products(&mut executor, tune, on_shape)?;
    let chosen: BTreeMap<ProductShape, GemvVariant> =
        shapes.iter().map(|s| (s.shape, s.chosen)).collect();
    let file = gpu.profile_file(&settings.disk_cache);
    if let Some(file) = &file {
        DeviceProfile::store(file, &gpu.properties.name, &chosen)?;
    }
    Ok(TuneReport {
        device: gpu.properties.name.clone(),
        file,
        shapes,
    })
}

/// Settings of an executor whose steps of that many rows run on what is to be measured.
fn measured(settings: &Settings, tune: &TuneOptions) -> Settings {
    let rows = tune.tokens.iter().copied().max();
    Settings {
        slots: rows,
        context: Some(settings.context.unwrap_or(256)),
        overrides: Overrides {
            // Steps of more rows may run on other kernels when they are served.
            gemv_max_rows: rows,
            // A file that cannot be read is what tuning repairs.
            ignore_measured: true,
            ..settings.overrides
        },
        ..settings.clone()
    }
}

#[cfg(test)]
mod tests {
    use gannet_ptx_gen::target::Target;

    use crate::kv::KvType;
    use crate::lower::LowerOptions;
    use crate::settings::{Buffers, Precision};

    use super::*;

    /// From sm_80 on, steps of 8 rows are served by other kernels; to tune for 8 must measure.
    #[test]
    fn as_many_rows_as_are_tuned_for_run_on_what_is_measured() {
        for most in [1, 4, 8] {
            let tune = TuneOptions {
                tokens: vec![1, most],
                ..TuneOptions::default()
            };
            let options = measured(&Settings::default(), &tune);
            assert_eq!(options.slots, Some(most));
            let lowering = LowerOptions {
                target: Target::Sm80,
                precision: Precision::Fast,
                batch_invariant: false,
                multiprocessors: 4,
                max_blocks: 8,
                kv_type: KvType::default(),
                buffers: Buffers::default(),
                profile: Arc::new(DeviceProfile::built_in(options.overrides)),
            };
            assert_eq!(lowering.gemv_rows(), most);
        }
    }

    #[test]
    fn a_profile_that_cannot_be_read_is_measured_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("profile.json");
        let options = measured(&Settings::default(), &TuneOptions::default());
        let load = |overrides| DeviceProfile::load(Some(&file), overrides);
        for wrong in [
            "not json",
            r#"{"device":"x","gemv":{"q4_k 1x1 t1":"fast"}}"#,
        ] {
            std::fs::write(&file, wrong).unwrap();
            load(Settings::default().overrides).unwrap_err();
            load(options.overrides).unwrap();
            DeviceProfile::store(&file, "a GPU", &BTreeMap::new()).unwrap();
            load(Settings::default().overrides).unwrap();
        }
    }
}
