//! Weights of a plan: parts of stored tensors, seen as matrices.
//!
//! A fused tensor, an expert of a stack, a rank's share of a matrix and a whole tensor are the same
//! thing: a range of rows and a range of columns of what is stored.

use std::ops::Range;

use gannet_quant::Format;

/// Which part of which stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightView {
    /// The source, by the model's numbers.
    pub source: usize,
    /// The tensor, by the source's numbers.
    pub tensor: usize,
    /// Rows of the tensor, all dimensions but the contiguous one taken together.
    pub rows: Range<usize>,
    /// Elements of each of those rows, in whole blocks.
    pub cols: Range<usize>,
    /// Elements of a whole row of the tensor.
    pub stored_cols: usize,
}

impl WeightView {
    /// All of a tensor.
    #[must_use]
    pub fn whole(source: usize, tensor: usize, rows: usize, cols: usize) -> WeightView {
        WeightView {
            source,
            tensor,
            rows: 0..rows,
            cols: 0..cols,
            stored_cols: cols,
        }
    }

    /// Whether its rows lie one behind the other.
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        self.cols.len() == self.stored_cols || self.rows.len() == 1
    }
}

/// Name, format and shape of a weight: `[rows, cols]`, row-major, a row for each output feature.
/// A vector (norm weight, bias) has one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightInfo {
    /// What reports call it: the tensor's name, or that of the part's role where several weights
    /// share a tensor.
    pub name: String,
    /// Block format of the stored bytes.
    pub format: Format,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Where it is stored.
    pub view: WeightView,
}

impl WeightInfo {
    /// Bytes of the weight as stored.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.rows * self.format.row_bytes(self.cols).unwrap_or(0)
    }

    /// Some rows of a matrix, or elements of a vector.
    ///
    /// # Errors
    /// Elements of a vector that are no whole blocks, or a range outside.
    pub fn outputs(&self, range: Range<usize>) -> Result<WeightInfo, String> {
        if self.rows == 1 {
            return self.inputs(range);
        }
        if range.end > self.rows || range.is_empty() {
            return Err(format!(
                "{} has {} rows, not {range:?}",
                self.name, self.rows
            ));
        }
        let first = self.view.rows.start;
        Ok(WeightInfo {
            rows: range.len(),
            view: WeightView {
                rows: first + range.start..first + range.end,
                ..self.view.clone()
            },
            ..self.clone()
        })
    }

    /// Some columns.
    ///
    /// # Errors
    /// A range outside, or one that cuts a block of the format.
    pub fn inputs(&self, range: Range<usize>) -> Result<WeightInfo, String> {
        if range.end > self.cols || range.is_empty() {
            return Err(format!(
                "{} has {} columns, not {range:?}",
                self.name, self.cols
            ));
        }
        let block = self.format.block_len();
        if !range.start.is_multiple_of(block) || !range.end.is_multiple_of(block) {
            let format = self.format.name();
            return Err(format!(
                "{}: columns {range:?} cut a block of {format}, which has {block} elements",
                self.name
            ));
        }
        let first = self.view.cols.start;
        Ok(WeightInfo {
            cols: range.len(),
            view: WeightView {
                cols: first + range.start..first + range.end,
                ..self.view.clone()
            },
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(format: Format) -> WeightInfo {
        WeightInfo {
            name: "w".to_owned(),
            format,
            rows: 6,
            cols: 512,
            view: WeightView::whole(0, 3, 6, 512),
        }
    }

    #[test]
    fn parts_of_parts_are_parts_of_the_tensor() {
        let part = matrix(Format::Q4_K).outputs(2..6).unwrap();
        let part = part.inputs(256..512).unwrap().outputs(1..2).unwrap();
        assert_eq!((part.rows, part.cols), (1, 256));
        assert_eq!(
            (part.view.rows.clone(), part.view.cols.clone()),
            (3..4, 256..512)
        );
        assert_eq!(part.bytes(), 144);
        assert!(part.view.is_contiguous());
        assert!(
            !matrix(Format::Q4_K)
                .inputs(0..256)
                .unwrap()
                .view
                .is_contiguous()
        );
        assert!(
            matrix(Format::Q4_K)
                .outputs(1..3)
                .unwrap()
                .view
                .is_contiguous()
        );
    }

    #[test]
    fn blocks_are_not_cut_and_ranges_stay_inside() {
        let cut = matrix(Format::Q4_K).inputs(0..128).unwrap_err();
        assert!(cut.contains("cut a block of Q4_K"), "{cut}");
        assert!(matrix(Format::Q8_0).inputs(0..128).is_ok());
        assert!(matrix(Format::F32).outputs(4..7).is_err());
        assert!(matrix(Format::F32).inputs(500..513).is_err());
        assert!(matrix(Format::F32).outputs(2..2).is_err());
    }
}
