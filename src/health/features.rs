//! Levels of what a KRaft cluster's hosts have agreed on, `metadata.version` first of all: what brokers support, what is in force, and how
//! it is raised.

use kafka_protocol::{
    messages::{ApiKey, UpdateFeaturesRequest, update_features_request::FeatureUpdateKey},
    protocol::StrBytes,
};
use tokio::time::timeout;

use super::{Checker, QUESTION_TIMEOUT, broker::client, probe::error_name};
use crate::{
    error::{Error, Result},
    inventory::Role,
};

/// The level that decides what records the metadata may have.
pub const METADATA: &str = "metadata.version";
/// Newest version of UpdateFeatures that is understood here. The first one has no kind of upgrade.
const UPDATE_FEATURES: i16 = 1;
/// Raised, never lowered.
const UPGRADE: i8 = 1;
/// How long controllers may take to agree.
const AGREE_TIMEOUT_MS: i32 = 30_000;

/// A level of the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    /// what is in force
    pub finalized: i16,
    /// the highest that every broker supports
    pub supported: i16,
}

impl Checker<'_> {
    /// The level of `metadata.version`, which every broker must answer for.
    pub async fn metadata_levels(&self) -> Result<Levels> {
        let (_, control) = self.route().await?;
        let mut all: Option<Levels> = None;
        for host in self.inventory.of(Role::Broker) {
            let failed = |why: String| {
                Error::failed(format!("{}: cannot ask for its {METADATA}: {why}", host.name)).hint("`septet health` shows more")
            };
            let address = self.address(host.id).unwrap_or_default();
            let client = client(&control, &address, self.inventory.ports.kafka).await.map_err(failed)?;
            let (Some(finalized), Some(supported)) = (client.finalized(METADATA), client.supported(METADATA)) else {
                return Err(failed("it names none".into()));
            };
            all = Some(match all {
                None => Levels { finalized, supported },
                Some(l) => Levels { finalized: l.finalized.min(finalized), supported: l.supported.min(supported) },
            });
        }
        all.ok_or_else(|| Error::failed("the cluster has no brokers"))
    }

    /// Raises `metadata.version`. This cannot be undone.
    pub async fn raise_metadata(&self, to: i16) -> Result<()> {
        let (_, control) = self.route().await?;
        let failed = |why: String| Error::failed(format!("{METADATA} is not raised to {to}: {why}"));
        let Some(host) = self.inventory.of(Role::Broker).next() else { return Err(failed("there is no broker".into())) };
        let mut client = client(&control, &self.address(host.id).unwrap_or_default(), self.inventory.ports.kafka).await.map_err(failed)?;
        let update = FeatureUpdateKey::default()
            .with_feature(StrBytes::from_static_str(METADATA))
            .with_max_version_level(to)
            .with_upgrade_type(UPGRADE);
        let request = UpdateFeaturesRequest::default().with_timeout_ms(AGREE_TIMEOUT_MS).with_feature_updates(vec![update]);
        let limit = QUESTION_TIMEOUT + std::time::Duration::from_millis(AGREE_TIMEOUT_MS.unsigned_abs().into());
        let ask = client.ask(ApiKey::UpdateFeatures, UPDATE_FEATURES, &request);
        let (answer, _) = timeout(limit, ask).await.map_err(|_| failed("no answer in time".into()))?.map_err(failed)?;
        let codes = std::iter::once((answer.error_code, answer.error_message.clone()))
            .chain(answer.results.iter().map(|r| (r.error_code, r.error_message.clone())));
        for (code, message) in codes {
            if code != 0 {
                let message = message.map(|m| format!(": {m}")).unwrap_or_default();
                return Err(failed(format!("{}{message}", error_name(code))));
            }
        }
        Ok(())
    }
}
