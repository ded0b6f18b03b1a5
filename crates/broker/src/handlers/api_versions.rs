//! ApiVersions: what is served.

use kafka_protocol::{
    ResponseError,
    messages::{ApiKey, ApiVersionsResponse, api_versions_response::ApiVersion},
};

use super::APIS;

fn entry(api: &super::Api) -> ApiVersion {
    ApiVersion::default().with_api_key(api.key as i16).with_min_version(api.versions.0).with_max_version(api.versions.1)
}

/// All APIs.
pub fn supported() -> ApiVersionsResponse {
    ApiVersionsResponse::default().with_api_keys(APIS.iter().map(entry).collect())
}

/// Answer to a version of ApiVersions that is not served: the range of this key, so that the client asks again.
pub fn unsupported() -> ApiVersionsResponse {
    let own = APIS.iter().filter(|a| a.key == ApiKey::ApiVersions).map(entry).collect();
    ApiVersionsResponse::default().with_error_code(ResponseError::UnsupportedVersion.code()).with_api_keys(own)
}
