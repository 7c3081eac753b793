//! Folders of safetensors: opened and converted they are the GGUF files that they were made from.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod made;
mod pieces;
mod published;
mod refused;
mod spelled;

use std::path::Path;
use std::sync::Arc;

use gannet_engine::internals::files::Source;
use gannet_engine::internals::model::hf::HfFolder;
use gannet_engine::internals::model::of_container;
use gannet_engine::settings::Precision;
use gannet_engine::tools::convert::{ConvertType, convert};
use gannet_engine::tools::{eval, make_executor};
use gannet_engine::{DeviceChoice, Model, ModelOptions};
use gannet_gguf::{Gguf, Writer};

use common::{MICRO_MODELS, micro_file, options, shared};
use made::How;

/// Logits of a few tokens, exactly computed.
fn logits(model: &Arc<Model>) -> Vec<u32> {
    let settings = options(DeviceChoice::Cpu, Precision::Exact, 64);
    let settings = gannet_engine::Settings {
        context: Some(64),
        ..settings
    };
    let mut executor = make_executor(model, &settings).unwrap().executor;
    let tokens: Vec<u32> = (0..24).map(|i| (i * 37 + 5) % 300).collect();
    let mut all = Vec::new();
    eval::logits(executor.as_mut(), &tokens, 0, |_, row| {
        all.extend(row.iter().map(|v| v.to_bits()));
        Ok(())
    })
    .unwrap();
    all
}

fn converted(folder: &Path, to: ConvertType) -> Gguf {
    let folder = HfFolder::open(folder, false).unwrap();
    let (mut file, mut last) = (Vec::new(), (0, 1));
    let summary = convert(&folder, to, &mut file, &mut |done, total| {
        last = (done, total)
    })
    .unwrap();
    assert_eq!(last.0, last.1, "progress ends at the end");
    let made = Gguf::from_vec("converted.gguf", file).unwrap();
    let bytes: u64 = made.tensors().iter().map(|t| t.bytes).sum();
    assert_eq!(
        (summary.tensors, summary.bytes),
        (made.tensors().len(), bytes)
    );
    made
}

/// Keys of `found` that say otherwise than in `right`, or that lack.
fn differences(right: &Gguf, found: &Gguf) -> Vec<String> {
    let describes =
        |key: &str| !key.starts_with("general.") && key != "tokenizer.ggml.padding_token_id";
    let mut lines = Vec::new();
    for (key, value) in right.metadata().iter().filter(|(key, _)| describes(key)) {
        let other = found.metadata().get(key);
        let is_same = other.is_some_and(|other| match (value.as_int(), value.as_float()) {
            (Some(int), _) => other.as_int() == Some(int),
            (_, Some(float)) => other.as_float().map(|f| f as f32) == Some(float as f32),
            _ => other == value,
        });
        if !is_same {
            lines.push(format!(
                "{key}: {} is {:?}",
                value.describe(),
                other.map(|o| o.describe())
            ));
        }
    }
    lines
}

/// The same model, with norms of Gemma that are one more than a number of F32: others have no folder.
fn with_storable_norms(gguf: &Gguf) -> Gguf {
    let is_gemma = gguf
        .metadata()
        .str("general.architecture")
        .unwrap()
        .starts_with("gemma");
    let mut writer = Writer::new();
    for (key, value) in gguf.metadata().iter() {
        writer.set(key, value).unwrap();
    }
    for t in gguf.tensors() {
        writer.tensor(&t.name, &t.dims, t.ty).unwrap();
    }
    let mut data = writer.start(Vec::new()).unwrap();
    for t in gguf.tensors() {
        let mut bytes = gguf.data(t).to_vec();
        if is_gemma && t.name.contains("norm") {
            for value in bytes.chunks_mut(4) {
                let v = f32::from_le_bytes(value.try_into().unwrap());
                value.copy_from_slice(&((v - 1.0) + 1.0).to_le_bytes());
            }
        }
        data.tensor(&t.name, &bytes).unwrap();
    }
    Gguf::from_vec("model.gguf", data.finish().unwrap()).unwrap()
}

/// Every family: from its GGUF file to a folder, and back by both ways.
#[test]
fn folders_give_the_logits_of_their_files_bit_for_bit() {
    let test = "folders_give_the_logits_of_their_files_bit_for_bit";
    let tiny = ["models/rustdoc-tiny-F16.gguf".to_owned()];
    let files = MICRO_MODELS
        .iter()
        .map(|folder| micro_file(folder))
        .chain(tiny);
    for (at, file) in files.enumerate() {
        let Some(path) = shared(test, &file) else {
            continue;
        };
        let gguf = with_storable_norms(&Gguf::open(&path).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let how = How {
            shards: 1 + at % 3,
            padding: at,
            ..How::default()
        };
        made::write(&gguf, folder.path(), &how);
        let opened = Arc::new(Model::open(folder.path()).unwrap_or_else(|e| panic!("{file}: {e}")));
        assert_eq!(opened.warnings().count(), 0, "{file}");
        assert_eq!(opened.path(), folder.path());
        let whole = converted(folder.path(), ConvertType::Keep);
        for t in gguf.tensors() {
            let same = whole
                .tensor(&t.name)
                .unwrap_or_else(|| panic!("{file}: no {}", t.name));
            assert_eq!((same.ty, &same.dims), (t.ty, &t.dims), "{file}: {}", t.name);
            assert!(
                whole.data(same) == gguf.data(t),
                "{file}: {} differs",
                t.name
            );
        }
        assert_eq!(whole.tensors().len(), gguf.tensors().len(), "{file}");
        assert_eq!(differences(&gguf, &whole), [""; 0], "{file}");
        let right = logits(&Arc::new(
            of_container(gguf, &ModelOptions::default()).unwrap(),
        ));
        assert!(
            logits(&opened) == right,
            "{file}: the folder's logits differ"
        );
        let whole = Arc::new(of_container(whole, &ModelOptions::default()).unwrap());
        assert!(
            logits(&whole) == right,
            "{file}: the converted file's logits differ"
        );
    }
}

/// A folder of another type, and a file of the type asked for.
#[test]
fn types_are_those_that_were_asked_for() {
    let test = "types_are_those_that_were_asked_for";
    let Some(path) = shared(test, "golden/arch/qwen2/qwen2.gguf") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    made::write(&Gguf::open(&path).unwrap(), folder.path(), &How::default());
    for (to, ty, number) in [
        (ConvertType::Keep, "F32", 0),
        (ConvertType::F32, "F32", 0),
        (ConvertType::F16, "F16", 1),
        (ConvertType::BF16, "BF16", 32),
    ] {
        let file = converted(folder.path(), to);
        for t in file.tensors() {
            let is_matrix = t.dims.len() == 2;
            assert_eq!(
                t.ty.name(),
                if is_matrix { ty } else { "F32" },
                "{to}: {}",
                t.name
            );
        }
        assert_eq!(file.metadata().u32("general.file_type").unwrap(), number);
        of_container(file, &ModelOptions::default()).unwrap();
    }
}

/// A tensor is handed out in place unless something is done to it.
#[test]
fn what_lies_as_it_is_asked_for_is_read_in_place() {
    let test = "what_lies_as_it_is_asked_for_is_read_in_place";
    let Some(path) = shared(test, "golden/arch/llama/llama.gguf") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    made::write(&Gguf::open(&path).unwrap(), folder.path(), &How::default());
    let folder = HfFolder::open(folder.path(), false).unwrap();
    for index in 0..folder.num_tensors() {
        let tensor = folder.tensor(index);
        let is_turned = tensor.name.contains("attn_q") || tensor.name.contains("attn_k");
        assert_eq!(
            folder.in_place(index).is_none(),
            is_turned,
            "{}",
            tensor.name
        );
        assert_eq!(folder.bytes(index).len() as u64, tensor.bytes());
    }
}
