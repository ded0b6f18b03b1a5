//! What is known of Apache Kafka's releases: digests of their archives, keys of their configuration.

use crate::error::nearest;

/// The version that is deployed where none is named: the newest that Septet's tests run.
pub const NEWEST: &str = "4.1.1";

/// SHA-512 of `kafka_2.13-VERSION.tgz` as Apache publishes it; each was found the same in two places at the least.
const DIGESTS: [(&str, &str); 11] = [
    (
        "3.9.0",
        "5324c1f44d4c84ea469712c2cc3d2d15545c3716edbb5353722df9c661fcc78b031fcf07d1c4f0309c5fdb32686665dfb0cffe55210cd3a1fe2a370538cb4e6d",
    ),
    (
        "3.9.1",
        "1ea204ba73411737a275429ca976d440f007ff0957b90b19be41dc5a4bae52617267769be9f0b5791714d0b3c4c760605bd426faea39edd90763585523fa2cfe",
    ),
    (
        "3.9.2",
        "01186a5086b5ae753811ee71808a797baec1303d4e0d4b1c0acf42c489654a7b8988136f8469d0b66f0be439f8e3e9b816171ea0b0d7a36462b07aa2d3ef0023",
    ),
    (
        "4.0.0",
        "00722ab0a6b954e0006994b8d589dcd8f26e1827c47f70b6e820fb45aa35945c19163b0f188caf0caf976c11f7ab005fd368c54e5851e899d2de687a804a5eb9",
    ),
    (
        "4.1.0",
        "2f611fa1117747a3567ab5d8e59c24a3dc5cd3c0d50a67cf718ab5203bd5ca69d9a1e2c705ee07b8363d71de48964bfd65fac31100a91b458fbd6a2eb3c8ede5",
    ),
    (
        "4.1.1",
        "eb2433e5330e4915a777fcc47447780e81a5041aacf0f787e5b5d06d767da7d484afb9f2ca8651e61769f2256f36967f6481baf17429b289bc2b1e6962640deb",
    ),
    (
        "4.1.2",
        "78ac6e488b1071122f9608dfdb363f6fe50e1dbbc492347002c0398dfbf77e0d8caa5bf794c5937379721004dfe92025937d238b0faf4eb715529417fd43b491",
    ),
    (
        "4.2.0",
        "16ce46e590ba915f01b720ea514445e49c88bf129cf4ceab88878b122d54ef24f0dedb88d0eb178957f58057a6c6a9adbea8b8059307585daea13129b85ba1d8",
    ),
    (
        "4.2.1",
        "f643e31266268e920aa98ead9a061026c98dac2886932ad468565ba59bcb7fb4f98a4c4f62727367e1bd87515f3b016e6f6ccccad8b12bdef8b091b0fb577170",
    ),
    (
        "4.3.0",
        "ee36cf508b519769e253acdfa13add23f405ab42b241ca641589843df6a5c7bc72289301eb410a645ce7cd1cd0fe20921143b9074dfbfe72605943140d4e8cb1",
    ),
    (
        "4.3.1",
        "c7d7b2318cb51aa0c61d3246a51c349210073c5c9b754947ef965a439f2f939e8600f204e134a75ac31faf3829c9370960ef7c6a9886c8a1dbf0339a21f4c54c",
    ),
];

/// Keys of `server.properties`, of 3.9 and 4.1 together.
const KEYS: &str = include_str!("kafka_keys.txt");

/// Beginnings of keys whose rest is free.
const OPEN_KEYS: [&str; 3] = ["listener.name.", "metric.reporters.", "remote.log.storage.manager."];

/// The digest of a version's archive, if it ships with Septet.
pub fn sha512(version: &str) -> Option<&'static str> {
    DIGESTS.iter().find(|(v, _)| *v == version).map(|(_, d)| *d)
}

/// Versions whose digests ship with Septet.
pub fn versions() -> Vec<&'static str> {
    DIGESTS.iter().map(|(v, _)| *v).collect()
}

/// Whether Kafka knows a key of `server.properties`.
pub fn is_kafka_key(key: &str) -> bool {
    KEYS.lines().any(|k| k == key) || OPEN_KEYS.iter().any(|o| key.starts_with(o))
}

/// The key that was most likely meant.
pub fn nearest_key(key: &str) -> Option<&'static str> {
    nearest(key, KEYS.lines())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_on_apache_kafka_names_the_same_versions() {
        assert!(include_str!("../docs/apache.md").contains(&versions().join(", ")));
    }

    #[test]
    fn digests_and_keys_have_their_form() {
        for (version, digest) in DIGESTS {
            assert!(crate::inventory::numbers(version).is_some(), "{version}");
            assert!(digest.len() == 128 && digest.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()), "{version}");
        }
        assert!(is_kafka_key("log.retention.hours") && is_kafka_key("controller.quorum.voters") && is_kafka_key("zookeeper.connect"));
        assert!(is_kafka_key("listener.name.external.ssl.keystore.location"));
        assert!(!is_kafka_key("log.retention.hour"));
        assert_eq!(nearest_key("log.retention.hour"), Some("log.retention.hours"));
    }
}
