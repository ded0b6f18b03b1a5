//! The list of hints, compared with the sources.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

const REGISTRY: &str = include_str!("registry.tsv");

/// Beginnings of what gives an error a hint.
const SITES: [&str; 3] = [".hint(", "hint: Some(", "refused("];

/// Beginnings and ends of hints that are given names.
const ASSIGNED: [(&str, &str); 4] =
    [("let hint = ", ";\n"), ("_HINT: &str = ", ";\n"), ("const NO_CLUSTER: &str = ", ";\n"), ("fn hint(e: &ApiError)", "\n}\n")];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") && path.file_name().is_some_and(|n| n != "tests.rs") {
            out.push(path);
        }
    }
}

/// What stands between a parenthesis that is open and the one that closes it, without runs of blanks.
fn argument(text: &str) -> String {
    let (mut depth, mut quoted, mut escaped, mut out) = (1, false, false, String::new());
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' | ']' | '}' if !quoted => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if !(c.is_whitespace() && out.ends_with(' ')) {
            out.push(if c.is_whitespace() { ' ' } else { c });
        }
    }
    out.trim().replace("\\ ", "")
}

/// Every hint of the sources: file below `src`, line, and what the hint is made of.
fn hints() -> Vec<(String, usize, String)> {
    let (mut files, mut out) = (Vec::new(), Vec::new());
    sources(&root().join("src"), &mut files);
    files.sort();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        let name = path.strip_prefix(root().join("src")).unwrap().display().to_string();
        for (site, end) in ASSIGNED {
            for (at, _) in text.match_indices(site) {
                let rest = &text[at + site.len()..];
                let body = rest.split(end).next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
                out.push((name.clone(), text[..at].matches('\n').count() + 1, body));
            }
        }
        for site in SITES {
            for (at, _) in text.match_indices(site) {
                let line_start = text[..at].rfind('\n').map_or(0, |i| i + 1);
                let before = &text[line_start..at];
                let definition = before.trim_start().starts_with("fn ") || before.contains("fn ") || before.trim_start().starts_with("//");
                // A hint that is handed on is another site's.
                let body = argument(&text[at + site.len()..]);
                let handed_on = ["hint", "h", "hint.into()", "e.hint.unwrap_or_default()"].contains(&body.as_str());
                if !definition && !handed_on && !body.is_empty() {
                    out.push((name.clone(), text[..at].matches('\n').count() + 1, body));
                }
            }
        }
    }
    out
}

struct Line<'a> {
    file: &'a str,
    hint: &'a str,
    /// `path::function`, more than one separated by blanks
    tests: Vec<&'a str>,
    /// `follows`, or `shows: ` and why nothing can be followed
    kind: &'a str,
}

fn lines() -> Vec<Line<'static>> {
    let fields = |l: &'static str| {
        let mut f = l.split('\t');
        let (file, hint, tests) = (f.next().unwrap(), f.next().unwrap(), f.next().unwrap_or_else(|| panic!("{l}: four columns")));
        let kind = f.next().unwrap_or_default();
        Line { file, hint, tests: tests.split(' ').collect(), kind }
    };
    REGISTRY.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(fields).collect()
}

#[test]
fn every_hint_has_a_test() {
    let (lines, hints) = (lines(), hints());
    let mut wrong = BTreeSet::new();
    for (file, line, body) in &hints {
        if !lines.iter().any(|l| l.file == file && body.contains(l.hint)) {
            wrong.insert(format!("src/{file}:{line}: no test is named for {body}"));
        }
    }
    for l in &lines {
        if !hints.iter().any(|(file, _, body)| l.file == file && body.contains(l.hint)) {
            wrong.insert(format!("src/{} has no such hint any more: {}", l.file, l.hint));
        }
        if l.kind != "follows" && !l.kind.starts_with("shows: ") {
            wrong.insert(format!("{}: {}: `follows`, or `shows: ` and why", l.file, l.hint));
        }
        for test in &l.tests {
            let (path, function) = test.rsplit_once("::").unwrap_or_else(|| panic!("{test} is not path::function"));
            let text = std::fs::read_to_string(root().join(path)).unwrap_or_default();
            if !text.contains(&format!("fn {function}(")) {
                wrong.insert(format!("{}: {}: there is no test {test}", l.file, l.hint));
            }
        }
    }
    assert!(hints.len() > 150, "only {} hints were found", hints.len());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.into_iter().collect::<Vec<_>>().join("\n"));
}
