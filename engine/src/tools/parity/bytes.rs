//! Products of activations as bytes against exact products of the same bytes.
//!
//! What 8 bits of activations cost hides a wrong scale of one block: where a matrix has 1536 columns, a
//! block that is off by 5% moves one result by less than a hundredth of what results are, and their NMSE
//! by less than 1e-7; rounding moves each of them by as much. So the limit of a product says little of its
//! parts. Given the same bytes, an exact product comes to the same to within what f32 sums err by, and
//! each result is held to that.

use gannet_quant::cpu::rounded_to_bytes;

use super::LiveRows;
use super::report::{BufferRow, error};
use crate::Error;
use crate::exec::{ExecutorKind, Inspect, Step};
use crate::lower::{Activations, Unit};
use crate::plan::Op;

/// Largest squared difference of a result of two products of the same bytes, over the mean square of its row.
///
/// Each of the two is a chain of f32 additions, 600 of them where a matrix has 9,000 columns, that err by
/// up to 2^-25 of the sum so far: a mean square of 600 times 3e-16 (Higham, "Accuracy and Stability of
/// Numerical Algorithms", 4.2, of errors that are independent). Of a billion results the largest error is
/// six times the usual, and where terms of scales and of minimums cancel to a tenth it is ten times that:
/// 7e-10 of squares. One scale of 280 that is off by a hundredth makes 4e-7.
const LIMIT: f64 = 5e-9;

/// A step of two sides in lockstep, of which one has just run `unit`.
pub(super) struct SameBytes<'a> {
    pub(super) step: &'a Step<'a>,
    /// The units of each side.
    pub(super) units: [&'a [Unit]; 2],
    pub(super) live: &'a LiveRows,
}

impl SameBytes<'_> {
    /// Compares what `unit`, a product, gave on the side that rounds activations to bytes as
    /// [`rounded_to_bytes`] does with what the exact side gives of those. `None` where the sides are no
    /// such, or the unit is no such product. Leaves the exact side as it was.
    pub(super) fn compare<'s>(
        &self,
        left: &'s mut dyn Inspect,
        right: &'s mut dyn Inspect,
        unit: &Unit,
    ) -> Result<Option<BufferRow>, Error> {
        let (exact, fast, [of_exact, of_fast]) = match (left.kind(), right.kind()) {
            (ExecutorKind::CpuExact, ExecutorKind::Cpu) => (left, right, self.units),
            (ExecutorKind::Cpu, ExecutorKind::CpuExact) => {
                (right, left, [self.units[1], self.units[0]])
            }
            _ => return Ok(None),
        };
        let is_of = |other: &&Unit| other.ops == unit.ops;
        let rounds = of_fast.iter().find(is_of);
        let rounds = rounds.is_some_and(|unit| unit.activations == Activations::Int8);
        let (&[op], Some(at)) = (&unit.ops[..], of_exact.iter().position(|u| is_of(&u))) else {
            return Ok(None);
        };
        let (true, &Op::MatMul { x, out, .. }) = (rounds, &exact.plan().ops[op]) else {
            return Ok(None);
        };
        let (Some(input), Some(given)) = (exact.read(x)?, exact.read(out)?) else {
            return Ok(None);
        };
        exact.write(x, &rounded_to_bytes(&input))?;
        exact.run_unit(self.step, at)?;
        let (of_bytes, found) = (exact.read(out)?, fast.read(out)?);
        exact.write(x, &input)?;
        exact.write(out, &given)?;
        let (Some(of_bytes), Some(found)) = (of_bytes, found) else {
            return Ok(None);
        };
        let plan = exact.plan();
        let live = |data| self.live.of_buffer(plan, out, data);
        let products = Products {
            given: &live(&given),
            of_bytes: &live(&of_bytes),
            found: &live(&found),
        };
        let info = plan.buffer(out);
        let (error, max_abs) = products.error(info.cols);
        Ok(Some(BufferRow {
            unit: unit.name.clone(),
            buffer: format!("{} of the same bytes", info.name),
            nmse: error,
            max_abs,
            limit: LIMIT,
            pass: error <= LIMIT,
        }))
    }
}

/// Products of the same rows with one matrix, `[n, cols]`.
struct Products<'a> {
    /// Exact ones of the rows as they are.
    given: &'a [f32],
    /// Exact ones of the rows rounded.
    of_bytes: &'a [f32],
    /// Those of the side that rounds.
    found: &'a [f32],
}

impl Products<'_> {
    /// The largest squared difference over the mean square of its row, and the largest difference. A row is
    /// held to what it is closer to: those of which 8 bits hold too little are multiplied as they are.
    fn error(&self, cols: usize) -> (f64, f64) {
        let rows = self.given.chunks_exact(cols);
        let rows = rows.zip(self.of_bytes.chunks_exact(cols));
        let rows = rows.zip(self.found.chunks_exact(cols));
        let of_row = |((given, of_bytes), found)| {
            let (of_given, of_bytes) = (row_error(given, found), row_error(of_bytes, found));
            if of_given.0 < of_bytes.0 {
                of_given
            } else {
                of_bytes
            }
        };
        let most = |a: (f64, f64), b: (f64, f64)| (a.0.max(b.0), a.1.max(b.1));
        rows.map(of_row).fold((0.0, 0.0), most)
    }
}

/// The largest squared difference of a row over its mean square, and the largest difference.
fn row_error(expected: &[f32], found: &[f32]) -> (f64, f64) {
    let max_abs = error(expected, found).1;
    if max_abs == 0.0 {
        return (0.0, 0.0);
    }
    let squares: f64 = expected.iter().map(|&v| f64::from(v).powi(2)).sum();
    let mean = (squares / expected.len() as f64).max(f64::MIN_POSITIVE);
    (max_abs * max_abs / mean, max_abs)
}

#[cfg(test)]
mod tests {
    use gannet_quant::cpu::{matmul_exact, matmul_fast};
    use gannet_quant::{Format, Matrix};

    use super::*;

    /// A matrix of a format, and activations: `[rows, cols]` and `[n, cols]`.
    struct Case {
        format: Format,
        rows: usize,
        cols: usize,
        data: Vec<u8>,
        x: Vec<f32>,
    }

    impl Case {
        fn new(format: Format, [rows, cols, n]: [usize; 3]) -> Case {
            let mut data = vec![0; rows * format.row_bytes(cols).unwrap()];
            format.random(11 + cols as u64, 0.05, &mut data);
            // As normal as a sum of four is, of a size that changes from channel to channel.
            let part = |i: usize| (i.wrapping_mul(2_654_435_761) >> 7) % 1009;
            let value = |i: usize| {
                (0..4)
                    .map(|k| part(4 * i + k) as f32 / 504.0 - 1.0)
                    .sum::<f32>()
            };
            let size = |i: usize| 0.2 + (i % cols % 37) as f32 / 10.0;
            let x = (0..n * cols).map(|i| value(i) * size(i)).collect();
            Case {
                format,
                rows,
                cols,
                data,
                x,
            }
        }

        fn n(&self) -> usize {
            self.x.len() / self.cols
        }

        /// What comparing finds where the side that rounds has this data and these activations.
        fn error_of(&self, data: &[u8], x: &[f32]) -> f64 {
            let matrix = |data| Matrix::new(self.format, self.rows, self.cols, data).unwrap();
            let exact = |x: &[f32]| {
                let mut out = vec![0.0; self.n() * self.rows];
                matmul_exact(&matrix(&self.data), x, self.n(), &mut out);
                out
            };
            let mut found = vec![0.0; self.n() * self.rows];
            matmul_fast(&matrix(data), x, self.n(), &mut found);
            let products = Products {
                given: &exact(&self.x),
                of_bytes: &exact(&rounded_to_bytes(&self.x)),
                found: &found,
            };
            products.error(self.rows).0
        }

        /// With the scale of one block of activations times a factor.
        fn activation_off(&self, block: usize, factor: f32) -> f64 {
            let mut x = self.x.clone();
            x[32 * block..][..32].iter_mut().for_each(|x| *x *= factor);
            self.error_of(&self.data, &x)
        }

        /// With the scale of one block of weights times a factor.
        fn weight_off(&self, block: usize, factor: f32) -> f64 {
            let (at, bytes) = (block * self.format.block_bytes(), self.format.block_bytes());
            let scale = match self.format {
                Format::Q6_K => bytes - 2,
                Format::Q3_K => bytes - 2,
                Format::Q2_K => bytes - 4,
                _ => 0,
            };
            let mut data = self.data.clone();
            let half = &mut data[at + scale..][..2];
            let value = half::f16::from_le_bytes([half[0], half[1]]).to_f32() * factor;
            half.copy_from_slice(&half::f16::from_f32(value).to_le_bytes());
            self.error_of(&data, &self.x)
        }
    }

    const FORMATS: [Format; 11] = [
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q8_0,
        Format::IQ4_NL,
        Format::Q2_K,
        Format::Q3_K,
        Format::Q4_K,
        Format::Q5_K,
        Format::Q6_K,
    ];

    #[test]
    fn one_wrong_scale_is_noticed_and_rounding_is_not() {
        for format in FORMATS {
            for shape in [[256, 256, 32], [1024, 1536, 8], [48, 8960, 13]] {
                let case = Case::new(format, shape);
                let right = case.error_of(&case.data, &case.x);
                println!("{format} {shape:?}: {right:e}");
                assert!(right <= LIMIT / 10.0, "{format} {shape:?}: {right:e}");
                let (last, blocks) = (
                    case.x.len() / 32 - 1,
                    case.data.len() / format.block_bytes(),
                );
                for (block, factor) in [(0, 1.05), (last / 2, 0.95), (last, 1.02)] {
                    let off = case.activation_off(block, factor);
                    assert!(
                        off > LIMIT,
                        "{format} {shape:?}, activations, {block}: {off:e}"
                    );
                }
                for (block, factor) in [(1, 1.05), (blocks / 3, 0.95), (blocks - 1, 1.05)] {
                    let off = case.weight_off(block, factor);
                    assert!(off > LIMIT, "{format} {shape:?}, weights, {block}: {off:e}");
                }
            }
        }
    }

    #[test]
    fn rows_that_bytes_do_not_hold_are_held_to_what_they_are() {
        let mut case = Case::new(Format::Q8_0, [64, 512, 3]);
        case.x[512 + 7] = 1e6;
        let right = case.error_of(&case.data, &case.x);
        assert!(right <= LIMIT / 10.0, "{right:e}");
        // Before, in and behind that row.
        for block in [3, 16, 40] {
            assert!(case.activation_off(block, 1.05) > LIMIT, "{block}");
        }
    }

    #[test]
    fn what_is_no_number_is_no_product() {
        let case = Case::new(Format::Q4_0, [8, 64, 2]);
        let mut x = case.x.clone();
        x[3] = f32::NAN;
        assert_eq!(case.error_of(&case.data, &x), f64::INFINITY);
    }
}
