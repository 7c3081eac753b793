//! What one forward step computes: its columns of inputs, and where the cache blocks are.
//!
//! Columns are made together and never apart: every one of tokens is as long as the step has rows.

use std::ops::Range;

use super::Limits;
use crate::Error;
use crate::kv::{BLOCK_TOKENS, BlockTable};
use crate::lower::{Shape, StepKind};
use crate::plan::{Column, Plan, Rows, StepRow};

/// The columns of a step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StepRows {
    columns: [Vec<u32>; Column::COUNT],
}

impl StepRows {
    /// A row for each, in order; no logits are wanted.
    #[must_use]
    pub fn new(rows: impl IntoIterator<Item = StepRow>) -> StepRows {
        let mut made = StepRows::default();
        for row in rows {
            for (column, value) in row.values() {
                made.columns[column as usize].push(value);
            }
        }
        made
    }

    /// Consecutive tokens of a slot, the first at a position; no logits are wanted.
    #[must_use]
    pub fn prompt(tokens: &[u32], slot: usize, position: usize) -> StepRows {
        let lengths = position as u32 + 1..;
        let rows = lengths.zip(tokens);
        StepRows::new(rows.map(|(length, &token)| StepRow::new(token, length, slot as u32)))
    }

    /// Some of the tokens of a slot, at their positions; the last one's logits are wanted.
    #[must_use]
    pub fn of_slot(tokens: &[u32], slot: usize, range: Range<usize>) -> StepRows {
        StepRows::prompt(&tokens[range.clone()], slot, range.start).with_last_output()
    }

    /// A row for each sequence, of each of which the logits are wanted.
    #[must_use]
    pub fn batch(rows: impl IntoIterator<Item = StepRow>) -> StepRows {
        let made = StepRows::new(rows);
        let outputs = 0..made.rows() as u32;
        made.with_outputs(outputs)
    }

    /// The same with rows behind that do nothing, up to a power of two: few shapes are lowered.
    #[must_use]
    pub fn padded_batch<T: IntoIterator<Item = StepRow>>(rows: T) -> StepRows
    where
        T::IntoIter: ExactSizeIterator,
    {
        let rows = rows.into_iter();
        let spare = rows.len().next_power_of_two() - rows.len();
        StepRows::batch(rows.chain(std::iter::repeat_n(StepRow::default(), spare)))
    }

    /// The last token of each slot, as decoding has them.
    #[must_use]
    pub fn last_of_each(sequences: &[Vec<u32>]) -> StepRows {
        let rows = sequences.iter().enumerate();
        StepRows::padded_batch(rows.map(|(slot, tokens)| StepRow::last(tokens, slot)))
    }

    /// The same rows, the logits of these wanted, ascending.
    #[must_use]
    pub fn with_outputs(mut self, outputs: impl IntoIterator<Item = u32>) -> StepRows {
        let outputs: Vec<u32> = outputs.into_iter().collect();
        for (column, _) in StepRow::default().of_output() {
            self.columns[column as usize].clear();
        }
        for &output in &outputs {
            // A row that there is not is refused with the step.
            let number = |column| self.column(column).get(output as usize);
            let row = StepRow::of(|column| number(column).copied().unwrap_or(0));
            for (column, value) in row.of_output() {
                self.columns[column as usize].push(value);
            }
        }
        self.columns[Column::Output as usize] = outputs;
        self
    }

    /// The same rows, the logits of the last wanted, if there is one.
    #[must_use]
    pub fn with_last_output(self) -> StepRows {
        let last = (self.rows() as u32).checked_sub(1);
        self.with_outputs(last)
    }

    /// Some of the rows; no logits are wanted.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> StepRows {
        let mut part = StepRows::default();
        for &column in Column::ALL {
            if column.rows() == Rows::Tokens {
                part.columns[column as usize] = self.column(column)[range.clone()].to_vec();
            }
        }
        part
    }

    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.columns[Column::Token as usize].len()
    }

    /// The numbers of a column.
    #[must_use]
    pub fn column(&self, column: Column) -> &[u32] {
        &self.columns[column as usize]
    }

    /// The numbers of a column, to change.
    pub fn column_mut(&mut self, column: Column) -> &mut [u32] {
        &mut self.columns[column as usize]
    }

    /// A step of them.
    #[must_use]
    pub fn step<'a>(&'a self, table: &'a BlockTable) -> Step<'a> {
        Step {
            inputs: self,
            table,
        }
    }
}

/// What one forward step computes: a row for each token.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// What it says of each row.
    pub inputs: &'a StepRows,
    /// Where the cache blocks of each slot are.
    pub table: &'a BlockTable,
}

impl<'a> Step<'a> {
    /// Rows of the step.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.inputs.rows()
    }

    /// The numbers of a column.
    #[must_use]
    pub fn column(&self, column: Column) -> &'a [u32] {
        self.inputs.column(column)
    }

    /// Token of each row.
    #[must_use]
    pub fn tokens(&self) -> &'a [u32] {
        self.column(Column::Token)
    }

    /// Keys that each row may see.
    #[must_use]
    pub fn lengths(&self) -> &'a [u32] {
        self.column(Column::Length)
    }

    /// Slot of each row.
    #[must_use]
    pub fn slots(&self) -> &'a [u32] {
        self.column(Column::Slot)
    }

    /// Rows whose logits are wanted.
    #[must_use]
    pub fn outputs(&self) -> &'a [u32] {
        self.column(Column::Output)
    }

    /// The shape that it is lowered to: rows of one slot at consecutive positions are a prompt.
    #[must_use]
    pub fn shape(&self) -> Shape {
        let one_slot = self.slots().windows(2).all(|w| w[0] == w[1]);
        let mut neighbours = self.lengths().windows(2);
        let consecutive = neighbours.all(|w| w[0] != 0 && w[1] == w[0] + 1);
        let kind = if one_slot && consecutive {
            StepKind::Prompt
        } else {
            StepKind::Batch
        };
        Shape {
            rows: self.rows(),
            outputs: self.outputs().len(),
            kind,
        }
    }

    /// Refuses a step that would make a kernel leave its buffers.
    ///
    /// # Errors
    /// More rows, outputs or positions than the limits, or a token, slot, position or row outside.
    pub fn check(&self, limits: Limits, plan: &Plan) -> Result<(), Error> {
        self.check_tokens(limits, plan, |_| false)
    }

    /// As [`Step::check`] of a step that is queued: tokens may be [`StepRow::CHOSEN`].
    pub(crate) fn check_queued(&self, limits: Limits, plan: &Plan) -> Result<(), Error> {
        self.check_tokens(limits, plan, |token| token == StepRow::CHOSEN)
    }

    fn check_tokens(
        &self,
        limits: Limits,
        plan: &Plan,
        is_known_later: impl Fn(u32) -> bool,
    ) -> Result<(), Error> {
        let (rows, outputs) = (self.rows(), self.outputs().len());
        let positions = plan
            .max_positions()
            .map_or(limits.context, |most| most.min(limits.context));
        let in_range = |&column: &Column| {
            let numbers = self.column(column);
            let below = |most: usize| numbers.iter().all(|&n| (n as usize) < most);
            match column {
                Column::Token => {
                    let mut known = numbers.iter().filter(|&&token| !is_known_later(token));
                    known.all(|&token| (token as usize) < plan.vocab_size)
                }
                Column::Length | Column::Limit | Column::OutputLength => below(limits.context + 1),
                Column::Slot | Column::OutputSlot => below(limits.num_slots),
                Column::Position => below(positions),
                Column::Output => below(rows),
            }
        };
        let entries = self.table.entries();
        let mut blocks = entries.iter().map(|&block| block as usize);
        let fits = rows <= limits.max_rows
            && outputs <= limits.max_outputs
            && entries.len() == limits.num_slots * limits.context.div_ceil(BLOCK_TOKENS)
            && blocks.all(|block| block < limits.cache_blocks);
        if fits && Column::ALL.iter().all(in_range) {
            return Ok(());
        }
        Err(Error::Request(format!(
            "a step of {rows} rows and {outputs} outputs does not fit an executor of {} rows, {} \
             outputs, {} slots and {} positions, or names a token, slot, row or position outside",
            limits.max_rows, limits.max_outputs, limits.num_slots, positions
        )))
    }
}

#[cfg(test)]
mod tests {
    use gannet_quant::Format;

    use super::*;
    use crate::plan::{PlanBuilder, WeightInfo, WeightView};

    /// Its columns in the order of the table.
    fn columns(rows: &StepRows) -> Vec<&[u32]> {
        Column::ALL.iter().map(|&c| rows.column(c)).collect()
    }

    #[test]
    fn a_batch_has_dead_rows_up_to_a_power_of_two() {
        let rows = StepRows::last_of_each(&[vec![5, 6], vec![7], vec![8, 9, 1]]);
        let expected = [
            [6, 7, 1, 0],
            [2, 1, 3, 0],
            [0, 1, 2, 0],
            [0, 0, 0, 0],
            [1, 0, 2, 0],
            [0, 1, 2, 3],
            [0, 1, 2, 0],
            [2, 1, 3, 0],
        ];
        assert_eq!(columns(&rows), expected);
    }

    #[test]
    fn a_part_of_a_prompt_keeps_its_positions() {
        let rows = StepRows::of_slot(&[5, 6, 7, 8], 2, 1..4);
        let expected: [&[u32]; 8] = [
            &[6, 7, 8],
            &[2, 3, 4],
            &[2, 2, 2],
            &[0, 0, 0],
            &[1, 2, 3],
            &[2],
            &[2],
            &[4],
        ];
        assert_eq!(columns(&rows), expected);
        let expected: [&[u32]; 8] = [&[7, 8], &[3, 4], &[2, 2], &[0, 0], &[2, 3], &[], &[], &[]];
        assert_eq!(columns(&rows.part(1..3)), expected);
    }

    /// Rows by token and by position, and their sum as logits.
    fn plan(vocab_size: usize, positions: usize) -> Plan {
        let mut p = PlanBuilder::new();
        let mut table = |name: &str, rows| {
            p.weight(WeightInfo {
                name: name.to_owned(),
                format: Format::F32,
                rows,
                cols: vocab_size,
                view: WeightView::whole(0, 0, rows, vocab_size),
            })
        };
        let (tokens, places) = (table("tokens", vocab_size), table("places", positions));
        let (x, at) = (p.embed(tokens), p.embed_positions(places));
        let sum = p.add(x, at);
        p.finish(sum)
    }

    #[test]
    fn a_step_outside_of_the_limits_is_refused() {
        let limits = Limits::new(2, 32);
        let table = BlockTable::new(2, 32, limits.cache_blocks);
        let plan = plan(10, 20);
        let fits = |rows: &StepRows| rows.step(&table).check(limits, &plan).is_ok();
        let rows = StepRows::of_slot(&[9, 0], 1, 0..2);
        assert!(fits(&rows));
        for (column, outside) in [
            (Column::Token, 10),
            (Column::Length, 33),
            (Column::Slot, 2),
            (Column::Limit, 33),
            (Column::Position, 20),
            (Column::Output, 2),
            (Column::OutputSlot, 2),
            (Column::OutputLength, 33),
        ] {
            let mut wrong = rows.clone();
            wrong.column_mut(column)[0] = outside;
            assert!(!fits(&wrong), "{column:?}");
        }
    }
}
