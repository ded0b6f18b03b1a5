//! Prometheus's text format, version 0.0.4.

use std::{fmt::Write, sync::atomic::Ordering};

use super::{Kind, Labels, Source};

/// A valid name: other characters become `_`.
pub fn name(text: &str) -> String {
    valid(text, |c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':'))
}

fn valid(text: &str, allowed: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    if text.starts_with(|c: char| c.is_ascii_digit()) || text.is_empty() {
        out.push('_');
    }
    out.extend(text.chars().map(|c| if allowed(c) { c } else { '_' }));
    out
}

/// `{a="1",b="2"}`, sorted by name; empty without labels.
pub fn labels(labels: Labels<'_>) -> String {
    let mut all: Vec<(String, &str)> = labels.iter().map(|(n, v)| (valid(n, |c| c.is_ascii_alphanumeric() || c == '_'), *v)).collect();
    all.sort();
    all.dedup_by(|a, b| a.0 == b.0);
    let mut out = String::new();
    for (i, (name, value)) in all.iter().enumerate() {
        out.push(if i == 0 { '{' } else { ',' });
        out.push_str(name);
        out.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    if !out.is_empty() {
        out.push('}');
    }
    out
}

/// Whether rendered labels have one, as `name="value"`.
pub fn has_label(labels: &str, wanted: &str) -> bool {
    labels.match_indices(wanted).any(|(at, _)| {
        let after = labels.as_bytes().get(at + wanted.len());
        // Inside of a value a quote is escaped, so that `="` is there only behind a name.
        matches!(labels.as_bytes().get(at.wrapping_sub(1)), Some(b'{' | b',')) && matches!(after, Some(b'}' | b','))
    })
}

/// A number as Prometheus reads it.
fn number(value: f64) -> String {
    if value == f64::INFINITY {
        "+Inf".to_owned()
    } else if value == f64::NEG_INFINITY {
        "-Inf".to_owned()
    } else {
        value.to_string()
    }
}

/// One more label in rendered labels.
fn with_label(labels: &str, name: &str, value: &str) -> String {
    match labels.strip_suffix('}') {
        Some(rest) => format!("{rest},{name}=\"{value}\"}}"),
        None => format!("{{{name}=\"{value}\"}}"),
    }
}

/// Writes all series of a name.
pub fn family(out: &mut String, name: &str, kind: Kind, help: &str, series: &[(String, Source)]) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let mut lines = String::new();
    for (labels, source) in series {
        // Writing to a string does not fail.
        let _ = match source {
            Source::Counter(counter) => writeln!(lines, "{name}{labels} {}", counter.get()),
            Source::Gauge(gauge) => writeln!(lines, "{name}{labels} {}", number(gauge.get())),
            Source::Ask(ask) => match ask() {
                Some(value) => writeln!(lines, "{name}{labels} {}", number(value)),
                None => Ok(()),
            },
            Source::Histogram(histogram) => {
                let mut total = 0;
                for (i, count) in histogram.0.counts.iter().enumerate() {
                    total += count.load(Ordering::Relaxed);
                    let bound = histogram.0.bounds.get(i).copied().unwrap_or(f64::INFINITY);
                    let _ = writeln!(lines, "{name}_bucket{} {total}", with_label(labels, "le", &number(bound)));
                }
                let _ = writeln!(lines, "{name}_sum{labels} {}", number(histogram.0.sum.get()));
                writeln!(lines, "{name}_count{labels} {total}")
            }
        };
    }
    if !lines.is_empty() {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}");
    }
}
