//! Properties files as Java reads them, with places.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{path::Path, time::Duration};

use proptest::prelude::*;
use septet_daemon::properties::{ConfigError, Properties};

fn parse(text: &str) -> Result<Properties, ConfigError> {
    Properties::parse(Path::new("/etc/x.properties"), text)
}

fn entries(text: &str) -> Vec<(usize, String, String)> {
    parse(text).unwrap().all().map(|e| (e.line, e.key.to_owned(), e.value.to_owned())).collect()
}

/// Expectations are those of java.util.Properties of Java 17, but for values' trailing white space.
#[test]
#[allow(clippy::type_complexity)]
fn lines_are_read_as_java_does() {
    let cases: &[(&str, &[(usize, &str, &str)])] = &[
        ("a=1\nb:2\nc 3\nd\t=\t4\ne : 5\nf", &[(1, "a", "1"), (2, "b", "2"), (3, "c", "3"), (4, "d", "4"), (5, "e", "5"), (6, "f", "")]),
        ("# a=1\n  ! b=2\n\n \t\na=1 # no comment", &[(5, "a", "1 # no comment")]),
        ("a=1\r\nb=2\rc=3", &[(1, "a", "1"), (2, "b", "2"), (3, "c", "3")]),
        ("a = x , \\\n    y,\\\n  # z\nb=2", &[(1, "a", "x , y,# z"), (4, "b", "2")]),
        ("a=1\\\\\nb=2", &[(1, "a", "1\\"), (2, "b", "2")]),
        ("a=1\\\\\\\n2", &[(1, "a", "1\\2")]),
        ("a=1\\", &[(1, "a", "1")]),
        ("a=1\\\n\nb=2", &[(1, "a", "1"), (3, "b", "2")]),
        ("\\\n\na=1", &[(3, "a", "1")]),
        ("a\\ b\\=c\\:d=1", &[(1, "a b=c:d", "1")]),
        ("a=\\u00e4\\u20AC\\ud83d\\ude00\\t\\n\\q\\\"", &[(1, "a", "ä€\u{1f600}\t\nq\"")]),
        ("a==1", &[(1, "a", "=1")]),
        ("a= = 1", &[(1, "a", "= 1")]),
        ("listeners=PLAINTEXT://:9092,X://[::1]:1", &[(1, "listeners", "PLAINTEXT://:9092,X://[::1]:1")]),
        ("server.1=zk01:2888:3888;2181", &[(1, "server.1", "zk01:2888:3888;2181")]),
        ("ä=ö", &[(1, "ä", "ö")]),
        ("=1", &[(1, "", "1")]),
        ("", &[]),
    ];
    for (text, want) in cases {
        let want: Vec<_> = want.iter().map(|(line, k, v)| (*line, (*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(entries(text), want, "{text:?}");
    }
}

#[test]
fn bad_escapes_name_their_line() {
    for text in ["\nk=\\u12", "\nk=\\u12g4", "\n\\u+123=1", "\nk=\\ud83d"] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.starts_with("/etc/x.properties:2: \\u"), "{error}");
    }
}

#[test]
fn the_last_of_two_counts_and_both_are_known() {
    let p = parse("a=1\nb=2\na=x\na=3").unwrap();
    assert_eq!(p.number("a", 0, 9).unwrap(), Some(3));
    assert_eq!(p.entries().map(|e| e.key).collect::<Vec<_>>(), ["a", "b"]);
    let warning = |line| format!("/etc/x.properties:{line}: a is given twice; this one counts");
    assert_eq!(p.repetitions(), [warning(3), warning(4)]);
}

#[test]
fn values_are_checked_and_errors_name_file_line_and_key() {
    let p = parse("n=7\nbig=99999999999999999999\nyes=TRUE\nno=no\nratio=0.5\nnan=NaN\nlist= a, ,b,\nms=1500\nempty=").unwrap();
    assert_eq!((p.number("n", 7, 7).unwrap(), p.number("none", 0, 1).unwrap()), (Some(7), None));
    assert_eq!(p.boolean("yes").unwrap(), Some(true));
    assert_eq!(p.decimal("ratio", 0.0, 1.0).unwrap(), Some(0.5));
    assert_eq!(p.get("list").unwrap().list().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(p.milliseconds("ms", 0).unwrap(), Some(Duration::from_millis(1500)));
    assert_eq!(p.parsed("n", |v| Ok::<_, String>(v.len())).unwrap(), Some(1));
    let bad = |key: &str, line: usize, reason: &str, error: ConfigError| {
        assert_eq!(error.to_string(), format!("/etc/x.properties:{line}: {key}: {reason}"));
    };
    bad("n", 1, "\"7\" is not a number from 8 to 9", p.number("n", 8, 9).unwrap_err());
    bad("big", 2, "\"99999999999999999999\" is not a number from 0 to 9", p.number("big", 0, 9).unwrap_err());
    bad("no", 4, "\"no\" is neither true nor false", p.boolean("no").unwrap_err());
    bad("nan", 6, "\"NaN\" is not a number from 0 to 1", p.decimal("nan", 0.0, 1.0).unwrap_err());
    bad("empty", 9, "\"\" is not a number from 0 to 31536000000", p.milliseconds("empty", 0).unwrap_err());
    bad("n", 1, "no", p.parsed("n", |_| Err::<(), _>("no".into())).unwrap_err());
    assert_eq!(p.missing("x").to_string(), "/etc/x.properties: x is not set");
    assert_eq!(p.bad("x", "is odd").to_string(), "/etc/x.properties: x: is odd");
    assert!(Properties::read(Path::new("/nonexistent")).unwrap_err().to_string().starts_with("/nonexistent: "));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Any text is read or refused; lines are numbered within it, and in order.
    #[test]
    fn any_text(text in "([ \ta-c=:#!\\\\u0-9\u{e4}\r]{0,12}\n?){0,12}") {
        if let Ok(p) = parse(&text) {
            let lines: Vec<usize> = p.all().map(|e| e.line).collect();
            prop_assert!(lines.windows(2).all(|w| w[0] < w[1]));
            prop_assert!(lines.iter().all(|l| *l >= 1 && *l <= 1 + text.matches(['\n', '\r']).count()));
        }
    }

    /// What Java's `store` would write is read back.
    #[test]
    fn escaped_text_is_read_back(key in "[a-z =:#!\\\\\t\u{e4}\u{1f600}]{1,8}", value in "[a-z=:#!\\\\]{0,8}") {
        let escape = |t: &str| t.chars().flat_map(|c| match c {
            '\t' => vec!['\\', 't'],
            ' ' | '=' | ':' | '#' | '!' | '\\' => vec!['\\', c],
            c => vec![c],
        }).collect::<String>();
        let p = parse(&format!("{}={}\n", escape(&key), escape(&value))).unwrap();
        prop_assert_eq!(p.text(&key), Some(value.as_str()));
    }
}
