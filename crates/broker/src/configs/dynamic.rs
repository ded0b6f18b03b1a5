//! What of a broker's configuration is set at run time.
//!
//! Invariant: the configuration in use is the file's with what is set at run time over it. A value there that cannot be read is
//! logged, and the file's counts.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use super::Settings;
use crate::config::{Config, ConfigError};

/// One state.
#[derive(Debug)]
pub struct Dynamic {
    /// `/config/brokers/N`
    pub broker: Settings,
    /// `/config/brokers/<default>`
    pub default: Settings,
    /// the configuration in use
    pub config: Arc<Config>,
}

/// The configuration in use, replaced as a whole.
#[derive(Debug)]
pub struct DynamicConfig {
    state: RwLock<Arc<Dynamic>>,
    applied: watch::Sender<u64>,
}

impl DynamicConfig {
    /// Nothing is set at run time.
    pub fn new(config: Config) -> Self {
        let config = Arc::new(config);
        let state = Dynamic { broker: Settings::new(), default: Settings::new(), config };
        Self { state: RwLock::new(Arc::new(state)), applied: watch::Sender::new(0) }
    }

    /// The state now.
    pub fn get(&self) -> Arc<Dynamic> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes what is set at run time.
    pub fn set(&self, file: &Config, broker: Settings, default: Settings) {
        let mut over = default.clone();
        over.extend(broker.clone());
        // A broker's own value in one unit wins over one for all brokers in a finer unit only by being that unit: as on Kafka, the
        // dynamic keys are those in milliseconds.
        let config = loop {
            match file.overlaid(&over) {
                Ok(config) => break config,
                Err(ConfigError::Value { key, reason, .. }) if over.remove(&key).is_some() => {
                    tracing::error!("{key}, set at run time: {reason}; it is ignored");
                }
                Err(e) => {
                    tracing::error!("settings at run time are ignored: {e}");
                    break file.clone();
                }
            }
        };
        let state = Dynamic { broker, default, config: Arc::new(config) };
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
    }

    /// Changes of settings, of this broker or of topics, are obeyed from now on.
    pub fn applied(&self) {
        self.applied.send_modify(|n| *n += 1);
    }

    /// Counts what is applied.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }
}
