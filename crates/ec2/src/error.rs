//! One error for all calls: which call, which code, in whose words.

use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::http::Response;

/// Why a call did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{action}: {}", words(code, message))]
pub struct ApiError {
    /// the call, as `RunInstances`
    pub action: &'static str,
    /// AWS's code, as `InsufficientInstanceCapacity`; `Timeout`, `Connection` or `Client` where the service did not answer
    pub code: String,
    /// HTTP status, 0 where there was no answer
    pub status: u16,
    /// AWS's words, or those of the network
    pub message: String,
}

fn words(code: &str, message: &str) -> String {
    if message.is_empty() { code.to_owned() } else { format!("{message} ({code})") }
}

/// The code of a call that was not answered in time.
pub const TIMEOUT: &str = "Timeout";
/// The code of a connection that failed or was cut.
pub const CONNECTION: &str = "Connection";
/// The code of what failed before anything was sent: credentials, a region that is missing.
pub const CLIENT: &str = "Client";

/// Codes of requests that came too fast.
const THROTTLES: [&str; 8] = [
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottled",
    "TooManyRequestsException",
    "SlowDown",
    "EC2ThrottledException",
];
/// Codes that say that this zone or type has no room now.
const CAPACITY: [&str; 6] = [
    "InsufficientInstanceCapacity",
    "InsufficientHostCapacity",
    "InsufficientReservedInstanceCapacity",
    "InsufficientCapacity",
    "Unsupported",
    "SpotMaxPriceTooLow",
];
/// Codes of a call that the credentials may not make.
const UNAUTHORIZED: [&str; 4] = ["UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "Client.UnauthorizedOperation"];
/// Codes of credentials that are not accepted at all.
const CREDENTIALS: [&str; 8] = [
    "AuthFailure",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "ExpiredTokenException",
    "RequestExpired",
    "InvalidAccessKeyId",
];

impl ApiError {
    /// Turns an error of the SDK into ours.
    pub(crate) fn from_sdk<E>(action: &'static str, e: SdkError<E, Response>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let status = e.raw_response().map_or(0, |r| r.status().as_u16());
        let (code, message) = match &e {
            SdkError::ServiceError(s) => {
                let code = s.err().code().map_or_else(|| format!("HTTP{status}"), str::to_owned);
                (code, s.err().message().unwrap_or_default().to_owned())
            }
            SdkError::TimeoutError(_) => (TIMEOUT.to_owned(), "no answer in time".to_owned()),
            SdkError::DispatchFailure(d) if d.is_timeout() => (TIMEOUT.to_owned(), "no answer in time".to_owned()),
            SdkError::DispatchFailure(d) if d.is_io() => (CONNECTION.to_owned(), chain(&e)),
            SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => (CLIENT.to_owned(), chain(&e)),
            SdkError::ResponseError(_) => (CONNECTION.to_owned(), chain(&e)),
            _ => (CLIENT.to_owned(), chain(&e)),
        };
        Self { action, code, status, message }
    }

    /// An answer that lacks what it must have.
    pub(crate) fn empty(action: &'static str, what: &str) -> Self {
        Self { action, code: CLIENT.into(), status: 200, message: format!("the answer has no {what}") }
    }

    fn is_one_of(&self, codes: &[&str]) -> bool {
        codes.contains(&self.code.as_str())
    }
    /// Too many requests: the same later.
    pub fn is_throttle(&self) -> bool {
        self.is_one_of(&THROTTLES)
    }
    /// No room in this zone for this type: another zone or type may have it.
    pub fn is_capacity(&self) -> bool {
        self.is_one_of(&CAPACITY)
    }
    /// The credentials are good, and may not do this.
    pub fn is_unauthorized(&self) -> bool {
        self.is_one_of(&UNAUTHORIZED)
    }
    /// The credentials are not accepted.
    pub fn is_credentials(&self) -> bool {
        self.is_one_of(&CREDENTIALS) || (self.code == CLIENT && self.message.to_lowercase().contains("credential"))
    }
    /// What it names does not exist (any more, or not yet).
    pub fn is_not_found(&self) -> bool {
        self.code.ends_with(".NotFound") || self.code.ends_with("NotFoundException") || self.code == "ParameterNotFound"
    }
    /// It exists already.
    pub fn is_duplicate(&self) -> bool {
        self.code.ends_with(".Duplicate") || self.code.ends_with(".AlreadyExists") || self.code == "RouteAlreadyExists"
    }
    /// Something still uses it.
    pub fn is_in_use(&self) -> bool {
        matches!(self.code.as_str(), "DependencyViolation" | "VolumeInUse" | "InvalidGroup.InUse" | "IncorrectState")
    }
    /// A dry run that would have gone through.
    pub fn is_dry_run(&self) -> bool {
        self.code == "DryRunOperation"
    }
    /// Whether the call may have taken effect although it failed.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self.code.as_str(), TIMEOUT | CONNECTION) || (self.status >= 500 && !self.is_capacity())
    }
    /// Whether the same call may go through a moment later.
    pub fn is_transient(&self) -> bool {
        self.is_throttle() || self.is_ambiguous()
    }
}

/// An error with its causes, each once.
fn chain(e: &dyn std::error::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut current = e.source();
    while let Some(c) = current {
        let text = c.to_string();
        if !parts.iter().any(|p| p.contains(&text)) {
            parts.push(text);
        }
        current = c.source();
    }
    if parts.is_empty() { e.to_string() } else { parts.join(": ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str, status: u16) -> ApiError {
        ApiError { action: "X", code: code.into(), status, message: String::new() }
    }

    #[test]
    fn no_capacity_is_a_reason_to_look_elsewhere_not_to_repeat() {
        let e = error("InsufficientInstanceCapacity", 500);
        assert!(e.is_capacity() && !e.is_transient());
        assert!(error("RequestLimitExceeded", 503).is_transient());
        assert!(error("InternalError", 500).is_ambiguous());
        assert!(!error("UnauthorizedOperation", 403).is_transient());
    }
}
