//! `septet bundle`

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use flate2::{Compression, write::GzEncoder};
use serde_json::json;

use super::{Global, history, print_data, print_json};
use crate::{
    clock,
    error::{Error, Result},
    health::Checker,
    journal::Journal,
    operations::{self, Access, Cluster, Part, redacted},
    playbook::Options,
    report::health_table,
};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// The archive [default: septet-CLUSTER-TIME.tar.gz in this directory]
    file: Option<PathBuf>,
}

/// Executions whose steps and output are in the archive.
const EXECUTIONS: usize = 5;

/// What the hosts say. Without it the rest is worth sending all the same.
async fn hosts(cluster: &Cluster, parts: &mut Vec<Part>) -> Result<()> {
    let observed = cluster.provider.observe().await?;
    if observed.uuid.is_none() {
        return Ok(());
    }
    let access = Access::new(cluster, observed)?;
    let report = Checker { inventory: &cluster.inventory, observed: &access.observed, fleet: Some(&access.fleet) }.check().await;
    let json = serde_json::to_string_pretty(&report).unwrap_or_default();
    parts.push(Part { path: "health.txt".into(), text: redacted(&(health_table(&report) + "\n")) });
    parts.push(Part { path: "health.json".into(), text: redacted(&json) });
    parts.extend(operations::collect(cluster, &access).await);
    access.fleet.close().await;
    Ok(())
}

/// Runs it.
pub async fn run(g: &Global, a: &Arguments, interrupted: &Arc<AtomicBool>) -> Result<()> {
    let cluster = g.cluster(Options::default(), g.reporter(false), interrupted)?;
    let now = clock::now_ms();
    let top = format!("septet-{}-{}", cluster.inventory.cluster, clock::stamp(now));
    let file = a.file.clone().unwrap_or_else(|| PathBuf::from(format!("{top}.tar.gz")));
    if file.exists() {
        return Err(Error::failed(format!("{} exists", file.display())).hint("name another file, or remove that one"));
    }
    let mut parts = vec![about(&cluster, now), inventory(&cluster)];
    parts.extend(past(&cluster));
    let missing = hosts(&cluster, &mut parts).await.err();
    if let Some(e) = &missing {
        parts.push(Part { path: "provider.error".into(), text: redacted(&format!("{e}\n")) });
    }
    write(&file, &top, &parts, now)?;
    if g.json {
        let names: Vec<&str> = parts.iter().map(|p| p.path.as_str()).collect();
        print_json(&json!({ "file": file, "parts": names, "error": missing.as_ref().map(ToString::to_string) }))?;
        return missing.map_or(Ok(()), |_| Err(Error::failed("")));
    }
    print_data(&format!("{}\n", file.display()))?;
    eprintln!("{} files without secrets, as far as keys' names and formats show them: look through it before you send it", parts.len());
    match missing {
        Some(e) => Err(Error { message: format!("nothing of the hosts is in it: {}", e.message), ..e }),
        None => Ok(()),
    }
}

fn about(cluster: &Cluster, now_ms: i64) -> Part {
    let hosts: Vec<&str> = cluster.inventory.hosts.iter().map(|h| h.name.as_str()).collect();
    let text = json!({
        "septet": env!("CARGO_PKG_VERSION"), "made": clock::rfc3339(now_ms), "cluster": cluster.inventory.cluster,
        "engine": cluster.inventory.engine.name(), "provider": cluster.inventory.provider.name(), "hosts": hosts,
    });
    Part { path: "about.json".into(), text: format!("{text:#}\n") }
}

fn inventory(cluster: &Cluster) -> Part {
    let text = match &cluster.inventory.path {
        Some(path) => std::fs::read_to_string(path).unwrap_or_else(|e| format!("# {}: {e}\n", path.display())),
        None => crate::inventory::BUILT_IN.to_owned(),
    };
    Part { path: "inventory.yml".into(), text: redacted(&text) }
}

/// What the journal has of the cluster; why not, where it cannot be read.
fn past(cluster: &Cluster) -> Vec<Part> {
    let part = |path: String, text: String| Part { path, text: redacted(&text) };
    let read = || {
        let journal = Journal::open()?;
        let list = journal.list(100, Some(&cluster.inventory.cluster))?;
        let mut parts = vec![
            part("history.txt".into(), history::table(&list, clock::now_ms()) + "\n"),
            part("history.json".into(), serde_json::to_string_pretty(&list).unwrap_or_default()),
        ];
        for e in list.iter().take(EXECUTIONS) {
            parts.push(part(format!("history/{}.txt", e.execution), history::shown(&journal.details(e.execution)?, clock::now_ms())));
            parts.push(part(format!("history/{}.log", e.execution), history::replayed(journal.events(e.execution)?, true)));
        }
        Ok::<_, Error>(parts)
    };
    read().unwrap_or_else(|e| vec![part("history.error".into(), e.to_string())])
}

/// Writes the archive whole or not at all, readable by its owner alone.
fn write(file: &Path, top: &str, parts: &[Part], now_ms: i64) -> Result<()> {
    let fail = |e: std::io::Error| Error::failed(format!("{}: {e}", file.display()));
    let dir = file.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = tempfile::NamedTempFile::new_in(dir).map_err(fail)?;
    let mut tar = tar::Builder::new(GzEncoder::new(&mut temporary, Compression::default()));
    for part in parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(part.text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(now_ms / 1000).unwrap_or(0));
        header.set_cksum();
        tar.append_data(&mut header, format!("{top}/{}", part.path), part.text.as_bytes()).map_err(fail)?;
    }
    tar.into_inner().and_then(GzEncoder::finish).and_then(|f| f.flush()).map_err(fail)?;
    temporary.as_file().sync_all().map_err(fail)?;
    temporary.persist_noclobber(file).map_err(|e| fail(e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{io::Read, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn the_archive_is_whole_its_owners_and_writes_over_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.tar.gz");
        let parts = [Part { path: "hosts/h/state.txt".into(), text: "up\n".into() }];
        write(&file, "top", &parts, 1_000_000).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let bytes = std::fs::read(&file).unwrap();
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
        let mut entry = tar.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().display().to_string(), "top/hosts/h/state.txt");
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert_eq!(text, "up\n");
        assert!(write(&file, "top", &parts, 0).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
