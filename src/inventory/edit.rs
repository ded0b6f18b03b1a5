//! Changing one value in an inventory and nothing else: comments and layout stay.

use std::path::Path;

use super::ApacheSettings;
use crate::{
    error::{Error, Result},
    releases::NEWEST,
    yaml::{self, Node, NodeKind},
};

/// Sets `prefix:` in a file. The file is replaced as a whole.
pub fn set_prefix(path: &Path, prefix: &str) -> Result<()> {
    let text = read(path)?;
    let new = replaced(path, &text, prefix)?;
    if new == text {
        return Ok(());
    }
    replace(path, &new)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::failed(format!("{}: {e}", path.display())))
}

/// Puts another text in the place of a file's, as a whole.
pub fn replace(path: &Path, new: &str) -> Result<()> {
    // A link stays one: what it leads to is changed.
    let path = &std::fs::canonicalize(path).map_err(|e| Error::failed(format!("{}: {e}", path.display())))?;
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let doing = |e: std::io::Error| Error::failed(format!("{}: {e}", path.display()));
    let mut temporary = tempfile::NamedTempFile::new_in(dir).map_err(doing)?;
    std::io::Write::write_all(&mut temporary, new.as_bytes()).map_err(doing)?;
    if let Ok(meta) = std::fs::metadata(path) {
        std::fs::set_permissions(temporary.path(), meta.permissions()).map_err(doing)?;
    }
    temporary.as_file().sync_all().map_err(doing)?;
    temporary.persist(path).map_err(|e| doing(e.error))?;
    Ok(())
}

/// The text of an inventory with another version of Apache Kafka; `a` is what it has.
pub fn with_version(path: &Path, a: &ApacheSettings, version: &str) -> Result<String> {
    let text = read(path)?;
    let by_hand = |why: &str| {
        Error::invalid(format!("{}: {why}", path.display())).hint(format!(
            "write `version: {version}` there yourself, with its `archive:` and `sha512:` where these are given, then `septet upgrade`"
        ))
    };
    if a.archive.is_some() || a.sha512.is_some() {
        return Err(by_hand(&format!("`archive:` or `sha512:` is that of version {}", a.version)));
    }
    let root = yaml::parse(path, text.clone())?;
    let mut fields = root.fields()?;
    let engine = fields.need("engine")?;
    let cannot = || by_hand("cannot change the version in its place");
    // `engine: apache` has no place for a version.
    if let NodeKind::Scalar(_) = &engine.kind {
        return put(&text, engine, &format!("{{apache: {{version: {version}}}}}"), Quotes::Drop).ok_or_else(cannot);
    }
    let apache = engine.fields()?.need("apache")?;
    if apache.is_null() {
        return Err(by_hand(&format!("no version is written there, so it is {NEWEST}")));
    }
    match apache.fields()?.take("version") {
        Some(node) => put(&text, node, version, Quotes::Keep).ok_or_else(cannot),
        None => Err(by_hand(&format!("no version is written there, so it is {NEWEST}"))),
    }
}

/// What becomes of the quotes around a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    Keep,
    Drop,
}

/// The text with another value in a scalar's place; `None` where the scalar does not stand there as it is.
fn put(text: &str, node: &Node, value: &str, quotes: Quotes) -> Option<String> {
    let old = node.as_written().ok()?;
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let line = lines.get_mut(node.line.checked_sub(1)?)?;
    let start = line.char_indices().nth(node.column.checked_sub(1)?).map(|(b, _)| b)?;
    let rest = &line[start..];
    // The value as it stands, with its quotes if it has any.
    let written = [format!("\"{old}\""), format!("'{old}'"), old].into_iter().find(|w| rest.starts_with(w.as_str()))?;
    let new = match written.chars().next() {
        Some(q @ ('"' | '\'')) if quotes == Quotes::Keep => format!("{q}{value}{q}"),
        _ => value.to_owned(),
    };
    line.replace_range(start..start + written.len(), &new);
    Some(lines.concat())
}

fn replaced(path: &Path, text: &str, prefix: &str) -> Result<String> {
    let root = yaml::parse(path, text.to_owned())?;
    let mut fields = root.fields()?;
    let node = fields.need("prefix")?;
    if node.as_written()? == prefix {
        return Ok(text.to_owned());
    }
    put(text, node, prefix, Quotes::Keep).ok_or_else(|| {
        node.error("cannot change this value in its place").hint(format!("write `prefix: {prefix}` yourself, then run `septet up`"))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_link_to_an_inventory_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("shared.yml"), dir.path().join("local.yml"));
        std::fs::write(&target, "cluster: a\nprefix: old\n").unwrap();
        std::os::unix::fs::symlink("shared.yml", &link).unwrap();
        set_prefix(&link, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "cluster: a\nprefix: new\n");
        assert!(link.symlink_metadata().unwrap().is_symlink());
    }

    #[test]
    fn only_the_value_changes() {
        for (before, after) in [
            (
                "# c\ncluster: a\nprefix: peter   # mine\nvars: {prefix: peter}\n",
                "# c\ncluster: a\nprefix: kisu   # mine\nvars: {prefix: peter}\n",
            ),
            ("prefix: \"peter\"\n", "prefix: \"kisu\"\n"),
            ("{cluster: x, prefix: 'peter'}", "{cluster: x, prefix: 'kisu'}"),
            ("prefix:   kisu\r\n", "prefix:   kisu\r\n"),
        ] {
            assert_eq!(replaced(Path::new("i.yml"), before, "kisu").unwrap(), after);
        }
    }

    #[test]
    fn only_the_version_changes() {
        let edited = |engine: &str| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("i.yml");
            std::fs::write(&path, format!("cluster: c   # ours\nprefix: p\nengine: {engine}\nvars: {{version: 3.9.1}}\n")).unwrap();
            let inventory = super::super::Inventory::read(&path).unwrap();
            let super::super::Engine::Apache(a) = &inventory.engine else { panic!("not Apache's") };
            with_version(&path, a, "4.1.1").map_err(|e| e.to_string()).map(|text| {
                let rest = text.strip_prefix("cluster: c   # ours\nprefix: p\nengine: ").unwrap();
                rest.strip_suffix("\nvars: {version: 3.9.1}\n").unwrap().to_owned()
            })
        };
        for (before, after) in [
            ("{apache: {version: 3.9.1, metadata: kraft}}", "{apache: {version: 4.1.1, metadata: kraft}}"),
            (
                "\n  apache:\n    heap: {broker: 1g}\n    version: '3.9.1'   # ok",
                "\n  apache:\n    heap: {broker: 1g}\n    version: '4.1.1'   # ok",
            ),
            ("apache   # the newest", "{apache: {version: 4.1.1}}   # the newest"),
            ("\"apache\"", "{apache: {version: 4.1.1}}"),
        ] {
            assert_eq!(edited(before).as_deref(), Ok(after));
        }
        for by_hand in ["{apache: {archive: /x/kafka_2.13-3.9.1.tgz}}", "{apache: }", "{apache: {metadata: kraft}}"] {
            let e = edited(by_hand).unwrap_err();
            assert!(e.contains("hint: write `version: 4.1.1` there yourself"), "{by_hand}: {e}");
        }
    }
}
