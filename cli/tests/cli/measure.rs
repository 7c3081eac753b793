//! `gannet bench` and `gannet parity` on the CPU: the form of what they print.

use crate::support::{run, shared};

#[test]
fn bench_gives_a_row_for_each_test() {
    let args = [
        "bench", "-p", "16,32", "-n", "4", "-d", "0,24", "-r", "2", "--device", "cpu", "--json",
    ];
    let object = run(&args).ok().json();
    let rows = object["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|r| r["test"].as_str().unwrap()).collect();
    assert_eq!(names, ["ttft32", "pp16", "pp32", "tg4", "tg4@d24"]);
    for row in rows {
        assert!(row["tokens_per_second"].as_f64().unwrap() > 0.0);
        assert_eq!(row["seconds"].as_array().unwrap().len(), 2);
    }
    // 7.3 MB of weights, less the embedding's rows that are not read but as the output matrix.
    let bytes = rows[3]["bytes_per_token"].as_u64().unwrap();
    assert!((7_000_000..9_000_000).contains(&bytes), "{bytes}");
    assert!(rows[4]["bytes_per_token"].as_u64().unwrap() > bytes);
    assert!(object["ceiling_gb_per_second"].as_f64().unwrap() > 0.1);
    assert_eq!(object["fallbacks"], 0);
    assert!(rows[3]["share_of_ceiling"].as_f64().unwrap() > 0.0);
}

#[test]
fn bench_prints_a_table() {
    let args = ["bench", "-p", "0", "-n", "2", "-r", "1", "--device", "cpu"];
    let text = run(&args).ok().stdout;
    assert!(text.contains("of ceiling"), "{text}");
    assert!(text.lines().any(|l| l.starts_with("tg2 ")), "{text}");
    // On a CPU no column is empty, nothing is made ready for launches, and nothing reads faster than
    // memory gives.
    let heading = text.lines().find(|l| l.starts_with("test ")).unwrap();
    for absent in ["on device", "waits/token", "  step"] {
        assert!(!heading.contains(absent), "{heading}");
    }
    let requests = [&args[..], &["--requests", "2"]].concat();
    let text = run(&requests).ok().stdout;
    assert!(text.contains("2 requests of 128 + 128 tokens"), "{text}");
    assert!(
        !text.contains("-0.00") && !text.contains("kernels"),
        "{text}"
    );
    let object = run(&[&requests[..], &["--json"]].concat()).ok().json();
    let warm_up = object["requests"]["warm_up_seconds"].to_string();
    assert_eq!(warm_up, "0.0", "not below zero");
    for row in object["rows"].as_array().unwrap() {
        assert!(
            row["share_of_ceiling"].as_f64().unwrap_or(0.0) <= 1.0,
            "{row}"
        );
    }
    run(&["bench", "-p", "0", "-n", "0", "--device", "cpu"]).error();
}

/// Where no kernels are launched there is nothing to profile, and no file with nothing in it.
#[test]
fn a_profile_needs_launches() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace.json");
    let trace = file.to_str().unwrap();
    for device in ["cpu", "interp"] {
        let bench = ["bench", "-p", "0", "-n", "2", "-r", "1", "--device", device];
        for profile in [&["--profile"][..], &["--trace", trace]] {
            let done = run(&[&bench[..], profile].concat());
            let line = done.error();
            assert!(line.contains(device) && line.contains("GPU"), "{line}");
        }
    }
    assert!(!file.exists());
}

#[test]
fn an_executor_agrees_with_itself() {
    let args = [
        "parity", "--left", "cpu", "--right", "cpu", "--exact", "--json",
    ];
    let object = run(&args).ok().json();
    assert_eq!(object["pass"], true);
    let buffers = object["reports"][0]["buffers"].as_array().unwrap();
    assert!(buffers.len() > 100, "{} buffers", buffers.len());
    let text = run(&["parity", "--left", "cpu", "--right", "cpu", "--exact"])
        .ok()
        .stdout;
    assert!(text.contains("cpu"), "{text}");
}

#[test]
fn several_sequences_are_compared_in_chunks_and_with_themselves_alone() {
    let args = [
        "parity", "--left", "cpu", "--right", "cpu", "--exact", "--batch", "3", "-n", "2", "--json",
    ];
    let object = run(&[&args[..], &["--chunk", "16"]].concat()).ok().json();
    let steps = |object: &serde_json::Value| -> Vec<String> {
        let reports = object["reports"].as_array().unwrap();
        let step = |r: &serde_json::Value| r["step"].as_str().unwrap().to_owned();
        reports.iter().map(step).collect()
    };
    assert_eq!(object["pass"], true);
    let steps_of = steps(&object);
    assert_eq!(steps_of[steps_of.len() - 2..], ["batch of 3", "batch of 3"]);
    assert!(
        steps_of.contains(&"chunk of slot 2".to_owned()),
        "{steps_of:?}"
    );

    // Of the right side alone: a left one would be ignored.
    let left = args.iter().position(|arg| *arg == "--left").unwrap();
    let right = [&args[..left], &args[left + 2..], &["--alone"]].concat();
    let object = run(&right).ok().json();
    assert_eq!(object["pass"], true);
    assert_eq!(steps(&object), ["batch of 3", "batch of 3", "decode of 3"]);
    // On the CPU no bit differs, and none with the flag that says so for kernels.
    for (device, more) in [("cpu-fast", &[][..]), ("interp", &["--batch-invariant"])] {
        let Some(model) = shared("golden/arch/qwen2/qwen2.gguf") else {
            continue;
        };
        let model = model.to_str().unwrap();
        let args = [
            "parity",
            "-m",
            model,
            "--right",
            device,
            "--alone",
            "--batch",
            "5",
            "-n",
            "2",
            "--tokens",
            "9,8,7,6,5,4,3,2,1",
            "--json",
        ];
        let object = run(&[&args[..], more].concat()).ok().json();
        for report in object["reports"].as_array().unwrap() {
            for buffer in report["buffers"].as_array().unwrap() {
                assert_eq!(buffer["limit"], 0.0, "{device}: {buffer}");
            }
        }
    }
    run(&["parity", "--right", "cpu", "--batch", "0"]).error();
    run(&["parity", "--right", "cpu", "--chunk", "0"]).error();
}

#[test]
fn the_fast_cpu_passes_on_the_embedded_model() {
    let done = run(&["parity", "--right", "cpu-fast"]).ok();
    assert!(
        done.stderr.contains("buffers within their limits]"),
        "{}",
        done.stderr
    );
    let cases: [&[&str]; 3] = [
        &["--right", "cpu-fast", "--batch", "3", "-n", "2"],
        &["--right", "cpu-fast", "--chunk", "7", "-n", "2"],
        &[
            "--left",
            "cpu-fast",
            "--right",
            "cpu",
            "-n",
            "2",
            "--tokens",
            "8184,5,6,7,80,9",
        ],
    ];
    for args in cases {
        let object = run(&[&["parity", "--json"], args].concat()).ok().json();
        assert_eq!(object["pass"], true, "{args:?}");
        let reports = object["reports"].as_array().unwrap();
        let rows = reports
            .iter()
            .flat_map(|r| r["buffers"].as_array().unwrap());
        let (of_bytes, others): (Vec<_>, Vec<_>) = rows.partition(|row| {
            let buffer = row["buffer"].as_str().unwrap();
            buffer.ends_with("of the same bytes")
        });
        // Products round, and are what those bytes give.
        let rounds = others
            .iter()
            .any(|row| row["nmse"].as_f64().unwrap() > 1e-6);
        assert!(rounds && !of_bytes.is_empty(), "{args:?}");
    }
}

#[test]
fn executors_that_do_not_exist_are_refused() {
    run(&["parity", "--left", "cpu", "--right", "abacus"]).usage();
}

#[test]
fn variants_are_compared_and_those_of_no_product_refused() {
    let parity = |variant: &str| {
        let sides = [
            "parity", "--right", "interp", "--tokens", "3,141", "-n", "0", "--json",
        ];
        run(&[&sides[..], &["--gemv", variant, "--gemv-rows", "2"]].concat())
    };
    let limits = |variant: &str| -> Vec<f64> {
        let object = parity(variant).ok().json();
        assert_eq!(object["reports"][0]["left"], "cpu");
        let rows = object["reports"][0]["buffers"].as_array().unwrap().clone();
        let rows = rows
            .iter()
            .filter(|r| r["unit"].as_str().unwrap().contains("matmul"));
        rows.map(|r| r["limit"].as_f64().unwrap()).collect()
    };
    // Activations of gated units are approximate.
    let float = limits("f32-l32-w16-r1-b4");
    assert!(float.contains(&1e-9) && float.iter().all(|&l| l == 1e-9 || l == 1e-6));
    let int8 = limits("dp4a-l32-w16-r1-b4");
    assert!(!int8.is_empty() && int8.iter().all(|&l| l == 1e-3));
    let args = [
        "run",
        "x",
        "-n",
        "1",
        "--device",
        "interp",
        "--gemv",
        "f32-l99-w16-r2-b4",
    ];
    let refused = run(&args);
    assert!(
        refused.error().contains("f32-l99-w16-r2-b4"),
        "{}",
        refused.error()
    );
    assert!(
        parity("f32-l99-w16-r2-b4")
            .error()
            .contains("no product of this model")
    );
}

/// What a load on the CPU consists of, in both forms.
#[test]
fn the_phases_of_a_load_are_told() {
    let args = [
        "bench", "-p", "0", "-n", "2", "-r", "1", "--device", "cpu", "--json",
    ];
    let load = run(&args).ok().json()["load"].clone();
    let phases = load["phases"].as_array().unwrap();
    let names: Vec<_> = phases
        .iter()
        .map(|p| p["phase"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["vocabulary", "plan"]);
    let ends = phases
        .iter()
        .map(|p| p["start_seconds"].as_f64().unwrap() + p["seconds"].as_f64().unwrap());
    let last = ends.fold(0.0, f64::max);
    assert!((load["seconds"].as_f64().unwrap() - last).abs() < 1e-9);
    assert!(last > 0.0 && last < 60.0, "{last}");
    // Weights stay in the file: nothing is moved.
    assert_eq!(
        (load["bytes"].as_u64(), load["kernels"].as_u64()),
        (Some(0), Some(0))
    );
    assert!(load["gb_per_second"].is_null());

    let told = run(&["run", "fn main", "-n", "2", "--device", "cpu", "--timing"]).ok();
    let phases = [
        "vocabulary ",
        "plan ",
        "first token ",
        "prompt given ",
        "first choice ",
        "computed or waited ",
        "text ",
        "printed ",
    ];
    for phase in phases {
        assert!(
            told.stderr.lines().any(|l| l.starts_with(phase)),
            "{}",
            told.stderr
        );
    }
    let plain = run(&["run", "fn main", "-n", "2", "--device", "cpu"]).ok();
    assert_eq!(plain.stdout, told.stdout);
    assert!(!plain.stderr.contains("vocabulary"), "{}", plain.stderr);
}

/// What the mode costs is measured beside what it costs something of; on the CPU that is nothing.
#[test]
fn bench_tells_what_batch_invariance_costs() {
    let of_cpu = [
        "bench",
        "-p",
        "0",
        "-n",
        "2",
        "-b",
        "1,4",
        "-r",
        "1",
        "--device",
        "cpu",
        "--batch-invariant",
        "--json",
    ];
    let object = run(&of_cpu).ok().json();
    assert_eq!(object["batch_invariant"], true);
    for row in object["rows"].as_array().unwrap() {
        assert!(row["share_of_default"].is_null(), "{row}");
    }
    let Some(model) = shared("golden/arch/qwen2/qwen2.gguf") else {
        return;
    };
    let model = model.to_str().unwrap();
    let with = |more: &[&str]| {
        let args = [
            "bench", "-m", model, "-p", "0", "-n", "2", "-b", "1,4", "-r", "1", "--device",
            "interp",
        ];
        run(&[&args[..], more].concat()).ok()
    };
    let object = with(&["--batch-invariant", "--json"]).json();
    let rows = object["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3);
    for row in rows {
        let share = row["share_of_default"].as_f64().unwrap();
        assert!(share > 0.01 && share < 100.0, "{row}");
    }
    let text = with(&["--batch-invariant"]).stdout;
    assert!(text.contains("of default"), "{text}");
    let plain = with(&[]).stdout;
    assert!(!plain.contains("of default"), "{plain}");
}

#[test]
fn bench_measures_clients_of_a_server() {
    let args = [
        "bench",
        "-p",
        "0",
        "-n",
        "2",
        "-r",
        "1",
        "--device",
        "cpu",
        "--clients",
        "2",
    ];
    let object = run(&[&args[..], &["--json"]].concat()).ok().json();
    let clients = &object["clients"];
    assert_eq!(
        (&clients["clients"], &clients["tokens"]),
        (&2.into(), &128.into())
    );
    for time in ["seconds", "first_token_p50_seconds"] {
        assert!(clients[time].as_f64().unwrap() > 0.0, "{time}: {clients}");
    }
    let joining = clients["joining"].as_array().unwrap();
    let others: Vec<_> = joining.iter().map(|j| j["clients"].as_u64()).collect();
    assert_eq!(others, [Some(1), Some(2)]);
    for joining in joining {
        for time in ["first_token_seconds", "inter_token_p99_before_seconds"] {
            assert!(joining[time].as_f64().unwrap() > 0.0, "{time}: {joining}");
        }
    }
    // The prefix once, and what each has of its own; the last block is computed by each where it is not full.
    let shared = &clients["shared"];
    let number = |name: &str| shared[name].as_u64().unwrap();
    let (prefix, tail, block) = (number("prefix"), number("tail"), 32);
    let rows = number("prompt_rows_computed");
    let least = prefix + 2 * tail;
    assert!((least..least + 2 * block).contains(&rows), "{shared}");
}
