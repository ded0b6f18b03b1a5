//! ApiVersions: what is served.

use kafka_protocol::{
    ResponseError,
    messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse, api_versions_response::ApiVersion},
};

use super::APIS;
use crate::cluster::control::key;

fn entry(api: &super::Api) -> ApiVersion {
    ApiVersion::default().with_api_key(api.key as i16).with_min_version(api.versions.0).with_max_version(api.versions.1)
}

/// Whether a client's name or version is one that Kafka takes (ApiVersionsRequest.java): letters and digits, with `-` and `.`
/// inside.
fn is_software_name(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    ends(text.chars().next()) && ends(text.chars().last()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
}

/// Answers a request with all APIs.
pub fn handle(request: &ApiVersionsRequest, version: i16) -> ApiVersionsResponse {
    if version >= 3 && ![&request.client_software_name, &request.client_software_version].iter().all(|t| is_software_name(t)) {
        return ApiVersionsResponse::default().with_error_code(ResponseError::InvalidRequest.code());
    }
    let control = key::ALL.iter().map(|(k, min, max)| ApiVersion::default().with_api_key(*k).with_min_version(*min).with_max_version(*max));
    ApiVersionsResponse::default().with_api_keys(APIS.iter().map(entry).chain(control).collect())
}

/// Answer to a version of ApiVersions that is not served: the range of this key, so that the client asks again.
pub fn unsupported() -> ApiVersionsResponse {
    let own = APIS.iter().filter(|a| a.key == ApiKey::ApiVersions).map(entry).collect();
    ApiVersionsResponse::default().with_error_code(ResponseError::UnsupportedVersion.code()).with_api_keys(own)
}
