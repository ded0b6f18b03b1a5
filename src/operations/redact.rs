//! Secrets taken out of texts that leave the machine: values of keys whose names say so, private keys, credentials in addresses.
//!
//! Pure. Errs towards taking out too much.

use std::sync::LazyLock;

use regex::Regex;

/// Stands in the place of what was taken out.
pub const REDACTED: &str = "(redacted)";

/// A key whose value is secret, then the sign that ends it, then the value up to the end of the line or of its quotes.
static KEYED: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r#"(?i)(["']?[\w.\-]*(?:passw|secret|token|credential|jaas|private_?key|access_?key|api_?key|sasl[\w.\-]*config)[\w.\-]*["']?\s*[=:]\s*)("(?:[^"\\]|\\.)*"|'[^']*'|[^\s,;}][^\r\n]*)"#,
    )
    .ok()
});
/// `scheme://user:password@`.
static ADDRESS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"(\w+://[^\s/:@]+:)[^\s/@]+@").ok());
/// Keys that are secret and are given as the value of a mark of AWS.
static AWS_KEY: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b").ok());

/// The text without secrets; nothing but a note where it cannot be searched.
pub fn redacted(text: &str) -> String {
    let (Some(keyed), Some(address), Some(aws)) = (KEYED.as_ref(), ADDRESS.as_ref(), AWS_KEY.as_ref()) else {
        return REDACTED.to_owned();
    };
    let text = without_private_keys(text);
    let text = keyed.replace_all(&text, |c: &regex::Captures<'_>| {
        // A path to a secret is none, and says where to look.
        let value = c.get(2).map_or("", |v| v.as_str());
        let shown = if value.starts_with('/') && !value.contains(char::is_whitespace) { value } else { REDACTED };
        format!("{}{shown}", c.get(1).map_or("", |k| k.as_str()))
    });
    let text = address.replace_all(&text, |c: &regex::Captures<'_>| format!("{}{REDACTED}@", &c[1]));
    aws.replace_all(&text, REDACTED).into_owned()
}

/// Without what stands between the lines that begin and end a private key; one that does not end is taken out to the end.
fn without_private_keys(text: &str) -> String {
    let (mut out, mut inside) = (String::with_capacity(text.len()), false);
    for line in text.split_inclusive('\n') {
        let is_mark = |word: &str| line.contains(word) && line.contains("PRIVATE KEY");
        if is_mark("-----BEGIN") {
            inside = true;
            out.push_str(&format!("{REDACTED}\n"));
        }
        if !inside {
            out.push_str(line);
        }
        if is_mark("-----END") {
            inside = false;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_go_and_the_rest_stays() {
        let cases = [
            ("ssl.keystore.password=hunter2\nport=9092\n", "ssl.keystore.password=(redacted)\nport=9092\n"),
            ("db_password: \"a b\\\" c\" # why\n", "db_password: (redacted) # why\n"),
            ("{\"token\": \"x\", \"host\": \"h\"}", "{\"token\": (redacted), \"host\": \"h\"}"),
            ("sasl.jaas.config=org.x.Plain required username=\"u\" password=\"p\";\n", "sasl.jaas.config=(redacted)\n"),
            ("peerSecretFile=/etc/septet/ensemble.secret\n", "peerSecretFile=/etc/septet/ensemble.secret\n"),
            ("proxy http://ann:hunter2@proxy:3128/\n", "proxy http://ann:(redacted)@proxy:3128/\n"),
            ("used AKIAABCDEFGHIJKLMNOP once", "used (redacted) once"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\nrest\n", "(redacted)\nrest\n"),
            ("broker.id=1\nlog.dirs=/data/kafka-logs\n", "broker.id=1\nlog.dirs=/data/kafka-logs\n"),
        ];
        for (text, wanted) in cases {
            assert_eq!(redacted(text), wanted);
        }
    }

    proptest! {
        #[test]
        fn no_value_of_a_secret_key_is_left(
            key in "[a-z]{0,8}[._-]?(password|passwd|secret|token|credentials|access_key)",
            sign in "( ?= ?|: )",
            value in "[A-Za-z0-9+=!#$%&*@.-]{6,40}",
            before in "([a-z ]{0,20}\n)?",
        ) {
            let text = redacted(&format!("{before}{key}{sign}{value}\nlast"));
            prop_assert!(!text.contains(&value), "{text}");
            prop_assert!(text.ends_with("\nlast") && text.starts_with(&before), "{text}");
        }
    }
}
