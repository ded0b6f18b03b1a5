//! The client: where it connects, how long it waits, what it counts.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use aws_config::{BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_ec2::{
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        interceptors::{BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef},
    },
    error::BoxError,
};
use aws_smithy_http_client::{
    Builder, Connector,
    proxy::ProxyConfig,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_types::date_time::{DateTime, Format};

use crate::ApiError;

/// Attempts of a call that may be repeated.
const ATTEMPTS: u32 = 6;
/// Time to reach a server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Region, endpoint and credentials.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// region; that of the profile or the environment otherwise
    pub region: Option<String>,
    /// profile of `~/.aws`
    pub profile: Option<String>,
    /// another server than AWS's
    pub endpoint_url: Option<String>,
    /// time for one attempt of a call; zero for 20 s
    pub attempt_timeout: Duration,
}

/// What a process has asked so far.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stats {
    /// requests that were sent, repetitions included
    pub requests: u64,
    /// time during which at least one request was under way
    pub waited: Duration,
    /// server's clock minus ours, in seconds, if known
    pub clock_skew_s: Option<i64>,
}

#[derive(Debug, Default)]
struct Busy {
    under_way: u32,
    since: Option<Instant>,
    total: Duration,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    busy: Mutex<Busy>,
    skew: Mutex<Option<i64>>,
}

impl Counters {
    fn busy(&self) -> std::sync::MutexGuard<'_, Busy> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts requests as they leave, and reads the server's clock as answers come.
#[derive(Debug, Clone)]
struct Meter(Arc<Counters>);

impl Intercept for Meter {
    fn name(&self) -> &'static str {
        "Meter"
    }
    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    fn read_after_transmit(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date").and_then(|d| DateTime::from_str(d, Format::HttpDate).ok());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
        if let Some(date) = date {
            *self.0.skew.lock().unwrap_or_else(PoisonError::into_inner) = Some(date.secs() - now);
        }
        Ok(())
    }
}

/// Time under way ends when this is dropped, also when the caller gives up.
struct UnderWay<'a>(&'a Counters);

impl<'a> UnderWay<'a> {
    fn begin(counters: &'a Counters) -> Self {
        let mut busy = counters.busy();
        if busy.under_way == 0 {
            busy.since = Some(Instant::now());
        }
        busy.under_way += 1;
        Self(counters)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut busy = self.0.busy();
        busy.under_way -= 1;
        if busy.under_way == 0
            && let Some(since) = busy.since.take()
        {
            busy.total += since.elapsed();
        }
    }
}

/// A client for one region.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) ec2: aws_sdk_ec2::Client,
    /// the same, where nothing is repeated by itself
    pub(crate) once: aws_sdk_ec2::Client,
    pub(crate) ssm: aws_sdk_ssm::Client,
    pub(crate) sts: aws_sdk_sts::Client,
    pub(crate) quotas: aws_sdk_servicequotas::Client,
    region: String,
    counters: Arc<Counters>,
}

impl Client {
    /// Reads profile, environment and region. Nothing is asked of AWS yet.
    pub async fn connect(settings: &Settings) -> Result<Self, ApiError> {
        let attempt = if settings.attempt_timeout.is_zero() { Duration::from_secs(20) } else { settings.attempt_timeout };
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(attempt)
            .operation_timeout(attempt * 4)
            .build();
        // The SDK's own connector goes past proxies. HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, in either case, are obeyed here.
        let http = Builder::new().build_with_connector_fn(|settings, components| {
            let mut connector = Connector::builder().tls_provider(Provider::Rustls(CryptoMode::Ring)).proxy_config(ProxyConfig::from_env());
            connector.set_connector_settings(settings.cloned());
            connector.set_sleep_impl(components.and_then(|c| c.sleep_impl()));
            connector.build()
        });
        let retry = RetryConfig::standard()
            .with_max_attempts(ATTEMPTS)
            .with_initial_backoff(Duration::from_millis(300))
            .with_max_backoff(Duration::from_secs(5));
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http).timeout_config(timeouts).retry_config(retry);
        if let Some(region) = &settings.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(profile) = &settings.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(url) = &settings.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        let shared = loader.load().await;
        let Some(region) = shared.region().map(|r| r.as_ref().to_owned()) else {
            return Err(ApiError { action: "connect", code: "MissingRegion".into(), status: 0, message: "no region is set".into() });
        };
        let counters: Arc<Counters> = Arc::default();
        let meter = Meter(counters.clone());
        let ec2 = aws_sdk_ec2::config::Builder::from(&shared).interceptor(meter.clone());
        Ok(Self {
            once: aws_sdk_ec2::Client::from_conf(ec2.clone().retry_config(RetryConfig::disabled()).build()),
            ec2: aws_sdk_ec2::Client::from_conf(ec2.build()),
            ssm: aws_sdk_ssm::Client::from_conf(aws_sdk_ssm::config::Builder::from(&shared).interceptor(meter.clone()).build()),
            sts: aws_sdk_sts::Client::from_conf(aws_sdk_sts::config::Builder::from(&shared).interceptor(meter.clone()).build()),
            quotas: aws_sdk_servicequotas::Client::from_conf(
                aws_sdk_servicequotas::config::Builder::from(&shared).interceptor(meter).build(),
            ),
            region,
            counters,
        })
    }

    /// The region.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// What was asked so far.
    pub fn stats(&self) -> Stats {
        let busy = self.counters.busy();
        Stats {
            requests: self.counters.requests.load(Ordering::Relaxed),
            waited: busy.total + busy.since.map_or(Duration::ZERO, |s| s.elapsed()),
            clock_skew_s: *self.counters.skew.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Waits for a call, and counts the time.
    pub(crate) async fn timed<T>(&self, call: impl Future<Output = T>) -> T {
        let _under_way = UnderWay::begin(&self.counters);
        call.await
    }
}
