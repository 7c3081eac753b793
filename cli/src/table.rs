//! A table of text: columns as wide as their widest cell, two spaces between them.

/// Rows under a heading.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    /// Columns aligned to the right: numbers.
    right: Vec<bool>,
}

impl Table {
    /// A table with these columns; one whose name starts with `>` is aligned to the right.
    pub(crate) fn new(columns: &[&str]) -> Table {
        let names = columns
            .iter()
            .map(|c| c.trim_start_matches('>').to_owned())
            .collect();
        Table {
            rows: vec![names],
            right: columns.iter().map(|c| c.starts_with('>')).collect(),
        }
    }

    /// Adds a row. Missing cells are empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Takes away the columns that are empty but for their names.
    pub(crate) fn without_empty_columns(mut self) -> Table {
        let has_cells = |column: usize| {
            let mut cells = self.rows[1..].iter().filter_map(|row| row.get(column));
            cells.any(|cell| !cell.is_empty())
        };
        let kept: Vec<bool> = (0..self.right.len()).map(has_cells).collect();
        let only = |column: usize| kept.get(column).copied().unwrap_or(true);
        for row in &mut self.rows {
            let mut column = 0..;
            row.retain(|_| column.next().is_some_and(only));
        }
        let mut column = 0..;
        self.right.retain(|_| column.next().is_some_and(only));
        self
    }

    /// The table, a line for each row, no space at the end of a line.
    pub(crate) fn render(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (&width, &right)) in widths.iter().zip(&self.right).enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                let gap = if column == 0 { "" } else { "  " };
                line.push_str(gap);
                if right {
                    line.push_str(&format!("{cell:>width$}"));
                } else {
                    line.push_str(&format!("{cell:<width$}"));
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_with_nothing_in_them_go() {
        let mut table = Table::new(&["name", ">a", "b", ">c"]);
        table.row(["x".into(), String::new(), String::new(), "1".into()]);
        table.row(["y".into(), String::new(), "2".into()]);
        let table = table.without_empty_columns();
        assert_eq!(table.render(), "name  b  c\nx        1\ny     2\n");
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["name", ">bytes", "type"]);
        table.row(["a".into(), "1".into(), "F32".into()]);
        table.row(["long".into(), "1000".into()]);
        assert_eq!(
            table.render(),
            "name  bytes  type\na         1  F32\nlong   1000\n"
        );
    }
}
