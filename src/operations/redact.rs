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
        r#"(?i)(["']?[\w.\-]*(?:passw|passphrase|\bpass\b|[_.\-]pass\b|[_.\-]pwd\b|\bpwd\b|secret|token|credential|authorization|cookie|jaas|private_?key|access_?key|api_?key|sasl[\w.\-]*config)[\w.\-]*["']?\s*[=:]\s*)("(?:[^"\\]|\\.)*"|'[^']*'|[^\s,;}][^\r\n]*)"#,
    )
    .ok()
});
/// A key whose value is secret and begins on the lines that follow: a block of text, a list or a mapping, in YAML or JSON.
static NESTED: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r#"(?i)^(\s*(?:-\s+)?["']?[\w.\-]*(?:passw|passphrase|\bpass\b|[_.\-]pass\b|[_.\-]pwd\b|\bpwd\b|secret|token|credential|jaas|private_?key|access_?key|api_?key)[\w.\-]*["']?\s*:)\s*(?:[|>][\w+\-]*|[&!]\S+|\{[^}]*|\[[^\]]*)?\s*(?:#.*)?$"#,
    )
    .ok()
});
/// An option of a command line whose value is secret and is an argument of its own, as `ps` shows it.
static OPTION: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r#"(?im)((?:^|[\s"'])--?([\w.\-]*(?:passw|passphrase|pass\b|secret|token|credential|private-?key|access-?key|api-?key)[\w.\-]*)["']?[ \t]+)("(?:[^"\\]|\\.)*"|'[^']*'|[^\s"'=:]\S*)"#,
    )
    .ok()
});
/// Options of well-known programs that are followed by a password: `sshpass -p`, `curl -u user:`.
static SHORT: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(\bsshpass\s+-p\s*|\s(?:-u|--user|--proxy-user)[ \t=]+[^\s:]+:)\S+").ok());
/// A token behind the word that names its kind, wherever it stands.
static BEARER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"(?i)\b(bearer\s+)[A-Za-z0-9+/=._~\-]{6,}").ok());
/// `scheme://user:password@`.
static ADDRESS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"(\w+://[^\s/:@]+:)[^\s/@]+@").ok());
/// Keys that are secret and are given as the value of a mark of AWS.
static AWS_KEY: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b").ok());

/// The text without secrets; nothing but a note where it cannot be searched.
pub fn redacted(text: &str) -> String {
    let (Some(keyed), Some(address), Some(aws)) = (KEYED.as_ref(), ADDRESS.as_ref(), AWS_KEY.as_ref()) else {
        return REDACTED.to_owned();
    };
    let (Some(option), Some(short), Some(bearer)) = (OPTION.as_ref(), SHORT.as_ref(), BEARER.as_ref()) else {
        return REDACTED.to_owned();
    };
    let text = without_private_keys(text);
    let Some(nested) = NESTED.as_ref() else { return REDACTED.to_owned() };
    let text = without_nested(&text, nested);
    let text = option.replace_all(&text, |c: &regex::Captures<'_>| {
        let (name, value) = (c[2].to_ascii_lowercase(), &c[3]);
        // Where a secret lies is none; and another option is no value.
        let is_place = value.starts_with('/') && ["file", "path", "dir", "store", "location"].iter().any(|w| name.contains(w));
        let shown = if is_place || value.starts_with("--") { value } else { REDACTED };
        format!("{}{shown}", &c[1])
    });
    let text = short.replace_all(&text, |c: &regex::Captures<'_>| format!("{}{REDACTED}", &c[1]));
    let text = bearer.replace_all(&text, |c: &regex::Captures<'_>| format!("{}{REDACTED}", &c[1]));
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

/// Without what is below a secret key: lines that are indented deeper, items of a list at its own depth, and what closes them.
fn without_nested(text: &str, nested: &Regex) -> String {
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut out = String::with_capacity(text.len());
    let mut lines = text.split_inclusive('\n').peekable();
    while let Some(line) = lines.next() {
        let Some(key) = nested.captures(line.trim_end()).and_then(|c| c.get(1)) else {
            out.push_str(line);
            continue;
        };
        let own = depth(line);
        let is_below = |next: &str| {
            let (text, deep) = (next.trim(), depth(next));
            text.is_empty() || deep > own || deep == own && (text.starts_with("- ") || text == "-" || text.starts_with(['}', ']']))
        };
        // Blank lines alone are no value.
        let below: String = std::iter::from_fn(|| lines.next_if(|next| is_below(next))).collect();
        if below.trim().is_empty() {
            out.push_str(line);
            out.push_str(&below);
        } else {
            out.push_str(&format!("{} {REDACTED}\n", key.as_str()));
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
            ("12 java -x --password hunter2 --port 1\n", "12 java -x --password (redacted) --port 1\n"),
            ("x -db-passphrase 'a b' y\n", "x -db-passphrase (redacted) y\n"),
            ("x --password-file /etc/p --token --port 1\n", "x --password-file /etc/p --token --port 1\n"),
            ("x --password /hunter2 y\n", "x --password (redacted) y\n"),
            ("x -password = -x y\n", "x -password = (redacted)\n"),
            ("sshpass -p hunter2 ssh h\n", "sshpass -p (redacted) ssh h\n"),
            ("curl -u ann:hunter2 http://h/\n", "curl -u ann:(redacted) http://h/\n"),
            ("> Authorization: Bearer abc.def-1\nnext\n", "> Authorization: (redacted)\nnext\n"),
            ("curl -H 'authorization: Basic YTpi' h\nnext\n", "curl -H 'authorization: (redacted)\nnext\n"),
            ("sent bearer abc.def-1 to h\n", "sent bearer (redacted) to h\n"),
            ("db_password: |\n  hunter2\n  more\nport: 1\n", "db_password: (redacted)\nport: 1\n"),
            ("api_tokens:\n  - a1\n  - b2\nport: 1\n", "api_tokens: (redacted)\nport: 1\n"),
            ("api_tokens: # two\n- a1\n- b2\nport: 1\n", "api_tokens: (redacted)\nport: 1\n"),
            ("  \"secrets\": {\n    \"a\": \"x\",\n    \"b\": 1\n  },\n  \"n\": 2\n", "  \"secrets\": (redacted)\n  \"n\": 2\n"),
            ("secrets: {a: x,\n  b: y}\nport: 1\n", "secrets: (redacted)\nport: 1\n"),
            ("secrets:\n  a:\n    b: x\n\n  c: y\nport: 1\n", "secrets: (redacted)\nport: 1\n"),
            ("db_pwd: hunter2\nport: 1\n", "db_pwd: (redacted)\nport: 1\n"),
            ("Cookie: session=1\n", "Cookie: (redacted)\n"),
            ("compass: north, bypass=1\n", "compass: north, bypass=1\n"),
            ("authorizer.class.name=x.Y\n", "authorizer.class.name=x.Y\n"),
            ("broker.id=1\nlog.dirs=/data/kafka-logs\n", "broker.id=1\nlog.dirs=/data/kafka-logs\n"),
        ];
        for (text, wanted) in cases {
            assert_eq!(redacted(text), wanted);
        }
    }

    proptest! {
        #[test]
        fn no_value_of_a_secret_option_is_left(
            option in "--?[a-z]{0,8}-?(password|passwd|passphrase|secret|token|credentials|access-key|api-key)",
            space in "[ \t]{1,3}",
            value in "[A-Za-z0-9+!#$%&*@.][A-Za-z0-9+=!#$%&*@.-]{5,40}",
            before in "[a-z ]{0,20}",
        ) {
            let text = redacted(&format!("{before} {option}{space}{value} last\n"));
            prop_assert!(!text.contains(&value), "{text}");
        }

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
