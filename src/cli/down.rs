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

use super::{Global, print_data, print_json};
use crate::{
    error::{Error, Kind, Result},
    operations::{self, Receipt, clock},
    playbook::Options,
    provider::{Expired, Resource},
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

fn ask(cluster: &str, list: &[Resource], interrupted: &AtomicBool) -> Result<bool> {
    eprintln!("{}\n", table(list));
    if !std::io::stdin().is_terminal() {
        eprintln!("(standard input is not a terminal; the name is read from it all the same)");
    }
    eprint!("All of this is removed, with its data. Type the cluster's name ({cluster}) to go on: ");
    let answer = typed(interrupted)?;
    if answer.is_empty() {
        return Err(Error::failed("nobody typed the cluster's name; nothing was removed").hint("`--yes` does not ask"));
    }
    Ok(answer.trim() == cluster)
}

/// Asks whether clusters whose time is over may go.
fn ask_expired(list: &[Expired], interrupted: &AtomicBool) -> Result<bool> {
    let rows = list.iter().map(|e| vec![e.cluster.to_string(), e.uuid.to_string(), clock(e.expires)]);
    eprintln!("{}\n", plain_table(&["cluster", "id", "over since"], rows));
    eprint!("All of these are removed, with their data. Type `expired` to go on: ");
    Ok(typed(interrupted)?.trim() == "expired")
}

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// Keep the volumes with data; `septet up` finds them again
    #[arg(long)]
    keep_data: bool,
    /// Remove every cluster of the inventory's provider whose `ttl` is over, whatever its name
    #[arg(long, conflicts_with = "keep_data")]
    all_expired: bool,
}

fn show(g: &Global, r: &Receipt) -> Result<()> {
    let rows = r.removed.iter().map(|x| {
        let id = x.resource.id.chars().take(24).collect();
        vec![x.resource.kind.to_owned(), x.resource.name.clone(), id, clock(x.removed_at)]
    });
    print_data(&format!("{}\n", plain_table(&["kind", "name", "id", "removed"], rows)))?;
    eprintln!(
        "\nremoved {} things of cluster `{}` ({}); a second listing by that id at {} finds {}",
        r.removed.len(),
        r.cluster,
        r.uuid,
        clock(r.listed_at),
        r.left.len()
    );
    if !r.kept.is_empty() {
        let names: Vec<String> = r.kept.iter().map(|k| format!("{} ({})", k.id, k.name)).collect();
        eprintln!("kept, for the next `{}` to use again: {}", g.command("up"), names.join(", "));
    }
    Ok(())
}

/// Runs it.
pub async fn run(g: &Global, a: &Arguments, interrupted: &Arc<AtomicBool>) -> Result<()> {
    if a.all_expired {
        let receipts =
            operations::down_expired(&g.inventory()?, interrupted, |list| if g.yes { Ok(true) } else { ask_expired(list, interrupted) })
                .await?;
        if g.json {
            return print_json(&receipts);
        }
        if receipts.is_empty() {
            eprintln!("no cluster's time is over");
        }
        return receipts.iter().try_for_each(|r| show(g, r));
    }
    let cluster = g.cluster(Options::default(), g.reporter(false), interrupted)?;
    let name = cluster.inventory.cluster.clone();
    let receipt = operations::down(&cluster, a.keep_data, |list| if g.yes { Ok(true) } else { ask(&name, list, interrupted) }).await?;
    match receipt {
        None if g.json => print_json(&serde_json::json!({ "cluster": name, "removed": [], "left": [] })),
        None => {
            eprintln!("there is nothing of cluster `{name}`{}", if a.keep_data { " beside data that is kept" } else { "" });
            Ok(())
        }
        Some(r) if g.json => print_json(&r),
        Some(r) => show(g, &r),
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
