//! A model's tensors as f64, with the shapes that its metadata implies.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use gannet_gguf::Gguf;
use gannet_quant::Format;

use super::config::{Config, FactorTensors};
use super::rounding::Rounding;

/// `[rows, cols]`, row-major.
pub(super) struct Matrix {
    pub(super) rows: usize,
    cols: usize,
    data: Vec<f64>,
    /// Whether the file has it in blocks, not as floats.
    is_packed: bool,
    /// How what it is multiplied with is rounded first, and what comes of it.
    rounding: Option<Rounding>,
}

impl Matrix {
    pub(super) fn row(&self, row: usize) -> &[f64] {
        &self.data[row * self.cols..][..self.cols]
    }

    /// The product with a vector of `cols` elements.
    pub(super) fn apply(&self, x: &[f64]) -> Vec<f64> {
        assert_eq!(x.len(), self.cols);
        let rounded = self.rounding.map(|rounding| rounding.round(x));
        let x = rounded.as_deref().unwrap_or(x);
        (0..self.rows).map(|r| dot(self.row(r), x)).collect()
    }

    fn round_products(&mut self, rounding: Rounding) {
        self.rounding = rounding.is_of(self.is_packed).then_some(rounding);
    }

    /// Cuts rows off at the front.
    fn split_rows(&mut self, rows: usize) -> Matrix {
        let rest = self.data.split_off(rows * self.cols);
        self.rows -= rows;
        Matrix {
            rows,
            cols: self.cols,
            is_packed: self.is_packed,
            rounding: self.rounding,
            data: std::mem::replace(&mut self.data, rest),
        }
    }
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A matrix, and a bias where the file has one.
pub(super) struct Linear {
    weight: Matrix,
    bias: Option<Vec<f64>>,
}

impl Linear {
    pub(super) fn apply(&self, x: &[f64]) -> Vec<f64> {
        let mut y = self.weight.apply(x);
        if let Some(bias) = &self.bias {
            y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
        match self.weight.rounding {
            Some(rounding) => rounding.round_output(y),
            None => y,
        }
    }

    fn split_rows(&mut self, rows: usize) -> Linear {
        let bias = self.bias.as_mut().map(|bias| {
            let rest = bias.split_off(rows);
            std::mem::replace(bias, rest)
        });
        let weight = self.weight.split_rows(rows);
        Linear { weight, bias }
    }
}

/// A norm's weight, and its bias where it has one.
pub(super) struct Norm {
    pub(super) weight: Vec<f64>,
    pub(super) bias: Option<Vec<f64>>,
}

/// Weights of a layer; norms that only some families have are optional.
pub(super) struct Layer {
    pub(super) attn_norm: Norm,
    pub(super) q: Linear,
    pub(super) k: Linear,
    pub(super) v: Linear,
    pub(super) q_norm: Option<Vec<f64>>,
    pub(super) k_norm: Option<Vec<f64>>,
    pub(super) o: Linear,
    pub(super) attn_post_norm: Option<Vec<f64>>,
    pub(super) ffn_norm: Norm,
    /// What the activation is of, in place of `up`.
    pub(super) gate: Option<Linear>,
    pub(super) up: Linear,
    pub(super) down: Linear,
    pub(super) ffn_post_norm: Option<Vec<f64>>,
}

pub(super) struct Weights {
    pub(super) embedding: Matrix,
    /// Rows that are added by position.
    pub(super) positions: Option<Matrix>,
    pub(super) layers: Vec<Layer>,
    pub(super) output_norm: Norm,
    /// The embedding is the head without it.
    pub(super) output: Option<Linear>,
    /// The head's bias, where the embedding is the head.
    pub(super) tied_bias: Option<Vec<f64>>,
    /// Frequency factors by the names of their tensors.
    pub(super) rope_factors: BTreeMap<&'static str, Vec<f64>>,
}

impl Weights {
    /// Has products round.
    pub(super) fn round_products(&mut self, rounding: Rounding) {
        let of_layer = |layer: &mut Layer| {
            let attention = [&mut layer.q, &mut layer.k, &mut layer.v, &mut layer.o];
            let others = [&mut layer.up, &mut layer.down];
            let linears = attention.into_iter().chain(others).chain(&mut layer.gate);
            linears.for_each(|linear| linear.weight.round_products(rounding));
        };
        self.layers.iter_mut().for_each(of_layer);
        self.embedding.round_products(rounding);
        if let Some(output) = &mut self.output {
            output.weight.round_products(rounding);
        }
    }

    pub(super) fn read(gguf: &Gguf, config: &Config) -> Result<Weights, String> {
        let file = File {
            gguf,
            unread: RefCell::new(gguf.tensors().iter().map(|t| t.name.as_str()).collect()),
        };
        let hidden = config.hidden_size;
        let embedding = file.any_matrix("token_embd.weight", hidden)?;
        let layers = (0..config.layers.len()).map(|i| layer(&file, config, i));
        let output = match file.has("output.weight") {
            true => Some(file.linear("output", embedding.rows, hidden)?),
            false => None,
        };
        let bias = "output.bias";
        let tied_bias = match output.is_none() && file.has(bias) {
            true => Some(file.vector(bias, embedding.rows)?),
            false => None,
        };
        let positions = match config.family.is_gpt2 {
            true => Some(file.any_matrix("position_embd.weight", hidden)?),
            false => None,
        };
        let rows = positions.as_ref().map(|p| p.rows);
        if rows.is_some_and(|rows| rows != config.context_length) {
            return Err(format!("position_embd.weight has {rows:?} rows"));
        }
        let weights = Weights {
            layers: layers.collect::<Result<_, _>>()?,
            output_norm: file.norm("output_norm", hidden)?,
            positions,
            output,
            tied_bias,
            rope_factors: rope_factors(&file, config)?,
            embedding,
        };
        let unread = file.unread.into_inner();
        match unread.first() {
            None => Ok(weights),
            Some(name) => Err(format!("{} reads no {name}", config.family.arch)),
        }
    }
}

fn rope_factors(
    file: &File<'_>,
    config: &Config,
) -> Result<BTreeMap<&'static str, Vec<f64>>, String> {
    let names: &[&'static str] = match config.family.factors {
        FactorTensors::None => return Ok(BTreeMap::new()),
        FactorTensors::ByScalingType | FactorTensors::Long => &[
            "rope_freqs.weight",
            "rope_factors_long.weight",
            "rope_factors_short.weight",
        ],
    };
    let mut factors = BTreeMap::new();
    let Some(first) = config.layers.first() else {
        return Ok(factors);
    };
    // Which of them are read does not depend on the layer, and is a pair for a long rope.
    let read = [0, usize::MAX].map(|context| first.rope.factors.tensor(context));
    for &name in names {
        if read.contains(&Some(name)) && file.has(name) {
            factors.insert(name, file.vector(name, first.rope.dim / 2)?);
        }
    }
    let is_half_there = factors.contains_key(names[1]) != factors.contains_key(names[2]);
    if is_half_there || (config.is_longrope && !factors.contains_key(names[1])) {
        return Err("a long rope without its factors".to_owned());
    }
    Ok(factors)
}

fn layer(file: &File<'_>, config: &Config, index: usize) -> Result<Layer, String> {
    let c = config;
    let (hidden, ffn) = (c.hidden_size, c.ffn_size);
    let (q_size, kv_size) = (c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim);
    let name = |part: &str| format!("blk.{index}.{part}");
    let optional = |is_there: bool, part: &str, len: usize| {
        let read = || file.vector(&name(part), len);
        is_there.then(read).transpose()
    };
    let (q, k, v) = if file.has(&name("attn_qkv.weight")) {
        let mut all = file.linear(&name("attn_qkv"), q_size + 2 * kv_size, hidden)?;
        (all.split_rows(q_size), all.split_rows(kv_size), all)
    } else {
        (
            file.linear(&name("attn_q"), q_size, hidden)?,
            file.linear(&name("attn_k"), kv_size, hidden)?,
            file.linear(&name("attn_v"), kv_size, hidden)?,
        )
    };
    let (gate, up) = if c.family.is_gpt2 {
        (None, file.linear(&name("ffn_up"), ffn, hidden)?)
    } else if file.has(&name("ffn_gate.weight")) {
        (
            Some(file.linear(&name("ffn_gate"), ffn, hidden)?),
            file.linear(&name("ffn_up"), ffn, hidden)?,
        )
    } else {
        let mut both = file.linear(&name("ffn_up"), 2 * ffn, hidden)?;
        (Some(both.split_rows(ffn)), both)
    };
    let (head_norms, post_norms) = (c.family.has_head_norms, c.family.has_post_norms);
    Ok(Layer {
        attn_norm: file.norm(&name("attn_norm"), hidden)?,
        q,
        k,
        v,
        q_norm: optional(head_norms, "attn_q_norm.weight", c.head_dim)?,
        k_norm: optional(head_norms, "attn_k_norm.weight", c.head_dim)?,
        o: file.linear(&name("attn_output"), hidden, q_size)?,
        attn_post_norm: optional(post_norms, "post_attention_norm.weight", hidden)?,
        ffn_norm: file.norm(&name("ffn_norm"), hidden)?,
        gate,
        up,
        down: file.linear(&name("ffn_down"), hidden, ffn)?,
        ffn_post_norm: optional(post_norms, "post_ffw_norm.weight", hidden)?,
    })
}

/// An open file, and the tensors that nothing has read.
struct File<'a> {
    gguf: &'a Gguf,
    unread: RefCell<BTreeSet<&'a str>>,
}

impl File<'_> {
    fn has(&self, name: &str) -> bool {
        self.gguf.tensor(name).is_some()
    }

    /// A tensor's dimensions, the contiguous one first, and its elements.
    fn read(&self, name: &str) -> Result<(&[u64], Vec<f64>), String> {
        let tensor = self.gguf.tensor(name);
        let tensor = tensor.ok_or_else(|| format!("no {name}"))?;
        let format = Format::from_ggml_id(tensor.ty.id());
        let format = format.ok_or_else(|| format!("{name} is {}", tensor.ty.name()))?;
        let mut values = vec![0.0; tensor.elements() as usize];
        format
            .dequantize(self.gguf.data(tensor), &mut values)
            .map_err(|e| format!("{name}: {e}"))?;
        self.unread.borrow_mut().remove(name);
        let values = values.into_iter().map(f64::from).collect();
        Ok((&tensor.dims, values))
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f64>, String> {
        let (dims, data) = self.read(name)?;
        match data.len() == len && dims[0] == len as u64 {
            true => Ok(data),
            false => Err(format!("{name} is {dims:?}, not [{len}]")),
        }
    }

    fn norm(&self, name: &str, len: usize) -> Result<Norm, String> {
        let bias = format!("{name}.bias");
        Ok(Norm {
            weight: self.vector(&format!("{name}.weight"), len)?,
            bias: match self.has(&bias) {
                true => Some(self.vector(&bias, len)?),
                false => None,
            },
        })
    }

    /// A matrix of as many rows as the file has.
    fn any_matrix(&self, name: &str, cols: usize) -> Result<Matrix, String> {
        let (dims, data) = self.read(name)?;
        // Dimensions of 1 at the end are none.
        let is_matrix = dims.iter().skip(2).all(|&dim| dim == 1);
        if !is_matrix || dims[0] != cols as u64 {
            return Err(format!("{name} is {dims:?}, not of {cols} columns"));
        }
        let rows = data.len() / cols;
        let tensor = self.gguf.tensor(name);
        Ok(Matrix {
            rows,
            cols,
            data,
            is_packed: tensor.is_some_and(|tensor| tensor.ty.block_len() > 1),
            rounding: None,
        })
    }

    fn linear(&self, name: &str, rows: usize, cols: usize) -> Result<Linear, String> {
        let weight = self.any_matrix(&format!("{name}.weight"), cols)?;
        if weight.rows != rows {
            return Err(format!("{name} has {} rows, not {rows}", weight.rows));
        }
        let bias = format!("{name}.bias");
        let bias = match self.has(&bias) {
            true => Some(self.vector(&bias, rows)?),
            false => None,
        };
        Ok(Linear { weight, bias })
    }
}
