//! The one place that reads the environment.
//!
//! Every variable is a row of [`TABLE`] with a typed value, read once; the README shows the table and
//! `gannet doctor` what is in force. What they count for, [`Settings::resolve`] says.

use std::env::VarError;
use std::path::PathBuf;
use std::str::FromStr;

use super::{DeviceChoice, ExecutorChoice, GemvVariant, SamplerOn, Settings};
use crate::Error;

/// What `GANNET_GEMV` holds.
const GEMV_EXPECTED: &str = "a variant, such as f32-l32-w16-r2-b4";

/// A variable, its values and its meaning.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Name in the environment.
    pub name: &'static str,
    /// What it may hold.
    pub values: &'static str,
    /// What it does.
    pub meaning: &'static str,
    is_set: fn(&Environment) -> bool,
    in_force: fn(&Settings) -> String,
}

impl Variable {
    /// Whether the environment has it.
    #[must_use]
    pub fn is_set(&self, environment: &Environment) -> bool {
        (self.is_set)(environment)
    }

    /// Its value according to settings, whoever decided it.
    #[must_use]
    pub fn in_force(&self, settings: &Settings) -> String {
        (self.in_force)(settings)
    }
}

/// The most threads that compute on the CPU.
pub const MAX_THREADS: usize = 1024;

/// The variable of the pool that computes on the CPU, which is read here so that what it asks for can be
/// had, or is an error of a line.
const POOL: &str = "RAYON_NUM_THREADS";

/// The threads that the environment asks for; `None` where it leaves that open.
///
/// # Errors
/// What it says is no number, or more than [`MAX_THREADS`].
pub fn pool_threads() -> Result<Option<usize>, Error> {
    let value = std::env::var_os(POOL).map(|v| v.to_string_lossy().into_owned());
    threads_in(value.as_deref().unwrap_or_default())
}

/// The variable of `tracing`'s filter, which is read here so that what is no filter is an error of a line.
const LOG: &str = "RUST_LOG";

/// What the environment wants to be logged; `None` where it leaves that open.
///
/// # Errors
/// It is no text.
pub fn log_filter() -> Result<Option<String>, Error> {
    match std::env::var(LOG) {
        Ok(filter) => Ok(Some(filter).filter(|filter| !filter.trim().is_empty())),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(value)) => Err(Error::Variable {
            variable: LOG,
            value: value.to_string_lossy().into_owned(),
            expected: "UTF-8 text",
        }),
    }
}

fn threads_in(value: &str) -> Result<Option<usize>, Error> {
    match value.trim() {
        "" | "0" => Ok(None),
        number => match number.parse() {
            Ok(threads @ 1..=MAX_THREADS) => Ok(Some(threads)),
            _ => Err(Error::Variable {
                variable: POOL,
                value: value.to_owned(),
                expected: "1 to 1024 threads",
            }),
        },
    }
}

/// A switch as the environment writes it.
fn on(value: bool) -> String {
    u8::from(value).to_string()
}

/// A value, or what happens without one.
fn or<T: ToString>(value: Option<T>, without: &str) -> String {
    value.map_or_else(|| without.to_owned(), |v| v.to_string())
}

/// Every variable that Gannet reads.
pub const TABLE: &[Variable] = &[
    Variable {
        name: "GANNET_DEVICE",
        values: "auto, cpu, cuda, cuda:N, interp",
        meaning: "default of --device",
        is_set: |e| e.device.is_some(),
        in_force: |s| s.device.to_string(),
    },
    Variable {
        name: "GANNET_EXECUTOR",
        values: "auto, eager, graph, capture",
        meaning: "default of --executor on a GPU",
        is_set: |e| e.executor.is_some(),
        in_force: |s| s.executor.to_string(),
    },
    Variable {
        name: "GANNET_SAMPLER_ON",
        values: "device, cpu",
        meaning: "default of --sampler-on: where a GPU's tokens are chosen",
        is_set: |e| e.sampler_on.is_some(),
        in_force: |s| s.sampler_on.to_string(),
    },
    Variable {
        name: "GANNET_PROFILE",
        values: "1, 0",
        meaning: "use what `gannet tune` measured on this GPU",
        is_set: |e| e.profile.is_some(),
        in_force: |s| on(!s.overrides.ignore_measured),
    },
    Variable {
        name: "GANNET_GEMV",
        values: "a variant, such as f32-l32-w16-r2-b4",
        meaning: "default of --gemv: the variant of every matrix-vector product that has it",
        is_set: |e| e.gemv.is_some(),
        in_force: |s| or(s.overrides.gemv, "measured, else built in"),
    },
    Variable {
        name: "GANNET_GEMV_ROWS",
        values: "1 to 8",
        meaning: "default of --gemv-rows: rows up to which a step runs on matrix-vector kernels",
        is_set: |e| e.gemv_rows.is_some(),
        in_force: |s| or(s.overrides.gemv_max_rows, "built in"),
    },
    Variable {
        name: "GANNET_CACHE",
        values: "folder",
        meaning: "where compiled kernels, measured profiles and passed gates are kept",
        is_set: |e| e.cache.is_some(),
        in_force: |s| or(s.disk_cache.folder.as_ref().map(|f| f.display()), "none"),
    },
    Variable {
        name: "GANNET_CUBIN_CACHE",
        values: "1, 0",
        meaning: "keep compiled kernels on disk",
        is_set: |e| e.cubin_cache.is_some(),
        in_force: |s| on(s.disk_cache.cubins),
    },
    Variable {
        name: "GANNET_GATE",
        values: "1, 0",
        meaning: "compare a GPU with the CPU before it first serves a model; GANNET_CACHE remembers",
        is_set: |e| e.gate.is_some(),
        in_force: |s| on(s.gate),
    },
];

/// [`TABLE`] as a table of Markdown: what the README shows.
#[must_use]
pub fn markdown() -> String {
    let cell = |text: &str| text.replace('|', "\\|");
    let row = |v: &Variable| {
        format!(
            "| `{}` | {} | {} |\n",
            v.name,
            cell(v.values),
            cell(v.meaning)
        )
    };
    let rows: String = TABLE.iter().map(row).collect();
    format!("| variable | values | meaning |\n|---|---|---|\n{rows}")
}

/// What the environment says: a field for each variable, `None` where it is not set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Environment {
    /// `GANNET_DEVICE`.
    pub device: Option<DeviceChoice>,
    /// `GANNET_EXECUTOR`.
    pub executor: Option<ExecutorChoice>,
    /// `GANNET_SAMPLER_ON`.
    pub sampler_on: Option<SamplerOn>,
    /// `GANNET_PROFILE`.
    pub profile: Option<bool>,
    /// `GANNET_GEMV`.
    pub gemv: Option<GemvVariant>,
    /// `GANNET_GEMV_ROWS`.
    pub gemv_rows: Option<usize>,
    /// `GANNET_CACHE`.
    pub cache: Option<PathBuf>,
    /// `GANNET_CUBIN_CACHE`.
    pub cubin_cache: Option<bool>,
    /// `GANNET_GATE`.
    pub gate: Option<bool>,
    /// The user's cache folder, by `XDG_CACHE_HOME`, else by `HOME`, and in it one of ours: what
    /// counts without `GANNET_CACHE`.
    pub user_cache: Option<PathBuf>,
    /// `NO_COLOR` is set: text has no colours or shades (<https://no-color.org>).
    pub no_color: bool,
}

impl Environment {
    /// Reads the environment.
    ///
    /// # Errors
    /// A variable whose value is not one of those in [`TABLE`], or no text.
    pub fn read() -> Result<Environment, Error> {
        for variable in TABLE {
            if let Err(VarError::NotUnicode(value)) = std::env::var(variable.name) {
                return Err(Error::Variable {
                    variable: variable.name,
                    value: value.to_string_lossy().into_owned(),
                    expected: "UTF-8 text",
                });
            }
        }
        Environment::from_lookup(|name| std::env::var(name).ok())
    }

    /// Reads variables through `get`, so that a test needs no environment. A variable that is empty
    /// is not set.
    ///
    /// # Errors
    /// As [`Environment::read`].
    pub fn from_lookup(get: impl Fn(&str) -> Option<String>) -> Result<Environment, Error> {
        let set = |name: &str| get(name).filter(|v| !v.is_empty());
        let devices = "auto, cpu, cuda, cuda:N or interp";
        let user_cache = set("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || set("HOME").map(|home| PathBuf::from(home).join(".cache"));
        Ok(Environment {
            device: choice(&set, "GANNET_DEVICE", devices)?,
            executor: choice(&set, "GANNET_EXECUTOR", ExecutorChoice::NAMES)?,
            sampler_on: choice(&set, "GANNET_SAMPLER_ON", "device or cpu")?,
            profile: switch(&set, "GANNET_PROFILE")?,
            gemv: choice(&set, "GANNET_GEMV", GEMV_EXPECTED)?,
            gemv_rows: choice::<GemvRows>(&set, "GANNET_GEMV_ROWS", "a number from 1 to 8")?
                .map(|rows| rows.0),
            cache: set("GANNET_CACHE").map(PathBuf::from),
            cubin_cache: switch(&set, "GANNET_CUBIN_CACHE")?,
            gate: switch(&set, "GANNET_GATE")?,
            no_color: set("NO_COLOR").is_some(),
            user_cache: user_cache.or_else(home).map(|caches| caches.join("gannet")),
        })
    }
}

/// What `GANNET_GEMV_ROWS` holds.
struct GemvRows(usize);

impl FromStr for GemvRows {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        let rows = s.parse().ok().filter(|rows| (1..=8).contains(rows));
        rows.map(GemvRows).ok_or(())
    }
}

/// A switch's value, where it is set.
fn switch(
    set: &impl Fn(&str) -> Option<String>,
    variable: &'static str,
) -> Result<Option<bool>, Error> {
    let value = |text: String| match text.as_str() {
        "1" => Ok(true),
        "0" => Ok(false),
        _ => Err(Error::Variable {
            variable,
            value: text,
            expected: "1 or 0",
        }),
    };
    set(variable).map(value).transpose()
}

/// A variable's value, where it is set.
fn choice<T: FromStr>(
    set: &impl Fn(&str) -> Option<String>,
    variable: &'static str,
    expected: &'static str,
) -> Result<Option<T>, Error> {
    let parse = |value: String| {
        value.parse().map_err(|_| Error::Variable {
            variable,
            value,
            expected,
        })
    };
    set(variable).map(parse).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_has_a_number_of_threads_that_there_can_be() {
        for (value, expected) in [
            ("", None),
            ("0", None),
            ("3", Some(3)),
            (" 1024 ", Some(1024)),
        ] {
            assert_eq!(threads_in(value).unwrap(), expected);
        }
        for value in ["1025", "100000", "-1", "many", "99999999999999999999"] {
            let line = threads_in(value).unwrap_err().to_string();
            assert!(line.contains(value) && line.contains("1 to 1024"), "{line}");
        }
    }

    /// `GANNET_BLESS=1` rewrites the README's table.
    #[test]
    fn the_readme_shows_the_table() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
        let text = std::fs::read_to_string(&file).unwrap();
        let (head, rest) = text.split_once("<!-- variables -->\n").unwrap();
        let (shown, tail) = rest.split_once("<!-- end of variables -->\n").unwrap();
        if std::env::var_os("GANNET_BLESS").is_some_and(|v| v == "1") {
            let (open, close) = ("<!-- variables -->", "<!-- end of variables -->");
            let fresh = format!("{head}{open}\n{}{close}\n{tail}", markdown());
            std::fs::write(&file, fresh).unwrap();
            return;
        }
        assert_eq!(shown, markdown(), "run this test with GANNET_BLESS=1");
    }

    #[test]
    fn choices_are_checked() {
        let with = |name: &'static str, value: &'static str| {
            Environment::from_lookup(move |n| (n == name).then(|| value.to_owned()))
        };
        let forced = with("GANNET_GEMV", "f32-l32-w16-r2-b4").unwrap();
        assert_eq!(forced.gemv.unwrap().to_string(), "f32-l32-w16-r2-b4");
        assert_eq!(with("GANNET_PROFILE", "0").unwrap().profile, Some(false));
        assert_eq!(with("GANNET_GEMV_ROWS", "8").unwrap().gemv_rows, Some(8));
        assert_eq!(
            with("GANNET_DEVICE", "cuda:3").unwrap().device,
            Some(DeviceChoice::Cuda(3))
        );
        assert_eq!(with("GANNET_DEVICE", "").unwrap(), Environment::default());
        let bad = [
            ("GANNET_GEMV", "fast"),
            ("GANNET_GEMV_ROWS", "9"),
            ("GANNET_GEMV_ROWS", "0"),
            ("GANNET_DEVICE", "banana"),
            ("GANNET_EXECUTOR", "persistent"),
            ("GANNET_SAMPLER_ON", "gpu"),
            ("GANNET_CUBIN_CACHE", "maybe"),
        ];
        for (name, value) in bad {
            let line = with(name, value).unwrap_err().to_string();
            assert!(
                line.starts_with(&format!("{name}=\"{value}\" is not valid; expected ")),
                "{line}"
            );
        }
    }

    #[test]
    fn the_users_cache_folder_is_found() {
        let of = |variables: &[(&str, &str)]| {
            let get = |name: &str| variables.iter().find(|(n, _)| *n == name);
            let environment = Environment::from_lookup(|n| Some(get(n)?.1.to_owned())).unwrap();
            environment.user_cache
        };
        assert_eq!(of(&[]), None);
        let home = ("HOME", "/home/u");
        assert_eq!(of(&[home]), Some(PathBuf::from("/home/u/.cache/gannet")));
        let caches = ("XDG_CACHE_HOME", "/caches");
        assert_eq!(of(&[home, caches]), Some(PathBuf::from("/caches/gannet")));
    }

    /// No other file of the program reads a variable: those of tests aside, which have a folder of their own
    /// and read theirs.
    #[test]
    fn the_environment_is_read_here_only() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut folders: Vec<PathBuf> =
            ["cli", "cuda-runtime", "engine", "gguf", "ptx-gen", "quant"]
                .map(|of| root.join(of).join("src"))
                .into();
        let (mut seen, mut readers) = (0, Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    let is_of_tests = path.file_name().is_some_and(|name| name == "tests");
                    folders.extend((!is_of_tests).then_some(path));
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                seen += 1;
                if text.contains("env::var") {
                    readers.push(path.file_name().unwrap().to_owned());
                }
            }
        }
        assert!(seen > 100, "{seen} files");
        assert_eq!(readers, ["environment.rs"]);
    }
}
