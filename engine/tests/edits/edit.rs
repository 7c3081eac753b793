//! Random edits of a file, and what is known of each: what it touched, and whether it changes nothing.

use gannet_gguf::TensorType;

use super::catalogue::{KEYS, LAYER_TENSORS, TENSORS, TEXTS};
use super::file::{File, Tensor, Val};
use crate::reference::micro::Random;

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Edit {
    /// In words.
    pub(crate) what: String,
    /// Names that a refusal may give: those of the key or tensor, old and new.
    pub(crate) names: Vec<String>,
    /// Whether it changes nothing: the model then runs as it did.
    pub(crate) is_nothing: bool,
}

impl Edit {
    fn of(what: String, names: &[&str], is_nothing: bool) -> Edit {
        Edit {
            what,
            names: names.iter().map(|&name| name.to_owned()).collect(),
            is_nothing,
        }
    }
}

/// Edits a file.
pub(crate) fn edit(file: &mut File<'_>, random: &mut Random) -> Edit {
    loop {
        let done = match below(random, 13) {
            12 => edit_vocabulary(file, random),
            0 | 1 => add_key(file, random),
            2 => rename_key(file, random),
            3 | 4 => retype_key(file, random),
            5 => remove_key(file, random),
            6 => change_key(file, random),
            7 | 8 => add_tensor(file, random),
            9 => rename_or_remove_tensor(file, random),
            10 => reshape_tensor(file, random),
            _ => retype_tensor(file, random),
        };
        if let Some(edit) = done {
            return edit;
        }
    }
}

pub(crate) fn below(random: &mut Random, n: usize) -> usize {
    (random.word() % n as u64) as usize
}

fn one_of<'a, T>(random: &mut Random, items: &'a [T]) -> &'a T {
    &items[below(random, items.len())]
}

fn word(random: &mut Random) -> String {
    let len = 1 + below(random, 12);
    let letter = |random: &mut Random| *one_of(random, b"abcdefghijklmnopqrstuvwxyz_.01") as char;
    let word: String = (0..len).map(|_| letter(random)).collect();
    format!("x{word}")
}

/// Adds a key that is known somewhere, one that nobody knows, or one outside the prefix.
fn add_key(file: &mut File<'_>, random: &mut Random) -> Option<Edit> {
    let kind = below(random, 8);
    let (key, value, is_nothing) = match kind {
        0 => (format!("general.{}", word(random)), Val::U32(7), true),
        1 => (format!("other.{}", word(random)), Val::F32(0.5), true),
        2 => (file.key(&word(random)), Val::F32(0.5), false),
        _ => {
            let (suffix, values) = one_of(random, KEYS);
            let (value, is_nothing) = one_of(random, values);
            (file.key(suffix), value.val(), *is_nothing)
        }
    };
    if file.has_key(&key) {
        return None;
    }
    let what = format!("added {key} = {value:?}");
    let suffix = key
        .trim_start_matches(&format!("{}.", file.arch))
        .to_owned();
    file.keys.push((key, value));
    Some(Edit::of(what, &[&suffix], is_nothing))
}

/// The suffix of a key of the file, as refusals name it.
fn suffix(file: &File<'_>, index: usize) -> String {
    let prefix = format!("{}.", file.arch);
    let key = &file.keys[index].0;
    key.strip_prefix(&prefix).unwrap_or(key).to_owned()
}

fn rename_key(file: &mut File<'_>, random: &mut Random) -> Option<Edit> {
    let index = below(random, file.keys.len());
    let old = suffix(file, index);
    let new = match below(random, 5) {
        0 => file.key(one_of(random, KEYS).0),
        1 => format!("{}s", file.keys[index].0),
        2 => file.keys[index].0.to_uppercase(),
        3 => format!("other.{old}"),
        _ => file.key(&word(random)),
    };
    if file.has_key(&new) {
        return None;
    }
    let what = format!("renamed {old} to {new}");
    let named = new
        .trim_start_matches(&format!("{}.", file.arch))
        .to_owned();
    file.keys[index].0 = new;
    Some(Edit::of(what, &[&old, &named], false))
}

fn remove_key(file: &mut File<'_>, random: &mut Random) -> Option<Edit> {
    let index = below(random, file.keys.len());
    let old = suffix(file, index);
    file.keys.remove(index);
    Some(Edit::of(format!("removed {old}"), &[&old], false))
}

/// The same value in another type, or another value of another type.
fn retype_key(file: &mut File<'_>, random: &mut Random) -> Option<Edit> {
    let index = below(random, file.keys.len());
    let layers = file.int("block_count") as usize;
    let old = suffix(file, index);
    let is_layers = old == "block_count" || old == "general.architecture";
    let value = file.keys[index].1.clone();
    let (new, is_nothing) = match value {
        Val::U32(v) => match below(random, 12) {
            0 => (Val::U64(v.into()), true),
            1 => (Val::I64(v.into()), true),
            2 => (Val::I32(i32::try_from(v).ok()?), true),
            3 => (Val::U16(u16::try_from(v).ok()?), true),
            4 => (Val::U8(u8::try_from(v).ok()?), true),
            5 => (Val::F32(v as f32), false),
            6 => (Val::Text(v.to_string()), false),
            7 => (Val::Bool(v != 0), false),
            8 => (
                Val::U32s(vec![v; layers]),
                !is_layers && old != "attention.sliding_window_pattern",
            ),
            9 => (Val::U32s(vec![v; layers + 1]), false),
            10 => {
                let mut list = vec![v; layers];
                let other = &mut list[below(random, layers)];
                *other = other.wrapping_add(1);
                (Val::U32s(list), false)
            }
            _ => (
                Val::I32s(vec![i32::try_from(v).ok()?; layers]),
                !is_layers && old != "attention.sliding_window_pattern",
            ),
        },
        Val::F32(v) => match below(random, 7) {
            0 => (Val::F64(v.into()), true),
            1 => (Val::U32(v as u32), false),
            2 => (Val::Text(v.to_string()), false),
            3 => (Val::F32s(vec![v; layers]), true),
            4 => {
                let mut list = vec![v; layers.max(2)];
                list[0] *= 2.0;
                (Val::F32s(list), false)
            }
            5 => (Val::Bool(true), false),
            _ => (Val::F32s(vec![]), false),
        },
        Val::Text(_) => (Val::U32(1), false),
        Val::Bools(list) => match below(random, 3) {
            0 => (Val::U32s(list.iter().map(|&b| b.into()).collect()), false),
            1 => (Val::Bool(true), false),
            _ => (Val::U32(3), false),
        },
        _ => return None,
    };
    let what = format!("retyped {old} to {new:?}");
    file.keys[index].1 = new;
    Some(Edit::of(what, &[&old], is_nothing))
}

/// Removes a key of the vocabulary, renames it or gives it another type: what a text is taken for
/// changes, but not what tokens give.
fn edit_vocabulary(file: &mut File<'_>, random: &mut Random) -> Option<Edit> {
    let keys = file.vocabulary();
    let (key, value) = *one_of(random, &keys);
    if file.left_out.iter().any(|left_out| left_out == key) {
        return None;
    }
    file.left_out.push(key.to_owned());
    let what = match below(random, 3) {
        0 => "removed".to_owned(),
        1 => {
            file.keys.push((format!("{key}s"), Val::U32(1)));
            format!("replaced by {key}s")
        }
        _ => {
            let other = match value.as_int() {
                Some(_) => Val::Text("x".to_owned()),
                None => Val::U32(3),
            };
            let what = format!("retyped to {other:?}");
            file.keys.push((key.to_owned(), other));
            what
        }
    };
    Some(Edit::of(format!("{key} {what}"), &[key], false))
}

/// Another value of the same type.
fn change_key(file: &mut File<'_>, random: &mut Random) -> Option<Edit> {
    let index = below(random, file.keys.len());
    let old = suffix(file, index);
    let mut names = vec![old.clone()];
    let new = match file.keys[index].1.clone() {
        Val::U32(v) => {
            let (more, less) = (v.saturating_add(1), v.saturating_sub(1));
            let values = [more, v.saturating_mul(2), v / 2, 0, 1, u32::MAX, less];
            Val::U32(*one_of(random, &values))
        }
        Val::F32(v) => {
            let values = [
                v * 2.0,
                v / 2.0,
                0.0,
                -v,
                1e-45,
                1e30,
                f32::NAN,
                f32::INFINITY,
            ];
            Val::F32(*one_of(random, &values))
        }
        Val::Text(_) => {
            let text = *one_of(random, TEXTS);
            // What follows from another architecture is that its keys are missing.
            names.extend((!text.is_empty()).then(|| text.to_owned()));
            Val::Text(text.to_owned())
        }
        Val::Bools(mut list) => {
            let at = below(random, list.len());
            list[at] = !list[at];
            Val::Bools(list)
        }
        _ => return None,
    };
    if file.keys[index].1 == new {
        return None;
    }
    let what = format!("changed {old} to {new:?}");
    file.keys[index].1 = new;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Some(Edit::of(what, &names, false))
}

/// What dimensions in the catalogue are called.
pub(crate) fn dims(file: &File<'_>, names: &[&str]) -> Vec<u64> {
    let head_dim = file.int("attention.key_length");
    let dim = |name: &&str| match *name {
        "hidden" => file.int("embedding_length"),
        "ffn" => file.int("feed_forward_length"),
        "head" => head_dim,
        "q" => file.int("attention.head_count") * head_dim,
        "kv" => file.int("attention.head_count_kv") * head_dim,
        "heads" => file.int("attention.head_count"),
        "pairs" => file.int("rope.dimension_count").div_ceil(2),
        "context" => file.int("context_length"),
        "vocab" => file
            .tensors
            .first()
            .map_or(1, |t| *t.dims.last().unwrap_or(&1)),
        other => panic!("{other}"),
    };
    names.iter().map(dim).collect()
}

/// The most elements of a tensor that is added.
const MOST_ELEMENTS: u64 = 1 << 18;

fn add_tensor(file: &mut File<'_>, random: &mut Random) -> Option<Edit> {
    let layers = file.int("block_count");
    let (name, sizes) = match below(random, 4) {
        0 => {
            let (name, sizes) = one_of(random, TENSORS);
            ((*name).to_owned(), *sizes)
        }
        1 => (word(random), &["hidden"][..]),
        _ => {
            let (name, sizes) = one_of(random, LAYER_TENSORS);
            // Now and then of a layer that is not there.
            let layer = below(random, layers as usize + 1);
            (format!("blk.{layer}.{name}"), *sizes)
        }
    };
    if file.has_tensor(&name) {
        return None;
    }
    let dims = dims(file, sizes);
    // A size that was edited before may be none that can be made.
    let elements = dims.iter().copied().reduce(u64::saturating_mul);
    if elements.is_none_or(|elements| elements > MOST_ELEMENTS) {
        return None;
    }
    let mut draw = || 1.0 + 0.3 * random.normal().abs();
    let tensor = Tensor::new(&name, &dims, &mut draw);
    file.tensors.push(tensor);
    Some(Edit::of(
        format!("added tensor {name} {dims:?}"),
        &[&name],
        false,
    ))
}

fn rename_or_remove_tensor(file: &mut File<'_>, random: &mut Random) -> Option<Edit> {
    let index = below(random, file.tensors.len());
    let old = file.tensors[index].name.clone();
    if below(random, 2) == 0 {
        file.tensors.remove(index);
        return Some(Edit::of(format!("removed tensor {old}"), &[&old], false));
    }
    let new = match below(random, 4) {
        0 => one_of(random, TENSORS).0.to_owned(),
        1 => old.replace("blk.1.", "blk.7."),
        2 => old.replace(".weight", ""),
        _ => format!("{old}s"),
    };
    if file.has_tensor(&new) {
        return None;
    }
    file.tensors[index].name.clone_from(&new);
    Some(Edit::of(
        format!("renamed tensor {old} to {new}"),
        &[&old, &new],
        false,
    ))
}

fn reshape_tensor(file: &mut File<'_>, random: &mut Random) -> Option<Edit> {
    let index = below(random, file.tensors.len());
    let tensor = &mut file.tensors[index];
    let (name, old) = (tensor.name.clone(), tensor.dims.clone());
    let mut is_nothing = false;
    match below(random, 6) {
        0 => tensor.dims.reverse(),
        1 => tensor.dims = vec![old.iter().product()],
        // Dimensions of 1 at the end are none.
        2 => {
            tensor.dims.push(1);
            is_nothing = true;
        }
        3 => tensor.dims.insert(0, 1),
        4 => {
            let last = tensor.dims.last_mut()?;
            *last += 1;
            let row = tensor.data.len() / (*last as usize - 1);
            tensor.data.extend(vec![0; row]);
        }
        _ => {
            let first = old[0];
            if !first.is_multiple_of(2) {
                return None;
            }
            tensor.dims[0] = first / 2;
            tensor.dims.insert(1, 2);
        }
    }
    if tensor.dims == old || tensor.dims.len() > 4 {
        return None;
    }
    let what = format!("reshaped tensor {name} from {old:?} to {:?}", tensor.dims);
    Some(Edit::of(what, &[&name], is_nothing))
}

/// Numbers of half the width, or a type that is no weight's.
fn retype_tensor(file: &mut File<'_>, random: &mut Random) -> Option<Edit> {
    let index = below(random, file.tensors.len());
    let tensor = &mut file.tensors[index];
    if tensor.ty != TensorType::F32 {
        return None;
    }
    let values: Vec<f32> = (tensor.data.chunks_exact(4))
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    let bf16 = |v: &f32| ((v.to_bits() >> 16) as u16).to_le_bytes();
    match below(random, 2) {
        0 => {
            tensor.ty = TensorType::BF16;
            tensor.data = values.iter().flat_map(bf16).collect();
        }
        _ => tensor.ty = TensorType::I32,
    }
    let name = tensor.name.clone();
    let what = format!("retyped tensor {name} to {}", tensor.ty.name());
    Some(Edit::of(what, &[&name], false))
}
