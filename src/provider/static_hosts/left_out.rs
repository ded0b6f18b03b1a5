//! Hosts that a removal leaves out, since they could not be reached and that was asked for.
//!
//! Invariant: the first look for a removal decides which they are. One that answers later is not removed from, since what is on it was
//! never shown; and one that goes away later is an error, since what is left on it is not known.

use std::collections::BTreeMap;

use super::{Probe, StaticHosts, Wanted, observe::is_of_one_host};
use crate::{
    error::{Error, Result},
    inventory::HostId,
    ssh::SshError,
};

/// The hosts, each with the reason. `None` until a look has decided.
#[derive(Debug, Default)]
pub(super) struct LeftOut(Option<BTreeMap<HostId, String>>);

impl LeftOut {
    /// Whether a host is left out.
    pub fn has(&self, id: HostId) -> bool {
        self.0.as_ref().is_some_and(|hosts| hosts.contains_key(&id))
    }

    /// Why hosts are left out, by host.
    pub fn reasons(&self) -> Vec<String> {
        self.0.iter().flat_map(|hosts| hosts.values().cloned()).collect()
    }

    /// What hosts answered that are not left out. One that cannot be reached is an error, since it could hold anything; or it is left out
    /// from now on, where this is the first look and `ignore` asks for that.
    pub fn sort_out<'a>(&mut self, answers: Vec<(&'a Wanted, Result<Probe, SshError>)>, ignore: bool) -> Result<Vec<(&'a Wanted, Probe)>> {
        let may_leave_out = ignore && self.0.is_none();
        let (mut out, mut left_out, mut first) = (Vec::new(), BTreeMap::new(), None);
        for (wanted, answer) in answers {
            match answer {
                Ok(probe) => out.push((wanted, probe)),
                Err(e) => {
                    let error = StaticHosts::cannot_reach(wanted, &e);
                    if !is_of_one_host(&e) {
                        return Err(error);
                    }
                    if !may_leave_out {
                        return Err(with_way_out(error, ignore));
                    }
                    left_out.insert(wanted.id, error.message.clone());
                    first.get_or_insert(error);
                }
            }
        }
        // Without any host nothing would be removed and all would seem gone.
        if let Some(e) = first.filter(|_| out.is_empty()) {
            return Err(e);
        }
        self.0.get_or_insert(left_out);
        Ok(out)
    }
}

/// The error that a host cannot be reached, with how the others are removed all the same.
fn with_way_out(error: Error, ignored: bool) -> Error {
    let way = match ignored {
        false => "or leave it out with `septet down --ignore-unreachable`: what was installed on it stays there",
        true => "or run the same command again, which leaves it out if it cannot be reached then",
    };
    let hint = error.hint.as_ref().map_or_else(|| format!("start it, {way}"), |h| format!("{h}; {way}"));
    error.hint(hint)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::inventory::{Group, StaticHost};

    fn hosts() -> Vec<Wanted> {
        let host = |index: u16| Wanted {
            id: HostId { group: Group::BROKERS, index },
            name: format!("p-kafka0{index}"),
            host: StaticHost { target: format!("10.0.0.{index}"), ..StaticHost::default() },
        };
        (1..=3).map(host).collect()
    }

    /// Looks at the hosts that are not left out, of which some are away: the numbers of those that are removed from.
    fn look(left_out: &mut LeftOut, away: &[u16], ignore: bool) -> Result<Vec<u16>> {
        let hosts = hosts();
        let answer = |w: &Wanted| match away.contains(&w.id.index) {
            true => Err(SshError::Unreachable("refused".into())),
            false => Ok(Probe::default()),
        };
        let answers = hosts.iter().filter(|w| !left_out.has(w.id)).map(|w| (w, answer(w))).collect();
        Ok(left_out.sort_out(answers, ignore)?.into_iter().map(|(w, _)| w.id.index).collect())
    }

    #[test]
    fn the_first_look_decides_what_is_left_out() {
        let mut left_out = LeftOut::default();
        assert_eq!(look(&mut left_out, &[2], true).unwrap(), [1, 3]);
        // It answers again, and nobody was asked about what is on it.
        assert_eq!(look(&mut left_out, &[], true).unwrap(), [1, 3]);
        assert_eq!(left_out.reasons(), ["p-kafka02 (10.0.0.2): refused"]);
        // Another one goes away: what is left on it is not known.
        let e = look(&mut left_out, &[3], true).unwrap_err();
        assert_eq!(e.message, "p-kafka03 (10.0.0.3): refused");
        assert!(e.hint.unwrap().starts_with("start it, or run the same command again"));
        assert_eq!(look(&mut left_out, &[], true).unwrap(), [1, 3]);
        // As one that was there when all were.
        let mut left_out = LeftOut::default();
        assert_eq!(look(&mut left_out, &[], true).unwrap(), [1, 2, 3]);
        assert!(look(&mut left_out, &[1], true).is_err() && left_out.reasons().is_empty());
    }

    #[test]
    fn a_look_that_fails_decides_nothing() {
        let mut left_out = LeftOut::default();
        let e = look(&mut left_out, &[2], false).unwrap_err();
        assert!(e.hint.unwrap().contains("`septet down --ignore-unreachable`"));
        assert!(look(&mut left_out, &[1, 2, 3], true).is_err());
        let hosts = hosts();
        let answers = vec![(&hosts[0], Ok(Probe::default())), (&hosts[1], Err(SshError::Config("no such file".into())))];
        assert!(left_out.sort_out(answers, true).is_err());
        assert_eq!((left_out.reasons().len(), left_out.has(hosts[1].id)), (0, false));
        assert_eq!(look(&mut left_out, &[1], true).unwrap(), [2, 3]);
    }
}
