//! The rooms of the engine: a staircase in which each may use only what is below it.
//!
//! ARCHITECTURE.md holds the table, one row a room, the top floor first; a room is a folder or a
//! file directly under `engine/src`. The code outside tests is held to it: a path that climbs, a
//! room without a row, a row without a room and a circle are findings. What `lib.rs` re-exports
//! counts as the room that it comes from, so no name of the root is a way around the stairs.

use std::collections::BTreeMap;

use super::Finding;
use super::circles::{self, Uses};
use super::paths::{self, Path, Reference};
use super::source::Tree;
use super::table::{self, PAGE, Room};

const SOURCE: &str = "engine/src/";
const ROOT: &str = "engine/src/lib.rs";
const CRATE: &str = "gannet_engine";

/// All findings about the engine's rooms.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let Some(page) = tree.text(PAGE) else {
        return vec![Finding::new(
            PAGE,
            0,
            "is missing: it holds the table of rooms",
        )];
    };
    let rooms = match table::read(page) {
        Ok(rooms) => rooms,
        Err(finding) => return vec![finding],
    };
    let names = Names::new(tree);
    let mut findings = rows(&rooms, &names.rooms);
    let mut uses = Uses::new();
    for (file, code) in tree.rust(|path| path.starts_with(SOURCE) && path != ROOT) {
        let user = room_of(file);
        let tokens = code.shipped();
        for reference in paths::references(CRATE, &paths::module(&file[SOURCE.len()..]), &tokens) {
            match names.room(&reference.path) {
                Target::Elsewhere => {}
                Target::Room(used) if used == user => {}
                Target::Room(used) => {
                    if let Some(why) = refusal(&rooms, user, &used) {
                        let path = reference.path.join("::");
                        let what = format!("{user} must not use {used} (crate::{path}): {why}");
                        findings.push(Finding::new(file, reference.line, what));
                    }
                    uses.entry(user.into()).or_default().insert(used);
                }
                Target::Root => {
                    let path = [&["crate".into()], &reference.path[..]].concat().join("::");
                    let what = format!("{user} names the root ({path}): name the room instead");
                    findings.push(Finding::new(file, reference.line, what));
                }
            }
        }
    }
    findings.extend(names.globs.iter().map(|&line| {
        let what = "a re-export of everything hides which room a name is from: list the names";
        Finding::new(ROOT, line, what)
    }));
    findings.extend(circles::check(&uses));
    findings
}

/// The room that a file under `engine/src` belongs to.
fn room_of(file: &str) -> &str {
    let rest = file.strip_prefix(SOURCE).unwrap_or(file);
    let top = rest.split_once('/').map_or(rest, |(top, _)| top);
    top.strip_suffix(".rs").unwrap_or(top)
}

/// Rooms and rows belong together.
fn rows(rooms: &[Room], found: &BTreeMap<String, String>) -> Vec<Finding> {
    let listed = |name: &str| rooms.iter().any(|room| room.name == name);
    let without_row = found.iter().filter(|(name, _)| !listed(name));
    let without_row = without_row.map(|(name, file)| {
        let what = format!("{PAGE} has no row for the room {name}");
        Finding::new(file, 0, what)
    });
    let without_room = rooms.iter().filter(|room| !found.contains_key(&room.name));
    let without_room = without_room.map(|room| {
        let what = format!("{SOURCE} has no room {}", room.name);
        Finding::new(PAGE, room.line, what)
    });
    without_row.chain(without_room).collect()
}

/// Why `user` must not use `used`, where the table has both and says so.
fn refusal(rooms: &[Room], user: &str, used: &str) -> Option<String> {
    let floor = |name: &str| rooms.iter().position(|room| room.name == name);
    let (own, other) = (floor(user)?, floor(used)?);
    if other < own {
        return Some(format!("{used} is above {user}"));
    }
    let allowed = rooms[own].may_use.as_ref()?;
    let may = || format!("the row of {user} allows {}", table::list(allowed));
    (!allowed.contains(used)).then(may)
}

/// What a path leads to.
#[derive(Debug, PartialEq)]
enum Target {
    Room(String),
    /// The root itself, or something that is defined in it.
    Root,
    /// Another crate.
    Elsewhere,
}

/// What the names at the crate's root stand for.
struct Names {
    /// Each room and one of its files.
    rooms: BTreeMap<String, String>,
    /// What `lib.rs` gives a name, by that name.
    aliases: BTreeMap<Path, Path>,
    /// Lines of `lib.rs` that re-export everything of a room right at the root.
    globs: Vec<usize>,
    /// The rooms of macros that lie at the root wherever they are written.
    macros: BTreeMap<String, String>,
}

impl Names {
    fn new(tree: &Tree) -> Names {
        let mut names = Names {
            rooms: BTreeMap::new(),
            aliases: BTreeMap::new(),
            globs: Vec::new(),
            macros: BTreeMap::new(),
        };
        let mut root = Vec::new();
        for (file, code) in tree.rust(|path| path.starts_with(SOURCE)) {
            let tokens = code.shipped();
            if file == ROOT {
                root = paths::references(CRATE, &Path::new(), &tokens);
                continue;
            }
            let room = room_of(file);
            if !code.is_test {
                names.rooms.entry(room.into()).or_insert(file.into());
            }
            for (at, token) in tokens.iter().enumerate() {
                if token.text == "macro_rules"
                    && let Some(name) = tokens.get(at + 2)
                {
                    names.macros.insert(name.text.into(), room.into());
                }
            }
        }
        for Reference { line, path, name } in root {
            let Some(name) = name.filter(|name| *name != path) else {
                continue;
            };
            if name.last().is_none_or(|last| last != "*") {
                names.aliases.insert(name, path);
            } else if let [module @ .., _] = &name[..]
                && !module.is_empty()
            {
                // A module of the root stands for what it re-exports.
                let star = usize::from(path.last().is_some_and(|last| last == "*"));
                names
                    .aliases
                    .insert(module.to_vec(), path[..path.len() - star].to_vec());
            } else if names.has_room(&path) {
                names.globs.push(line);
            }
        }
        names
    }

    /// Whether `path` leads into a room.
    fn has_room(&self, path: &[String]) -> bool {
        path.first()
            .is_some_and(|first| self.rooms.contains_key(first))
    }

    /// What `path`, from the crate's root, leads to.
    fn room(&self, path: &Path) -> Target {
        let mut path = path.clone();
        // A chain of names is as long as there are names at most; a circle of them ends here too.
        for _ in 0..=self.aliases.len() {
            let longest = (1..=path.len()).rev();
            let known = longest.map(|length| (length, self.aliases.get(&path[..length])));
            let known = known.filter_map(|(length, to)| Some((length, to?))).next();
            let Some((length, to)) = known else {
                return self.first(&path, false);
            };
            path = [&to[..], &path[length..]].concat();
            if !self.has_room(&path) {
                return self.first(&path, true);
            }
        }
        Target::Root
    }

    fn first(&self, path: &[String], was_alias: bool) -> Target {
        let Some(first) = path.first() else {
            return Target::Root;
        };
        if self.rooms.contains_key(first) {
            return Target::Room(first.clone());
        }
        match self.macros.get(first) {
            Some(room) if path.len() == 1 => Target::Room(room.clone()),
            _ if was_alias => Target::Elsewhere,
            _ => Target::Root,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    const TABLE: &str = "## Rooms of the engine\n\n| room | holds | may use |\n|---|---|---|\n\
                         | exec | runs | everything below |\n| plan | data | error |\n\
                         | text | words | everything below |\n| error | errors | nothing |\n";

    /// What `check` says about a small engine with `code` in `file`, whose root is `root`.
    fn says_of(root: &str, file: &str, code: &str) -> Vec<String> {
        let mut files = vec![
            (PAGE, TABLE),
            (ROOT, root),
            ("engine/src/exec/mod.rs", ""),
            ("engine/src/plan/mod.rs", ""),
            ("engine/src/text/mod.rs", ""),
            ("engine/src/error.rs", ""),
        ];
        files.retain(|(path, _)| *path != file);
        files.push((file, code));
        check(&Tree::of(&files))
            .iter()
            .map(|f| f.to_string())
            .collect()
    }

    fn says(file: &str, code: &str) -> Vec<String> {
        says_of(
            "pub mod exec;\npub use error::Error;\npub use exec::Cpu as Reference;\n",
            file,
            code,
        )
    }

    #[test]
    fn a_climb_is_found_where_it_stands() {
        let climbs = [
            "use crate::exec::Cpu;",
            "use crate::{error::Error, exec::{cpu::{Cpu}}};",
            "use super::super::exec::Cpu;",
            "use super::super::{exec as below};",
            "fn f() -> crate::exec::Cpu {}",
            "fn f() { let x = super::super::exec::cpu(); }",
            "use gannet_engine::exec;",
            "use crate::exec::*;",
            "use crate::Reference;",
            "#[cfg(any(test, unix))] use crate::exec::Cpu;",
        ];
        for code in climbs {
            let said = says("engine/src/plan/dump.rs", &format!("//! x\n\n{code}\n"));
            assert_eq!(said.len(), 1, "{code}: {said:?}");
            let start = "engine/src/plan/dump.rs:3: plan must not use exec (crate::";
            assert!(said[0].starts_with(start), "{code}: {said:?}");
            assert!(said[0].ends_with("exec is above plan"), "{code}: {said:?}");
        }
    }

    #[test]
    fn what_goes_down_or_says_nothing_to_the_compiler_is_quiet() {
        let quiet = [
            "use crate::error::Error;",
            "use crate::Error;",
            "use crate::plan::Buf; use super::builder; use self::dump;",
            "//! [`crate::exec::Cpu`] runs it.\n/// See [`crate::exec`].\n// crate::exec::Cpu\n/* use crate::exec; */",
            "const A: &str = \"use crate::exec::Cpu;\";\nconst B: &str = r#\"crate::exec::\"#;",
            "#[cfg(test)]\nmod tests {\n    use crate::exec::Cpu;\n    fn f() { crate::exec::g() }\n}",
            "#[cfg(test)]\nuse crate::exec::Cpu;",
            "pub(crate) fn f() { other::exec::g(); self.exec::<u8>() }",
            "use gannet_quant::exec::Cpu; use ::exec::Cpu;",
        ];
        for code in quiet {
            assert_eq!(says("engine/src/plan/dump.rs", code), [""; 0], "{code}");
        }
        let anywhere = "use crate::{exec, plan, text, error, Error};";
        assert_eq!(says("engine/src/exec/cpu/mod.rs", anywhere), [""; 0]);
        assert_eq!(
            says("engine/src/plan/tests.rs", "use crate::exec::Cpu;"),
            [""; 0]
        );
    }

    #[test]
    fn a_row_can_allow_less_than_everything_below() {
        let said = says("engine/src/plan/mod.rs", "use crate::text::Tokenizer;");
        let expected = "engine/src/plan/mod.rs:1: plan must not use text (crate::text::Tokenizer): \
                        the row of plan allows error";
        assert_eq!(said, [expected]);
    }

    #[test]
    fn rooms_and_rows_belong_together() {
        let said = says("engine/src/draw.rs", "");
        assert_eq!(
            said,
            ["engine/src/draw.rs: ARCHITECTURE.md has no row for the room draw"]
        );
        assert_eq!(says("engine/src/kv/pool.rs", "").len(), 1);
        assert_eq!(says("engine/src/kv/tests.rs", ""), [""; 0]);
        let tree = Tree::of(&[(PAGE, TABLE), ("engine/src/exec/mod.rs", "")]);
        assert_eq!(check(&tree).len(), 3);
        assert!(
            check(&tree)[0]
                .to_string()
                .contains(":6: engine/src/ has no room plan")
        );
        assert_eq!(check(&Tree::of(&[])).len(), 1);
        assert_eq!(check(&Tree::of(&[(PAGE, "# A\n")])).len(), 1);
    }

    #[test]
    fn a_circle_is_told_once() {
        let said = says(
            "engine/src/error.rs",
            "use crate::exec::A; use crate::exec::B;",
        );
        assert_eq!(said.len(), 2, "{said:?}");
        let tree = Tree::of(&[
            (PAGE, TABLE),
            ("engine/src/exec/mod.rs", "use crate::plan::A;"),
            ("engine/src/plan/mod.rs", "use crate::error::A;"),
            ("engine/src/text/mod.rs", "use crate::error::A;"),
            ("engine/src/error.rs", "use crate::exec::A;"),
        ]);
        let said: Vec<String> = check(&tree).iter().map(|f| f.to_string()).collect();
        assert_eq!(said.len(), 2, "{said:?}");
        assert_eq!(said[1], "engine/src: a circle of rooms: error, exec, plan");
    }

    #[test]
    fn a_module_of_the_root_is_the_room_that_it_re_exports() {
        let root = "pub mod internals { pub mod exec { pub use crate::exec::*; } }\n";
        let says = |file: &str, code: &str| says_of(root, file, code);
        let climbs = says("engine/src/plan/mod.rs", "use crate::internals::exec::Cpu;");
        assert_eq!(climbs.len(), 1, "{climbs:?}");
        assert!(climbs[0].contains("plan must not use exec"), "{climbs:?}");
        let descends = says("engine/src/exec/mod.rs", "use crate::internals::exec::Cpu;");
        assert_eq!(descends, [""; 0]);
    }

    #[test]
    fn the_root_is_no_way_around_the_stairs() {
        let root = "pub mod inner { pub use crate::exec; }\npub use exec::*;\n\
                    pub use gannet_gguf::Reader;\npub fn own() {}\n#[macro_export] macro_rules! m {}\n";
        let says = |code: &str| says_of(root, "engine/src/plan/mod.rs", code);
        let glob = "engine/src/lib.rs:2: a re-export of everything hides which room a name is from: \
                    list the names";
        assert_eq!(says("use crate::Reader;"), [glob]);
        let said = says("use crate::inner::exec::Cpu;");
        assert!(
            said[0].contains("plan must not use exec (crate::inner::exec::Cpu)"),
            "{said:?}"
        );
        for code in [
            "use crate::own;",
            "use crate as all;",
            "use crate::*;",
            "use crate::inner;",
        ] {
            let said = says(code);
            assert_eq!(said.len(), 2, "{code}: {said:?}");
            assert!(said[0].contains("plan names the root"), "{code}: {said:?}");
        }
    }

    #[test]
    fn a_macro_belongs_to_the_room_that_writes_it() {
        let code = "#[macro_export]\nmacro_rules! rows { () => {} }\nfn f() { crate::rows!() }";
        assert_eq!(says("engine/src/plan/mod.rs", code), [""; 0]);
        let tree = |user: &str| {
            let own = format!("{user} fn f() {{ crate::rows!() }}");
            Tree::of(&[
                (PAGE, TABLE),
                ("engine/src/exec/mod.rs", "macro_rules! rows { () => {} }"),
                ("engine/src/plan/mod.rs", &own),
                ("engine/src/text/mod.rs", ""),
                ("engine/src/error.rs", ""),
            ])
        };
        assert_eq!(check(&tree("")).len(), 1);
        assert_eq!(check(&tree("#[cfg(test)]")), []);
    }

    /// The table of the repository itself, with every import that climbs it planted in turn.
    #[test]
    fn the_real_table_refuses_every_climb() {
        let page = std::fs::read_to_string(workspace::root().join(PAGE)).unwrap();
        let rooms = table::read(&page).unwrap();
        let file = |room: &Room| format!("{SOURCE}{}/mod.rs", room.name);
        let planted = |user: &Room, line: &str| {
            let files: Vec<(String, String)> = rooms
                .iter()
                .map(|room| {
                    let code = if room == user { line } else { "" };
                    (file(room), format!("//! x\n{code}\n"))
                })
                .chain([(PAGE.to_string(), page.clone())])
                .collect();
            let files: Vec<(&str, &str)> = files.iter().map(|(p, t)| (&p[..], &t[..])).collect();
            check(&Tree::of(&files))
        };
        assert!(rooms.len() > 9, "{}", rooms.len());
        for (floor, user) in rooms.iter().enumerate() {
            for (other, used) in rooms.iter().enumerate().filter(|(_, used)| *used != user) {
                let found = planted(user, &format!("use crate::{}::Thing;", used.name));
                let climbs = other < floor;
                let allowed = user.may_use.as_ref();
                let is_allowed = !climbs && allowed.is_none_or(|rooms| rooms.contains(&used.name));
                assert_eq!(
                    found.is_empty(),
                    is_allowed,
                    "{} uses {}",
                    user.name,
                    used.name
                );
                if climbs {
                    assert_eq!(found.len(), 1, "{found:?}");
                    assert_eq!((found[0].path.clone(), found[0].line), (file(user), 2));
                    let both = format!("{} must not use {} ", user.name, used.name);
                    assert!(found[0].what.starts_with(&both), "{found:?}");
                }
            }
        }
    }

    /// One line planted in the repository as it is makes one finding more.
    #[test]
    fn a_climb_planted_in_the_real_tree_is_found() {
        let mut tree = Tree::read(&workspace::root()).unwrap();
        let before = check(&tree);
        let at = tree
            .files
            .iter()
            .position(|f| f.path == "engine/src/error.rs")
            .unwrap();
        let clean = tree.files[at].text.clone().unwrap();
        let line = clean.lines().position(|l| l.starts_with("use ")).unwrap() + 1;
        let mut dirty: Vec<&str> = clean.lines().collect();
        dirty.insert(line - 1, "use crate::exec::Planted;");
        tree.files[at].rust = Some(super::super::source::Rust::new(
            "error.rs",
            &dirty.join("\n"),
        ));
        let place = (String::from("engine/src/error.rs"), line);
        let after = check(&tree);
        let added: Vec<&Finding> = after
            .iter()
            .filter(|f| (f.path.clone(), f.line) == place && f.what.contains("Planted"))
            .collect();
        assert_eq!(added.len(), 1, "{after:?}");
        assert!(
            added[0].what.starts_with("error must not use exec "),
            "{added:?}"
        );
        assert!(before.iter().all(|f| !f.what.contains("Planted")));
    }
}
