//! `rename`: the new prefix is written to the inventory first, then `up` applies it. Cut off anywhere, either
//! command goes on from what it finds.

use std::path::{Path, PathBuf};

use super::{Cluster, UpOutcome, access::not_there, locked, up};
use crate::{
    error::{Error, Result},
    inventory::{self, BUILT_IN, Inventory},
};

/// Renames every host.
pub async fn rename(cluster: &mut Cluster, prefix: &str) -> Result<UpOutcome> {
    let renamed = cluster.inventory.with_prefix(prefix)?;
    // The provider looks for names that others may have: from here on, the new ones, and before the file is touched.
    cluster.provider = crate::provider::open(&renamed)?;
    // One lock for the file and for `up`: no other run sees the file and the cluster differ.
    let (name, provider) = (renamed.cluster.clone(), cluster.provider.clone());
    locked(&name, &*provider, rename_now(cluster, renamed, prefix)).await
}

async fn rename_now(cluster: &mut Cluster, renamed: Inventory, prefix: &str) -> Result<UpOutcome> {
    cluster.begin();
    let observed = cluster.provider.observe().await?;
    if observed.uuid.is_none() {
        return Err(not_there(&cluster.inventory));
    }
    observed.all_reached()?;
    for host in &renamed.hosts {
        if let Some(what) = observed.taken.get(&host.name) {
            return Err(crate::observed::foreign(&host.name, what));
        }
    }
    let path = match &cluster.inventory.path {
        Some(p) => p.clone(),
        None => write_out(&cluster.project.root)?,
    };
    inventory::set_prefix(&path, prefix)?;
    cluster.reporter.say(&format!("{}: prefix: {prefix}", path.display()));
    cluster.inventory = renamed;
    cluster.inventory.path = Some(path);
    up(cluster, None).await
}

/// The built-in inventory as a file, so that the new prefix is written down somewhere.
fn write_out(root: &Path) -> Result<PathBuf> {
    let path = root.join("inventories/local.yml");
    let write = || {
        std::fs::create_dir_all(root.join("inventories"))?;
        std::fs::write(&path, BUILT_IN)
    };
    write().map_err(|e| Error::failed(format!("{}: {e}", path.display())))?;
    // As it is found from here: an inventory of the same name may lie where the command is run.
    Ok(path.strip_prefix(".").map_or(path.clone(), Path::to_owned))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_out_lies_in_its_project() {
        let project = tempfile::tempdir().unwrap();
        let path = write_out(project.path()).unwrap();
        assert_eq!(path, project.path().join("inventories/local.yml"));
        inventory::set_prefix(&path, "anna").unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().contains("anna"));
    }
}
