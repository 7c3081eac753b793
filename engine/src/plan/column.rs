//! The inputs of a step: a table of columns, each a number for every row that the step has of its kind.
//!
//! Whatever holds a step's inputs (the step itself, the state of an executor, the arguments of a
//! launch) goes through this table, so that another input is a row here and its use. What follows
//! from other numbers of a row is derived here and nowhere given.

use gannet_ptx_gen::kernels::FeedSpec;

use super::Rows;

macro_rules! columns {
    (
        tokens { $($(#[$doc:meta])* $column:ident $field:ident $name:literal,)* }
        derived { $($(#[$derived_doc:meta])* $derived:ident $derived_name:literal = $of:expr,)* }
        outputs { $($(#[$output_doc:meta])* $output:ident $output_name:literal,)* }
        of_outputs { $($(#[$of_doc:meta])* $of_output:ident $of_name:literal = $of_row:expr,)* }
    ) => {
        /// An input of a step: `u32` for each token, or for each output.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Column {
            $($(#[$doc])* $column,)*
            $($(#[$derived_doc])* $derived,)*
            $($(#[$output_doc])* $output,)*
            $($(#[$of_doc])* $of_output,)*
        }

        impl Column {
            /// Every column, in order.
            pub const ALL: &'static [Column] = &[
                $(Column::$column,)*
                $(Column::$derived,)*
                $(Column::$output,)*
                $(Column::$of_output,)*
            ];

            /// The parameter of kernels that read it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Column::$column => $name,)*
                    $(Column::$derived => $derived_name,)*
                    $(Column::$output => $output_name,)*
                    $(Column::$of_output => $of_name,)*
                }
            }

            /// What it has a number for.
            #[must_use]
            pub const fn rows(self) -> Rows {
                match self {
                    $(Column::$column => Rows::Tokens,)*
                    $(Column::$derived => Rows::Tokens,)*
                    $(Column::$output => Rows::Outputs,)*
                    $(Column::$of_output => Rows::Outputs,)*
                }
            }
        }

        /// What a step says of one token; a default one does nothing.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct StepRow {
            $($(#[$doc])* pub $field: u32,)*
        }

        impl StepRow {
            /// Its number in each column of tokens.
            pub(crate) fn values(self) -> impl Iterator<Item = (Column, u32)> {
                let derived = |of: fn(StepRow) -> u32| of(self);
                [
                    $((Column::$column, self.$field),)*
                    $((Column::$derived, derived($of)),)*
                ]
                .into_iter()
            }

            /// The row that has these numbers.
            pub(crate) fn of(number: impl Fn(Column) -> u32) -> StepRow {
                StepRow {
                    $($field: number(Column::$column),)*
                }
            }

            /// What is known of an output of the row.
            pub(crate) fn of_output(self) -> impl Iterator<Item = (Column, u32)> {
                let derived = |of: fn(StepRow) -> u32| of(self);
                [$((Column::$of_output, derived($of_row)),)*].into_iter()
            }
        }
    };
}

columns! {
    tokens {
        /// Token id, or [`StepRow::CHOSEN`].
        Token token "tokens",
        /// Keys that the row may see: its position plus one. 0 marks a row that does nothing.
        Length length "lengths",
        /// Slot: row of the block table.
        Slot slot "slots",
        /// Keys after which a decode does nothing more of the row; 0: it has no limit of its own.
        Limit limit "limits",
    }
    derived {
        /// Index of the token in its sequence, from 0; a dead row has 0.
        Position "positions" = |row| row.length.saturating_sub(1),
    }
    outputs {
        /// Row of a token whose logits are wanted.
        Output "indices",
    }
    of_outputs {
        /// Slot of that row.
        OutputSlot "output_slots" = |row| row.slot,
        /// Keys that it sees.
        OutputLength "output_lengths" = |row| row.length,
    }
}

impl StepRow {
    /// In the place of a token: the one that the latest step in front chose for the slot.
    pub const CHOSEN: u32 = FeedSpec::CHOSEN;

    /// A token of a slot that sees `length` keys, its own among them.
    #[must_use]
    pub fn new(token: u32, length: u32, slot: u32) -> StepRow {
        StepRow {
            token,
            length,
            slot,
            ..StepRow::default()
        }
    }

    /// The last of a slot's tokens, which sees all of them.
    #[must_use]
    pub fn last(tokens: &[u32], slot: usize) -> StepRow {
        let token = tokens.last().copied().unwrap_or(0);
        StepRow::new(token, tokens.len() as u32, slot as u32)
    }
}

impl Column {
    /// How many there are.
    pub const COUNT: usize = Column::ALL.len();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_have_places_and_names_of_their_own() {
        for (place, &column) in Column::ALL.iter().enumerate() {
            assert_eq!(column as usize, place);
            let same = Column::ALL.iter().filter(|c| c.name() == column.name());
            assert_eq!(same.count(), 1, "{}", column.name());
        }
    }
}
