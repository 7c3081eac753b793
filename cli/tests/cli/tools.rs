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
