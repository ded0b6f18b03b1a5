//! A plan's steps, done with the provider: what `up` does beside the hosts' own configuration.
//!
//! Invariant: cut off between any two calls, the same steps planned anew lead to the same end; `steps_tests.rs` kills at each of them.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;

use crate::{
    error::{Error, Kind, Result},
    identity::ClusterId,
    inventory::Inventory,
    observed::{Observed, ObservedNetwork},
    plan::{Plan, StageKind, Step},
    provider::{self, Provider, Site},
};

/// What the steps are done with.
pub struct Steps<'a> {
    /// Where hosts come from.
    pub provider: &'a dyn Provider,
    /// What is wanted.
    pub inventory: &'a Inventory,
    /// What there was when the plan was made.
    pub observed: &'a Observed,
    /// The cluster's identity.
    pub uuid: ClusterId,
    /// Line for `authorized_keys`.
    pub public_key: &'a str,
    /// Set when the user wants to stop.
    pub interrupted: &'a AtomicBool,
    /// Texts of the provider's.
    pub say: &'a (dyn Fn(String) + Send + Sync),
    /// Told of each step that is done.
    pub done: &'a (dyn Fn(&Step) + Send + Sync),
}

impl Steps<'_> {
    fn site(&self) -> Site<'_> {
        Site { uuid: self.uuid, inventory: self.inventory, observed: self.observed, public_key: self.public_key }
    }

    fn stop(&self) -> Result<()> {
        match self.interrupted.load(Ordering::SeqCst) {
            true => Err(Error::failed("interrupted").kind(Kind::Interrupted)),
            false => Ok(()),
        }
    }

    async fn one(&self, step: &Step, network: &ObservedNetwork) -> Result<()> {
        provider::machines(self.provider)?.apply(step, network, &self.site(), self.say).await?;
        (self.done)(step);
        Ok(())
    }

    /// The network first, then all hosts side by side, and beside them, one after the other, what is mended in place.
    pub async fn before(&self, plan: &Plan) -> Result<()> {
        let site = self.site();
        let network = match self.provider.network() {
            Some(networks) => networks.create_network(&site).await?,
            None => self.observed.network.clone().ok_or_else(|| Error::failed("the hosts' addresses are not known"))?,
        };
        self.stop()?;
        let (in_place, of_hosts): (Vec<&Step>, Vec<&Step>) =
            (plan.of(&StageKind::Settings).collect(), plan.of(&StageKind::Hosts).collect());
        // What is mended in place has an order: nothing is closed before what takes its place is open.
        let in_place = async {
            for step in in_place {
                self.one(step, &network).await?;
            }
            Ok(())
        };
        let (first, rest) = tokio::join!(in_place, join_all(of_hosts.into_iter().map(|s| self.one(s, &network))));
        let failed: Vec<Error> = std::iter::once(first).chain(rest).filter_map(Result::err).collect();
        match failed.len() {
            0 => self.stop(),
            1 => Err(failed[0].clone()),
            n => {
                // The same cause on seven hosts is reported once.
                let mut e = failed[0].clone();
                if failed.iter().any(|f| f.message != e.message) {
                    e.message = failed.iter().map(|f| f.message.as_str()).collect::<Vec<_>>().join("\n  ");
                }
                e.message = format!("{n} hosts: {}", e.message);
                Err(e)
            }
        }
    }

    /// New names, once every host serves under its own.
    pub async fn renames(&self, plan: &Plan, network: &ObservedNetwork) -> Result<()> {
        for step in plan.of(&StageKind::Rename) {
            self.one(step, network).await?;
        }
        Ok(())
    }
}
