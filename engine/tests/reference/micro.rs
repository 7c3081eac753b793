//! Small models of random weights, with every switch of their family.
//!
//! What always holds: the same description gives the same bytes on any machine. A tensor's weights
//! depend on the seed, its name and its size only, so two models that differ in a switch differ in
//! nothing else. Numbers are of order one from the first layer to the last, and logits have a
//! standard deviation of 2 to 3, so that a wrong feature is felt.

use std::f64::consts::TAU;
use std::io::Write;
use std::path::Path;

use gannet_gguf::{Gguf, TensorType, Writer};
use tempfile::NamedTempFile;

/// What to make. Names of linears in `biases` are those of their tensors, such as `attn_q`.
#[derive(Clone, Debug)]
pub struct MicroModel {
    /// The value of `general.architecture`.
    pub arch: &'static str,
    pub num_layers: usize,
    pub hidden_size: usize,
    pub ffn_size: usize,
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    /// Rotated elements of a head.
    pub rope_dim: usize,
    /// Without a head of its own, the embedding is the head.
    pub has_head: bool,
    /// The linears that have a bias.
    pub biases: &'static [&'static str],
    /// Magnitude of the biases of keys in a few channels of each head, as files of Qwen 2 have it: of the
    /// first layer so much, of others a tenth; with 0 all are like others.
    pub key_outliers: f64,
    pub factors: FactorTensors,
    /// Further keys, after `ARCH.`.
    pub keys: &'static [(&'static str, Key)],
    pub seed: u64,
}

/// Tensors of frequency factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactorTensors {
    None,
    /// `rope_freqs.weight`.
    Freqs,
    /// `rope_factors_long.weight` and `rope_factors_short.weight`.
    LongAndShort,
}

/// The value of a key.
#[derive(Clone, Copy, Debug)]
pub enum Key {
    Int(u32),
    Float(f32),
    Text(&'static str),
    Bools(&'static [bool]),
}

/// The linears of a layer that has no fused ones, and the head.
pub const ALL_LINEARS: &[&str] = &[
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
    "output",
];

/// Positions of every model.
const CONTEXT_LENGTH: usize = 256;
/// Standard deviation of the logits.
const LOGIT_STD: f64 = 2.5;
/// Standard deviations of norm weights around 1 and of biases around 0.
const NORM_STD: f64 = 0.1;
const BIAS_STD: f64 = 0.3;

/// A tensor to be written: row-major, `[rows, cols]`.
struct Tensor {
    name: String,
    rows: usize,
    cols: usize,
    kind: Kind,
}

/// How a tensor's weights are drawn.
#[derive(Clone, Copy)]
enum Kind {
    /// Around 0, with this standard deviation.
    Centred(f64),
    /// Around 1.
    Norm,
    /// Around this or its negative: a tied head would know the token that was read otherwise.
    SignedNorm(f64),
    /// Uniform from 1 to this.
    Factors(f64),
}

impl MicroModel {
    /// Writes the model to a temporary file, with the vocabulary of another model.
    pub fn file(&self, vocab_from: &Path) -> NamedTempFile {
        let file = tempfile::Builder::new().suffix(".gguf").tempfile();
        let mut file = file.expect("a temporary file");
        file.write_all(&self.bytes(vocab_from)).expect("it fits");
        file
    }

    /// The model as GGUF.
    pub fn bytes(&self, vocab_from: &Path) -> Vec<u8> {
        let vocab = Gguf::open(vocab_from).expect("a vocabulary");
        let tokens = vocab.metadata().strings("tokenizer.ggml.tokens");
        let tensors = self.tensors(tokens.expect("tokens").len());
        let mut writer = self.metadata(&vocab).expect("valid keys");
        for t in &tensors {
            let dims = [t.cols as u64, t.rows as u64];
            let dims = if t.rows == 1 { &dims[..1] } else { &dims };
            writer.tensor(&t.name, dims, TensorType::F32).expect("new");
        }
        let mut data = writer.start(Vec::new()).expect("memory");
        for t in &tensors {
            let values = self.values(t).into_iter();
            let bytes: Vec<u8> = values.flat_map(|v| (v as f32).to_le_bytes()).collect();
            data.tensor(&t.name, &bytes).expect("in order");
        }
        data.finish().expect("complete")
    }

    fn metadata(&self, vocab: &Gguf) -> Result<Writer, gannet_gguf::Error> {
        let mut writer = Writer::new();
        writer.set("general.architecture", self.arch)?;
        let ints = [
            ("block_count", self.num_layers),
            ("context_length", CONTEXT_LENGTH),
            ("embedding_length", self.hidden_size),
            ("feed_forward_length", self.ffn_size),
            ("attention.head_count", self.num_heads),
            ("attention.head_count_kv", self.num_kv_heads),
            ("attention.key_length", self.head_dim),
            ("attention.value_length", self.head_dim),
            ("rope.dimension_count", self.rope_dim),
        ];
        // Learned positions do not turn.
        let ints = match self.arch {
            "gpt2" => &ints[..ints.len() - 1],
            _ => &ints[..],
        };
        let ints: Vec<_> = (ints.iter())
            .map(|&(name, value)| (name, Key::Int(value as u32)))
            .collect();
        let eps = match self.arch {
            "gpt2" => "attention.layer_norm_epsilon",
            _ => "attention.layer_norm_rms_epsilon",
        };
        let eps = (eps, Key::Float(1e-5));
        for (name, value) in ints.iter().chain([&eps]).chain(self.keys) {
            let key = format!("{}.{name}", self.arch);
            match *value {
                Key::Int(v) => writer.set(&key, v)?,
                Key::Float(v) => writer.set(&key, v)?,
                Key::Text(v) => writer.set(&key, v)?,
                Key::Bools(v) => writer.set_array(&key, v)?,
            }
        }
        let vocabulary = vocab.metadata().iter();
        for (key, value) in vocabulary.filter(|(key, _)| key.starts_with("tokenizer.")) {
            writer.set(key, value)?;
        }
        Ok(writer)
    }

    fn tensors(&self, vocab_size: usize) -> Vec<Tensor> {
        let (hidden, ffn) = (self.hidden_size, self.ffn_size);
        let (q, kv) = (
            self.num_heads * self.head_dim,
            self.num_kv_heads * self.head_dim,
        );
        let is_gemma = self.arch.starts_with("gemma");
        let embedding_std = if is_gemma {
            1.0 / (hidden as f64).sqrt()
        } else {
            1.0
        };
        let mut list = List {
            biases: self.biases,
            tensors: Vec::new(),
        };
        list.add(
            "token_embd.weight",
            (vocab_size, hidden),
            Kind::Centred(embedding_std),
        );
        let is_gpt2 = self.arch == "gpt2";
        if is_gpt2 {
            let (table, kind) = ("position_embd.weight", Kind::Centred(1.0));
            list.add(table, (CONTEXT_LENGTH, hidden), kind);
        }
        let (gain, output_norm) = if self.has_head {
            list.linear("", "output", vocab_size, hidden, LOGIT_STD);
            (1.0, Kind::Norm)
        } else {
            if self.biases.contains(&"output") {
                let bias = Kind::Centred(BIAS_STD);
                list.add("output.bias", (1, vocab_size), bias);
            }
            let gain = LOGIT_STD / (embedding_std * (hidden as f64).sqrt());
            (gain, Kind::SignedNorm(gain))
        };
        list.add("output_norm.weight", (1, hidden), output_norm);
        if is_gpt2 {
            let bias = Kind::Centred(gain * BIAS_STD);
            list.add("output_norm.bias", (1, hidden), bias);
        }
        let pairs = (1, self.rope_dim / 2);
        match self.factors {
            FactorTensors::None => {}
            FactorTensors::Freqs => list.add("rope_freqs.weight", pairs, Kind::Factors(8.0)),
            FactorTensors::LongAndShort => {
                list.add("rope_factors_long.weight", pairs, Kind::Factors(40.0));
                list.add("rope_factors_short.weight", pairs, Kind::Factors(1.5));
            }
        }
        for layer in 0..self.num_layers {
            let blk = format!("blk.{layer}.");
            let mut norm = |name: &str, len| {
                list.add(&format!("{blk}{name}.weight"), (1, len), Kind::Norm);
                if is_gpt2 {
                    let bias = Kind::Centred(BIAS_STD);
                    list.add(&format!("{blk}{name}.bias"), (1, len), bias);
                }
            };
            norm("attn_norm", hidden);
            norm("ffn_norm", hidden);
            if ["qwen3", "gemma3"].contains(&self.arch) {
                norm("attn_q_norm", self.head_dim);
                norm("attn_k_norm", self.head_dim);
            }
            if is_gemma {
                norm("post_attention_norm", hidden);
                norm("post_ffw_norm", hidden);
            }
            if is_gpt2 {
                list.linear(&blk, "attn_qkv", q + 2 * kv, hidden, 1.0);
                list.linear(&blk, "ffn_up", ffn, hidden, 1.0);
            } else if self.arch == "phi3" {
                list.linear(&blk, "attn_qkv", q + 2 * kv, hidden, 1.0);
                list.linear(&blk, "ffn_up", 2 * ffn, hidden, 1.0);
            } else {
                list.linear(&blk, "attn_q", q, hidden, 1.0);
                list.linear(&blk, "attn_k", kv, hidden, 1.0);
                list.linear(&blk, "attn_v", kv, hidden, 1.0);
                list.linear(&blk, "ffn_gate", ffn, hidden, 1.0);
                list.linear(&blk, "ffn_up", ffn, hidden, 1.0);
            }
            list.linear(&blk, "attn_output", hidden, q, 1.0);
            list.linear(&blk, "ffn_down", hidden, ffn, 1.0);
        }
        list.tensors
    }

    fn values(&self, tensor: &Tensor) -> Vec<f64> {
        let mut random = Random::new(self.seed, &tensor.name);
        let mut draw = || match tensor.kind {
            Kind::Centred(std) => std * random.normal(),
            Kind::Norm => 1.0 + NORM_STD * random.normal(),
            Kind::SignedNorm(gain) => {
                let v = random.normal();
                gain * (1.0 + NORM_STD * v.abs()).copysign(v)
            }
            Kind::Factors(most) => 1.0 + (most - 1.0) * random.uniform(),
        };
        let mut values: Vec<f64> = (0..tensor.rows * tensor.cols).map(|_| draw()).collect();
        if tensor.name.ends_with("attn_k.bias") && self.key_outliers != 0.0 {
            let first = tensor.name.starts_with("blk.0.");
            let part = if first { 1.0 } else { 0.1 };
            self.plant_outliers(&mut values, part * self.key_outliers);
        }
        values
    }

    /// Gives the biases of three channels of each head a large magnitude, not the same channels in each.
    fn plant_outliers(&self, key_biases: &mut [f64], magnitude: f64) {
        for (head, biases) in key_biases.chunks_exact_mut(self.head_dim).enumerate() {
            for (channel, part) in [(1, 1.0), (self.head_dim / 2 + 3, -0.75), (6, 0.5)] {
                biases[(channel + head) % self.head_dim] = part * magnitude;
            }
        }
    }
}

/// The tensors of a model, as they come.
struct List {
    biases: &'static [&'static str],
    tensors: Vec<Tensor>,
}

impl List {
    fn add(&mut self, name: &str, (rows, cols): (usize, usize), kind: Kind) {
        self.tensors.push(Tensor {
            name: name.to_owned(),
            rows,
            cols,
            kind,
        });
    }

    /// A matrix whose products with vectors of order one have the standard deviation `std`, and its
    /// bias.
    fn linear(&mut self, prefix: &str, name: &str, rows: usize, cols: usize, std: f64) {
        let weight = Kind::Centred(std / (cols as f64).sqrt());
        self.add(&format!("{prefix}{name}.weight"), (rows, cols), weight);
        if self.biases.contains(&name) {
            let bias = Kind::Centred(BIAS_STD);
            self.add(&format!("{prefix}{name}.bias"), (1, rows), bias);
        }
    }
}

/// `len` tokens below `vocab_size`.
pub fn tokens(vocab_size: usize, len: usize, seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed, "tokens");
    (0..len)
        .map(|_| (random.word() % vocab_size as u64) as u32)
        .collect()
}

/// splitmix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators").
pub struct Random(u64);

impl Random {
    /// A stream of its own for each name (FNV-1a).
    pub fn new(seed: u64, name: &str) -> Random {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut random = Random(seed);
        Random(random.word() ^ hash)
    }

    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to 1, exclusive.
    pub fn uniform(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Of mean 0 and standard deviation 1 (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (TAU * v).cos()
    }
}
