//! `septet init`

use std::path::PathBuf;

use include_dir::DirEntry;

use super::Global;
use crate::{
    error::{Error, Result},
    project::shipped,
};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// Target directory [default: .]
    directory: Option<PathBuf>,
    /// Overwrite existing files
    #[arg(long)]
    force: bool,
}

fn files<'a>(dir: &'a include_dir::Dir<'a>, out: &mut Vec<&'a include_dir::File<'a>>) {
    for entry in dir.entries() {
        match entry {
            DirEntry::Dir(d) => files(d, out),
            DirEntry::File(f) => out.push(f),
        }
    }
}

/// Runs it. Nothing is written if one of the files is there already.
pub fn run(g: &Global, a: &Arguments) -> Result<()> {
    let root = a.directory.clone().unwrap_or_else(|| PathBuf::from("."));
    let mut all = Vec::new();
    for (kind, dir) in shipped() {
        let mut list = Vec::new();
        files(dir, &mut list);
        all.extend(list.into_iter().map(|f| (root.join(kind).join(f.path()), f.contents())));
    }
    let there: Vec<String> = all.iter().filter(|(p, _)| p.exists()).map(|(p, _)| p.display().to_string()).collect();
    if !there.is_empty() && !a.force {
        return Err(Error::failed(format!("there already: {}", there.join(", "))).hint("`--force` writes over them; nothing was written"));
    }
    for (path, bytes) in &all {
        let fail = |e: std::io::Error| Error::failed(format!("{}: {e}", path.display()));
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(fail)?;
        }
        std::fs::write(path, bytes).map_err(fail)?;
        eprintln!("wrote {}", path.display());
    }
    if g.json {
        let written: Vec<String> = all.iter().map(|(p, _)| p.display().to_string()).collect();
        super::print_json(&serde_json::json!({ "written": written }))?;
    }
    eprintln!("files here override those that ship with septet; remove a file to use the shipped one");
    Ok(())
}
