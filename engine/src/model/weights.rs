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
        self.in_place(info).map_or_else(
            || {
                let rows = info.view.rows.clone();
                Cow::Owned(rows.flat_map(|r| self.row(info, r)).copied().collect())
            },
            Cow::Borrowed,
        )
    }

    /// A weight as f32, `[rows, cols]`.
    pub(crate) fn f32(&self, info: &WeightInfo) -> Vec<f32> {
        let mut out = vec![0.0; info.rows * info.cols];
        info.format
            .dequantize(&self.bytes(info), &mut out)
            .expect("the tensor's size was checked when it was bound");
        out
    }

    /// The same as it is stored, where the rows lie one behind the other.
    pub(crate) fn in_place(&self, info: &WeightInfo) -> Option<&[u8]> {
        let view = &info.view;
        let (rows, first) = (view.rows.len(), self.row(info, view.rows.start));
        if rows == 1 {
            return Some(first);
        }
        let stored = self.sources[view.source].bytes(view.tensor);
        let start = view.rows.start * first.len();
        view.is_contiguous()
            .then(|| &stored[start..start + rows * first.len()])
    }

    /// What a weight has of a row of its tensor.
    fn row(&self, info: &WeightInfo, row: usize) -> &[u8] {
        let view = &info.view;
        // All were checked when the view was made.
        let bytes = |elements: usize| info.format.row_bytes(elements).unwrap_or(0);
        let start = row * bytes(view.stored_cols) + bytes(view.cols.start);
        &self.sources[view.source].bytes(view.tensor)[start..][..bytes(view.cols.len())]
    }
}
