//! `septet down`

use std::{
    io::IsTerminal,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use super::{Global, Parameters, Recorded, print_data, print_json};
use crate::{
    error::{Error, Kind, Result},
    identity::ClusterId,
    observed::Resource,
    operations::{self, Receipt, Removed, clock},
    playbook::Options,
    provider::Expired,
    report::plain_table,
};

fn table(list: &[Resource]) -> String {
    plain_table(&["kind", "name", "id"], list.iter().map(|r| vec![r.kind.to_owned(), r.name.clone(), r.id.chars().take(24).collect()]))
}

/// A line from standard input; the first Ctrl-C ends the wait for it, and nothing was removed then.
fn typed(interrupted: &AtomicBool) -> Result<String> {
    let (answer, answered) = mpsc::channel();
    // Nothing can end the reading of a terminal: it is left behind with its thread.
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = answer.send(std::io::stdin().read_line(&mut line).map(|_| line));
    });
    loop {
        if interrupted.load(Ordering::SeqCst) {
            return Err(Error::failed("interrupted; nothing was removed").kind(Kind::Interrupted).hint("`septet down` asks again"));
        }
        match answered.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => return Ok(line?),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(String::new()),
        }
    }
}

fn ask(cluster: &str, list: &[Resource], keep_data: bool, interrupted: &AtomicBool) -> Result<bool> {
    eprintln!("{}\n", table(list));
    if !std::io::stdin().is_terminal() {
        eprintln!("(standard input is not a terminal; the name is read from it all the same)");
    }
    let data = if keep_data { "; data stays" } else { ", with their data" };
    eprint!("This destroys all of these{data}. Type the cluster's name ({cluster}) to go on: ");
    let answer = typed(interrupted)?;
    if answer.is_empty() {
        return Err(Error::failed("not confirmed: type the cluster's name, or pass --yes; nothing was removed")
            .hint("`septet down --yes` removes it without a question"));
    }
    Ok(answer.trim() == cluster)
}

/// Asks whether expired clusters may be removed.
fn ask_expired(list: &[Expired], interrupted: &AtomicBool) -> Result<bool> {
    let rows = list.iter().map(|e| vec![e.cluster.to_string(), e.uuid.to_string(), clock(e.expires)]);
    eprintln!("{}\n", plain_table(&["cluster", "id", "expired"], rows));
    eprint!("This destroys all of these, with their data. Type `expired` to go on: ");
    Ok(typed(interrupted)?.trim() == "expired")
}

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// Keep the volumes with data; `septet up` finds them again
    #[arg(long)]
    keep_data: bool,
    /// Remove the data too, where it stays otherwise: hosts of provider `static`; with --all-expired, what --keep-data left
    #[arg(long, conflicts_with = "keep_data")]
    data: bool,
    /// Destroy every cluster of the inventory's provider whose `ttl` has expired, whatever its name
    #[arg(long, conflicts_with = "keep_data")]
    all_expired: bool,
    /// Leave out hosts that cannot be reached; what was installed on them stays (hosts of provider `static`)
    #[arg(long, conflicts_with = "all_expired")]
    ignore_unreachable: bool,
    /// Only the cluster with this id, where several have the inventory's name
    #[arg(long, value_name = "UUID", conflicts_with = "all_expired")]
    uuid: Option<String>,
}

impl Recorded for Arguments {
    fn parameters(&self) -> Parameters {
        let keep = self.keep_data.then(|| ("keep_data", "true".to_owned()));
        let data = self.data.then(|| ("data", "true".to_owned()));
        keep.into_iter().chain(data).chain(self.uuid.clone().map(|u| ("uuid", u))).collect()
    }
}

fn show(g: &Global, r: &Receipt) -> Result<()> {
    let rows = r.removed.iter().map(|x| {
        let id = x.resource.id.chars().take(24).collect();
        vec![x.resource.kind.to_owned(), x.resource.name.clone(), id, clock(x.removed_at)]
    });
    print_data(&format!("{}\n", plain_table(&["kind", "name", "id", "removed"], rows)))?;
    eprintln!(
        "\ndestroyed {} resources of cluster {} ({}); a listing by that id at {} finds {}",
        r.removed.len(),
        r.cluster,
        r.uuid,
        clock(r.listed_at),
        r.left.len()
    );
    for host in &r.unreachable {
        eprintln!("left out; what is installed there stays: {host}");
    }
    if !r.kept.is_empty() {
        let names: Vec<String> = r.kept.iter().map(|k| format!("{} ({})", k.id, k.name)).collect();
        eprintln!("kept, for the next `{}` to use again: {}", g.command("up"), names.join(", "));
    }
    Ok(())
}

/// Runs it.
pub async fn run(g: &Global, a: &Arguments, interrupted: &Arc<AtomicBool>) -> Result<()> {
    if a.all_expired {
        let agree = |list: &[Expired]| if g.yes { Ok(true) } else { ask_expired(list, interrupted) };
        let removed = operations::down_expired(&g.inventory()?, a.data, &g.reporter(false), interrupted, agree).await?;
        if g.json {
            print_json(&removed.iter().map(|r| &r.receipt).collect::<Vec<_>>())?;
        } else if removed.is_empty() {
            eprintln!("no cluster has expired");
        }
        return ended(g, removed);
    }
    let with_flag = Global { ignore_unreachable: a.ignore_unreachable, ..g.clone() };
    let cluster = with_flag.cluster(Options::default(), g.reporter(false), interrupted)?;
    let name = cluster.inventory.cluster.clone();
    let only = a.uuid.as_deref().map(|u| u.parse::<ClusterId>().map_err(|e| Error::invalid(format!("--uuid: {e}")))).transpose()?;
    // On hosts that Septet did not make, data goes only where that is asked for.
    let keep_data = a.keep_data || (cluster.provider.keeps_data() && !a.data);
    let agree = |list: &[Resource]| if g.yes { Ok(true) } else { ask(&name, list, keep_data, interrupted) };
    let removed = operations::down(&cluster, keep_data, only, agree).await?;
    match (removed.as_slice(), g.json) {
        ([], true) => print_json(&serde_json::json!({ "cluster": name, "removed": [], "left": [] }))?,
        ([], false) if keep_data => eprintln!("cluster {name} does not exist, except for data that is kept"),
        ([], false) => eprintln!("cluster {name} does not exist"),
        ([one], true) => print_json(&one.receipt)?,
        (several, true) => print_json(&several.iter().map(|r| &r.receipt).collect::<Vec<_>>())?,
        _ => {}
    }
    ended(g, removed)
}

/// Prints the receipts, also of removals that failed; then the first failure.
fn ended(g: &Global, removed: Vec<Removed>) -> Result<()> {
    if !g.json {
        removed.iter().try_for_each(|r| show(g, &r.receipt))?;
    }
    match removed.into_iter().find_map(|r| r.error) {
        Some(e) if g.json => {
            // Standard output has the receipts, and nothing else.
            eprintln!("error: {}", g.complete(e.clone()));
            Err(Error::failed("").kind(e.kind))
        }
        Some(e) => Err(e),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ctrl_c_at_the_prompt_ends_it_with_130() {
        let e = typed(&AtomicBool::new(true)).unwrap_err();
        assert_eq!(e.kind.exit_code(), 130);
        assert!(e.message.contains("nothing was removed"), "{e}");
    }
}
