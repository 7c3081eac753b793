//! Circles among the engine's rooms.
//!
//! A circle has a climb in it wherever the table lists all of its rooms; this names the whole of it,
//! and rooms without a row too.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;

/// Where findings are: no file of a circle is more to blame than another.
const PLACE: &str = "engine/src";

/// For each room, the rooms that it uses.
pub(super) type Uses = BTreeMap<String, BTreeSet<String>>;

/// Each circle in `uses`, once.
pub(super) fn check(uses: &Uses) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut told: BTreeSet<&str> = BTreeSet::new();
    for room in uses.keys() {
        let ahead = reach(uses, room);
        let returns = |other: &&str| reach(uses, other).contains(room.as_str());
        let circle: Vec<&str> = ahead.into_iter().filter(returns).collect();
        if !circle.is_empty() && told.insert(room) {
            told.extend(&circle);
            let what = format!("a circle of rooms: {}", circle.join(", "));
            findings.push(Finding::new(PLACE, 0, what));
        }
    }
    findings
}

/// Every room that `from` uses, directly or through others.
fn reach<'a>(uses: &'a Uses, from: &str) -> BTreeSet<&'a str> {
    let used = |room: &str| uses.get(room).into_iter().flatten().map(String::as_str);
    let mut reached = BTreeSet::new();
    let mut next: Vec<&str> = used(from).collect();
    while let Some(room) = next.pop() {
        if reached.insert(room) {
            next.extend(used(room));
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(uses: &[(&str, &str)]) -> Vec<String> {
        let mut all = Uses::new();
        for (room, used) in uses {
            all.entry(room.to_string())
                .or_default()
                .insert(used.to_string());
        }
        check(&all).into_iter().map(|f| f.what).collect()
    }

    #[test]
    fn stairs_have_no_circle() {
        assert_eq!(
            says(&[("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]),
            [""; 0]
        );
    }

    #[test]
    fn each_circle_is_told_once_without_what_hangs_on_it() {
        let one = [("a", "b"), ("b", "c"), ("c", "a"), ("x", "a"), ("c", "y")];
        assert_eq!(says(&one), ["a circle of rooms: a, b, c"]);
        let two = [("a", "b"), ("b", "a"), ("b", "c"), ("c", "d"), ("d", "c")];
        assert_eq!(
            says(&two),
            ["a circle of rooms: a, b", "a circle of rooms: c, d"]
        );
    }
}
