//! `septet down`

use std::{
    io::{BufRead, IsTerminal},
    sync::{Arc, atomic::AtomicBool},
};

use super::{Global, print_data, print_json};
use crate::{
    error::{Error, Result},
    operations,
    playbook::Options,
    provider::Resource,
    report::plain_table,
};

fn table(list: &[Resource]) -> String {
    plain_table(&["kind", "name", "id"], list.iter().map(|r| vec![r.kind.to_owned(), r.name.clone(), r.id.chars().take(24).collect()]))
}

fn ask(cluster: &str, list: &[Resource]) -> Result<bool> {
    eprintln!("{}\n", table(list));
    if !std::io::stdin().is_terminal() {
        eprintln!("(standard input is not a terminal; the name is read from it all the same)");
    }
    eprint!("All of this is removed, with its data. Type the cluster's name ({cluster}) to go on: ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(Error::failed("nobody typed the cluster's name; nothing was removed").hint("`--yes` does not ask"));
    }
    Ok(answer.trim() == cluster)
}

/// Runs it.
pub async fn run(g: &Global, interrupted: &Arc<AtomicBool>) -> Result<()> {
    let cluster = g.cluster(Options::default(), g.reporter(false), interrupted)?;
    let name = cluster.inventory.cluster.clone();
    let receipt = operations::down(&cluster, |list| if g.yes { Ok(true) } else { ask(&name, list) }).await?;
    match receipt {
        None if g.json => print_json(&serde_json::json!({ "cluster": name, "removed": [], "left": [] })),
        None => {
            eprintln!("there is nothing of cluster `{name}`");
            Ok(())
        }
        Some(r) if g.json => print_json(&r),
        Some(r) => {
            print_data(&format!("{}\n", table(&r.removed)))?;
            eprintln!(
                "\nremoved {} things of cluster `{}` ({}); a second listing by that id finds {}",
                r.removed.len(),
                r.cluster,
                r.uuid,
                r.left.len()
            );
            Ok(())
        }
    }
}
