//! The shape of a step, and which shapes share their launches.
//!
//! Decodes come in few shapes and again and again; prompts come in as many as there are lengths. No
//! choice of lowering tells two lengths of one [`Shape::class`] apart: their launches differ in nothing
//! but how many rows they are over, which is a [`Count`]. Whoever runs prompts lowers a class once.

use super::GEMV_MAX_ROWS;
use crate::plan::Rows;

/// What the rows of a step are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StepKind {
    /// Consecutive positions of one slot.
    Prompt,
    /// One position of each of several slots.
    Batch,
}

/// The shape of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Tokens.
    pub rows: usize,
    /// Rows whose logits are wanted.
    pub outputs: usize,
    /// What the rows are.
    pub kind: StepKind,
}

impl Shape {
    /// Whether it is one of the few that come again and again: that of a decode, or of as few rows.
    #[must_use]
    pub fn comes_again(self) -> bool {
        self.kind == StepKind::Batch || self.rows <= GEMV_MAX_ROWS
    }

    /// The largest shape, of at most `max_rows` rows, whose launches are those of this one but for how
    /// many rows they are over.
    #[must_use]
    pub fn class(self, max_rows: usize) -> Shape {
        if self.comes_again() || self.rows > max_rows {
            return self;
        }
        Shape {
            rows: self.rows.next_power_of_two().min(max_rows),
            ..self
        }
    }

    /// How many rows there are of a kind.
    #[must_use]
    pub fn rows_of(self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.rows,
            Rows::Outputs => self.outputs,
        }
    }
}

/// How many rows a launch is over, or elements where its kernel has no rows: so many for each row of
/// the step of some kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Count {
    /// What they are counted by.
    pub rows: Rows,
    /// For each of these.
    pub each: u32,
}

impl Count {
    /// In a step of that shape.
    #[must_use]
    pub fn of(self, shape: Shape) -> u32 {
        shape.rows_of(self.rows) as u32 * self.each
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(rows: usize, kind: StepKind) -> Shape {
        Shape {
            rows,
            outputs: 1,
            kind,
        }
    }

    #[test]
    fn classes_hold_their_shapes_and_are_their_own() {
        for kind in [StepKind::Prompt, StepKind::Batch] {
            for rows in 1..=300 {
                let shape = shape(rows, kind);
                let class = shape.class(200);
                assert!(class.rows >= rows && class.class(200) == class, "{shape:?}");
                assert_eq!(class == shape, shape.comes_again() || class.rows == rows);
            }
        }
        let of = |rows| shape(rows, StepKind::Prompt).class(200).rows;
        assert_eq!(
            [9, 16, 17, 129, 200, 201].map(of),
            [16, 16, 32, 200, 200, 201]
        );
    }
}
