//! The shape of a step, and which shapes share their launches.
//!
//! Decodes come in few shapes and again and again; prompts come in as many as there are lengths, and
//! steps that mix several of them with decodes in more. No choice of lowering tells two shapes of one
//! [`Shape::class`] apart: their launches differ in nothing but how many rows they are over, which is a
//! [`Count`]. Whoever runs such steps lowers a class once.

use super::GEMV_MAX_ROWS;
use crate::plan::Rows;

/// What the rows of a step are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StepKind {
    /// Consecutive positions of one slot.
    Prompt,
    /// Positions of several slots.
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
    /// Whether it is one of the few that come again and again: that of a decode, whose rows are a power
    /// of two, or of as few rows.
    #[must_use]
    pub fn comes_again(self) -> bool {
        let decodes = self.kind == StepKind::Batch && self.rows.is_power_of_two();
        decodes && self.outputs == self.rows || self.rows <= GEMV_MAX_ROWS
    }

    /// The largest shape, of at most so many rows and outputs, whose launches are those of this one but
    /// for how many rows they are over.
    #[must_use]
    pub fn class(self, max_rows: usize, max_outputs: usize) -> Shape {
        if self.comes_again() {
            return self;
        }
        let up_to = |rows: usize, most: usize| match rows {
            0 => 0,
            _ => rows.next_power_of_two().min(most).max(rows),
        };
        Shape {
            rows: up_to(self.rows, max_rows),
            outputs: up_to(self.outputs, max_outputs),
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

    #[test]
    fn classes_hold_their_shapes_and_are_their_own() {
        for kind in [StepKind::Prompt, StepKind::Batch] {
            for (rows, outputs) in (1..=300).flat_map(|rows| [0, 1, 3, rows].map(|o| (rows, o))) {
                let shape = Shape {
                    rows,
                    outputs: outputs.min(rows),
                    kind,
                };
                let class = shape.class(200, 50);
                let holds = class.rows >= rows && class.outputs >= shape.outputs;
                assert!(holds && class.class(200, 50) == class, "{shape:?}");
                assert!(!shape.comes_again() || class == shape, "{shape:?}");
            }
        }
        let of = |rows| {
            let shape = Shape {
                rows,
                outputs: 3,
                kind: StepKind::Prompt,
            };
            let class = shape.class(200, 50);
            [class.rows, class.outputs]
        };
        let found = [9, 16, 17, 129, 200, 201].map(of);
        let rows = [16, 16, 32, 200, 200, 201];
        assert_eq!(found, rows.map(|rows| [rows, 4]));
    }
}
