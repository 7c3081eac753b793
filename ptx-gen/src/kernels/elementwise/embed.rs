//! Looks up rows of a table of weights: `out[t] = scale * w[min(tokens[t], vocab_size - 1)]`.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | w | planes | `[vocab_size, hidden_size]`, see [`crate::kernels::WeightFormat`] |
//! | tokens | u32 | `[tokens]` |
//! | out | f32 | `[tokens, hidden_size]` |
//!
//! Grid `[tokens, 1, 1]`. The weights are the exact ones before they are scaled. Moves one row of the table and
//! `4 * hidden_size + 4` bytes a token.

use crate::ir::{Kernel, Param};
use crate::kernels::WeightFormat;
use crate::kernels::weights::geometry::{Geometry, Lane};
use crate::kernels::weights::unpack::Row;
use crate::target::Target;

/// An embedding table.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbedSpec {
    /// GPU to write for.
    pub target: Target,
    /// Format of the table.
    pub format: WeightFormat,
    /// Rows of the table.
    pub vocab_size: u32,
    /// Columns of the table.
    pub hidden_size: u32,
    /// What the weights are multiplied by; `None`: nothing.
    pub scale: Option<f32>,
}

impl EmbedSpec {
    /// Whether the table's shape is supported.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        self.format.check(self.vocab_size, self.hidden_size)
    }

    fn geometry(&self) -> Geometry {
        let mut geometry = Geometry {
            format: self.format,
            rows: self.vocab_size,
            cols: self.hidden_size,
            lanes: 256,
            width: Geometry::widest(self.format, self.hidden_size),
        };
        let groups = self.hidden_size / geometry.group();
        geometry.lanes = groups.next_multiple_of(32).clamp(32, 256);
        geometry
    }

    /// Blocks for `tokens` rows.
    pub fn grid(&self, tokens: u32) -> [u32; 3] {
        [tokens, 1, 1]
    }

    /// Bytes moved for `tokens` rows.
    pub fn bytes(&self, tokens: u64) -> u64 {
        tokens * (self.format.bytes(1, self.hidden_size) + 4 * u64::from(self.hidden_size) + 4)
    }

    /// The parameters in launch order.
    pub fn params(&self) -> Vec<Param> {
        vec![
            Param::input::<u8>("w"),
            Param::input::<u32>("tokens"),
            Param::output::<f32>("out"),
        ]
    }

    /// The kernel, named after the table.
    pub fn kernel(&self) -> Kernel {
        let EmbedSpec {
            format,
            vocab_size,
            hidden_size,
            scale,
            ..
        } = *self;
        let geometry = self.geometry();
        let mut name = format!("embed_{}_{vocab_size}x{hidden_size}", format.name());
        let mut times = String::new();
        if let Some(scale) = scale {
            name += &format!("_scale{:08x}", scale.to_bits());
            times = format!("{scale:e} * ");
        }
        Kernel::new(name, self.target, |k| {
            k.doc(format!(
                "out[t] = {times}w[min(tokens[t], {vocab_size} - 1)], rows of {hidden_size} from a \
                 {} table.\nGrid [tokens, 1, 1].",
                format.name()
            ));
            k.block_size(geometry.lanes);
            k.declare(self.params());
            let (w, tokens) = (k.bind::<u8>("w"), k.bind::<u32>("tokens"));
            let out = k.bind::<f32>("out");
            let t = k.block_x();
            let token = tokens.load(t).min(vocab_size - 1);
            let row = Row::new(k, geometry, w, token);
            let out = out.offset(t * hidden_size);
            let lane = Lane::new(k, &geometry, k.thread_x(), geometry.lanes);
            let groups = hidden_size / geometry.group();
            k.for_each(0u32, geometry.steps(), 1u32, |step| {
                let inside = (k.thread_x() + step * geometry.lanes).lt(groups);
                k.if_(inside, || {
                    let packet = row.load(&lane, step, false);
                    let first = lane.unit + step * (geometry.step() / 4);
                    for (i, (at, _)) in geometry.runs().iter().enumerate() {
                        let run = row.run(&lane, &packet, i);
                        for (unit, codes) in run.units.iter().enumerate() {
                            let weights = codes.map(|code| {
                                let scaled = run.scale.map_or(code, |s| code * s);
                                let weight = run.offset.map_or(scaled, |o| scaled + o);
                                scale.map_or(weight, |scale| weight * scale)
                            });
                            out.store_vec((first + (at + unit as u32)) * 4, weights);
                        }
                    }
                });
            });
        })
    }
}

pub(in crate::kernels) fn representative(target: Target) -> Vec<EmbedSpec> {
    let spec = |format| EmbedSpec {
        target,
        format,
        vocab_size: 1000,
        hidden_size: 512,
        scale: None,
    };
    let mut specs = WeightFormat::ALL.map(spec).to_vec();
    specs.push(EmbedSpec {
        scale: Some(22.5),
        ..spec(WeightFormat::Q6K)
    });
    specs
}
