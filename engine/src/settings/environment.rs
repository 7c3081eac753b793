//! The one place that reads the environment.
//!
//! Every setting is a `GANNET_*` variable with a typed value, read once; [`TABLE`] documents them
//! and `gannet doctor` prints what is in force. Command-line flags override them.

use std::env::VarError;
use std::path::PathBuf;
use std::str::FromStr;

use super::{DeviceChoice, ExecutorChoice, Overrides, SamplerOn};
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
}

/// Every variable that Gannet reads.
pub const TABLE: &[Variable] = &[
    Variable {
        name: "GANNET_DEVICE",
        values: "auto, cpu, cuda, cuda:N, interp",
        meaning: "default of --device",
    },
    Variable {
        name: "GANNET_EXECUTOR",
        values: "auto, eager, graph, capture",
        meaning: "default of --executor on a GPU",
    },
    Variable {
        name: "GANNET_SAMPLER_ON",
        values: "device, cpu",
        meaning: "default of --sampler-on: where a GPU's tokens are chosen",
    },
    Variable {
        name: "GANNET_PROFILE",
        values: "1, 0",
        meaning: "use what `gannet tune` measured on this GPU",
    },
    Variable {
        name: "GANNET_GEMV",
        values: "a variant, such as f32-l32-w16-r2-b4",
        meaning: "default of --gemv: the variant of every matrix-vector product that has it",
    },
    Variable {
        name: "GANNET_GEMV_ROWS",
        values: "1 to 8",
        meaning: "default of --gemv-rows: rows up to which a step runs on matrix-vector kernels",
    },
    Variable {
        name: "GANNET_CACHE",
        values: "folder",
        meaning: "where compiled kernels, measured profiles and passed gates are kept",
    },
    Variable {
        name: "GANNET_CUBIN_CACHE",
        values: "1, 0",
        meaning: "keep compiled kernels on disk",
    },
    Variable {
        name: "GANNET_GATE",
        values: "1, 0",
        meaning: "compare a GPU with the CPU before it first serves a model; GANNET_CACHE remembers",
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

/// The configuration of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `GANNET_DEVICE`.
    pub device: Option<DeviceChoice>,
    /// `GANNET_EXECUTOR`.
    pub executor: Option<ExecutorChoice>,
    /// `GANNET_SAMPLER_ON`.
    pub sampler_on: Option<SamplerOn>,
    /// `GANNET_PROFILE`, `GANNET_GEMV` and `GANNET_GEMV_ROWS`.
    pub overrides: Overrides,
    /// `GANNET_CACHE`, else the user's cache folder, else none.
    pub cache_dir: Option<PathBuf>,
    /// `GANNET_CUBIN_CACHE`.
    pub cubin_cache: bool,
    /// `GANNET_GATE`.
    pub gate: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            device: None,
            executor: None,
            sampler_on: None,
            overrides: Overrides::default(),
            cache_dir: None,
            cubin_cache: true,
            gate: true,
        }
    }
}

impl Config {
    /// Reads the environment.
    ///
    /// # Errors
    /// A variable whose value is not one of those in [`TABLE`], or no text.
    pub fn from_env() -> Result<Config, Error> {
        for variable in TABLE {
            if let Err(VarError::NotUnicode(value)) = std::env::var(variable.name) {
                return Err(Error::Config {
                    variable: variable.name,
                    value: value.to_string_lossy().into_owned(),
                    expected: "UTF-8 text",
                });
            }
        }
        Config::from_lookup(|name| std::env::var(name).ok())
    }

    /// Reads variables through `get`, so that a test needs no environment.
    ///
    /// # Errors
    /// As [`Config::from_env`].
    pub fn from_lookup(get: impl Fn(&str) -> Option<String>) -> Result<Config, Error> {
        let set = |name: &str| get(name).filter(|v| !v.is_empty());
        let devices = "auto, cpu, cuda, cuda:N or interp";
        let device = choice(&set, "GANNET_DEVICE", devices)?;
        let executor = choice(&set, "GANNET_EXECUTOR", ExecutorChoice::NAMES)?;
        let sampler_on = choice(&set, "GANNET_SAMPLER_ON", "device or cpu")?;
        let on = |variable| match set(variable).as_deref() {
            None | Some("1") => Ok(true),
            Some("0") => Ok(false),
            Some(other) => Err(Error::Config {
                variable,
                value: other.to_owned(),
                expected: "1 or 0",
            }),
        };
        let gemv = choice(&set, "GANNET_GEMV", GEMV_EXPECTED)?;
        let gemv_max_rows = set("GANNET_GEMV_ROWS")
            .map(|value| match value.parse() {
                Ok(rows @ 1..=8) => Ok(rows),
                _ => Err(Error::Config {
                    variable: "GANNET_GEMV_ROWS",
                    value,
                    expected: "a number from 1 to 8",
                }),
            })
            .transpose()?;
        let overrides = Overrides {
            gemv,
            gemv_max_rows,
            ignore_measured: !on("GANNET_PROFILE")?,
        };
        let cubin_cache = on("GANNET_CUBIN_CACHE")?;
        let gate = on("GANNET_GATE")?;
        let cache_dir = set("GANNET_CACHE")
            .map(PathBuf::from)
            .or_else(|| set("XDG_CACHE_HOME").map(|d| PathBuf::from(d).join("gannet")))
            .or_else(|| set("HOME").map(|d| PathBuf::from(d).join(".cache").join("gannet")));
        Ok(Config {
            device,
            executor,
            sampler_on,
            overrides,
            cache_dir,
            cubin_cache,
            gate,
        })
    }
}

/// A variable's value, where it is set.
fn choice<T: FromStr>(
    set: &impl Fn(&str) -> Option<String>,
    variable: &'static str,
    expected: &'static str,
) -> Result<Option<T>, Error> {
    let parse = |value: String| {
        value.parse().map_err(|_| Error::Config {
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
            Config::from_lookup(move |n| (n == name).then(|| value.to_owned()))
        };
        let forced = with("GANNET_GEMV", "f32-l32-w16-r2-b4").unwrap();
        assert_eq!(
            forced.overrides.gemv.unwrap().to_string(),
            "f32-l32-w16-r2-b4"
        );
        assert!(
            with("GANNET_PROFILE", "0")
                .unwrap()
                .overrides
                .ignore_measured
        );
        assert_eq!(
            with("GANNET_DEVICE", "cuda:3").unwrap().device,
            Some(DeviceChoice::Cuda(3))
        );
        let bad = [
            ("GANNET_GEMV", "fast"),
            ("GANNET_GEMV_ROWS", "9"),
            ("GANNET_DEVICE", "banana"),
            ("GANNET_EXECUTOR", "persistent"),
            ("GANNET_SAMPLER_ON", "gpu"),
        ];
        for (name, value) in bad {
            let line = with(name, value).unwrap_err().to_string();
            assert!(
                line.starts_with(&format!("{name}=\"{value}\" is not valid")),
                "{line}"
            );
        }
    }

    #[test]
    fn values_are_checked_and_defaults_hold() {
        assert_eq!(Config::from_lookup(|_| None).unwrap(), Config::default());
        let bad = Config::from_lookup(|n| (n == "GANNET_CUBIN_CACHE").then(|| "maybe".into()));
        let line = bad.unwrap_err().to_string();
        assert_eq!(
            line,
            "GANNET_CUBIN_CACHE=\"maybe\" is not valid; expected 1 or 0"
        );
        let home = Config::from_lookup(|n| (n == "HOME").then(|| "/home/u".into())).unwrap();
        assert_eq!(home.cache_dir, Some(PathBuf::from("/home/u/.cache/gannet")));
    }
}
