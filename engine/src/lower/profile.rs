//! The device profile: which variant of a kernel family runs each product on one device.
//!
//! A profile is data: what was measured on this device (`gannet tune`), under what the user asked
//! for, over the built-in choice. It is kept as JSON, one file for each GPU, driver and build, since
//! none of the three may change under a measurement.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gannet_ptx_gen::kernels::{Epilogue, GemvGluSpec, GemvSpec, GemvVariant, WeightFormat};
use gannet_ptx_gen::target::Target;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::lower::{rule_names, weight_format};
use crate::plan::{ColumnSample, Op, Plan};
use crate::settings::machine::{Fnv, Machine};
use crate::settings::{Overrides, RuleSet};

/// What decides which variant is best: the matrices of a product, and its rows of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProductShape {
    /// Format of the matrix; of the one under the activation in a gated product.
    pub format: WeightFormat,
    /// Format of a gated product's other matrix.
    pub up: Option<WeightFormat>,
    /// Output features.
    pub rows: u32,
    /// Input features.
    pub cols: u32,
    /// Rows of activations that a block computes together.
    pub tokens: u32,
}

impl ProductShape {
    /// The shape of a product.
    #[must_use]
    pub fn of(spec: &GemvSpec) -> ProductShape {
        ProductShape {
            format: spec.format,
            up: None,
            rows: spec.rows,
            cols: spec.cols,
            tokens: spec.tokens_per_block,
        }
    }

    /// The shape of a gated product.
    #[must_use]
    pub fn of_gated(spec: &GemvGluSpec) -> ProductShape {
        ProductShape {
            format: spec.gate,
            up: Some(spec.up),
            rows: spec.rows,
            cols: spec.cols,
            tokens: spec.tokens_per_block,
        }
    }

    /// Its name in the profile's file: `q4_k 1536x8960 t1`, `q4_k+q6_k 8960x1536 t2`.
    #[must_use]
    pub fn name(&self) -> String {
        let up = self
            .up
            .map_or(String::new(), |up| format!("+{}", up.name()));
        format!(
            "{}{up} {}x{} t{}",
            self.format.name(),
            self.rows,
            self.cols,
            self.tokens
        )
    }

    /// Reads [`ProductShape::name`] back.
    #[must_use]
    pub fn parse(name: &str) -> Option<ProductShape> {
        let mut parts = name.split(' ');
        let (formats, matrix, tokens) = (parts.next()?, parts.next()?, parts.next()?);
        let format = |name: &str| WeightFormat::ALL.into_iter().find(|f| f.name() == name);
        let (first, up) = match formats.split_once('+') {
            Some((first, up)) => (format(first)?, Some(format(up)?)),
            None => (format(formats)?, None),
        };
        let (rows, cols) = matrix.split_once('x')?;
        let shape = ProductShape {
            format: first,
            up,
            rows: rows.parse().ok()?,
            cols: cols.parse().ok()?,
            tokens: tokens.strip_prefix('t')?.parse().ok()?,
        };
        (shape.name() == name).then_some(shape)
    }
}

/// Where a profile comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The built-in choice: nothing was measured on this device.
    BuiltIn,
    /// `gannet tune`, from this file.
    Measured(PathBuf),
}

impl Overrides {
    /// Refuses a variant that no product of a plan has: it would change nothing.
    ///
    /// # Errors
    /// One line that says why the first product does not have it.
    pub(crate) fn check(&self, plan: &Plan) -> Result<(), Error> {
        let Some(variant) = self.gemv else {
            return Ok(());
        };
        let of_product = |op: &&Op| op.contract().sample == ColumnSample::Product;
        let products = plan.ops.iter().filter(of_product);
        let weights = products.flat_map(|op| op.weights());
        let matrices = weights.map(|w| plan.weight(w)).filter(|info| info.rows > 1);
        let mut refused = None;
        for weight in matrices {
            for tokens_per_block in [1, 2, 4, 8] {
                let spec = GemvSpec {
                    // No variant is bound to a target.
                    target: Target::Sm80,
                    format: weight_format(weight.format),
                    rows: weight.rows as u32,
                    cols: weight.cols as u32,
                    tokens_per_block,
                    epilogue: Epilogue::default(),
                    hands_over: false,
                    variant: Some(variant),
                };
                match spec.check() {
                    Ok(()) => return Ok(()),
                    Err(why) => refused = refused.or(Some(why)),
                }
            }
        }
        let why = refused.map_or(String::new(), |why| format!(" ({why})"));
        Err(Error::Request(format!(
            "no product of this model has the variant {variant}{why}; `gannet tune --all` lists \
             those that there are"
        )))
    }
}

/// Which kernels run on a device.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceProfile {
    origin: Origin,
    overrides: Overrides,
    measured: BTreeMap<ProductShape, GemvVariant>,
}

/// The file of a profile.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    /// Name of the GPU, for readers.
    device: String,
    /// Variant by [`ProductShape::name`].
    gemv: BTreeMap<String, String>,
}

impl DeviceProfile {
    /// The file of a device's profile under a cache folder: one for each GPU, driver and build. Its
    /// name begins with the GPU's, for readers.
    #[must_use]
    pub fn file(cache: &Path, machine: &Machine) -> PathBuf {
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        };
        let device: String = machine.device.chars().map(plain).collect();
        let mut hash = Fnv::default();
        hash.part(machine.to_string().as_bytes());
        cache
            .join("profile")
            .join(format!("{device}-{:016x}.json", hash.value()))
    }

    /// The built-in choice under overrides.
    #[must_use]
    pub fn built_in(overrides: Overrides) -> DeviceProfile {
        DeviceProfile {
            origin: Origin::BuiltIn,
            overrides,
            measured: BTreeMap::new(),
        }
    }

    /// What was measured for a device, or the built-in choice where nothing was.
    ///
    /// # Errors
    /// A file that is there and can't be read, or holds what no build of this version wrote.
    pub fn load(file: Option<&Path>, overrides: Overrides) -> Result<DeviceProfile, Error> {
        let built_in = DeviceProfile::built_in(overrides);
        let Some(file) = file.filter(|_| !overrides.ignore_measured) else {
            return Ok(built_in);
        };
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(built_in),
            Err(source) => {
                let file = file.to_owned();
                return Err(Error::Io { file, source });
            }
        };
        let wrong = |what: String| {
            Error::Request(format!(
                "{}: {what}; run `gannet tune` again or delete the file",
                gannet_gguf::shown_path(file)
            ))
        };
        let stored: Stored = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        let mut profile = built_in;
        for (shape, variant) in &stored.gemv {
            let parsed = ProductShape::parse(shape).zip(variant.parse().ok());
            let (shape, variant) =
                parsed.ok_or_else(|| wrong(format!("{shape}: {variant} is not a variant")))?;
            profile.measured.insert(shape, variant);
        }
        profile.origin = Origin::Measured(file.to_owned());
        Ok(profile)
    }

    /// Adds what was measured to a device's file; what it held for other shapes stays.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn store(
        file: &Path,
        device: &str,
        measured: &BTreeMap<ProductShape, GemvVariant>,
    ) -> Result<(), Error> {
        let before = DeviceProfile::load(Some(file), Overrides::default());
        let mut all = before.map_or_else(|_| BTreeMap::new(), |p| p.measured);
        all.extend(measured);
        let stored = Stored {
            device: device.to_owned(),
            gemv: (all.iter())
                .map(|(shape, variant)| (shape.name(), variant.to_string()))
                .collect(),
        };
        let failed = |source| Error::Io {
            file: file.to_owned(),
            source,
        };
        let text = serde_json::to_string_pretty(&stored).map_err(|e| failed(e.into()))?;
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        // Readers see the file of before or that of after.
        let fresh = file.with_extension(format!("{}.tmp", std::process::id()));
        std::fs::write(&fresh, text).map_err(failed)?;
        std::fs::rename(&fresh, file).map_err(failed)
    }

    /// Where it comes from.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What was measured.
    #[must_use]
    pub fn measured(&self) -> &BTreeMap<ProductShape, GemvVariant> {
        &self.measured
    }

    /// Everything in it that decides which kernels run, as lines of text: equal for profiles that
    /// choose alike.
    #[must_use]
    pub fn choices(&self) -> String {
        let Overrides {
            gemv,
            gemv_max_rows,
            // Nothing was read then.
            ignore_measured: _,
            without,
        } = self.overrides;
        let mut text = String::new();
        if without != RuleSet::default() {
            text += &format!("without {}\n", rule_names(without).join(", "));
        }
        if let Some(variant) = gemv {
            text += &format!("every product that has it: {variant}\n");
        }
        if let Some(rows) = gemv_max_rows {
            text += &format!("matrix-vector kernels up to {rows} rows\n");
        }
        for (shape, variant) in &self.measured {
            text += &format!("{}: {variant}\n", shape.name());
        }
        text
    }

    /// Rules of lowering that are not to apply.
    #[must_use]
    pub fn without(&self) -> RuleSet {
        self.overrides.without
    }

    /// Rows up to which a step runs on matrix-vector kernels, given the built-in number.
    #[must_use]
    pub fn gemv_max_rows(&self, built_in: usize) -> usize {
        self.overrides.gemv_max_rows.unwrap_or(built_in)
    }

    /// A product with the variant that runs it here.
    #[must_use]
    pub fn gemv(&self, spec: GemvSpec) -> GemvSpec {
        let with = |variant| GemvSpec {
            variant: Some(variant),
            ..spec.clone()
        };
        let chosen = self.choose(&ProductShape::of(&spec), |v| with(v).check().is_ok());
        chosen.map_or_else(|| spec.clone(), with)
    }

    /// A gated product with the variant that runs it here.
    #[must_use]
    pub fn gated(&self, spec: GemvGluSpec) -> GemvGluSpec {
        let with = |variant| GemvGluSpec {
            variant: Some(variant),
            ..spec.clone()
        };
        let chosen = self.choose(&ProductShape::of_gated(&spec), |v| with(v).check().is_ok());
        chosen.map_or_else(|| spec.clone(), with)
    }

    fn choose(
        &self,
        shape: &ProductShape,
        exists: impl Fn(GemvVariant) -> bool,
    ) -> Option<GemvVariant> {
        let wanted = [self.overrides.gemv, self.measured.get(shape).copied()];
        wanted.into_iter().flatten().find(|v| exists(*v))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product() -> GemvSpec {
        GemvSpec {
            target: Target::Sm80,
            format: WeightFormat::Q4K,
            rows: 1536,
            cols: 8960,
            tokens_per_block: 1,
            epilogue: Epilogue {
                bias: false,
                residual: true,
            },
            hands_over: false,
            variant: None,
        }
    }

    fn machine() -> Machine {
        Machine {
            device: "NVIDIA H200".to_owned(),
            uuid: "GPU-1".to_owned(),
            driver: (13, 0),
            release: "580.159.03".to_owned(),
            build: "0.1.0 1 bytes".to_owned(),
        }
    }

    #[test]
    fn a_profile_is_of_one_gpu_driver_and_build() {
        let file = |machine: &Machine| DeviceProfile::file(Path::new("cache"), machine);
        let own = file(&machine());
        let name = own.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("nvidia-h200-"), "{name}");
        assert_eq!(file(&machine()), own);
        for change in crate::settings::machine::changes() {
            let mut other = machine();
            change(&mut other);
            assert_ne!(file(&other), own, "{other:?}");
        }
    }

    #[test]
    fn profiles_that_choose_otherwise_say_so() {
        let forced = |gemv, gemv_max_rows| {
            DeviceProfile::built_in(Overrides {
                gemv,
                gemv_max_rows,
                ..Overrides::default()
            })
        };
        let mut measured = forced(None, None);
        let variants = product().variants();
        let shape = ProductShape::of(&product());
        measured.measured.insert(shape, variants[1]);
        let mut other = measured.clone();
        other.measured.insert(shape, variants[2]);
        let profiles = [
            forced(None, None),
            forced(Some(variants[1]), None),
            forced(Some(variants[2]), None),
            forced(None, Some(2)),
            DeviceProfile::built_in(Overrides {
                without: RuleSet::default().with(1),
                ..Overrides::default()
            }),
            measured,
            other,
        ];
        let texts: std::collections::BTreeSet<String> =
            profiles.iter().map(DeviceProfile::choices).collect();
        assert_eq!(texts.len(), profiles.len(), "{texts:?}");
    }

    #[test]
    fn shapes_are_read_as_they_are_written() {
        let plain = ProductShape::of(&product());
        let gated = ProductShape {
            up: Some(WeightFormat::Q6K),
            tokens: 4,
            ..plain
        };
        assert_eq!(plain.name(), "q4_k 1536x8960 t1");
        for shape in [plain, gated] {
            assert_eq!(ProductShape::parse(&shape.name()), Some(shape));
        }
        for wrong in ["", "q4_k 1536x8960", "q9 1x1 t1", "q4_k 01536x8960 t1"] {
            assert_eq!(ProductShape::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_was_measured_is_taken_unless_overridden() {
        let folder = tempfile::tempdir().unwrap();
        let file = DeviceProfile::file(folder.path(), &machine());
        let none = DeviceProfile::load(Some(&file), Overrides::default()).unwrap();
        assert_eq!(none.origin(), &Origin::BuiltIn);
        assert_eq!(none.gemv(product()), product());

        let variants = product().variants();
        let (first, second) = (variants[1], variants[2]);
        let measured = BTreeMap::from([(ProductShape::of(&product()), first)]);
        DeviceProfile::store(&file, "NVIDIA H200", &measured).unwrap();
        let load = |overrides| DeviceProfile::load(Some(&file), overrides).unwrap();
        let profile = load(Overrides::default());
        assert_eq!(profile.origin(), &Origin::Measured(file.clone()));
        assert_eq!(profile.gemv(product()).variant, Some(first));
        let other = GemvSpec {
            cols: 1536,
            ..product()
        };
        assert_eq!(profile.gemv(other.clone()), other);

        let forced = Overrides {
            gemv: Some(second),
            ..Overrides::default()
        };
        assert_eq!(load(forced).gemv(product()).variant, Some(second));
        let ignored = Overrides {
            ignore_measured: true,
            ..Overrides::default()
        };
        assert_eq!(load(ignored).gemv(product()).variant, None);

        std::fs::write(&file, r#"{"device":"x","gemv":{"q4_k 1x1 t1":"fast"}}"#).unwrap();
        let line = DeviceProfile::load(Some(&file), Overrides::default())
            .unwrap_err()
            .to_string();
        assert!(
            line.contains("\"fast\"") || line.contains("fast is not a variant"),
            "{line}"
        );
    }
}
