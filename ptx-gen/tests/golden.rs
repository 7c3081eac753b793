//! Golden files: the PTX of every library kernel, as reviewed.
//!
//! `tests/golden/sm_80/<kernel>.ptx` holds every kernel, and `sm_90a`, where kernels start before the
//! launch in front has finished, nearly every one again. Another target's folder holds only the kernels
//! whose text differs in more than `.version` and `.target` from that of the last of these two that is no
//! newer, so that a file there shows a real difference. The files are raw PTX and load as they are. Run with
//! `GANNET_BLESS=1` to rewrite them, and review the diff.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use gannet_ptx_gen::kernels::library;
use gannet_ptx_gen::target::Target;

/// What a target's texts are compared with.
fn reference(target: Target) -> Target {
    match target.has_hopper() && target != Target::Sm90a {
        true => Target::Sm90a,
        false => Target::Sm80,
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The text of every kernel of a target by name.
fn texts(target: Target) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    for kernel in library(target) {
        let text = kernel.ptx().unwrap_or_else(|e| panic!("{target}: {e}"));
        assert!(text.is_ascii(), "{}: not ASCII", kernel.name);
        let twin = texts.insert(kernel.name.clone(), text);
        assert!(twin.is_none(), "two kernels are named {}", kernel.name);
    }
    texts
}

/// The text without the two lines that every target changes.
fn body(text: &str) -> String {
    let own = |line: &&str| !line.starts_with(".version") && !line.starts_with(".target");
    text.lines().filter(own).collect::<Vec<_>>().join("\n")
}

/// Path below the golden folder and content of every file that should exist.
fn expected() -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    for target in Target::ALL {
        let twins = match reference(*target) {
            of if of == *target => BTreeMap::new(),
            of => texts(of),
        };
        for (name, text) in texts(*target) {
            let twin = twins.get(&name);
            if twin.is_some_and(|twin| body(twin) == body(&text)) {
                continue;
            }
            files.insert(Path::new(target.name()).join(format!("{name}.ptx")), text);
        }
    }
    files
}

/// Path below the golden folder of every file that exists.
fn present() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(folders) = fs::read_dir(folder()) else {
        return files;
    };
    for target in folders.flatten() {
        let Ok(entries) = fs::read_dir(target.path()) else {
            continue;
        };
        for entry in entries.flatten() {
            files.push(Path::new(&target.file_name()).join(entry.file_name()));
        }
    }
    files
}

/// Where the text leaves its golden file.
fn drift(path: &Path, text: &str) -> String {
    let Ok(golden) = fs::read_to_string(path) else {
        return "is missing".into();
    };
    let line = golden
        .lines()
        .zip(text.lines())
        .position(|(old, new)| old != new);
    match line {
        Some(i) => format!(
            "differs in line {}: now {:?}",
            i + 1,
            text.lines().nth(i).unwrap()
        ),
        None => "differs in length".into(),
    }
}

#[test]
fn library_matches_golden_files() {
    let expected = expected();
    let bless = std::env::var_os("GANNET_BLESS").is_some_and(|v| v == "1");
    let mut complaints = Vec::new();
    for file in present() {
        if !expected.contains_key(&file) {
            if bless {
                fs::remove_file(folder().join(&file)).unwrap();
            } else {
                complaints.push(format!("{}: no kernel writes it", file.display()));
            }
        }
    }
    for (file, text) in &expected {
        let path = folder().join(file);
        if fs::read_to_string(&path).is_ok_and(|golden| golden == *text) {
            continue;
        }
        if bless {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
        } else {
            complaints.push(format!("{}: {}", file.display(), drift(&path, text)));
        }
    }
    assert!(
        complaints.is_empty(),
        "golden files are out of date; run again with GANNET_BLESS=1 and review the diff:\n{}",
        complaints.join("\n")
    );
}

#[test]
fn emission_is_deterministic() {
    for target in Target::ALL {
        assert_eq!(texts(*target), texts(*target));
    }
}

/// The sources below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(sources(&path)),
            false => found.push(path),
        }
    }
    found
}

/// A kernel is a module with a `kernel` method; a new one must be in the library, and with it in
/// the goldens, the ptxas table and the listing, and must be mutated.
#[test]
fn every_kernel_is_in_the_library_and_is_mutated() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let library = read("src/kernels/mod.rs");
    let mutated: String = [
        "tests/mutation/families.rs",
        "tests/common/attention.rs",
        "tests/common/products.rs",
        "tests/common/simple.rs",
        "tests/common/steps.rs",
    ]
    .map(read)
    .concat();
    let mut kernels = 0;
    for path in sources(&root.join("src/kernels")) {
        let text = fs::read_to_string(&path).unwrap();
        if !text.contains("pub fn kernel(") && !text.contains("pub fn filter_kernel(") {
            continue;
        }
        kernels += 1;
        let module = path.file_stem().unwrap().to_str().unwrap();
        let room = path.parent().and_then(Path::file_name).unwrap();
        let listed = match room.to_str().unwrap() {
            "kernels" => format!("{module}: "),
            room => format!("{room}::{module}: "),
        };
        assert!(library.contains(&listed), "{module} is not in library()");
        let spec = text
            .lines()
            .filter_map(|line| line.strip_prefix("pub struct "))
            .filter_map(|line| line.split(' ').next())
            .find(|name| name.ends_with("Spec"))
            .unwrap_or_else(|| panic!("{module} has no Spec"));
        assert!(mutated.contains(spec), "no mutants of {spec}");
    }
    assert!(kernels >= 19, "found only {kernels} kernels");
}
