//! What of a file was read: every key under the architecture's prefix and every tensor.
//!
//! A file says what its model computes. What no part of a plan has read, and what is not known to
//! change nothing ([`neutral`](super::neutral)), is weights or arithmetic that the result would lack:
//! it is refused by name, or told where the caller asked to go on.

use std::cell::RefCell;
use std::collections::HashSet;

use gannet_gguf::{Gguf, TensorInfo, Value};

use super::keys::uniform;
use super::neutral;
use crate::Error;

/// The keys and tensors that were looked at.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Keys, without the architecture's prefix.
    keys: RefCell<HashSet<String>>,
    /// Tensors, by their number.
    tensors: RefCell<HashSet<usize>>,
}

/// How many items a line names.
const NAMED: usize = 8;

impl Ledger {
    /// Notes that a key was read, whether or not the file has it.
    pub(crate) fn read_key(&self, suffix: &str) {
        if !self.keys.borrow().contains(suffix) {
            self.keys.borrow_mut().insert(suffix.to_owned());
        }
    }

    /// Notes that the plan has a tensor.
    pub(crate) fn read_tensor(&self, index: usize) {
        self.tensors.borrow_mut().insert(index);
    }

    /// The error that names what nothing has read, if there is anything; `num_layers` are those of
    /// the plan.
    pub(crate) fn check(&self, gguf: &Gguf, arch: &str, num_layers: usize) -> Result<(), Error> {
        let mut items = self.unread_keys(gguf, arch, num_layers);
        items.extend(self.unread_tensors(gguf, num_layers));
        if items.is_empty() {
            return Ok(());
        }
        let more = items.len().saturating_sub(NAMED);
        items.truncate(NAMED);
        let mut items = items.join(", ");
        if more > 0 {
            items.push_str(&format!(" and {more} more"));
        }
        Err(Error::Unread {
            file: gguf.path().to_owned(),
            arch: arch.to_owned(),
            items,
        })
    }

    fn unread_keys(&self, gguf: &Gguf, arch: &str, num_layers: usize) -> Vec<String> {
        let read = self.keys.borrow();
        let prefix = format!("{arch}.");
        let is_neutral = |suffix: &str, value: Value<'_>| {
            let value = match value {
                Value::Array(list) => uniform(list, num_layers).unwrap_or(value),
                _ => value,
            };
            neutral::reason(suffix, &value).is_some()
        };
        let unread = gguf.metadata().iter().filter_map(|(key, value)| {
            let suffix = key.strip_prefix(&prefix)?;
            (!read.contains(suffix) && !is_neutral(suffix, value)).then_some((suffix, value))
        });
        unread
            .map(|(suffix, value)| {
                let (key, value) = (suffix.escape_debug(), value.describe());
                let why = match suffix.starts_with("rope.scaling.yarn_beta") {
                    true => ", without rope.scaling.type yarn",
                    false => "",
                };
                format!("key {prefix}{key} ({value}{why})")
            })
            .collect()
    }

    /// Tensors, those of like name in several layers together, and whole layers that the plan lacks.
    fn unread_tensors(&self, gguf: &Gguf, num_layers: usize) -> Vec<String> {
        let read = self.tensors.borrow();
        let unread = (gguf.tensors().iter().enumerate())
            .filter(|(index, _)| !read.contains(index))
            .map(|(_, tensor)| tensor);
        let mut groups: Vec<Group<'_>> = Vec::new();
        for tensor in unread {
            let kind = Kind::of(tensor, num_layers);
            match groups.iter_mut().find(|g| g.kind == kind) {
                Some(group) => group.count += 1,
                None => groups.push(Group {
                    kind,
                    first: &tensor.name,
                    count: 1,
                }),
            }
        }
        groups.iter().map(|g| g.text(num_layers)).collect()
    }
}

/// What unread tensors have in common.
#[derive(PartialEq, Eq)]
enum Kind<'a> {
    /// They are of a layer that the plan lacks.
    Beyond,
    /// They have this name in their layer.
    InLayers(&'a str),
    /// There is one of it.
    Single(&'a str),
}

impl<'a> Kind<'a> {
    fn of(tensor: &'a TensorInfo, num_layers: usize) -> Kind<'a> {
        let in_layer = tensor.name.strip_prefix("blk.");
        match in_layer.and_then(|rest| rest.split_once('.')) {
            Some((layer, name)) => match layer.parse::<usize>() {
                Ok(layer) if layer >= num_layers => Kind::Beyond,
                Ok(_) => Kind::InLayers(name),
                Err(_) => Kind::Single(&tensor.name),
            },
            None => Kind::Single(&tensor.name),
        }
    }
}

struct Group<'a> {
    kind: Kind<'a>,
    first: &'a str,
    count: usize,
}

impl Group<'_> {
    fn text(&self, num_layers: usize) -> String {
        let first = self.first.escape_debug();
        match (&self.kind, self.count) {
            (Kind::Beyond, count) => {
                format!("{count} tensors such as {first} of layers beyond block_count {num_layers}")
            }
            (_, 1) => format!("tensor {first}"),
            (_, count) => format!("tensor {first} and {} like it", count - 1),
        }
    }
}
