//! Archives that are deployed: found at the inventory's path, in the user's cache, or at Apache's mirrors; always checked.
//!
//! Invariant: what is given to a host has the SHA-512 that it must have, and is an archive of what it claims to be. A file in the
//! cache gets its name only after it was checked.

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256, Sha512};

use super::known;
use crate::{
    error::{Error, Result},
    inventory::{ApacheSettings, ArchiveSource},
    state::State,
};

/// Where Apache keeps its releases: the newest, then all.
const MIRRORS: [&str; 2] = ["https://dlcdn.apache.org/kafka", "https://archive.apache.org/dist/kafka"];
/// Largest archive, in bytes.
const MAX_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// What is read of the file that names a Java's version, at the most.
const MAX_RELEASE_BYTES: u64 = 64 * 1024;
/// Time without a byte after which a download is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// An archive that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// where it is here
    pub path: PathBuf,
    /// SHA-256, hex: its name in the hosts' stores
    pub sha256: String,
    /// the one directory that it holds
    pub top: String,
}

/// What was found out about a file, as long as it is the same file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Checked {
    size: u64,
    modified_ns: i128,
    sha512: String,
    sha256: String,
    top: String,
    /// the version of the Java that it holds; empty where none is named, `None` where it was not looked for
    #[serde(default)]
    java: Option<String>,
}

/// The user's cache: `$XDG_CACHE_HOME/septet`, or `~/.cache/septet`.
pub fn cache_dir() -> Result<PathBuf> {
    let dir =
        dirs::cache_dir().ok_or_else(|| Error::failed("there is no home directory for a cache").hint("set HOME or XDG_CACHE_HOME"))?;
    Ok(dir.join("septet"))
}

fn is_address(place: &str) -> bool {
    place.starts_with("https://") || place.starts_with("http://")
}

/// The directory that all entries of an archive lie in.
fn top_directory(path: &Path) -> Result<String> {
    let bad = |why: String| Error::failed(format!("{}: {why}", path.display())).hint("it must be a .tgz that holds one directory");
    let file = fs::File::open(path).map_err(|e| bad(e.to_string()))?;
    let mut head = [0; 2];
    let mut reader = std::io::BufReader::new(file);
    reader.read_exact(&mut head).map_err(|_| bad("is too short for an archive".into()))?;
    if head != [0x1f, 0x8b] {
        return Err(bad("not a gzip file".into()));
    }
    let file = fs::File::open(path).map_err(|e| bad(e.to_string()))?;
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::io::BufReader::new(file)).take(MAX_BYTES * 4));
    let mut entries = archive.entries().map_err(|e| bad(e.to_string()))?;
    let first = entries.next().ok_or_else(|| bad("is empty".into()))?.map_err(|e| bad(format!("not a tar archive: {e}")))?;
    let name = first.path().map_err(|e| bad(e.to_string()))?.into_owned();
    let top = name.components().find_map(|c| match c {
        std::path::Component::Normal(n) => Some(n.to_string_lossy().into_owned()),
        _ => None,
    });
    top.ok_or_else(|| bad("holds no directory".into()))
}

/// The version in the file `release` of a Java; empty if there is none.
fn java_version(path: &Path, top: &str) -> String {
    let wanted = Path::new(top).join("release");
    let find = || -> std::io::Result<String> {
        let file = std::io::BufReader::new(fs::File::open(path)?);
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file).take(MAX_BYTES * 4));
        for entry in archive.entries()? {
            let entry = entry?;
            let name: PathBuf = entry.path()?.components().filter(|c| matches!(c, std::path::Component::Normal(_))).collect();
            if name == wanted {
                let mut bytes = Vec::new();
                entry.take(MAX_RELEASE_BYTES).read_to_end(&mut bytes)?;
                let text = String::from_utf8_lossy(&bytes);
                let version = text.lines().find_map(|l| l.trim().strip_prefix("JAVA_VERSION="));
                return Ok(version.unwrap_or_default().trim_matches('"').to_owned());
            }
        }
        Ok(String::new())
    };
    // What cannot be read to its end names no version either.
    find().unwrap_or_default()
}

/// The number by which a Java is called: 17 of `17.0.15`, 8 of `1.8.0_412`.
fn java_major(version: &str) -> Option<u32> {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(|p| p.parse::<u32>().ok());
    match parts.next()?? {
        1 => parts.next()?,
        major => Some(major),
    }
}

/// Refuses a Java that is known to be too old for a version of Kafka.
fn java_is_new_enough(path: &Path, java: &str, kafka: &str) -> Result<()> {
    let least = super::apache::least_java(kafka);
    match java_major(java) {
        Some(major) if major < least => Err(Error::failed(format!(
            "{}: holds Java {java}, Apache Kafka {kafka} needs Java {least} or newer: no host was touched",
            path.display()
        ))
        .hint(format!("name an archive of Java {least} or newer with `java: {{archive: …}}`"))),
        _ => Ok(()),
    }
}

/// Where it is remembered, in the state directory.
const MEMORY: &str = "archives.json";

/// Digests and content of a file, the Java in it where that is asked for; remembered as long as size and time of change stay.
fn examine(path: &Path, java: bool) -> Result<Checked> {
    let fail = |e: std::io::Error| Error::failed(format!("{}: {e}", path.display()));
    let meta = fs::metadata(path).map_err(fail)?;
    if !meta.is_file() {
        return Err(Error::failed(format!("{} is not a file", path.display())));
    }
    if meta.len() > MAX_BYTES {
        return Err(Error::failed(format!("{}: {} bytes are over the limit of {MAX_BYTES}", path.display(), meta.len())));
    }
    let modified = meta.modified().map_err(fail)?.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i128);
    let memory = State::open()?;
    let key = fs::canonicalize(path).map_err(fail)?.display().to_string();
    let text = memory.read(MEMORY)?.unwrap_or_default();
    let mut known: std::collections::BTreeMap<String, Checked> = serde_json::from_str(&text).unwrap_or_default();
    let remembered = known.get(&key).filter(|c| c.size == meta.len() && c.modified_ns == modified).cloned();
    let mut checked = match remembered {
        Some(c) if c.java.is_some() || !java => return Ok(c),
        Some(c) => c,
        None => digests(path, meta.len(), modified)?,
    };
    if java {
        checked.java = Some(java_version(path, &checked.top));
    }
    known.insert(key, checked.clone());
    memory.write(MEMORY, &serde_json::to_string(&known).unwrap_or_default())?;
    Ok(checked)
}

fn digests(path: &Path, size: u64, modified_ns: i128) -> Result<Checked> {
    let fail = |e: std::io::Error| Error::failed(format!("{}: {e}", path.display()));
    let (mut long, mut short) = (Sha512::new(), Sha256::new());
    let mut file = fs::File::open(path).map_err(fail)?;
    let mut buffer = vec![0u8; 256 * 1024];
    loop {
        match file.read(&mut buffer).map_err(fail)? {
            0 => break,
            n => {
                long.update(&buffer[..n]);
                short.update(&buffer[..n]);
            }
        }
    }
    // Callers check the digest first; what is not an archive is reported there.
    let top = top_directory(path).unwrap_or_default();
    Ok(Checked { size, modified_ns, sha512: hex::encode(long.finalize()), sha256: hex::encode(short.finalize()), top, java: None })
}

/// Checks a file against the digest that it must have. Without one, it must be one that ships with Septet.
fn verify(path: &Path, wanted: Option<&str>, of: &str) -> Result<Archive> {
    let found = examine(path, false)?;
    match wanted {
        Some(w) if w != found.sha512 => {
            return Err(Error::failed(format!(
                "{}: its SHA-512 is {}…, that of {of} is {}…: it is damaged, or something else; it is not used",
                path.display(),
                &found.sha512[..16],
                &w[..16.min(w.len())]
            ))
            .hint("get it again, or correct `sha512:`"));
        }
        Some(_) => {}
        None => {
            return Err(Error::failed(format!("{}: no SHA-512 to check it against", path.display()))
                .hint(format!("if you trust it, write `sha512: {}`", found.sha512)));
        }
    }
    // Says itself what is wrong with it.
    let top = if found.top.is_empty() { top_directory(path)? } else { found.top };
    Ok(Archive { path: path.to_owned(), sha256: found.sha256, top })
}

/// Apache Kafka's archive as it is to be. Without `download`, a missing archive is `None`.
pub fn kafka(a: &ApacheSettings, download: bool, say: &(dyn Fn(String) + Send + Sync)) -> Result<Option<Archive>> {
    let of = format!("Apache Kafka {}", a.version);
    let wanted = a.sha512.as_deref().or(known::sha512(&a.version));
    let directory = super::apache::directory(&a.version);
    let file = format!("{directory}.tgz");
    let right = |archive: Archive| {
        if archive.top == directory {
            return Ok(Some(archive));
        }
        Err(Error::failed(format!("{}: holds `{}`, not `{directory}`: it is not an archive of {of}", archive.path.display(), archive.top))
            .hint("name the binary archive (Scala 2.13) of that version"))
    };
    match &a.archive {
        Some(place) if !is_address(place) => {
            let path = PathBuf::from(place);
            if !path.is_file() {
                return Err(Error::failed(format!("{place}: no such archive")).hint("check `archive:`"));
            }
            right(verify(&path, wanted, &of)?)
        }
        elsewhere => {
            let cached = cache_dir()?.join(&file);
            if cached.is_file() {
                return right(verify(&cached, wanted, &of)?);
            }
            if !download {
                return Ok(None);
            }
            let places: Vec<String> = match elsewhere {
                Some(address) => vec![address.clone()],
                None => MIRRORS.iter().map(|m| format!("{m}/{}/{file}", a.version)).collect(),
            };
            fetch(&places, &cached, wanted, &of, say)?;
            right(verify(&cached, wanted, &of)?)
        }
    }
}

/// A Java to unpack, for a version of Kafka. It is always fetched: what it holds is needed to render units.
pub fn java(source: &ArchiveSource, kafka: &str, say: &(dyn Fn(String) + Send + Sync)) -> Result<Archive> {
    let archive = find_java(source, say)?;
    let held = examine(&archive.path, true)?.java.unwrap_or_default();
    java_is_new_enough(&archive.path, &held, kafka)?;
    Ok(archive)
}

fn find_java(source: &ArchiveSource, say: &(dyn Fn(String) + Send + Sync)) -> Result<Archive> {
    let wanted = source.sha512.as_deref();
    if !is_address(&source.place) {
        let path = PathBuf::from(&source.place);
        if !path.is_file() {
            return Err(Error::failed(format!("{}: no such archive", source.place)).hint("check `java: {archive: …}`"));
        }
        return verify(&path, wanted, "this Java");
    }
    let name = source.place.rsplit('/').next().filter(|n| !n.is_empty()).unwrap_or("java.tgz");
    let cached = cache_dir()?.join(name);
    if !cached.is_file() {
        say("Java's archive is not here yet; units name what it holds".into());
        fetch(std::slice::from_ref(&source.place), &cached, wanted, "this Java", say)?;
    }
    verify(&cached, wanted, "this Java")
}

/// Downloads a file into the cache, from the first place that has it. It gets its name once its digest was checked.
fn fetch(places: &[String], to: &Path, wanted: Option<&str>, of: &str, say: &(dyn Fn(String) + Send + Sync)) -> Result<()> {
    let Some(wanted) = wanted else {
        return Err(Error::failed(format!("no SHA-512 to check {of} against; nothing was downloaded")).hint("give it as `sha512:`"));
    };
    let dir = to.parent().unwrap_or(Path::new("."));
    crate::state::private_dir(dir)?;
    let mut reasons = Vec::new();
    for place in places {
        say(format!("downloading {place}"));
        match download(place, dir, wanted, say) {
            Ok(file) => {
                file.persist(to).map_err(|e| Error::failed(format!("{}: {}", to.display(), e.error)))?;
                return Ok(());
            }
            Err(why) => reasons.push(format!("{place}: {why}")),
        }
    }
    Err(Error::failed(format!("{of} cannot be downloaded:\n  {}", reasons.join("\n  ")))
        .hint(format!("without a network, put the archive there: {}; or name it with `archive:`", to.display())))
}

fn download(place: &str, dir: &Path, wanted: &str, say: &(dyn Fn(String) + Send + Sync)) -> Result<tempfile::NamedTempFile, String> {
    let text = |e: std::io::Error| e.to_string();
    let config = ureq::Agent::config_builder().timeout_connect(Some(CONNECT_TIMEOUT)).timeout_recv_response(Some(STALL_TIMEOUT)).build();
    let agent: ureq::Agent = config.into();
    let answer = agent.get(place).call().map_err(|e| e.to_string())?;
    let total: u64 = answer.headers().get("content-length").and_then(|l| l.to_str().ok()?.parse().ok()).unwrap_or(0);
    let mut body = answer.into_body().into_with_config().limit(MAX_BYTES).reader();
    let mut file = tempfile::Builder::new().prefix(".septet-download-").tempfile_in(dir).map_err(text)?;
    let (mut hash, mut done, mut told) = (Sha512::new(), 0u64, Instant::now());
    let mut buffer = vec![0u8; 256 * 1024];
    loop {
        let n = body.read(&mut buffer).map_err(text)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        file.write_all(&buffer[..n]).map_err(text)?;
        done += n as u64;
        if told.elapsed() > Duration::from_secs(2) {
            told = Instant::now();
            let of = if total > 0 { format!(" of {} ({} %)", total >> 20, done * 100 / total) } else { String::new() };
            say(format!("   {} MiB{of}", done >> 20));
        }
    }
    file.as_file().sync_all().map_err(text)?;
    let got = hex::encode(hash.finalize());
    if got == wanted {
        Ok(file)
    } else {
        Err(format!("what came has SHA-512 {}…, not {}…", &got[..16], &wanted[..16.min(wanted.len())]))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tgz(dir: &Path, name: &str, entry: &str) -> PathBuf {
        let path = dir.join(name);
        let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(fs::File::create(&path).unwrap(), flate2::Compression::fast()));
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, entry, &b"x\n"[..]).unwrap();
        tar.into_inner().unwrap().finish().unwrap();
        path
    }

    fn java_tgz(dir: &Path, release: Option<&str>) -> PathBuf {
        let path = dir.join("java.tgz");
        let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(fs::File::create(&path).unwrap(), flate2::Compression::fast()));
        let mut add = |name: &str, text: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            tar.append_data(&mut header, name, text.as_bytes()).unwrap();
        };
        add("./jdk/bin/java", "x");
        add("./jdk/lib/release", "JAVA_VERSION=\"8\"\n");
        if let Some(text) = release {
            add("./jdk/release", text);
        }
        tar.into_inner().unwrap().finish().unwrap();
        path
    }

    #[test]
    fn an_archive_says_which_java_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = java_tgz(dir.path(), Some("IMPLEMENTOR=\"X\"\nJAVA_VERSION=\"17.0.15\"\nOS_ARCH=\"x86_64\"\n"));
        assert_eq!(top_directory(&path).unwrap(), "jdk");
        assert_eq!(java_version(&path, "jdk"), "17.0.15");
        assert_eq!(java_version(&java_tgz(dir.path(), Some("VERSION=1\n")), "jdk"), "");
        assert_eq!(java_version(&java_tgz(dir.path(), None), "jdk"), "");
        assert_eq!(java_version(&dir.path().join("none"), "jdk"), "");
        let majors = ["17.0.15", "21", "1.8.0_412", "24-ea", "", "x"].map(java_major);
        assert_eq!(majors, [Some(17), Some(21), Some(8), Some(24), None, None]);
    }

    #[test]
    fn a_java_that_is_too_old_is_refused() {
        let check = |java: &str, kafka: &str| java_is_new_enough(Path::new("/j.tgz"), java, kafka).map_err(|e| e.to_string());
        assert_eq!([check("17.0.15", "4.1.1"), check("11.0.2", "3.9.1"), check("", "4.1.1")], [Ok(()), Ok(()), Ok(())]);
        let e = check("11.0.2", "4.1.1").unwrap_err();
        assert!(e.contains("/j.tgz: holds Java 11.0.2, Apache Kafka 4.1.1 needs Java 17 or newer") && e.contains("hint:"), "{e}");
        assert!(check("1.8.0_412", "3.9.1").is_err());
    }

    #[test]
    fn what_is_no_archive_says_so() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(top_directory(&tgz(dir.path(), "a.tgz", "kafka_2.13-9.9.9/bin/x.sh")).unwrap(), "kafka_2.13-9.9.9");
        for (name, bytes, why) in [
            ("short", &b"\x1f"[..], "too short"),
            ("text", b"hello, this is text", "not a gzip file"),
            ("cut", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], ""),
        ] {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            let e = top_directory(&path).unwrap_err().to_string();
            assert!(e.contains(why), "{e}");
        }
    }
}
