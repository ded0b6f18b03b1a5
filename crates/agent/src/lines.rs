//! `lineinfile` and `blockinfile`: edits inside a file. The pure edit is a function over lines; the file is
//! then replaced as a whole.

use std::{cmp::Ordering, io::Read, path::Path};

use regex::Regex;
use septet_agent_protocol::{Attributes, Insert, Outcome};

use crate::{
    atomic::{self, FileError, Resolved, at},
    copy::diff,
    file::absolute,
    place::{Follow, Handle, find},
};

/// Largest file that is edited, in bytes.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The file that is edited.
pub struct Target<'a> {
    pub path: &'a str,
    pub create: bool,
    pub attributes: &'a Attributes,
    pub insert: &'a Insert,
}

fn pattern(text: &str) -> Result<Regex, FileError> {
    Regex::new(text).map_err(|e| FileError::Refused(format!("bad regular expression: {e}")))
}

fn read(path: &Path, found: &Handle) -> Result<String, FileError> {
    if found.meta.is_dir() {
        return Err(FileError::Refused(format!("{} is a directory", path.display())));
    }
    let (mut text, file) = (String::new(), found.read().map_err(at("read", path))?);
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(at("read", path))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(FileError::Refused(format!("{} is over {MAX_BYTES} bytes", path.display())));
    }
    Ok(text)
}

fn edit(target: &Target<'_>, check: bool, change: impl FnOnce(&mut Vec<String>) -> Result<(), FileError>) -> Result<Outcome, FileError> {
    let path = absolute(target.path)?;
    // As with Ansible a link stays a link and its target is edited; but only if nobody else can have made the link.
    let place = match find(&path, Follow::OWN) {
        Ok(place) => Some(place),
        // An earlier task would have made the directory by then.
        Err(e) if check && target.create && e.is_missing() => None,
        Err(e) => return Err(e),
    };
    let found = place.as_ref().and_then(|p| p.found.as_ref());
    let old = found.map(|f| read(&path, f)).transpose()?;
    if old.is_none() && !target.create {
        return Err(FileError::Refused(format!("{} does not exist (create: true makes it)", target.path)));
    }
    // Each line keeps its carriage return, and the last one its lack of a line end.
    let text = old.as_deref().unwrap_or("");
    let mut lines: Vec<String> = text.split_terminator('\n').map(str::to_owned).collect();
    let before = lines.clone();
    change(&mut lines)?;
    let attributes = Resolved::of(target.attributes, check)?;
    if let (true, Some(place), Some(found)) = (lines == before, &place, found) {
        if !attributes.differ(&found.meta) {
            return Ok(Outcome::ok());
        }
        let shown = format!("{}: {}\n", target.path, attributes.describe(&found.meta));
        if !check {
            attributes.apply(&place.dir, found, &path)?;
        }
        return Ok(Outcome::changed_if(true).with_diff(Some(shown)));
    }
    if lines.is_empty() && old.is_none() {
        return Ok(Outcome::ok());
    }
    let mut new = lines.iter().flat_map(|l| [l.as_str(), "\n"]).collect::<String>();
    if !text.is_empty() && !text.ends_with('\n') && lines.last() == before.last() {
        new.pop();
    }
    if let Some(place) = place.as_ref().filter(|_| !check) {
        atomic::replace(place, new.as_bytes(), &attributes, |_| Ok(()))?;
    }
    Ok(Outcome::changed_if(true).with_diff(Some(diff(&path, old.as_deref().map(str::as_bytes), new.as_bytes()))))
}

/// Where a new line goes. As in Ansible, these patterns see the carriage return at a line's end; that of `regexp` does not.
fn place(lines: &[String], insert: &Insert) -> Result<usize, FileError> {
    Ok(match insert {
        Insert::Eof => lines.len(),
        Insert::Bof => 0,
        Insert::After(p) => {
            let p = pattern(p)?;
            lines.iter().rposition(|l| p.is_match(l)).map_or(lines.len(), |i| i + 1)
        }
        Insert::Before(p) => {
            let p = pattern(p)?;
            lines.iter().rposition(|l| p.is_match(l)).unwrap_or(lines.len())
        }
    })
}

/// A line without its carriage return.
fn bare(line: &str) -> &str {
    line.trim_end_matches('\r')
}

/// The line that `lineinfile` adds, replaces or removes.
#[derive(Default)]
pub struct Line<'a> {
    pub line: Option<&'a str>,
    pub regexp: Option<&'a str>,
    /// `line` refers to groups of `regexp`; where nothing matches, nothing changes
    pub backrefs: bool,
    pub absent: bool,
}

/// Adds, replaces or removes one line.
pub fn lineinfile(target: &Target<'_>, wanted: &Line<'_>, check: bool) -> Result<Outcome, FileError> {
    let mut msg = String::new();
    let outcome = edit(target, check, |lines| {
        let before = lines.clone();
        change_line(lines, wanted, target.insert)?;
        msg = match lines.len().cmp(&before.len()) {
            Ordering::Greater => "line added".into(),
            Ordering::Less => format!("{} line(s) removed", before.len() - lines.len()),
            Ordering::Equal if *lines != before => "line replaced".into(),
            Ordering::Equal => String::new(),
        };
        Ok(())
    })?;
    Ok(outcome.with("msg", msg))
}

/// A line whose references to groups (`\1`, `\g<1>`, `\g<name>`) are replaced, as Python's `Match.expand` does.
fn expanded(line: &str, groups: &regex::Captures<'_>) -> Result<String, FileError> {
    let bad = |reference: &str| FileError::Refused(format!("{line:?}: the regular expression has no group {reference}"));
    let text = |m: Option<regex::Match<'_>>| m.map_or(String::new(), |m| m.as_str().to_owned());
    let (mut out, mut rest) = (String::new(), line);
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let (reference, behind) = match after.strip_prefix("g<").and_then(|a| a.split_once('>')) {
            Some(named) => named,
            None => after.split_at(after.bytes().take(2).take_while(u8::is_ascii_digit).count()),
        };
        rest = behind;
        match (reference.parse::<usize>(), reference) {
            (Ok(n), _) if n < groups.len() => out.push_str(&text(groups.get(n))),
            (Err(_), "") => {
                let escaped = rest.chars().next().ok_or_else(|| bad("behind the last backslash"))?;
                out.push(match escaped {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    '\\' => '\\',
                    other => return Err(FileError::Refused(format!("{line:?}: unknown escape \\{other}"))),
                });
                rest = &rest[1..];
            }
            (Err(_), name) => out.push_str(&text(Some(groups.name(name).ok_or_else(|| bad(name))?))),
            (Ok(_), _) => return Err(bad(reference)),
        }
    }
    Ok(out + rest)
}

fn change_line(lines: &mut Vec<String>, wanted: &Line<'_>, insert: &Insert) -> Result<(), FileError> {
    let regexp = wanted.regexp.map(pattern).transpose()?;
    let (line, regexp) = (wanted.line, regexp.as_ref());
    if wanted.absent {
        match (regexp, line) {
            (Some(p), _) => lines.retain(|l| !p.is_match(bare(l))),
            (None, Some(line)) => lines.retain(|l| bare(l) != line),
            (None, None) => {
                return Err(FileError::Refused("state=absent needs line or regexp".into()));
            }
        }
        return Ok(());
    }
    let line = line.ok_or_else(|| FileError::Refused("state=present needs line".into()))?;
    if let Some(i) = regexp.and_then(|p| lines.iter().rposition(|l| p.is_match(bare(l)))) {
        let groups = regexp.filter(|_| wanted.backrefs).and_then(|p| p.captures(bare(&lines[i])));
        let new = groups.map_or_else(|| Ok(line.to_owned()), |g| expanded(line, &g))?;
        if bare(&lines[i]) != new {
            lines[i] = new;
        }
    } else if wanted.backrefs {
        // As in Ansible: such a line is for replacing only.
    } else if !lines.iter().any(|l| bare(l) == line) {
        let at = place(lines, insert)?;
        lines.insert(at, line.to_owned());
    }
    Ok(())
}

/// A block between markers is there with this text, or gone.
pub fn blockinfile(target: &Target<'_>, block: &str, begin: &str, end: &str, check: bool) -> Result<Outcome, FileError> {
    edit(target, check, |lines| change_block(lines, block, begin, end, target.insert))
}

fn change_block(lines: &mut Vec<String>, block: &str, begin: &str, end: &str, insert: &Insert) -> Result<(), FileError> {
    let mut new: Vec<String> = Vec::new();
    if !block.is_empty() {
        new.push(begin.to_owned());
        new.extend(block.lines().map(str::to_owned));
        new.push(end.to_owned());
    }
    let first = lines.iter().position(|l| bare(l) == begin);
    let last = first.and_then(|i| lines[i..].iter().position(|l| bare(l) == end).map(|n| i + n));
    match (first, last) {
        (Some(a), Some(b)) => {
            lines.splice(a..=b, new);
        }
        (Some(_), None) => {
            return Err(FileError::Refused(format!("the line {begin:?} has no {end:?} behind it")));
        }
        _ if new.is_empty() => {}
        _ => {
            let at = place(lines, insert)?;
            lines.splice(at..at, new);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.split(' ').filter(|s| !s.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn lines_are_replaced_inserted_and_removed_once() {
        type Case = (&'static str, Option<&'static str>, Option<&'static str>, bool, Insert, &'static str);
        // (before, line, regexp, absent, insert, after)
        let cases: [Case; 8] = [
            ("a b", Some("c"), None, false, Insert::Eof, "a b c"),
            ("a b", Some("b"), None, false, Insert::Eof, "a b"),
            ("a=1 b=2 a=3", Some("a=9"), Some("^a="), false, Insert::Eof, "a=1 b=2 a=9"),
            ("a b", Some("c"), None, false, Insert::Bof, "c a b"),
            ("a b", Some("c"), None, false, Insert::After("^a".into()), "a c b"),
            ("a b", Some("c"), None, false, Insert::Before("^b".into()), "a c b"),
            ("a b a", None, Some("^a$"), true, Insert::Eof, "b"),
            ("a b a", Some("a"), None, true, Insert::Eof, "b"),
        ];
        for (before, line, regexp, absent, insert, after) in cases {
            let wanted = Line { line, regexp, absent, backrefs: false };
            let mut got = lines(before);
            for _ in 0..2 {
                change_line(&mut got, &wanted, &insert).unwrap();
                assert_eq!(got, lines(after), "{before:?} {line:?}");
            }
        }
    }

    #[test]
    fn a_line_may_refer_to_groups() {
        // (line, regexp, after); `a=1 b=2` before
        let cases = [
            (r"b=\g<1>0", r"^b=(\d+)$", Ok("a=1 b=20")),
            (r"\2=\1", r"^(\w)=(\d)$", Ok("a=1 2=b")),
            (r"b=\g<n>\\$1", r"^b=(?P<n>\d)$", Ok(r"a=1 b=2\$1")),
            (r"c=\1", r"^c=(.*)$", Ok("a=1 b=2")),
            (r"b=\2", r"^b=(\d)$", Err("no group 2")),
            (r"b=\g<x>", r"^b=(\d)$", Err("no group x")),
            (r"b=\q", r"^b=(\d)$", Err("unknown escape")),
            ("b=\\", r"^b=(\d)$", Err("last backslash")),
        ];
        for (line, regexp, after) in cases {
            let mut got = lines("a=1 b=2");
            let wanted = Line { line: Some(line), regexp: Some(regexp), backrefs: true, absent: false };
            let result = change_line(&mut got, &wanted, &Insert::Eof);
            match (result, after) {
                (Ok(()), Ok(after)) => assert_eq!(got, lines(after), "{line}"),
                (Err(e), Err(words)) => assert!(e.to_string().contains(words), "{line}: {e}"),
                (other, after) => panic!("{line}: {:?} {after:?}", other.map_err(|e| e.to_string())),
            }
        }
    }

    #[test]
    fn a_block_is_put_replaced_and_removed() {
        let mut got = lines("a z");
        change_block(&mut got, "x\ny", "<", ">", &Insert::After("a".into())).unwrap();
        assert_eq!(got, lines("a < x y > z"));
        change_block(&mut got, "q", "<", ">", &Insert::Eof).unwrap();
        assert_eq!(got, lines("a < q > z"));
        change_block(&mut got, "", "<", ">", &Insert::Eof).unwrap();
        assert_eq!(got, lines("a z"));
        let mut torn = lines("a < b");
        assert!(change_block(&mut torn, "q", "<", ">", &Insert::Eof).is_err());
    }
}
