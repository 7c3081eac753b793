//! What of a file was read: every key under the architecture's prefix and every tensor.
//!
//! A file says what its model computes. What no part of a plan has read, and what is not known to
//! change nothing ([`neutral`](super::neutral)), is weights or arithmetic that the result would lack:
//! it is refused by name, or told where the caller asked to go on.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;

use gannet_gguf::{Value, shown_path};

use super::keys::uniform;
use super::neutral;
use crate::Error;
use crate::files::Source;

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
    pub(crate) fn check(
        &self,
        source: &dyn Source,
        arch: &str,
        num_layers: usize,
    ) -> Result<(), Error> {
        let mut items = self.unread_keys(source, arch, num_layers);
        items.extend(self.unread_tensors(source, num_layers));
        refuse_unread(source.path(), arch, items)
    }

    fn unread_keys(&self, source: &dyn Source, arch: &str, num_layers: usize) -> Vec<String> {
        let read = self.keys.borrow();
        let prefix = format!("{arch}.");
        let is_neutral = |suffix: &str, value: Value<'_>| {
            let value = match value {
                Value::Array(list) => uniform(list, num_layers).unwrap_or(value),
                _ => value,
            };
            neutral::reason(suffix, &value).is_some()
        };
        let unread = source.metadata().iter().filter_map(|(key, value)| {
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
    fn unread_tensors(&self, source: &dyn Source, num_layers: usize) -> Vec<String> {
        let read = self.tensors.borrow();
        let unread = (0..source.num_tensors())
            .filter(|index| !read.contains(index))
            .map(|index| source.tensor(index).name);
        let mut groups: Vec<Group<'_>> = Vec::new();
        for name in unread {
            let kind = Kind::of(name, num_layers);
            match groups.iter_mut().find(|g| g.kind == kind) {
                Some(group) => group.count += 1,
                None => groups.push(Group {
                    kind,
                    first: name,
                    count: 1,
                }),
            }
        }
        groups.iter().map(|g| g.text(num_layers)).collect()
    }
}

/// The error that names `items` of a file, the first of them, if there are any.
pub(super) fn refuse_unread(file: &Path, arch: &str, mut items: Vec<String>) -> Result<(), Error> {
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
        file: file.to_owned(),
        arch: arch.to_owned(),
        items,
    })
}

/// Lets what is unread pass where that was asked for, as a warning.
pub(super) fn pass(unread: Result<(), Error>, ignore: bool) -> Result<Option<String>, Error> {
    match unread {
        Err(Error::Unread { file, arch, items }) if ignore => {
            let file = shown_path(&file);
            Ok(Some(format!(
                "{file}: ignored, as {arch} models here do not use it: {items}"
            )))
        }
        unread => unread.map(|()| None),
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
    fn of(tensor: &'a str, num_layers: usize) -> Kind<'a> {
        let in_layer = tensor.strip_prefix("blk.");
        match in_layer.and_then(|rest| rest.split_once('.')) {
            Some((layer, name)) => match layer.parse::<usize>() {
                Ok(layer) if layer >= num_layers => Kind::Beyond,
                Ok(_) => Kind::InLayers(name),
                Err(_) => Kind::Single(tensor),
            },
            None => Kind::Single(tensor),
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
