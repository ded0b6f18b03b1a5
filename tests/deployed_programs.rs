//! The programs that go to hosts start on Amazon Linux 2023 and Debian 12 with nothing installed: they need no
//! symbol of a glibc newer than 2.34, and no library but those of glibc itself and libgcc.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{collections::BTreeSet, path::Path, process::Command};

use support::bundled;

/// Amazon Linux 2023 has this one, Debian 12 a newer one.
const NEWEST_GLIBC: (u32, u32) = (2, 34);
const LIBRARIES: &[&str] = &["libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"];

/// Shared libraries and symbol versions that a program needs, from binutils, which every linking Rust toolchain has.
fn needs(program: &Path) -> (BTreeSet<String>, BTreeSet<String>) {
    let text = |tool: &str, option: &str| {
        let out = Command::new(tool).arg(option).arg(program).env("LC_ALL", "C").output();
        let out = out.unwrap_or_else(|e| panic!("{tool} (of binutils) is needed for this test: {e}"));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let libraries = text("readelf", "-dW")
        .lines()
        .filter(|l| l.contains("(NEEDED)"))
        .map(|l| l.split_once('[').unwrap().1.trim_end_matches(']').to_owned())
        .collect();
    let versions =
        text("readelf", "-VW").split_whitespace().filter(|w| w.starts_with("GLIBC") || w.starts_with("GCC_")).map(str::to_owned).collect();
    (libraries, versions)
}

fn too_new(version: &str) -> bool {
    let Some(number) = version.strip_prefix("GLIBC_") else {
        // GCC_3.0 and the like are libgcc's and old; GLIBCXX and GLIBC_PRIVATE must not be there at all.
        return !version.starts_with("GCC_");
    };
    let mut parts = number.split('.').map(|p| p.parse::<u32>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) > NEWEST_GLIBC,
        _ => true,
    }
}

fn judge(program: &Path) {
    let (libraries, versions) = needs(program);
    let foreign: Vec<_> = libraries.iter().filter(|l| !LIBRARIES.contains(&l.as_str())).collect();
    assert!(foreign.is_empty(), "{}: needs {foreign:?}", program.display());
    let new: Vec<_> = versions.iter().filter(|v| too_new(v)).collect();
    assert!(new.is_empty(), "{}: needs {new:?}", program.display());
    // A dynamic program of which no version is found would mean that we read the tool's output wrongly.
    assert!(libraries.is_empty() || versions.contains("GLIBC_2.2.5") || versions.contains("GLIBC_2.17"), "{versions:?}");
}

#[test]
fn versions_are_compared_as_numbers() {
    for old in ["GLIBC_2.2.5", "GLIBC_2.4", "GLIBC_2.34", "GCC_3.0", "GCC_4.2.0"] {
        assert!(!too_new(old), "{old}");
    }
    for new in ["GLIBC_2.35", "GLIBC_2.100", "GLIBC_3.0", "GLIBC_PRIVATE", "GLIBCXX_3.4"] {
        assert!(too_new(new), "{new}");
    }
}

#[test]
fn agent() {
    bundled("septet-agent").iter().for_each(|p| judge(p));
}

#[test]
fn coordinator() {
    bundled("septet-coordinator").iter().for_each(|p| judge(p));
}

#[test]
fn broker() {
    bundled("septet-broker").iter().for_each(|p| judge(p));
}
