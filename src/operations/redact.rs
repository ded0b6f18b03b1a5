//! Secrets taken out of texts that leave the machine: values of keys whose names say so, private keys, credentials in addresses.
//!
//! Pure. Errs towards taking out too much.

use std::sync::LazyLock;

use regex::Regex;

/// Stands in the place of what was taken out.
pub const REDACTED: &str = "(redacted)";

/// Parts of keys whose values are secret. In the patterns below, `WORDS` stands for them.
const WORDS: &str = r"passw|passphrase|\bpass\b|[_.\-]pass\b|[_.\-]pwd\b|\bpwd\b|secret|token|credential|authorization|cookie|jaas|private_?key|access_?key|api_?key|sasl[\w.\-]*config";

/// A key whose value is secret, then the sign that ends it, then the value up to the end of the line or of its quotes.
static KEYED: LazyLock<Option<Regex>> =
    LazyLock::new(|| with_words(r#"(?i)(["']?[\w.\-]*(?:WORDS)[\w.\-]*["']?\s*[=:]\s*)("(?:[^"\\]|\\.)*"|'[^']*'|[^\s,;}][^\r\n]*)"#));
/// A line of YAML or JSON that begins with a key whose value is secret: what stands before the key, then the key.
static LINE: LazyLock<Option<Regex>> = LazyLock::new(|| with_words(r#"(?i)^(\s*(?:-\s+)*)["']?[\w.\-]*(?:WORDS)[\w.\-]*["']?\s*:"#));
/// What stands behind a key whose value begins on the lines that follow: nothing, anchors and tags, the sign of a block of text, or the
/// beginning of a list or a mapping.
static OPENS: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^\s*(?:[&!]\S+\s*)*(?:[|>][\w+\-]*|\{[^}]*|\[[^\]]*)?\s*(?:#.*)?$").ok());
/// A value in quotes, also over several lines.
static QUOTED: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r#"^[ \t]*(?s:"(?:[^"\\]|\\.)*"|'[^']*')"#).ok());
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

/// A pattern over the words of secret keys.
fn with_words(pattern: &str) -> Option<Regex> {
    Regex::new(&pattern.replace("WORDS", WORDS)).ok()
}

/// The text without secrets; nothing but a note where it cannot be searched.
pub fn redacted(text: &str) -> String {
    let (Some(keyed), Some(address), Some(aws)) = (KEYED.as_ref(), ADDRESS.as_ref(), AWS_KEY.as_ref()) else {
        return REDACTED.to_owned();
    };
    let (Some(option), Some(short), Some(bearer)) = (OPTION.as_ref(), SHORT.as_ref(), BEARER.as_ref()) else {
        return REDACTED.to_owned();
    };
    let text = without_private_keys(text);
    let Some(text) = without_nested(&text) else { return REDACTED.to_owned() };
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

/// Without what is below a secret key, whatever its value begins with: lines that are indented deeper than the key. Where the value only
/// begins there, also items of a list at the key's own depth, and what closes them. `None`: it cannot be searched.
fn without_nested(text: &str) -> Option<String> {
    let (secret, opens, quoted) = (LINE.as_ref()?, OPENS.as_ref()?, QUOTED.as_ref()?);
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(line) = rest.split_inclusive('\n').next() {
        let after = &rest[line.len()..];
        let Some(found) = secret.captures(line.trim_end()) else {
            out.push_str(line);
            rest = after;
            continue;
        };
        // The column of the key itself: behind the signs of list items, so that other keys of the same item are not below it.
        let (key, own) = (&found[0], found[1].len());
        let value = &rest[key.len()..];
        // Within quotes, depth means nothing.
        if let Some(quotes) = quoted.find(value).filter(|q| q.as_str().contains('\n')) {
            out.push_str(&format!("{key} {REDACTED}"));
            rest = &value[quotes.end()..];
            continue;
        }
        let has_items = opens.is_match(&line.trim_end()[key.len()..]);
        let is_below = |next: &str| {
            let (text, deep) = (next.trim(), depth(next));
            let is_item = || text.starts_with("- ") || text == "-" || text.starts_with(['}', ']']);
            text.is_empty() || deep > own || has_items && deep == own && is_item()
        };
        let length: usize = after.split_inclusive('\n').take_while(|next| is_below(next)).map(str::len).sum();
        let (below, next) = after.split_at(length);
        // Blank lines alone are no value.
        match below.trim().is_empty() {
            true => out.extend([line, below]),
            false => out.push_str(&format!("{key} {REDACTED}\n")),
        }
        rest = next;
    }
    Some(out)
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
            // Whatever the line of the key ends with.
            ("secrets: {a: {x: 1},\n  b: hunter2}\nport: 1\n", "secrets: (redacted)\nport: 1\n"),
            ("\"secrets\": {\"a\": {\"x\": \"1\"},\n  \"b\": \"hunter2\"}\nport: 1\n", "\"secrets\": (redacted)\nport: 1\n"),
            ("api_tokens: [[a],\n  [b]]\nport: 1\n", "api_tokens: (redacted)\nport: 1\n"),
            ("db_password: &pw |\n  hunter2\nport: 1\n", "db_password: (redacted)\nport: 1\n"),
            ("api_tokens: !!seq &t\n- a1\nport: 1\n", "api_tokens: (redacted)\nport: 1\n"),
            ("db_password: abc\n  def\nport: 1\n", "db_password: (redacted)\nport: 1\n"),
            ("db_password: \"abc\\\n  def\n\nghi\" # why\nport: 1\n", "db_password: (redacted)\nport: 1\n"),
            ("db_password: 'abc\n  def\nghi'\nport: 1\n", "db_password: (redacted)\nport: 1\n"),
            // Below is what is deeper than the key, not than its list item.
            (
                "- password: x\n  user: ann\n- password: y\n   z\n  user: bob\n",
                "- password: (redacted)\n  user: ann\n- password: (redacted)\n  user: bob\n",
            ),
            ("- api_tokens:\n  - a1\n  user: ann\n- port: 1\n", "- api_tokens: (redacted)\n  user: ann\n- port: 1\n"),
            ("- - db_password: |\n      hunter2\n    user: ann\n", "- - db_password: (redacted)\n    user: ann\n"),
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
