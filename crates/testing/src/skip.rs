//! Tests that are left out on a machine, and why: said on standard error, past the test runner, and written down for whoever runs all
//! of them. Continuous integration fails on a reason that is not in `.ci/allowed-skips`.

use std::{
    fs::OpenOptions,
    io::{Write, stderr},
};

/// Names the file that reasons are added to. Empty: nothing is said, since the same tests run again later.
const FILE: &str = "SEPTET_SKIPPED";

/// Says that a test, or a part of one, is left out.
pub fn skip(what: &str, why: &str) {
    let line = format!("skipped: {what}: {}\n", why.replace('\n', " "));
    let file = std::env::var_os(FILE);
    if file.as_ref().is_some_and(|f| f.is_empty()) {
        return;
    }
    // One write, so that the lines of tests that run side by side stay whole.
    let _ = stderr().write_all(line.as_bytes());
    if let Some(file) = file {
        let _ = OpenOptions::new().create(true).append(true).open(file).and_then(|mut f| f.write_all(line.as_bytes()));
    }
}
