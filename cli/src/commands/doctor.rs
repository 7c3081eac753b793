//! `gannet doctor`: what this machine has, what is configured, what is missing and what to do.
//!
//! Exit code 0 whatever it finds: a missing GPU is an answer.

use std::path::{Path, PathBuf};

use clap::Args;
use gannet_cuda_runtime::{DeviceProperties, Driver};
use gannet_engine::Error;
use gannet_engine::internals::lower::DeviceProfile;
use gannet_engine::settings::{Environment, Given, Overrides, Settings, TABLE};
use gannet_engine::tools::gate::{self, Passed};
use gannet_gguf::shown_path;
use gannet_ptx_gen::target::Target;
use serde_json::{Value, json};

use crate::console::Console;
use crate::failure::Failure;
use crate::figures;

/// Show driver, devices, configuration and caches, and what is missing
#[derive(Args)]
pub(crate) struct Doctor {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        let findings = Findings::gather();
        if self.json {
            console.json(&findings.json())
        } else {
            console.print(&findings.text())
        }
    }
}

/// A GPU, or why it cannot be looked at.
type DeviceFinding = Result<DeviceProperties, String>;

/// A device profile's file, and what it holds or what is wrong with it.
type ProfileFinding = (String, Result<DeviceProfile, String>);

struct Findings {
    profiles: Vec<ProfileFinding>,
    threads: usize,
    /// Version of CUDA that the driver serves, or why there is none.
    driver: Result<(u32, u32), String>,
    devices: Vec<DeviceFinding>,
    configuration: Result<Configuration, String>,
    cache: Option<Cache>,
    /// What passed the parity gate.
    passed: Vec<Passed>,
}

/// What the environment says, and what counts where no flag is given.
struct Configuration {
    environment: Environment,
    settings: Settings,
}

/// The folder of compiled kernels.
struct Cache {
    folder: PathBuf,
    entries: u64,
    bytes: u64,
}

impl Findings {
    fn gather() -> Findings {
        let driver = Driver::load().map_err(|e| e.to_string());
        let configuration = Configuration::gather().map_err(|e| e.to_string());
        let kept = configuration.as_ref().ok().map(|c| &c.settings.disk_cache);
        let folder = kept.and_then(|kept| kept.folder.as_ref());
        Findings {
            passed: folder.map_or_else(Vec::new, |folder| gate::passed(folder)),
            profiles: folder.map_or_else(Vec::new, |folder| profiles(folder)),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            devices: driver.as_ref().map_or_else(|_| Vec::new(), devices),
            driver: driver.and_then(|d| d.version().map_err(|e| e.to_string())),
            cache: folder.map(|f| Cache::measure(&f.join("cubin"))),
            configuration,
        }
    }

    fn text(&self) -> String {
        let mut out = format!(
            "gannet {}\n\ncpu      {} threads, matrix products in {}\n",
            env!("CARGO_PKG_VERSION"),
            self.threads,
            gannet_quant::cpu::isa()
        );
        match &self.driver {
            Ok((major, minor)) => out.push_str(&format!("driver   serves CUDA {major}.{minor}\n")),
            Err(why) => out.push_str(&format!(
                "driver   {why}\n         until then --device cuda fails and auto uses the CPU\n"
            )),
        }
        for (index, device) in self.devices.iter().enumerate() {
            out.push_str(&device_text(index, device));
        }
        out.push_str("\nconfiguration\n");
        match &self.configuration {
            Ok(Configuration {
                environment,
                settings,
            }) => {
                for variable in TABLE {
                    let is_default = !variable.is_set(environment);
                    let origin = if is_default { " (default)" } else { "" };
                    let (name, meaning) = (variable.name, variable.meaning);
                    let value = variable.in_force(settings);
                    out.push_str(&format!("  {name}={value}{origin}: {meaning}\n"));
                }
            }
            Err(why) => out.push_str(&format!("  {why}\n")),
        }
        out.push_str("\ncompiled kernels\n");
        match &self.cache {
            Some(cache) => out.push_str(&format!(
                "  {}: {} entries, {}\n",
                shown_path(&cache.folder),
                figures::count(cache.entries),
                figures::bytes(cache.bytes)
            )),
            None => out.push_str("  not kept: no cache folder; set GANNET_CACHE to one\n"),
        }
        out.push_str("\ndevice profiles\n");
        for (file, profile) in &self.profiles {
            match profile {
                Ok(profile) => {
                    let measured = profile.measured();
                    let count = figures::count(measured.len() as u64);
                    out.push_str(&format!("  {file}: {count} products measured\n"));
                    for (shape, variant) in measured {
                        out.push_str(&format!("    {}: {variant}\n", shape.name()));
                    }
                }
                Err(why) => out.push_str(&format!("  {why}\n")),
            }
        }
        if self.profiles.is_empty() {
            out.push_str("  built-in choices only; `gannet tune -m MODEL` measures a GPU\n");
        }
        out.push_str("\nmodels held against the CPU at first use\n");
        for passed in &self.passed {
            out.push_str(&format!(
                "  {} on {}: passed\n",
                passed.model, passed.device
            ));
        }
        if self.passed.is_empty() {
            out.push_str("  none yet\n");
        }
        out.push_str("\nkernel library\n");
        for (target, kernels) in library() {
            out.push_str(&format!("  {target}: {kernels} kernels\n"));
        }
        out
    }

    fn json(&self) -> Value {
        let configuration = match &self.configuration {
            Ok(Configuration { settings, .. }) => TABLE
                .iter()
                .map(|v| (v.name.to_owned(), Value::from(v.in_force(settings))))
                .collect(),
            Err(why) => json!({ "error": why }),
        };
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cpu": { "threads": self.threads, "isa": gannet_quant::cpu::isa() },
            "driver": match &self.driver {
                Ok((major, minor)) => json!({ "cuda": format!("{major}.{minor}") }),
                Err(why) => json!({ "error": why }),
            },
            "devices": self.devices.iter().map(device_json).collect::<Vec<_>>(),
            "configuration": configuration,
            "cache": self.cache.as_ref().map(|c| json!({
                "folder": c.folder.display().to_string(),
                "entries": c.entries,
                "bytes": c.bytes,
            })),
            "profiles": self.profiles.iter().map(|(file, profile)| json!({
                "file": file,
                "error": profile.as_ref().err(),
                "gemv": profile.as_ref().ok().map(|p| p.measured().iter()
                    .map(|(shape, v)| (shape.name(), Value::from(v.to_string())))
                    .collect::<serde_json::Map<_, _>>()),
            })).collect::<Vec<_>>(),
            "passed": self.passed.iter().map(|p| json!({
                "model": p.model,
                "device": p.device,
            })).collect::<Vec<_>>(),
            "kernels": library().map(|(target, n)| (target.to_string(), Value::from(n)))
                .collect::<serde_json::Map<_, _>>(),
        })
    }
}

/// The device profiles under a cache folder.
fn profiles(cache: &Path) -> Vec<ProfileFinding> {
    let entries = std::fs::read_dir(cache.join("profile"))
        .into_iter()
        .flatten()
        .flatten();
    let files = entries
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "json"));
    let mut found: Vec<ProfileFinding> = files
        .map(|file| {
            let profile = DeviceProfile::load(Some(&file), Overrides::default());
            (
                shown_path(&file),
                profile.map_err(|e| e.to_string()),
            )
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

fn devices(driver: &Driver) -> Vec<DeviceFinding> {
    let properties = |index| {
        driver
            .device(index)
            .and_then(|d| d.properties())
            .map_err(|e| e.to_string())
    };
    match driver.device_count() {
        Ok(count) => (0..count).map(properties).collect(),
        Err(error) => vec![Err(error.to_string())],
    }
}

/// How many kernels the library has for each target.
fn library() -> impl Iterator<Item = (Target, usize)> {
    Target::ALL
        .iter()
        .map(|&t| (t, gannet_ptx_gen::kernels::library(t).len()))
}

fn device_text(index: usize, device: &DeviceFinding) -> String {
    let p = match device {
        Ok(properties) => properties,
        Err(why) => return format!("cuda:{index}   {why}\n"),
    };
    let (major, minor) = p.compute_capability;
    let kernels = match Target::for_device(major, minor) {
        Some(target) => format!("kernels for {target}"),
        None => "too old: compute capability 7.5 or newer is needed".to_owned(),
    };
    let bandwidth = match p.peak_bandwidth() {
        0 => String::new(),
        b => format!(", {} GB/s peak", figures::rate(b as f64 / 1e9)),
    };
    format!(
        "cuda:{index}   {}, compute capability {major}.{minor}, {kernels}\n         \
         {} memory{bandwidth}, {} multiprocessors, {} L2, {}, {}\n",
        p.name,
        figures::bytes(p.total_memory as u64),
        p.multiprocessors,
        figures::bytes(u64::from(p.l2_bytes)),
        p.pci,
        p.uuid_text()
    )
}

fn device_json(device: &DeviceFinding) -> Value {
    let p = match device {
        Ok(properties) => properties,
        Err(why) => return json!({ "error": why }),
    };
    let (major, minor) = p.compute_capability;
    json!({
        "name": p.name,
        "compute_capability": format!("{major}.{minor}"),
        "target": Target::for_device(major, minor).map(Target::name),
        "memory_bytes": p.total_memory,
        "multiprocessors": p.multiprocessors,
        "l2_bytes": p.l2_bytes,
        "shared_per_block_bytes": p.max_shared_per_block_optin,
        "clock_khz": p.clock_khz,
        "peak_bytes_per_second": p.peak_bandwidth(),
        "pci": p.pci,
        "uuid": p.uuid_text(),
    })
}

impl Configuration {
    fn gather() -> Result<Configuration, Error> {
        let environment = Environment::read()?;
        let settings = Settings::resolve(&environment, &Given::default())?;
        Ok(Configuration {
            environment,
            settings,
        })
    }
}

impl Cache {
    /// Counts the compiled kernels of a folder, which may not exist yet.
    fn measure(folder: &Path) -> Cache {
        let mut cache = Cache {
            folder: folder.to_owned(),
            entries: 0,
            bytes: 0,
        };
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let is_kernel = entry.path().extension().is_some_and(|e| e == "cubin");
            if let (true, Ok(metadata)) = (is_kernel, entry.metadata()) {
                cache.entries += 1;
                cache.bytes += metadata.len();
            }
        }
        cache
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_holds_nothing() {
        assert_eq!(Cache::measure(Path::new("/no/such/folder")).entries, 0);
    }
}
