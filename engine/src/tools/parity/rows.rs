//! The arrays of a step, from the tokens of the sequences that it has rows of.

use std::ops::Range;

use crate::exec::Step;
use crate::kv::BlockTable;

/// A step's arrays.
pub(crate) struct StepRows {
    pub(crate) tokens: Vec<u32>,
    pub(crate) lengths: Vec<u32>,
    pub(crate) slots: Vec<u32>,
    pub(crate) outputs: Vec<u32>,
}

impl StepRows {
    /// Some of the tokens of a slot; the last one's logits are wanted.
    pub(crate) fn of_slot(tokens: &[u32], slot: usize, range: Range<usize>) -> StepRows {
        StepRows {
            lengths: (range.start as u32 + 1..=range.end as u32).collect(),
            slots: vec![slot as u32; range.len()],
            outputs: vec![range.len() as u32 - 1],
            tokens: tokens[range].to_vec(),
        }
    }

    /// The last token of each slot, and dead rows up to a power of two, as decoding has them.
    pub(crate) fn last_of_each(sequences: &[Vec<u32>]) -> StepRows {
        let rows = sequences.len().next_power_of_two();
        let padded = |mut column: Vec<u32>| {
            column.resize(rows, 0);
            column
        };
        let last = sequences.iter().map(|s| s.last().copied().unwrap_or(0));
        StepRows {
            tokens: padded(last.collect()),
            lengths: padded(sequences.iter().map(|s| s.len() as u32).collect()),
            slots: padded((0..sequences.len() as u32).collect()),
            outputs: (0..rows as u32).collect(),
        }
    }

    pub(crate) fn step<'a>(&'a self, table: &'a BlockTable) -> Step<'a> {
        Step {
            tokens: &self.tokens,
            lengths: &self.lengths,
            slots: &self.slots,
            outputs: &self.outputs,
            table,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_dead_rows_up_to_a_power_of_two() {
        let rows = StepRows::last_of_each(&[vec![5, 6], vec![7], vec![8, 9, 1]]);
        assert_eq!(rows.tokens, [6, 7, 1, 0]);
        assert_eq!(rows.lengths, [2, 1, 3, 0]);
        assert_eq!(rows.slots, [0, 1, 2, 0]);
        assert_eq!(rows.outputs, [0, 1, 2, 3]);
    }
}
