//! The shell script that receives a file on a host, below Septet's directory there.
//!
//! Invariants: a file gets its name only after its digest was checked. Septet's directories belong to root and only root
//! writes to them, whatever the umask and whatever was there before; blobs can be read by root only. No name can be
//! guessed before it is written to.

/// What a file is on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lands {
    /// an agent: every account may run it
    Program,
    /// a blob of the store: its bytes may become a file with any mode
    Blob,
}

/// A script that reads the file from its standard input. `path` is two directories below Septet's own parent, as
/// `/var/lib/septet/store/DIGEST`, and has no characters that a shell treats specially.
pub(super) fn script(path: &str, digest: &str, lands: Lands) -> String {
    let (dir, _) = path.rsplit_once('/').unwrap_or((".", path));
    let (state, _) = dir.rsplit_once('/').unwrap_or((".", dir));
    let (dir_mode, mode) = match lands {
        Lands::Program => ("0755", "0755"),
        Lands::Blob => ("0700", "0600"),
    };
    format!(
        "set -e; umask 077; \
         own() {{ if [ -L \"$1\" ]; then echo \"$1 is a link; refusing to follow it\" >&2; exit 1; fi; \
         mkdir -p \"$1\"; chown 0:0 \"$1\"; chmod \"$2\" \"$1\"; }}; \
         own {state} 0755; own {dir} {dir_mode}; \
         t=$(mktemp {dir}/.XXXXXXXXXX); trap 'rm -f \"$t\"' EXIT; cat > \"$t\"; \
         echo \"{digest}  $t\" | sha256sum -c --status || {{ echo 'it arrived damaged' >&2; exit 1; }}; \
         chmod {mode} \"$t\"; mv -fT \"$t\" {path}"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sha2::{Digest, Sha256};
    use std::{
        fs,
        io::Write,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
        path::Path,
        process::{Command, Output, Stdio},
    };

    fn digest(bytes: &[u8]) -> String {
        hex::encode(Sha256::digest(bytes))
    }

    fn receive(state: &Path, dir: &str, bytes: &[u8], digest: &str, lands: Lands) -> Output {
        let state = state.to_str().unwrap();
        let words = format!("umask 000; {}", script(&format!("{state}/{dir}/{digest}"), digest, lands));
        let mut shell = Command::new("sh").args(["-c", &words]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A script that refuses does not read.
        let _ = shell.stdin.take().unwrap().write_all(bytes);
        shell.wait_with_output().unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    /// Changing owners takes root; without it these tests would show nothing.
    fn root() -> bool {
        let is = fs::metadata("/proc/self").unwrap().uid() == 0;
        if !is {
            eprintln!("skipped: not root");
        }
        is
    }

    #[test]
    fn what_lands_is_roots_whatever_the_umask_and_what_was_there() {
        if !root() {
            return;
        }
        for before in [false, true] {
            let tmp = tempfile::tempdir().unwrap();
            let state = tmp.path().join("septet");
            if before {
                for dir in ["", "agent", "store"] {
                    fs::create_dir_all(state.join(dir)).unwrap();
                    fs::set_permissions(state.join(dir), PermissionsExt::from_mode(0o777)).unwrap();
                    std::os::unix::fs::chown(state.join(dir), Some(12345), Some(12345)).unwrap();
                }
            }
            let digest = digest(b"bytes");
            for (dir, lands, dir_mode, file_mode) in [("agent", Lands::Program, 0o755, 0o755), ("store", Lands::Blob, 0o700, 0o600)] {
                let out = receive(&state, dir, b"bytes", &digest, lands);
                assert!(out.status.success(), "{out:?}");
                let file = state.join(dir).join(&digest);
                assert_eq!(fs::read(&file).unwrap(), b"bytes");
                assert_eq!((mode(&state), mode(&state.join(dir)), mode(&file)), (0o755, dir_mode, file_mode), "{dir}, before: {before}");
                assert!([&state, &state.join(dir), &file].iter().all(|p| fs::metadata(p).unwrap().uid() == 0), "{dir}");
                assert_eq!(fs::read_dir(state.join(dir)).unwrap().count(), 1, "nothing else is left");
            }
        }
    }

    #[test]
    fn links_are_not_followed_and_damage_gets_no_name() {
        if !root() {
            return;
        }
        let tmp = tempfile::tempdir().unwrap();
        let (state, elsewhere) = (tmp.path().join("septet"), tmp.path().join("elsewhere"));
        fs::create_dir_all(&elsewhere).unwrap();
        fs::create_dir_all(state.join("store")).unwrap();
        let digest = digest(b"bytes");
        // In the place of the directory: refused. In the place of the file: replaced.
        symlink(&elsewhere, state.join("agent")).unwrap();
        let out = receive(&state, "agent", b"bytes", &digest, Lands::Program);
        assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("refusing to follow"), "{out:?}");
        for target in [elsewhere.join("victim"), elsewhere.clone()] {
            symlink(&target, state.join("store").join(&digest)).unwrap();
            assert!(receive(&state, "store", b"bytes", &digest, Lands::Blob).status.success());
            assert!(fs::symlink_metadata(state.join("store").join(&digest)).unwrap().is_file());
            fs::remove_file(state.join("store").join(&digest)).unwrap();
        }
        let out = receive(&state, "store", b"other", &digest, Lands::Blob);
        assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("damaged"), "{out:?}");
        assert_eq!(fs::read_dir(state.join("store")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    }
}
