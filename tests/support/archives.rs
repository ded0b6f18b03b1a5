//! Apache Kafka's archives, which are not part of the repository.
#![allow(dead_code)]

use std::path::PathBuf;

/// An archive with the digest that stands beside it.
#[derive(Debug, Clone)]
pub struct Archive {
    pub path: PathBuf,
    pub version: &'static str,
    pub sha512: String,
}

impl Archive {
    /// As settings of the engine in an inventory.
    pub fn settings(&self) -> String {
        format!("version: {}, archive: {}, sha512: {}", self.version, self.path.display(), self.sha512)
    }
}

/// The archive of a version: in the directory `SEPTET_TEST_APACHE`, else in `../shared/apache` beside the repository. Says so
/// where it is absent.
pub fn find(version: &'static str) -> Option<Archive> {
    let dir = std::env::var_os("SEPTET_TEST_APACHE")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/apache"), PathBuf::from);
    let name = format!("kafka_2.13-{version}.tgz");
    let sums = std::fs::read_to_string(dir.join("SHA512SUMS")).unwrap_or_default();
    let sha512 = sums.lines().filter_map(|l| l.split_once(char::is_whitespace)).find(|(_, n)| n.trim_start_matches([' ', '*']) == name);
    match (dir.join(&name).canonicalize(), sha512) {
        (Ok(path), Some((sum, _))) => Some(Archive { path, version, sha512: sum.to_owned() }),
        _ => {
            septet_testing::skip(
                &name,
                &format!("it and its line of SHA512SUMS are not in {}; SEPTET_TEST_APACHE names their directory", dir.display()),
            );
            None
        }
    }
}
