//! The layers of the orchestrator: who may use whom. What a module's tests use does not count.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Modules from the top to the bottom; those of one layer may use one another, but not in a circle.
const LAYERS: [&[&str]; 6] = [
    &["main", "lib"],
    &["cli"],
    &["operations"],
    &["plan", "observed", "events", "health", "provider", "playbook", "modules", "engine", "ssh", "report", "rolling", "journal"],
    &["inventory"],
    &["yaml", "template", "address", "project", "state", "identity", "releases", "error", "visible", "stop", "clock"],
];

/// The modules that a source file uses.
fn uses(text: &str) -> BTreeSet<String> {
    let code: String = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
    let code: String = code.lines().map(|l| l.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let mut out = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            out.insert(word(rest));
            continue;
        };
        // Each name at the first level of the braces.
        let (mut depth, mut fresh) = (1, true);
        for (i, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => fresh = true,
                c if c.is_ascii_lowercase() && fresh => {
                    out.insert(word(&list[i..]));
                    fresh = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    out
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

/// Which top-level modules each uses, with one file that does.
fn edges(dir: &Path, root: &Path, out: &mut BTreeMap<(String, String), String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            edges(&path, root, out);
            continue;
        }
        let shown = path.strip_prefix(root).unwrap().display().to_string();
        let module = shown.split(['/', '.']).next().unwrap().to_owned();
        for used in uses(&fs::read_to_string(&path).unwrap()) {
            if used != module {
                out.insert((module.clone(), used), shown.clone());
            }
        }
    }
}

fn layer(module: &str) -> usize {
    let found = LAYERS.iter().position(|l| l.contains(&module));
    found.unwrap_or_else(|| panic!("`{module}` is in no layer: give it one"))
}

#[test]
fn no_module_uses_one_above_it_and_none_goes_round_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = BTreeMap::new();
    edges(&root, &root, &mut all);
    assert!(all.len() > 50, "too few imports were found: {all:?}");
    let upward: Vec<String> = all
        .iter()
        .filter(|((from, to), _)| layer(from) > layer(to))
        .map(|((from, to), file)| format!("{from} uses {to} ({file})"))
        .collect();
    assert!(upward.is_empty(), "imports against the layers:\n  {}", upward.join("\n  "));
    // Modules that use nothing are taken away until none is left; what remains uses itself.
    let mut left = all.clone();
    loop {
        let using: BTreeSet<String> = left.keys().map(|(from, _)| from.clone()).collect();
        let before = left.len();
        left.retain(|(_, to), _| using.contains(to));
        if left.len() == before {
            break;
        }
    }
    let circle: Vec<String> = left.iter().map(|((from, to), file)| format!("{from} uses {to} ({file})")).collect();
    assert!(circle.is_empty(), "modules in a circle:\n  {}", circle.join("\n  "));
}

#[test]
fn imports_are_read_as_rust_reads_them() {
    let text = "use crate::{\n    error::{Error, Result},\n    health,\n    plan::{self, Step},\n};\nfn f() { crate::yaml::x(); } // crate::cli::x\n#[cfg(test)]\nmod tests {\n    use crate::operations;\n}\n";
    assert_eq!(uses(text).into_iter().collect::<Vec<_>>(), ["error", "health", "plan", "yaml"]);
}
