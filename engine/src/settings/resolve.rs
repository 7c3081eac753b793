//! Which setting counts: what was given, else what the environment says, else the default.
//!
//! This is the only place where one of the three is preferred to another.

use super::{
    DeviceChoice, DiskCache, Environment, ExecutorChoice, GemvVariant, KvType, Overrides,
    Precision, RuleSet, SamplerOn, Settings,
};
use crate::Error;

/// What a caller, or a command line, gave. `None` leaves the choice to the environment, and where that
/// says nothing to the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// `--device`: where to run.
    pub device: Option<DeviceChoice>,
    /// `--executor`: how launches reach a GPU.
    pub executor: Option<ExecutorChoice>,
    /// `--exact`: arithmetic of the matrix products.
    pub precision: Option<Precision>,
    /// `--batch-invariant` is `Some(true)`: whether results depend on what runs beside them.
    pub batch_invariant: Option<bool>,
    /// `--sampler-on`: where tokens are chosen.
    pub sampler_on: Option<SamplerOn>,
    /// `--gemv`: the variant of every matrix-vector product that has it.
    pub gemv: Option<GemvVariant>,
    /// `--gemv-rows`: rows up to which a step runs on matrix-vector kernels.
    pub gemv_rows: Option<usize>,
    /// `--without`: rules of lowering to do without.
    pub without: Option<RuleSet>,
    /// `--kv-type`: element type of a GPU's cache.
    pub kv_type: Option<KvType>,
    /// `--chunk`: tokens of a prompt in a step.
    pub chunk: Option<usize>,
    /// `--no-gate` is `Some(false)`: whether a GPU is held against the CPU.
    pub gate: Option<bool>,
    /// `--ctx`: positions of the cache.
    pub context: Option<usize>,
    /// `--slots`: sequences at once.
    pub slots: Option<usize>,
}

impl Settings {
    /// What counts: what was given, else what the environment says, else the default.
    ///
    /// # Errors
    /// [`Error::Idle`] where something was given that means nothing on the device, and
    /// [`Error::Request`] where one flag leaves nothing to another. What the environment says may be
    /// meant for other devices, and for other runs.
    pub fn resolve(environment: &Environment, given: &Given) -> Result<Settings, Error> {
        let default = Settings::default();
        let device = first(given.device, environment.device, default.device);
        given.check(device)?;
        let measured = environment.profile.map(|use_it| !use_it);
        let folder = environment
            .cache
            .as_ref()
            .or(environment.user_cache.as_ref());
        Ok(Settings {
            device,
            executor: first(given.executor, environment.executor, default.executor),
            precision: given.precision.unwrap_or(default.precision),
            batch_invariant: given.batch_invariant.unwrap_or(default.batch_invariant),
            sampler_on: first(given.sampler_on, environment.sampler_on, default.sampler_on),
            overrides: Overrides {
                gemv: given.gemv.or(environment.gemv),
                gemv_max_rows: given.gemv_rows.or(environment.gemv_rows),
                ignore_measured: measured.unwrap_or(default.overrides.ignore_measured),
                without: given.without.unwrap_or(default.overrides.without),
            },
            kv_type: given.kv_type.unwrap_or(default.kv_type),
            gate: first(given.gate, environment.gate, default.gate),
            disk_cache: DiskCache {
                folder: folder.cloned(),
                cubins: (environment.cubin_cache).unwrap_or(default.disk_cache.cubins),
            },
            context: given.context,
            max_rows: given.chunk,
            slots: given.slots,
            ..default
        })
    }
}

/// The first of the three that is there.
fn first<T>(given: Option<T>, environment: Option<T>, default: T) -> T {
    given.or(environment).unwrap_or(default)
}

/// A setting that some devices ignore.
struct Idle {
    flag: &'static str,
    given: bool,
    /// Whether interpreted kernels heed it.
    interpreted: bool,
}

impl Given {
    /// Refuses what means nothing on a device.
    fn check(&self, device: DeviceChoice) -> Result<(), Error> {
        let setting = |flag, given, interpreted| Idle {
            flag,
            given,
            interpreted,
        };
        let settings = [
            setting("--gemv-rows", self.gemv_rows.is_some(), true),
            setting("--executor", self.executor.is_some(), false),
            setting("--gemv", self.gemv.is_some(), true),
            setting("--no-gate", self.gate.is_some(), false),
            setting("--sampler-on", self.sampler_on.is_some(), true),
            setting("--kv-type", self.kv_type.is_some(), true),
            setting("--without", self.without.is_some(), true),
        ];
        let is_idle = |setting: &&Idle| match device {
            DeviceChoice::Cpu => setting.given,
            DeviceChoice::Interp => setting.given && !setting.interpreted,
            DeviceChoice::Auto | DeviceChoice::Cuda(_) => false,
        };
        let chooses = [
            ("--gemv-rows", self.gemv_rows.is_some()),
            ("--gemv", self.gemv.is_some()),
        ];
        let chosen = chooses.iter().find(|(_, given)| *given);
        if let (Some(true), Some((flag, _))) = (self.batch_invariant, chosen) {
            return Err(Error::Request(format!(
                "{flag} means nothing with --batch-invariant, which has one kernel for any number of \
                 rows; leave out one of the two"
            )));
        }
        match settings.iter().find(is_idle) {
            None => Ok(()),
            Some(setting) => Err(Error::Idle {
                flag: setting.flag,
                device: device.to_string(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// An environment in which every variable is set to what is not the default.
    fn environment() -> Environment {
        Environment {
            device: Some(DeviceChoice::Cuda(1)),
            executor: Some(ExecutorChoice::Eager),
            sampler_on: Some(SamplerOn::Cpu),
            profile: Some(false),
            gemv: "f32-l32-w16-r2-b4".parse().ok(),
            gemv_rows: Some(2),
            cache: Some(PathBuf::from("/cache")),
            cubin_cache: Some(false),
            gate: Some(false),
            user_cache: Some(PathBuf::from("/user")),
            no_color: false,
        }
    }

    fn given() -> Given {
        Given {
            device: Some(DeviceChoice::Cuda(2)),
            executor: Some(ExecutorChoice::Graph),
            precision: Some(Precision::Exact),
            batch_invariant: None,
            sampler_on: Some(SamplerOn::Device),
            gemv: "f32-l32-w8-r2-b4".parse().ok(),
            gemv_rows: Some(3),
            without: Some(RuleSet::default().with(1)),
            kv_type: Some(KvType::Int8),
            chunk: Some(7),
            gate: Some(true),
            context: Some(100),
            slots: Some(4),
        }
    }

    #[test]
    fn what_was_given_wins_over_the_environment_and_that_over_the_default() {
        let resolve = |e: &Environment, g: &Given| Settings::resolve(e, g).unwrap();
        let (nothing, unset) = (Given::default(), Environment::default());
        assert_eq!(resolve(&unset, &nothing), Settings::default());

        let by_environment = resolve(&environment(), &nothing);
        let expected = Settings {
            device: DeviceChoice::Cuda(1),
            executor: ExecutorChoice::Eager,
            sampler_on: SamplerOn::Cpu,
            overrides: Overrides {
                gemv: environment().gemv,
                gemv_max_rows: Some(2),
                ignore_measured: true,
                ..Overrides::default()
            },
            gate: false,
            disk_cache: DiskCache {
                folder: Some(PathBuf::from("/cache")),
                cubins: false,
            },
            ..Settings::default()
        };
        assert!(expected.overrides.gemv.is_some() && given().gemv.is_some());
        assert_eq!(by_environment, expected);

        let expected = Settings {
            device: DeviceChoice::Cuda(2),
            executor: ExecutorChoice::Graph,
            precision: Precision::Exact,
            sampler_on: SamplerOn::Device,
            overrides: Overrides {
                gemv: given().gemv,
                gemv_max_rows: Some(3),
                without: RuleSet::default().with(1),
                ..expected.overrides
            },
            kv_type: KvType::Int8,
            gate: true,
            max_rows: Some(7),
            context: Some(100),
            slots: Some(4),
            ..expected
        };
        assert_eq!(resolve(&environment(), &given()), expected);
    }

    #[test]
    fn batch_invariance_is_off_unless_given_and_leaves_no_kernel_to_choose() {
        let (none, some) = (Environment::default(), environment());
        let given = |change: fn(&mut Given)| {
            let mut given = Given {
                batch_invariant: Some(true),
                ..Given::default()
            };
            change(&mut given);
            given
        };
        let resolved = |environment, given: &Given| {
            let settings = Settings::resolve(environment, given);
            settings
                .map(|s| s.batch_invariant)
                .map_err(|e| e.to_string())
        };
        assert_eq!(resolved(&some, &Given::default()), Ok(false));
        for device in [
            DeviceChoice::Cpu,
            DeviceChoice::Interp,
            DeviceChoice::Cuda(0),
        ] {
            let mut on = given(|_| ());
            on.device = Some(device);
            assert_eq!(resolved(&none, &on), Ok(true), "{device}");
        }
        assert_eq!(resolved(&some, &given(|_| ())), Ok(true));
        let gemv = resolved(&none, &given(|g| g.gemv = "f32-l32-w8-r2-b4".parse().ok()));
        assert!(
            gemv.unwrap_err()
                .starts_with("--gemv means nothing with --batch-invariant")
        );
        let rows = resolved(&none, &given(|g| g.gemv_rows = Some(4)));
        assert!(
            rows.unwrap_err()
                .starts_with("--gemv-rows means nothing with")
        );
    }

    #[test]
    fn the_users_cache_folder_serves_where_no_other_is_named() {
        let mut environment = environment();
        environment.cache = None;
        let settings = Settings::resolve(&environment, &Given::default()).unwrap();
        assert_eq!(settings.disk_cache.folder, Some(PathBuf::from("/user")));
    }

    #[test]
    fn what_means_nothing_on_a_device_is_refused_where_it_was_given() {
        // Gives a setting; its flag; whether interpreted kernels heed it.
        type Change = (fn(&mut Given), &'static str, bool);
        let changes: [Change; 7] = [
            (|g| g.executor = given().executor, "--executor", false),
            (|g| g.gate = Some(false), "--no-gate", false),
            (|g| g.gemv = given().gemv, "--gemv", true),
            (|g| g.gemv_rows = Some(4), "--gemv-rows", true),
            (|g| g.sampler_on = given().sampler_on, "--sampler-on", true),
            (|g| g.kv_type = given().kv_type, "--kv-type", true),
            (|g| g.without = given().without, "--without", true),
        ];
        let none = Environment::default();
        let on = |device, change: fn(&mut Given)| {
            let mut given = Given {
                device: Some(device),
                ..Given::default()
            };
            change(&mut given);
            Settings::resolve(&none, &given)
                .err()
                .map(|e| e.to_string())
        };
        for (change, flag, interpreted) in changes {
            let refused = on(DeviceChoice::Cpu, change).unwrap();
            assert!(refused.starts_with(&format!("{flag} means nothing on device cpu")));
            assert_eq!(on(DeviceChoice::Interp, change).is_none(), interpreted);
            assert_eq!(on(DeviceChoice::Auto, change), None);
            assert_eq!(on(DeviceChoice::Cuda(1), change), None);
        }
        let mut set = environment();
        set.device = Some(DeviceChoice::Cpu);
        assert!(Settings::resolve(&set, &Given::default()).is_ok());
    }
}
