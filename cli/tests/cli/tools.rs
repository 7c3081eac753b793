//! `gannet doctor`, `gannet ptx`, `gannet synth`.

use crate::support::{finish, gannet, has_gpu, model, run};

#[test]
fn doctor_answers_on_any_machine() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["doctor", "--json"];
    let object = finish(gannet(&args).env("GANNET_CACHE", folder.path()), &args)
        .ok()
        .json();
    for variable in gannet_engine::settings::TABLE {
        assert!(
            object["configuration"][variable.name].is_string(),
            "{}",
            variable.name
        );
    }
    assert_eq!(object["cache"]["entries"], 0);
    assert!(object["kernels"]["sm_90a"].as_u64().unwrap() > 0);
    assert!(object["cpu"]["isa"].is_string());
    let text = run(&["doctor"]).ok().stdout;
    if !has_gpu() {
        assert!(text.contains("install NVIDIA driver"), "{text}");
    }
    let args = ["doctor"];
    let done = finish(gannet(&args).env("GANNET_CUBIN_CACHE", "maybe"), &args).ok();
    assert!(
        done.stdout
            .contains("GANNET_CUBIN_CACHE=\"maybe\" is not valid"),
        "{}",
        done.stdout
    );
}

#[test]
fn kernels_are_listed_and_printed() {
    let list = run(&["ptx"]).ok().stdout;
    let name = list
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap();
    let text = run(&["ptx", name, "--target", "sm_80"]).ok().stdout;
    assert!(text.contains(".target sm_80"), "{text}");
    assert!(text.contains(&format!(".entry {name}")), "{text}");
    assert_eq!(
        text,
        run(&["ptx", name, "--target", "sm_80"]).ok().stdout,
        "deterministic"
    );
}

#[test]
fn a_models_kernels_are_its_own() {
    let list = run(&["ptx", "-m", &model(), "--target", "sm_75"])
        .ok()
        .stdout;
    let rows: Vec<&str> = list.lines().skip(1).collect();
    for part in ["q4_k", "q6_k", "8192", "argmax"] {
        assert!(
            rows.iter().any(|row| row.contains(part)),
            "no kernel with {part} in\n{list}"
        );
    }
    let name = rows[0].split_whitespace().next().unwrap();
    run(&["ptx", name, "-m", &model(), "--target", "sm_75"]).ok();
}

#[test]
fn synthetic_models_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let out = path.to_str().unwrap();
    let done = run(&[
        "synth", "--shape", "tiny", "--type", "q4_k_m", "--seed", "3", "-o", out,
    ])
    .ok();
    assert!(
        done.stdout.is_empty() && done.stderr.contains("tensors"),
        "{}",
        done.stderr
    );
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "nothing else is left"
    );
    assert_eq!(
        run(&["inspect", out, "--json"]).ok().json()["runs"]["supported"],
        true
    );
    let text = run(&[
        "run",
        "a",
        "-m",
        out,
        "-n",
        "4",
        "--ignore-eos",
        "--device",
        "cpu",
        "--json",
    ]);
    assert_eq!(text.ok().json()["tokens"].as_array().unwrap().len(), 4);

    // The vocabulary of another model, which is not the file that is replaced.
    let again = [
        "synth",
        "--shape",
        "tiny",
        "--vocab-from",
        &model(),
        "-o",
        out,
    ];
    run(&again).ok();
    let line = run(&["synth", "--shape", "tiny", "--vocab-from", out, "-o", out]);
    assert!(line.error().contains("write to another file"));
    let object = run(&["inspect", out, "--json"]).ok().json();
    assert_eq!(object["runs"]["vocab_size"], 8192);
    run(&[
        "synth",
        "--shape",
        "tiny",
        "--vocab-from",
        "/no/such.gguf",
        "-o",
        out,
    ])
    .error()
    .starts_with("/no/such.gguf: cannot open")
    .then_some(())
    .expect("the vocabulary is named");
    run(&["inspect", out]).ok();
}

/// What has figures gives them as an object, too.
#[test]
fn figures_are_one_json_object() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (gguf, logits) = (at("tiny.gguf"), at("logits.f32"));
    let object = run(&["synth", "--shape", "tiny", "-o", &gguf, "--json"])
        .ok()
        .json();
    assert_eq!(object["bytes"], std::fs::metadata(&gguf).unwrap().len());
    assert_eq!(
        (&object["shape"], &object["type"]),
        (&"tiny".into(), &"q4_k_m".into())
    );

    let args = [
        "logits", "--tokens", "1,2,3", "--last", "2", "--device", "cpu", "--out", &logits,
    ];
    let object = run(&[&args[..], &["--json"]].concat()).ok().json();
    assert_eq!(
        (&object["positions"], &object["first_position"]),
        (&2.into(), &1.into())
    );
    assert_eq!(object["bytes"], std::fs::metadata(&logits).unwrap().len());
    let vocab_size = object["vocab_size"].as_u64().unwrap();
    assert_eq!(object["bytes"].as_u64().unwrap(), 2 * 4 * vocab_size);

    let library = run(&["ptx", "--target", "sm_80", "--json"]).ok().json();
    let kernels = library["kernels"].as_array().unwrap();
    assert_eq!(library["target"], "sm_80");
    let listed = run(&["ptx", "--target", "sm_80"]).ok().stdout;
    assert_eq!(kernels.len(), listed.lines().count() - 1);
    let name = kernels[0]["name"].as_str().unwrap();
    let one = run(&["ptx", name, "--target", "sm_80", "--json"])
        .ok()
        .json();
    assert_eq!(
        one["ptx"],
        run(&["ptx", name, "--target", "sm_80"]).ok().stdout
    );
    assert_eq!(one["threads"], kernels[0]["threads"]);
    let steps = run(&["ptx", "-m", &model(), "--steps", "--json"])
        .ok()
        .json();
    assert_eq!(steps["steps"].as_array().unwrap().len(), 2);

    // Two things on one stream are none.
    run(&["logits", "--tokens", "1", "--out", "-", "--json"]).one_line_of_usage();
    run(&["synth", "--shape", "tiny", "-o", "-", "--json"]).one_line_of_usage();
    run(&["bench", "--trace", "-"]).one_line_of_usage();
}
