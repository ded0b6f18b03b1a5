//! `file`, `stat`, `slurp`: directories, links, attributes, and what is there.

use std::{
    ffi::OsStr,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use septet_agent_protocol::{Attributes, FileState, Outcome};

use crate::{
    atomic::{self, FileError, Resolved, at},
    place::{Directory, Follow, Handle, Place, find, make_directories, not_there},
    store,
};

/// Largest file that `slurp` returns, in bytes.
const MAX_SLURP_BYTES: u64 = 1024 * 1024;
/// Largest file that `stat` computes a checksum of, in bytes.
const MAX_CHECKSUM_BYTES: u64 = 64 * 1024 * 1024 * 1024;
/// Mode of new directories and files, less the umask, unless another is asked for.
const NEW_DIRECTORY_MODE: u32 = 0o755;
const NEW_FILE_MODE: u32 = 0o644;
/// How deep `recurse` goes.
const MAX_DEPTH: usize = 64;
/// Changes that are listed one by one.
const MAX_LISTED: usize = 20;

/// A path that starts at the root; anything else would depend on where the agent runs.
pub fn absolute(path: &str) -> Result<PathBuf, FileError> {
    if path.starts_with('/') && !path.contains('\0') {
        Ok(PathBuf::from(path))
    } else {
        Err(FileError::Refused(format!("{path:?} is not an absolute path")))
    }
}

/// Arguments of [`file`].
pub struct Ask<'a> {
    pub path: &'a str,
    pub state: FileState,
    pub src: Option<&'a str>,
    pub attributes: &'a Attributes,
    pub recurse: bool,
    pub follow: Option<bool>,
}

/// What an action changes, in words.
#[derive(Default)]
struct Changes {
    listed: Vec<String>,
    more: usize,
}

impl Changes {
    fn add(&mut self, path: &Path, what: &str) {
        if self.listed.len() < MAX_LISTED {
            self.listed.push(format!("{}: {what}\n", path.display()));
        } else {
            self.more += 1;
        }
    }

    fn outcome(self) -> Outcome {
        let mut text = self.listed.concat();
        if self.more > 0 {
            text += &format!("and {} more\n", self.more);
        }
        Outcome::changed_if(!text.is_empty()).with_diff(Some(text))
    }
}

/// A path's kind and attributes.
pub fn file(ask: &Ask<'_>, check: bool) -> Result<Outcome, FileError> {
    let path = absolute(ask.path)?;
    let attributes = Resolved::of(ask.attributes, check)?;
    let foreign = ask.follow == Some(true);
    // A link is meant itself where it is made or removed; else what it leads to, unless `follow: false` says otherwise.
    let last = !matches!(ask.state, FileState::Absent | FileState::Link) && ask.follow != Some(false);
    let follow = Follow { foreign, last };
    let mut changes = Changes::default();
    let place = match find(&path, follow) {
        Ok(place) => place,
        Err(e) if e.is_missing() && ask.state == FileState::Absent => return Ok(Outcome::ok()),
        Err(e) if e.is_missing() && ask.state == FileState::Directory => {
            return make_directory(&path, follow, &attributes, check).map(Changes::outcome);
        }
        // An earlier task would have made the directory by then.
        Err(e) if e.is_missing() && check && ask.state != FileState::File => {
            changes.add(&path, "made");
            return Ok(changes.outcome());
        }
        Err(e) => return Err(e),
    };
    match ask.state {
        FileState::Absent => return absent(&place, check),
        FileState::Directory if place.found.is_none() => {
            return make_directory(&path, follow, &attributes, check).map(Changes::outcome);
        }
        FileState::Link => {
            let src = ask.src.ok_or_else(|| FileError::Refused("state=link needs src".into()))?;
            link(&place, src, check, &mut changes)?;
        }
        FileState::Touch | FileState::Exists if place.found.is_none() => {
            changes.add(&path, "empty file made");
            if !check {
                let made = place.dir.create(&place.name, NEW_FILE_MODE);
                made.map_err(at("make", &path))?;
            }
        }
        FileState::Touch => {
            changes.add(&path, "times set");
            if let Some(found) = place.found.as_ref().filter(|_| !check) {
                let now = std::time::SystemTime::now();
                let times = std::fs::FileTimes::new().set_accessed(now).set_modified(now);
                found.read().and_then(|f| f.set_times(times)).map_err(at("set the times of", &path))?;
            }
        }
        FileState::Exists => {}
        FileState::Any if place.found.is_none() => return Err(at("stat", &path)(not_there())),
        FileState::Any => {}
        state => must_be(&place, state)?,
    }
    // Looked at again where something was made.
    let now = if check { place.found } else { place.dir.lookup(&place.name).map_err(at("stat", &path))? };
    if let Some(found) = now {
        set_attributes(&Target { dir: &place.dir, found, path }, &attributes, ask.recurse, check, &mut changes, 0)?;
    }
    Ok(changes.outcome())
}

fn must_be(place: &Place, state: FileState) -> Result<(), FileError> {
    let path = place.path();
    let Some(found) = &place.found else {
        return Err(at("stat", &path)(not_there()));
    };
    let (right, kind) = match state {
        FileState::Directory => (found.meta.is_dir(), "a directory"),
        _ => (found.meta.is_file(), "a regular file"),
    };
    match right {
        true => Ok(()),
        false if found.meta.is_symlink() => Err(FileError::Refused(format!("{} is a link and is not {kind}", path.display()))),
        false => Err(FileError::Refused(format!("{} is there and is not {kind}", path.display()))),
    }
}

fn absent(place: &Place, check: bool) -> Result<Outcome, FileError> {
    let path = place.path();
    let Some(found) = &place.found else {
        return Ok(Outcome::ok());
    };
    if place.is_root() {
        return Err(FileError::Refused("will not remove /".into()));
    }
    if place.name == "." {
        return Err(FileError::Refused(format!("{} does not name what is to be removed", path.display())));
    }
    if !check {
        let remove = if found.meta.is_dir() { place.dir.remove_tree(&place.name) } else { place.dir.unlink(&place.name) };
        remove.map_err(at("remove", &path))?;
    }
    Ok(Outcome::changed_if(true).with_diff(Some(format!("{}: removed\n", path.display()))))
}

/// A directory with its parents; those that are new get the attributes too, as with Ansible.
fn make_directory(path: &Path, follow: Follow, attributes: &Resolved, check: bool) -> Result<Changes, FileError> {
    let mut changes = Changes::default();
    changes.add(path, "directory made");
    if !check {
        let set = &mut |dir: &Directory, made: &Handle, shown: &Path| attributes.apply(dir, made, shown);
        make_directories(path, follow, NEW_DIRECTORY_MODE, set)?;
    }
    Ok(changes)
}

fn link(place: &Place, src: &str, check: bool, changes: &mut Changes) -> Result<(), FileError> {
    let path = place.path();
    match &place.found {
        Some(f) if f.meta.is_symlink() && f.target().is_ok_and(|t| t == src) => return Ok(()),
        Some(f) if !f.meta.is_symlink() => {
            return Err(FileError::Refused(format!("{} is there and is not a link", path.display())));
        }
        _ => {}
    }
    changes.add(&path, &format!("link to {src}"));
    if check { Ok(()) } else { atomic::replace_link(place, OsStr::new(src)) }
}

/// What attributes are set on: found in an opened directory.
struct Target<'a> {
    dir: &'a Directory,
    found: Handle,
    path: PathBuf,
}

fn set_attributes(
    target: &Target<'_>,
    attributes: &Resolved,
    recurse: bool,
    check: bool,
    changes: &mut Changes,
    depth: usize,
) -> Result<(), FileError> {
    let Target { dir, found, path } = target;
    if attributes.differ(&found.meta) {
        changes.add(path, &attributes.describe(&found.meta));
        if !check {
            attributes.apply(dir, found, path)?;
        }
    }
    if !recurse || !found.meta.is_dir() {
        return Ok(());
    }
    if depth >= MAX_DEPTH {
        return Err(FileError::Refused(format!("{} is more than {MAX_DEPTH} directories deep", path.display())));
    }
    let inside = found.enter(path.clone()).map_err(at("open the directory", path))?;
    for name in inside.names().map_err(at("list", path))? {
        let name = name.map_err(at("list", path))?;
        let path = path.join(&name);
        // What went away in between needs nothing.
        if let Some(found) = inside.lookup(&name).map_err(at("stat", &path))? {
            set_attributes(&Target { dir: &inside, found, path }, attributes, true, check, changes, depth + 1)?;
        }
    }
    Ok(())
}

/// What is at a path, in the form of Ansible's `stat`. It only reads, so every link on the way is followed. With a
/// checksum of a file, SHA-1 or SHA-256.
pub fn stat(path: &str, follow: bool, sha256: Option<bool>) -> Result<Outcome, FileError> {
    let place = absolute(path)?;
    let found = match find(&place, Follow { foreign: true, last: follow }) {
        Ok(found) => found.found,
        Err(e) if e.is_missing() => None,
        Err(e) => return Err(e),
    };
    let mut stat = serde_json::Map::new();
    stat.insert("exists".into(), found.is_some().into());
    if let Some(found) = found {
        let m = &found.meta;
        stat.insert("path".into(), path.into());
        stat.insert("isreg".into(), m.is_file().into());
        stat.insert("isdir".into(), m.is_dir().into());
        stat.insert("islnk".into(), m.is_symlink().into());
        stat.insert("size".into(), m.len().into());
        stat.insert("mode".into(), format!("{:04o}", m.mode() & 0o7777).into());
        stat.insert("uid".into(), m.uid().into());
        stat.insert("gid".into(), m.gid().into());
        let seconds = |s: i64, nanos: i64| s as f64 + nanos as f64 / 1e9;
        stat.insert("atime".into(), seconds(m.atime(), m.atime_nsec()).into());
        stat.insert("ctime".into(), seconds(m.ctime(), m.ctime_nsec()).into());
        stat.insert("mtime".into(), seconds(m.mtime(), m.mtime_nsec()).into());
        stat.insert("inode".into(), m.ino().into());
        stat.insert("dev".into(), m.dev().into());
        stat.insert("nlink".into(), m.nlink().into());
        for (bit, name) in ["xoth", "woth", "roth", "xgrp", "wgrp", "rgrp", "xusr", "wusr", "rusr"].iter().enumerate() {
            stat.insert((*name).into(), (m.mode() & (1 << bit) != 0).into());
        }
        stat.insert("isuid".into(), (m.mode() & 0o4000 != 0).into());
        stat.insert("isgid".into(), (m.mode() & 0o2000 != 0).into());
        for (name, flag) in [
            ("readable", nix::unistd::AccessFlags::R_OK),
            ("writeable", nix::unistd::AccessFlags::W_OK),
            ("executable", nix::unistd::AccessFlags::X_OK),
        ] {
            stat.insert(name.into(), nix::unistd::access(&place, flag).is_ok().into());
        }
        if let Ok(Some(u)) = nix::unistd::User::from_uid(m.uid().into()) {
            stat.insert("pw_name".into(), u.name.into());
        }
        if let Ok(Some(g)) = nix::unistd::Group::from_gid(m.gid().into()) {
            stat.insert("gr_name".into(), g.name.into());
        }
        if m.is_symlink()
            && let Ok(target) = found.target()
        {
            stat.insert("lnk_target".into(), target.to_string_lossy().into());
            let source = std::fs::canonicalize(&place).map_or_else(|_| target.to_string_lossy().into_owned(), |s| s.display().to_string());
            stat.insert("lnk_source".into(), source.into());
        }
        if let Some(sha256) = sha256.filter(|_| m.is_file() && m.len() <= MAX_CHECKSUM_BYTES) {
            let mut file = found.read().map_err(at("read", &place))?;
            let sum = if sha256 { store::sha256(&mut file) } else { sha1(&mut file) };
            stat.insert("checksum".into(), sum.map_err(at("read", &place))?.into());
        }
    }
    Ok(Outcome::ok().with("stat", stat))
}

fn sha1(from: &mut impl Read) -> std::io::Result<String> {
    use sha1::Digest as _;
    let mut hash = sha1::Sha1::new();
    let mut buffer = vec![0u8; 64 * 1024];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// The bytes of a file in Base64.
pub fn slurp(path: &str) -> Result<Outcome, FileError> {
    let place = absolute(path)?;
    let found = find(&place, Follow::OWN)?.found.ok_or_else(|| at("open", &place)(not_there()))?;
    if found.meta.is_dir() {
        return Err(FileError::Refused(format!("{path} is a directory")));
    }
    let mut text = Vec::new();
    let file = found.read().map_err(at("open", &place))?;
    file.take(MAX_SLURP_BYTES + 1).read_to_end(&mut text).map_err(at("read", &place))?;
    if text.len() as u64 > MAX_SLURP_BYTES {
        return Err(FileError::Refused(format!("{path} is over {MAX_SLURP_BYTES} bytes")));
    }
    let content = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &text);
    Ok(Outcome::ok().with("content", content).with("encoding", "base64").with("source", path))
}
