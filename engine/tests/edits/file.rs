//! A model file that can be edited: keys, and tensors with their bytes.

use gannet_gguf::{Array, Gguf, TensorType, Value, Writer};

/// The value of a key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Val {
    U8(u8),
    U16(u16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Text(String),
    U32s(Vec<u32>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Bools(Vec<bool>),
}

impl Val {
    fn of(value: &Value<'_>) -> Val {
        match *value {
            Value::U32(v) => Val::U32(v),
            Value::F32(v) => Val::F32(v),
            Value::Bool(v) => Val::Bool(v),
            Value::String(v) => Val::Text(v.to_owned()),
            Value::Array(list) => Val::Bools(list_of(list)),
            ref other => panic!("micro-models have no {}", other.describe()),
        }
    }

    /// A whole number, whatever its width.
    pub(crate) fn as_int(&self) -> Option<i128> {
        match *self {
            Val::U8(v) => Some(v.into()),
            Val::U16(v) => Some(v.into()),
            Val::U32(v) => Some(v.into()),
            Val::I32(v) => Some(v.into()),
            Val::U64(v) => Some(v.into()),
            Val::I64(v) => Some(v.into()),
            _ => None,
        }
    }
}

fn list_of(list: Array<'_>) -> Vec<bool> {
    list.iter().map(|v| v.as_bool().unwrap()).collect()
}

/// A tensor, with its dimensions as the container has them: the contiguous one first.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dims: Vec<u64>,
    pub(crate) ty: TensorType,
    pub(crate) data: Vec<u8>,
}

impl Tensor {
    /// Of f32, around 0.
    pub(crate) fn new(name: &str, dims: &[u64], mut draw: impl FnMut() -> f64) -> Tensor {
        let elements: u64 = dims.iter().product();
        Tensor {
            name: name.to_owned(),
            dims: dims.to_owned(),
            ty: TensorType::F32,
            data: (0..elements)
                .flat_map(|_| (draw() as f32).to_le_bytes())
                .collect(),
        }
    }
}

/// A file: what is edited, and its vocabulary, which is not.
#[derive(Clone)]
pub(crate) struct File<'a> {
    pub(crate) arch: String,
    /// Keys with their prefix, `general.architecture` first.
    pub(crate) keys: Vec<(String, Val)>,
    pub(crate) tensors: Vec<Tensor>,
    /// Keys of the vocabulary that are left out.
    pub(crate) left_out: Vec<String>,
    vocabulary: &'a Gguf,
}

const TOKENIZER: &str = "tokenizer.";

impl<'a> File<'a> {
    pub(crate) fn of(gguf: &'a Gguf) -> File<'a> {
        let keys = gguf.metadata().iter();
        let keys = keys.filter(|(key, _)| !key.starts_with(TOKENIZER));
        let tensors = gguf.tensors().iter().map(|t| Tensor {
            name: t.name.clone(),
            dims: t.dims.clone(),
            ty: t.ty,
            data: gguf.data(t).to_owned(),
        });
        File {
            arch: gguf
                .metadata()
                .str("general.architecture")
                .unwrap()
                .to_owned(),
            keys: keys
                .map(|(key, value)| (key.to_owned(), Val::of(&value)))
                .collect(),
            tensors: tensors.collect(),
            left_out: Vec::new(),
            vocabulary: gguf,
        }
    }

    /// The whole key of a suffix.
    pub(crate) fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.arch)
    }

    /// The vocabulary's keys.
    pub(crate) fn vocabulary(&self) -> Vec<(&'a str, Value<'a>)> {
        let keys = self.vocabulary.metadata().iter();
        keys.filter(|(key, _)| key.starts_with(TOKENIZER)).collect()
    }

    pub(crate) fn has_key(&self, key: &str) -> bool {
        self.keys.iter().any(|(k, _)| k == key)
    }

    pub(crate) fn has_tensor(&self, name: &str) -> bool {
        self.tensors.iter().any(|t| t.name == name)
    }

    /// A whole number that every base file has.
    pub(crate) fn int(&self, suffix: &str) -> u64 {
        let key = self.key(suffix);
        let value = self.keys.iter().find(|(k, _)| *k == key);
        value.and_then(|(_, v)| v.as_int()).map_or(1, |v| v as u64)
    }

    /// As GGUF; an error where the container itself cannot hold it.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, gannet_gguf::Error> {
        let mut writer = Writer::new();
        for (key, value) in &self.keys {
            match value {
                Val::U8(v) => writer.set(key, Value::U8(*v))?,
                Val::U16(v) => writer.set(key, Value::U16(*v))?,
                Val::U32(v) => writer.set(key, Value::U32(*v))?,
                Val::I32(v) => writer.set(key, Value::I32(*v))?,
                Val::U64(v) => writer.set(key, Value::U64(*v))?,
                Val::I64(v) => writer.set(key, Value::I64(*v))?,
                Val::F32(v) => writer.set(key, Value::F32(*v))?,
                Val::F64(v) => writer.set(key, Value::F64(*v))?,
                Val::Bool(v) => writer.set(key, Value::Bool(*v))?,
                Val::Text(v) => writer.set(key, Value::String(v))?,
                Val::U32s(v) => writer.set_array(key, v)?,
                Val::I32s(v) => writer.set_array(key, v)?,
                Val::F32s(v) => writer.set_array(key, v)?,
                Val::Bools(v) => writer.set_array(key, v)?,
            }
        }
        for (key, value) in self.vocabulary() {
            if !self.left_out.iter().any(|left_out| left_out == key) {
                writer.set(key, value)?;
            }
        }
        for t in &self.tensors {
            writer.tensor(&t.name, &t.dims, t.ty)?;
        }
        let mut data = writer.start(Vec::new())?;
        for t in &self.tensors {
            data.tensor(&t.name, &t.data)?;
        }
        data.finish()
    }
}
