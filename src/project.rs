//! Where playbooks, templates and files come from: a directory of the user's, else what ships inside the program.

use std::{
    borrow::Cow,
    io::Read,
    path::{Component, Path, PathBuf},
};

use include_dir::{Dir, include_dir};
use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Result},
    yaml::{self, Node},
};

static PLAYBOOKS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/playbooks");
static TEMPLATES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/templates");
static INVENTORIES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/inventories");

/// The directories that ship inside the program.
pub fn shipped() -> [(&'static str, &'static Dir<'static>); 3] {
    [("inventories", &INVENTORIES), ("playbooks", &PLAYBOOKS), ("templates", &TEMPLATES)]
}

/// A project directory over the shipped files.
#[derive(Debug, Clone)]
pub struct Project {
    /// where the user's files are looked for
    pub root: PathBuf,
}

/// A file that was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// as shown to the user
    pub path: PathBuf,
    /// where it lies on this machine; `None` for a file that ships inside the program
    pub disk: Option<PathBuf>,
    bytes: Cow<'static, [u8]>,
}

impl Found {
    /// The directory that it lies in on this machine.
    pub fn dir(&self) -> Option<PathBuf> {
        let parent = self.disk.as_ref()?.parent()?;
        Some(if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() })
    }
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
    /// Its text.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.bytes).map_err(|_| Error::invalid(format!("{}: is not UTF-8", self.path.display())))
    }
    /// Its YAML.
    pub fn yaml(&self) -> Result<Node> {
        yaml::parse(&self.path, self.text()?.to_owned())
    }
}

/// Largest file that is copied or rendered, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024 * 1024;

/// Most bytes and files of a directory that a digest is made of.
const MAX_DIGEST_BYTES: u64 = 256 * 1024 * 1024;
const MAX_DIGEST_FILES: usize = 10_000;

/// All files below a directory, sorted; links are followed for files only, so that none leads in a circle.
fn own_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let (mut out, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::failed(format!("{}: {e}", dir.display()))),
        };
        for entry in entries {
            let entry = entry.map_err(|e| Error::failed(format!("{}: {e}", dir.display())))?;
            let path = entry.path();
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                dirs.push(path);
            } else if path.is_file() {
                out.push(path);
            }
            if out.len() + dirs.len() > MAX_DIGEST_FILES {
                return Err(Error::failed(format!("{}: more than {MAX_DIGEST_FILES} files", dir.display())));
            }
        }
    }
    out.sort();
    Ok(out)
}

/// A digest of a file's bytes, which may be many.
fn digest_of(path: &Path) -> std::io::Result<[u8; 32]> {
    let (mut file, mut hash, mut piece) = (std::fs::File::open(path)?, Sha256::new(), vec![0; 64 * 1024]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hash.finalize().into()),
            n => hash.update(&piece[..n]),
        }
    }
}

impl Project {
    /// Where the user may have a file, before what ships and after it. Templates and files of ours have plain names, such
    /// as `hosts`: a stray file of that name must not take their place.
    fn candidates(&self, kind: &str, name: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let (as_named, in_root, in_kind) = (name.to_owned(), self.root.join(name), self.root.join(kind).join(name));
        if name.is_absolute() {
            (vec![as_named], Vec::new())
        } else if kind == "playbooks" {
            (vec![in_root, as_named, in_kind], Vec::new())
        } else if name.starts_with(kind) {
            (vec![in_root, in_kind], vec![as_named])
        } else {
            (vec![in_kind], vec![in_root, as_named])
        }
    }

    fn shipped(kind: &str, name: &Path) -> Option<Found> {
        let (_, dir) = shipped().into_iter().find(|(k, _)| *k == kind)?;
        let inner = name.strip_prefix(kind).unwrap_or(name);
        if inner.components().any(|c| !matches!(c, Component::Normal(_))) {
            return None;
        }
        let file = dir.get_file(inner)?;
        Some(Found { path: Path::new(kind).join(inner), disk: None, bytes: Cow::Borrowed(file.contents()) })
    }

    /// A digest over the playbooks and templates that ship, and the project's own, with its files and variables.
    pub fn digest(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for kind in ["files", "vars"] {
            for path in own_files(&self.root.join(kind))? {
                let name = path.strip_prefix(&self.root).unwrap_or(&path).to_string_lossy().into_owned();
                hash.update((name.len() as u64).to_be_bytes());
                hash.update(name);
                hash.update(digest_of(&path).map_err(|e| Error::failed(format!("{}: {e}", path.display())))?);
            }
        }
        let mut add = |name: &str, bytes: &[u8]| {
            for part in [name.as_bytes(), bytes] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
        };
        for (kind, dir) in [("playbooks", &PLAYBOOKS), ("templates", &TEMPLATES)] {
            for file in dir.files() {
                add(&file.path().to_string_lossy(), file.contents());
            }
            let mut left = MAX_DIGEST_BYTES;
            for path in own_files(&self.root.join(kind))? {
                let size = std::fs::metadata(&path).map_or(0, |m| m.len());
                left = left.checked_sub(size).ok_or_else(|| {
                    Error::failed(format!(
                        "{}: its files are over the limit of {} MiB",
                        self.root.join(kind).display(),
                        MAX_DIGEST_BYTES >> 20
                    ))
                })?;
                let bytes = std::fs::read(&path).map_err(|e| Error::failed(format!("{}: {e}", path.display())))?;
                add(&path.strip_prefix(&self.root).unwrap_or(&path).to_string_lossy(), &bytes);
            }
        }
        Ok(hex::encode(hash.finalize()))
    }

    /// Whether there is such a file.
    pub fn exists(&self, kind: &str, name: &Path) -> bool {
        let (before, after) = self.candidates(kind, name);
        before.iter().chain(&after).any(|p| p.is_file()) || Self::shipped(kind, name).is_some()
    }

    /// Finds a file: a playbook as it is named, then in the project, then among the shipped; others first in the project's
    /// directory of their kind.
    pub fn find(&self, kind: &str, name: &Path, at: Option<&Node>) -> Result<Found> {
        let (before, after) = self.candidates(kind, name);
        let shipped = Self::shipped(kind, name);
        let after = after.into_iter().filter(|_| shipped.is_none());
        for path in before.into_iter().chain(after) {
            if path.is_file() {
                return self.open(kind, path, name.is_absolute());
            }
        }
        if let Some(found) = shipped {
            return Ok(found);
        }
        let e = Error::invalid(format!("no file `{}`", name.display()))
            .hint(format!("searched {} and its {kind}/, and the files that ship with septet", self.root.display()));
        Err(match at {
            Some(n) => e.at(n.place()),
            None => e,
        })
    }

    /// The same for a task, which looks first beside its own file and its playbook: in `templates/` or `files/` there, then
    /// right there.
    pub fn find_from(&self, dirs: &[PathBuf], kind: &str, name: &Path, at: Option<&Node>) -> Result<Found> {
        if name.is_relative() {
            // A plain name of a file that ships is that file, wherever a stray file of that name lies.
            let ships = Self::shipped(kind, name).is_some();
            for dir in dirs {
                let beside = [Some(dir.join(kind).join(name)), Some(dir.join(name)).filter(|_| !ships)];
                if let Some(path) = beside.into_iter().flatten().find(|p| p.is_file()) {
                    return self.open(kind, path, false);
                }
            }
        }
        let found = self.find(kind, name, at);
        let places: Vec<String> = dirs.iter().map(|d| d.join(kind).display().to_string()).collect();
        found.map_err(|e| match places.is_empty() || e.hint.is_none() {
            true => e,
            false => e.hint(format!(
                "searched {}, {} and its {kind}/, and the files that ship with septet",
                places.join(", "),
                self.root.display()
            )),
        })
    }

    fn open(&self, kind: &str, path: PathBuf, absolute: bool) -> Result<Found> {
        let size = std::fs::metadata(&path).map_or(0, |m| m.len());
        let limit = if kind == "playbooks" { 16 * 1024 * 1024 } else { MAX_FILE_BYTES };
        if size > limit {
            return Err(Error::invalid(format!("{}: {size} bytes are over the limit of {limit}", path.display())));
        }
        let bytes = std::fs::read(&path).map_err(|e| Error::invalid(format!("{}: {e}", path.display())))?;
        let shown = path.strip_prefix(&self.root).unwrap_or(&path).to_owned();
        Ok(Found { path: if absolute { path.clone() } else { shown }, disk: Some(path), bytes: bytes.into() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_digest_is_of_all_that_plays_read() {
        let dir = tempfile::tempdir().unwrap();
        let project = Project { root: dir.path().to_owned() };
        let mut seen = vec![project.digest().unwrap()];
        for file in ["playbooks/a.yml", "templates/t", "files/etc/f", "vars/v.yml"] {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            for text in ["one", "two"] {
                std::fs::write(&path, text).unwrap();
                let digest = project.digest().unwrap();
                assert!(!seen.contains(&digest), "{file}");
                seen.push(digest);
            }
        }
        assert_eq!(project.digest().unwrap(), *seen.last().unwrap());
    }
}
