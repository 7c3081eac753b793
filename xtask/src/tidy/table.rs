//! Reads the table of rooms from ARCHITECTURE.md.
//!
//! The page is where people read the rule, so it is where the rule is written: under its heading a
//! table of three columns, the top floor first. The last column says `everything below`, `nothing`,
//! or names rooms below.

use std::collections::BTreeSet;

use super::Finding;

/// The page that holds the table.
pub(super) const PAGE: &str = "ARCHITECTURE.md";
const HEADING: &str = "## Rooms of the engine";
const COLUMNS: [&str; 3] = ["room", "holds", "may use"];
const BELOW: &str = "everything below";
const NOTHING: &str = "nothing";

/// A row of the table.
#[derive(Debug, PartialEq)]
pub(super) struct Room {
    pub(super) name: String,
    /// 1-based, in the page.
    pub(super) line: usize,
    /// The rooms that it may use; `None` for all below it.
    pub(super) may_use: Option<BTreeSet<String>>,
}

/// The rows of the table in `page`, top floor first; or what is wrong with it.
pub(super) fn read(page: &str) -> Result<Vec<Room>, Finding> {
    let rows = rows(page)?;
    let names: Vec<String> = rows.iter().map(|row| name(&row.cells[0])).collect();
    let mut rooms = Vec::new();
    for (at, Row { line, cells }) in rows.into_iter().enumerate() {
        let wrong = |what: String| Finding::new(PAGE, line, what);
        let name = names[at].clone();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(wrong(format!("'{}' is no name of a room", cells[0])));
        }
        if names[..at].contains(&name) {
            return Err(wrong(format!("a second row for {name}")));
        }
        let may_use = may_use(&cells[2], &names[at + 1..]).map_err(wrong)?;
        rooms.push(Room {
            name,
            line,
            may_use,
        });
    }
    Ok(rooms)
}

/// Rooms in a row for people; `nothing` when there are none.
pub(super) fn list(rooms: &BTreeSet<String>) -> String {
    if rooms.is_empty() {
        return NOTHING.into();
    }
    rooms.iter().cloned().collect::<Vec<String>>().join(", ")
}

/// A line of a table.
struct Row {
    /// 1-based, in the page.
    line: usize,
    cells: Vec<String>,
}

/// The table's rows, head and rule left out.
fn rows(page: &str) -> Result<Vec<Row>, Finding> {
    let lines = || {
        page.lines()
            .enumerate()
            .map(|(at, line)| (at + 1, line.trim()))
    };
    let heading = lines().find(|(_, line)| *line == HEADING);
    let Some((heading, _)) = heading else {
        let what = format!("has no section '{HEADING}' with the table of rooms");
        return Err(Finding::new(PAGE, 0, what));
    };
    let section = lines()
        .skip(heading)
        .take_while(|(_, line)| !line.starts_with('#'));
    let table = section.skip_while(|(_, line)| !line.starts_with('|'));
    let table = table.take_while(|(_, line)| line.starts_with('|'));
    let mut rows = table.map(|(line, text)| Row {
        line,
        cells: cells(text),
    });
    let wrong = |line: usize, what: String| Finding::new(PAGE, line, what);
    if rows.next().is_none_or(|head| head.cells != COLUMNS) {
        let what = format!("'{HEADING}' needs a table: {}", COLUMNS.join(", "));
        return Err(wrong(heading, what));
    }
    let rows: Vec<Row> = rows.skip(1).collect();
    if rows.is_empty() {
        return Err(wrong(heading, "the table of rooms is empty".into()));
    }
    match rows.iter().find(|row| row.cells.len() != COLUMNS.len()) {
        Some(row) => Err(wrong(
            row.line,
            format!("{} columns, not {}", row.cells.len(), COLUMNS.len()),
        )),
        None => Ok(rows),
    }
}

fn cells(line: &str) -> Vec<String> {
    let inner = line.trim_matches('|');
    inner
        .split('|')
        .map(|cell| cell.trim().to_string())
        .collect()
}

/// A room's bare name: a folder may carry its slash and a file its ending.
fn name(cell: &str) -> String {
    let bare = cell.trim().trim_matches('`').trim_end_matches('/');
    bare.strip_suffix(".rs").unwrap_or(bare).to_string()
}

fn may_use(cell: &str, below: &[String]) -> Result<Option<BTreeSet<String>>, String> {
    match cell {
        BELOW => return Ok(None),
        NOTHING => return Ok(Some(BTreeSet::new())),
        _ => {}
    }
    let rooms: BTreeSet<String> = cell.split(',').map(name).collect();
    match rooms.iter().find(|room| !below.contains(room)) {
        Some(room) => Err(format!(
            "'{room}' is no room below: say '{BELOW}', '{NOTHING}' or name rooms"
        )),
        None => Ok(Some(rooms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(rows: &str) -> String {
        format!(
            "# A\n\n| room | other |\n\n## Rooms of the engine\n\nWhy.\n\n\
             | room | holds | may use |\n|---|---|---|\n{rows}\n## Next\n\n| not | a | row |\n"
        )
    }

    fn wrong(rows: &str) -> Finding {
        read(&page(rows)).unwrap_err()
    }

    #[test]
    fn rows_are_rooms_from_top_to_bottom() {
        let rooms = read(&page(
            "| `exec/` | runs | everything below |\n| plan | data | error |\n\
             | text | words | `error`, `files/` |\n| `files` | bytes | nothing |\n\
             | `error.rs` | errors | nothing |\n",
        ));
        // `text` stands above `files`, so it may name it.
        let rooms = rooms.unwrap();
        let names: Vec<&str> = rooms.iter().map(|room| room.name.as_str()).collect();
        assert_eq!(names, ["exec", "plan", "text", "files", "error"]);
        assert_eq!(rooms[0].line, 11);
        let uses: Vec<String> = rooms[1..]
            .iter()
            .map(|room| list(room.may_use.as_ref().unwrap()))
            .collect();
        assert_eq!(rooms[0].may_use, None);
        assert_eq!(uses, ["error", "error, files", "nothing", "nothing"]);
    }

    #[test]
    fn a_table_that_says_nothing_is_wrong() {
        assert_eq!(read("# A\n").unwrap_err().line, 0);
        assert!(wrong("").what.contains("empty"));
        let other_head = page("").replace("may use", "uses");
        assert!(
            read(&other_head)
                .unwrap_err()
                .what
                .contains("needs a table")
        );
    }

    #[test]
    fn rows_that_contradict_are_found_at_their_line() {
        let up = wrong("| a | x | nothing |\n| b | x | a |\n");
        assert_eq!(up.line, 12);
        assert!(up.what.contains("'a' is no room below"), "{}", up.what);
        assert!(wrong("| a | x | below |\n").what.contains("'below'"));
        assert!(
            wrong("| a | x | nothing |\n| a/ | x | nothing |\n")
                .what
                .contains("second row")
        );
        assert!(wrong("| a, b | x | nothing |\n").what.contains("no name"));
        assert!(wrong("| a | nothing |\n").what.contains("2 columns"));
    }
}
