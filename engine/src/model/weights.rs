//! The stored bytes of a model's weights.

use std::borrow::Cow;
use std::sync::Arc;

use crate::files::Source;
use crate::plan::WeightInfo;

/// The containers that a model's weights come from, by the numbers in
/// [`crate::plan::WeightView::source`].
#[derive(Clone)]
pub(crate) struct Weights {
    pub(crate) sources: Vec<Arc<dyn Source>>,
}

impl Weights {
    /// The bytes of a weight, row after row; a copy where its rows do not lie so.
    pub(crate) fn bytes(&self, info: &WeightInfo) -> Cow<'_, [u8]> {
        if let Some(bytes) = self.in_place(info) {
            return Cow::Borrowed(bytes);
        }
        let view = &info.view;
        let stored = self.sources[view.source].bytes(view.tensor);
        let is_whole = view.is_contiguous() && view.rows.len() * row_bytes(info) == stored.len();
        if is_whole {
            return stored;
        }
        let rows = view.rows.clone();
        Cow::Owned(rows.flat_map(|r| row(info, &stored, r)).copied().collect())
    }

    /// A weight as f32, `[rows, cols]`.
    pub(crate) fn f32(&self, info: &WeightInfo) -> Vec<f32> {
        let mut out = vec![0.0; info.rows * info.cols];
        info.format
            .dequantize(&self.bytes(info), &mut out)
            .expect("the tensor's size was checked when it was bound");
        out
    }

    /// The same as it is stored, where the rows lie one behind the other in the file.
    pub(crate) fn in_place(&self, info: &WeightInfo) -> Option<&[u8]> {
        let view = &info.view;
        let stored = self.sources[view.source].in_place(view.tensor)?;
        let (rows, first) = (view.rows.len(), row(info, stored, view.rows.start));
        if rows == 1 {
            return Some(first);
        }
        let start = view.rows.start * first.len();
        view.is_contiguous()
            .then(|| &stored[start..start + rows * first.len()])
    }
}

/// Bytes of a row of the tensor that a weight is a view of.
fn row_bytes(info: &WeightInfo) -> usize {
    // All were checked when the view was made.
    info.format.row_bytes(info.view.stored_cols).unwrap_or(0)
}

/// What a weight has of a row of its tensor.
fn row<'a>(info: &WeightInfo, stored: &'a [u8], row: usize) -> &'a [u8] {
    let view = &info.view;
    let bytes = |elements: usize| info.format.row_bytes(elements).unwrap_or(0);
    let start = row * row_bytes(info) + bytes(view.cols.start);
    &stored[start..][..bytes(view.cols.len())]
}
