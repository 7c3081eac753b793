//! Weights cut into what fits a staging buffer, and packed on the way there.
//!
//! A weight is cut by rows (a vector by blocks of elements) into bands; a batch is the bands of one
//! staging buffer: a part of a large matrix, or many small weights. Pure bookkeeping, no driver.
//!
//! Always holds: the bands of all batches cover every row of every weight once, so that each stored
//! byte is read once; what arrives is what packing each weight whole would make.

use std::ops::Range;

use bytemuck::cast_slice;
use gannet_quant::repack::{BandPacker, Piece};
use gannet_quant::{Format, Matrix};

use crate::Error;
use crate::exec::packed::{ALIGN, failed};
use crate::plan::{Plan, Weight};

/// A weight in the file, to be cut and packed.
pub(super) enum Stored<'m> {
    /// Becomes planes.
    Matrix(BandPacker<'m>),
    /// Becomes f32.
    Vector {
        format: Format,
        /// Blocks of `format`.
        bytes: &'m [u8],
    },
}

/// Some rows of a weight, or blocks of a vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Band {
    /// Number of the weight.
    pub(super) weight: usize,
    pub(super) rows: Range<usize>,
    /// First byte in the staging buffer, a multiple of [`ALIGN`].
    pub(super) start: usize,
    /// Bytes, packed.
    pub(super) len: usize,
}

impl<'m> Stored<'m> {
    /// The weight `w` of a plan, stored as `bytes`.
    pub(super) fn new(plan: &Plan, w: Weight, bytes: &'m [u8]) -> Result<Stored<'m>, Error> {
        let info = plan.weight(w);
        let format = info.format;
        if info.rows == 1 {
            return Ok(Stored::Vector { format, bytes });
        }
        let packer = Matrix::new(format, info.rows, info.cols, bytes)
            .and_then(|m| BandPacker::new(&m))
            .map_err(|e| failed(plan, w, &e))?;
        Ok(Stored::Matrix(packer))
    }

    fn rows(&self) -> usize {
        match self {
            Stored::Matrix(packer) => packer.layout().rows,
            Stored::Vector { format, bytes } => bytes.len() / format.block_bytes(),
        }
    }

    fn len(&self, rows: &Range<usize>) -> usize {
        match self {
            Stored::Matrix(packer) => packer.band_bytes(rows),
            Stored::Vector { format, .. } => rows.len() * format.block_len() * 4,
        }
    }

    fn rows_within(&self, bytes: usize) -> usize {
        match self {
            Stored::Matrix(packer) => packer.rows_within(bytes),
            Stored::Vector { format, .. } => bytes / (format.block_len() * 4),
        }
    }

    /// Writes a band as kernels read it.
    pub(super) fn pack(
        &self,
        rows: &Range<usize>,
        out: &mut [u8],
    ) -> Result<(), gannet_quant::Error> {
        match self {
            Stored::Matrix(packer) => packer.pack(rows, out),
            Stored::Vector { format, bytes } => {
                let (block, weights) = (format.block_bytes(), format.block_len());
                let mut values = vec![0.0f32; rows.len() * weights];
                format.dequantize(&bytes[rows.start * block..rows.end * block], &mut values)?;
                out.copy_from_slice(cast_slice(&values));
                Ok(())
            }
        }
    }

    /// Where the parts of a band belong in the weight.
    pub(super) fn pieces(&self, rows: &Range<usize>) -> Vec<Piece> {
        match self {
            Stored::Matrix(packer) => packer.pieces(rows).filter(|p| p.len > 0).collect(),
            Stored::Vector { format, .. } => vec![Piece {
                from: 0,
                to: rows.start * format.block_len() * 4,
                len: self.len(rows),
            }],
        }
    }
}

/// The smallest staging buffer that every weight can be cut for: its longest row, and the gaps that
/// a last row carries.
pub(super) fn least_buffer(weights: &[Stored<'_>]) -> usize {
    let last = |w: &Stored<'_>| w.len(&(w.rows().saturating_sub(1)..w.rows()));
    weights.iter().map(last).max().unwrap_or(0)
}

/// Cuts weights into batches of at most `most` bytes, which is at least their [`least_buffer`].
pub(super) fn batches(weights: &[Stored<'_>], most: usize) -> Vec<Vec<Band>> {
    let mut batches = Vec::new();
    let (mut batch, mut used) = (Vec::new(), 0usize);
    for (weight, stored) in weights.iter().enumerate() {
        let (mut first, all) = (0, stored.rows());
        while first < all {
            let start = used.next_multiple_of(ALIGN);
            let room = most.saturating_sub(start);
            let fit = match stored.len(&(first..all)) {
                rest if rest <= room => all - first,
                // A matrix is cut where half a buffer takes rows of it: slivers cost more copies
                // than they save.
                _ if room < most / 2 && !batch.is_empty() => 0,
                _ => stored.rows_within(room).min(all - first),
            };
            if fit == 0 && !batch.is_empty() {
                batches.push(std::mem::take(&mut batch));
                used = 0;
                continue;
            }
            // A row that no buffer takes would be a mistake of the caller; it fails when it is packed.
            let rows = first..first + fit.max(1);
            let len = stored.len(&rows);
            first = rows.end;
            used = start + len;
            batch.push(Band {
                weight,
                rows,
                start,
                len,
            });
        }
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::exec::packed::pack_weight;
    use crate::model::{Model, ModelOptions, of_container};
    use crate::tools::synth::{self, ShapeName, SynthOptions, TypeMix};
    use gannet_gguf::{Gguf, TensorType, Writer};

    /// A small model in a mix of formats.
    fn model(mix: TypeMix) -> Model {
        let options = SynthOptions {
            shape: ShapeName::Tiny,
            mix,
            seed: 3,
            vocab_from: None,
        };
        let mut file = Vec::new();
        synth::write(&options, &mut file, &mut |_, _| {}).unwrap();
        let gguf = Gguf::from_vec("synth.gguf", file).unwrap();
        of_container(gguf, &ModelOptions::default()).unwrap()
    }

    fn stored_bytes(model: &Model) -> Vec<Cow<'_, [u8]>> {
        let weights = model.plan().weights.iter();
        weights.map(|info| model.weight_bytes(info)).collect()
    }

    fn stored<'m>(plan: &Plan, bytes: &'m [Cow<'m, [u8]>]) -> Vec<Stored<'m>> {
        let weights = (0..).map(Weight).zip(bytes);
        weights
            .map(|(w, bytes)| Stored::new(plan, w, bytes).unwrap())
            .collect()
    }

    /// Packs every band as an uploader would, into memory that holds nothing yet.
    fn assemble(stored: &[Stored<'_>], sizes: &[usize], most: usize) -> Vec<Vec<Option<u8>>> {
        let mut device: Vec<Vec<Option<u8>>> = sizes.iter().map(|&n| vec![None; n]).collect();
        let mut staging = vec![0xEE; most];
        for batch in batches(stored, most) {
            for (band, after) in batch.iter().zip(batch.iter().skip(1)) {
                assert!(band.start + band.len <= after.start);
            }
            for Band {
                weight,
                rows,
                start,
                len,
            } in &batch
            {
                assert_eq!(start % ALIGN, 0);
                let out = &mut staging[*start..start + len];
                stored[*weight].pack(rows, out).unwrap();
                for piece in stored[*weight].pieces(rows) {
                    let to = &mut device[*weight][piece.to..piece.to + piece.len];
                    for (to, from) in to.iter_mut().zip(&out[piece.from..]) {
                        assert_eq!(to.replace(*from), None, "a byte is written twice");
                    }
                }
            }
        }
        device
    }

    #[test]
    fn bands_assemble_to_packed_weights() {
        for mix in [TypeMix::Q4_K_M, TypeMix::Q4_0, TypeMix::F16] {
            let model = model(mix);
            let plan = model.plan();
            let weights = (0..plan.weights.len() as u32).map(Weight);
            let bytes = stored_bytes(&model);
            let stored = stored(plan, &bytes);
            let pack = |w| pack_weight(&model, plan, w).unwrap();
            let packed: Vec<Vec<u8>> = weights.map(pack).collect();
            let sizes: Vec<usize> = packed.iter().map(Vec::len).collect();
            let least = least_buffer(&stored);
            assert!(least > 0 && least < 64 << 10, "{least}");
            for most in [least, least + 777, 100_000, 1 << 20, usize::MAX >> 1] {
                let most = most.min(sizes.iter().map(|n| n + ALIGN).sum());
                let device = assemble(&stored, &sizes, most);
                for (w, (device, packed)) in device.iter().zip(&packed).enumerate() {
                    let same = device.iter().zip(packed).all(|(d, p)| *d == Some(*p));
                    assert!(same, "weight {w} through buffers of {most} bytes");
                }
            }
        }
    }

    /// Small weights share a buffer, large ones fill it.
    #[test]
    fn batches_are_few_and_full() {
        let model = model(TypeMix::Q4_K_M);
        let bytes = stored_bytes(&model);
        let stored = stored(model.plan(), &bytes);
        let most = 1 << 18;
        let batches = batches(&stored, most);
        let bytes: usize = batches.iter().flatten().map(|band| band.len).sum();
        assert!(
            batches.len() <= 2 * bytes.div_ceil(most),
            "{}",
            batches.len()
        );
        assert!(batches.iter().any(|batch| batch.len() > 3));
    }

    /// A bias longer than a buffer, in a format that is not f32.
    #[test]
    fn long_vectors_are_cut() {
        let values: Vec<u8> = (0..1000u16)
            .flat_map(|i| (0x3C00 + i).to_le_bytes())
            .collect();
        let mut writer = Writer::new();
        writer.tensor("v", &[1000], TensorType::F16).unwrap();
        let mut data = writer.start(Vec::new()).unwrap();
        data.tensor("v", &values).unwrap();
        let gguf = Gguf::from_vec("v.gguf", data.finish().unwrap()).unwrap();
        let bytes = gguf.data(gguf.tensor("v").unwrap());
        let stored = [Stored::Vector {
            format: Format::F16,
            bytes,
        }];
        let device = assemble(&stored, &[4000], 512);
        let mut expected = vec![0.0f32; 1000];
        Format::F16.dequantize(bytes, &mut expected).unwrap();
        let expected: &[u8] = cast_slice(&expected);
        assert!(device[0].iter().zip(expected).all(|(d, e)| *d == Some(*e)));
        assert_eq!(batches(&stored, 512).len(), 8);
    }
}
