//! Each planted bug with the seed that finds it and the invariant that it breaks there.

use crate::{bugs::Bug, world::World};

/// Bug, seed, invariant.
const FOUND: &[(Bug, u64, &str)] = &[];

#[test]
fn planted_bugs_are_found() {
    for bug in Bug::ALL {
        assert!(FOUND.iter().any(|(b, ..)| b == bug), "no seed finds {bug:?}");
    }
    for (bug, seed, invariant) in FOUND {
        let found = World::run(*seed, Some(*bug), false).violation;
        assert!(found.as_ref().is_some_and(|v| v.starts_with(invariant)), "{bug:?}, seed {seed}: {found:?}");
        // Without the bug, the seed breaks nothing.
        assert_eq!(World::run(*seed, None, false).violation, None, "seed {seed}");
    }
    println!("{} planted bugs found", FOUND.len());
}

/// Prints the table above anew: `SEPTET_SURVEY=n` looks through n seeds for each bug.
#[test]
fn survey() {
    let Some(seeds) = std::env::var("SEPTET_SURVEY").ok().and_then(|s| s.parse().ok()) else {
        return;
    };
    for bug in Bug::ALL {
        let found = (0..seeds).find_map(|s| World::run(s, Some(*bug), false).violation.map(|v| (s, v)));
        match found {
            Some((seed, why)) => println!("    (Bug::{bug:?}, {seed}, {:?}),", why.split(" at ").next().unwrap_or_default()),
            None => println!("    // {bug:?}: not found"),
        }
    }
}
