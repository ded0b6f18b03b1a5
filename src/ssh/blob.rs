//! Bytes that go to a host.

/// A large file that goes through the host's store.
#[derive(Debug, Clone)]
pub struct Blob {
    /// SHA-256, hex
    pub digest: String,
    /// where its bytes come from
    pub source: BlobSource,
    /// Its bytes are a secret: it goes straight to the host that needs it and is kept nowhere.
    pub private: bool,
}

/// Where a blob's bytes come from.
#[derive(Debug, Clone)]
pub enum BlobSource {
    /// memory
    Bytes(std::sync::Arc<Vec<u8>>),
    /// a file, read once it is needed
    File(std::path::PathBuf),
}
