//! Changing one value in an inventory and nothing else: comments and layout stay.

use std::path::Path;

use crate::{
    error::{Error, Result},
    yaml,
};

/// Sets `prefix:` in a file. The file is replaced as a whole.
pub fn set_prefix(path: &Path, prefix: &str) -> Result<()> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::failed(format!("{}: {e}", path.display())))?;
    let new = replaced(path, &text, prefix)?;
    if new == text {
        return Ok(());
    }
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

fn replaced(path: &Path, text: &str, prefix: &str) -> Result<String> {
    let root = yaml::parse(path, text.to_owned())?;
    let mut fields = root.fields()?;
    let node = fields.need("prefix")?;
    let old = node.as_written()?;
    if old == prefix {
        return Ok(text.to_owned());
    }
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let cannot =
        || node.error("cannot change this value in its place").hint(format!("write `prefix: {prefix}` yourself, then run `septet up`"));
    let line = lines.get_mut(node.line - 1).ok_or_else(cannot)?;
    let start = line.char_indices().nth(node.column - 1).map(|(b, _)| b).ok_or_else(cannot)?;
    let rest = &line[start..];
    // The value as it stands, with its quotes if it has any.
    let written = [format!("\"{old}\""), format!("'{old}'"), old].into_iter().find(|w| rest.starts_with(w.as_str())).ok_or_else(cannot)?;
    let new = match written.chars().next() {
        Some(q @ ('"' | '\'')) => format!("{q}{prefix}{q}"),
        _ => prefix.to_owned(),
    };
    line.replace_range(start..start + written.len(), &new);
    Ok(lines.concat())
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
}
