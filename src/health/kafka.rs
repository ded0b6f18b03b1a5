//! A small Kafka client over any stream: just what the health check asks. It takes the versions that the broker
//! offers.

use std::{collections::HashMap, io};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader},
    protocol::{Decodable, Encodable, Request, StrBytes},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// A connection to one broker.
pub struct Client<S> {
    stream: S,
    next: i32,
    /// highest version that both sides know, by key
    versions: HashMap<i16, (i16, i16)>,
    /// highest levels of features that the broker supports, and those that are in force
    features: (HashMap<String, i16>, HashMap<String, i16>),
}

fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Asks for the versions first.
    pub async fn open(stream: S) -> Result<Self, String> {
        let mut this = Self { stream, next: 1, versions: HashMap::new(), features: Default::default() };
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("septet"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let answer: ApiVersionsResponse = this.send(ApiKey::ApiVersions, 3, &request).await?;
        if answer.error_code != 0 {
            return Err(format!("ApiVersions: error {}", answer.error_code));
        }
        for a in answer.api_keys {
            this.versions.insert(a.api_key, (a.min_version, a.max_version));
        }
        this.features.0 = answer.supported_features.into_iter().map(|f| (f.name.to_string(), f.max_version)).collect();
        this.features.1 = answer.finalized_features.into_iter().map(|f| (f.name.to_string(), f.max_version_level)).collect();
        Ok(this)
    }

    /// Whether the broker has an API at all.
    pub fn offers(&self, key: ApiKey) -> bool {
        self.versions.contains_key(&(key as i16))
    }

    /// The highest level of a feature that the broker supports.
    pub fn supported(&self, feature: &str) -> Option<i16> {
        self.features.0.get(feature).copied()
    }

    /// The level of a feature that is in force.
    pub fn finalized(&self, feature: &str) -> Option<i16> {
        self.features.1.get(feature).copied()
    }

    /// Sends a request in the highest version up to `max` that the broker offers.
    pub async fn ask<R>(&mut self, key: ApiKey, max: i16, request: &R) -> Result<(R::Response, i16), String>
    where
        R: Request + Encodable,
        R::Response: Decodable,
    {
        let (low, high) = self.versions.get(&(key as i16)).copied().ok_or_else(|| format!("{key:?} is not offered"))?;
        let version = high.min(max);
        if version < low {
            return Err(format!("{key:?} is offered from version {low} on, known is {max}"));
        }
        Ok((self.send(key, version, request).await?, version))
    }

    async fn send<R: Encodable, A: Decodable>(&mut self, key: ApiKey, version: i16, request: &R) -> Result<A, String> {
        let id = self.next;
        self.next += 1;
        let header = RequestHeader::default()
            .with_request_api_key(key as i16)
            .with_request_api_version(version)
            .with_correlation_id(id)
            .with_client_id(Some(StrBytes::from_static_str("septet-health")));
        let mut frame = BytesMut::from(&[0u8; 4][..]);
        header.encode(&mut frame, key.request_header_version(version)).map_err(text)?;
        request.encode(&mut frame, version).map_err(text)?;
        let length = (frame.len() - 4) as u32;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame).await.map_err(text)?;
        self.stream.flush().await.map_err(text)?;

        let length = self.stream.read_u32().await.map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => format!("the broker closed the connection at {key:?}"),
            _ => e.to_string(),
        })? as usize;
        if length > MAX_ANSWER_BYTES {
            return Err(format!("answer of {length} bytes to {key:?}"));
        }
        let mut body = vec![0u8; length];
        self.stream.read_exact(&mut body).await.map_err(text)?;
        let mut body = Bytes::from(body);
        let header = ResponseHeader::decode(&mut body, key.response_header_version(version)).map_err(text)?;
        if header.correlation_id != id {
            return Err(format!("answer {} to request {id}", header.correlation_id));
        }
        A::decode(&mut body, version).map_err(|e| format!("answer to {key:?} does not decode: {e}"))
    }
}
