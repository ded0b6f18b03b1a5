//! The script that mounts a host's data volume, on a block device: it makes a file system on one that is said to be new and has none,
//! and on nothing else ever.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use super::harness::Ran;

const SCRIPT: &str = include_str!("../../templates/data-volume");
const MIB: u64 = 1 << 20;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn run(program: &str, args: &[&str]) -> Ran {
    run_in(PATH, program, args)
}

fn run_in(path: &str, program: &str, args: &[&str]) -> Ran {
    let mut c = Command::new(program);
    c.args(args).env("PATH", path);
    Ran::of(c, "", Duration::from_secs(60))
}

/// A loop device over a file, and the script for it; all of it goes when this is dropped.
struct Volume {
    dir: TempDir,
    device: String,
}

impl Volume {
    /// A device with some bytes at a place. Nothing where there are no devices to be had.
    fn new(test: &str, bytes: &[u8], at: u64) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("septet-volume-").tempdir().unwrap();
        let file = dir.path().join("volume");
        let mut f = File::create(&file).unwrap();
        f.set_len(32 * MIB).unwrap();
        f.seek(SeekFrom::Start(at)).unwrap();
        f.write_all(bytes).unwrap();
        drop(f);
        if which("losetup").is_none() || which("mkfs.ext4").is_none() {
            septet_testing::skip(test, "there is no losetup or no mkfs.ext4");
            return None;
        }
        let made = run("losetup", &["--find", "--show", file.to_str().unwrap()]);
        if made.code != Some(0) {
            septet_testing::skip(test, &format!("no loop device can be had (it takes root): {}", made.err.trim()));
            return None;
        }
        Some(Self { dir, device: made.out.trim().to_owned() })
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Runs the script as a host does at its boot.
    fn boot(&self) -> Ran {
        self.script(PATH, &[])
    }
    /// Runs the script as Septet does on a volume that it has made.
    fn make(&self) -> Ran {
        self.script(PATH, &["--new"])
    }
    fn script(&self, path: &str, args: &[&str]) -> Ran {
        let text = SCRIPT.replace("{{ septet.data_volume | default(value=\"\") }}", "vol-0123456789abcdef0");
        assert!(!text.contains("{{"), "{text}");
        let text = text.replace("/dev/sdf", &self.device).replace(" /data\n", &format!(" {}\n", self.data().display()));
        let text = text.replace("-q /data;", &format!("-q {};", self.data().display()));
        let script = self.dir.path().join("script");
        fs::write(&script, text).unwrap();
        run_in(path, "sh", &[&[script.to_str().unwrap()], args].concat())
    }
    fn shut_down(&self) {
        assert_eq!(run("umount", &[self.data().to_str().unwrap()]).code, Some(0));
    }
    fn bytes(&self) -> Vec<u8> {
        run("sync", &[]);
        fs::read(self.dir.path().join("volume")).unwrap()
    }
    /// Insists that it is refused and left as it is.
    #[track_caller]
    fn is_refused(&self, args: &[&str], why: &str) {
        let before = self.bytes();
        self.script(PATH, args).code(1).says(&[why, "left alone", "vol-0123456789abcdef0"]);
        assert!(self.bytes() == before, "it was changed");
        assert!(!is_mounted(&self.data()));
    }
}

/// What an encrypted volume reads as where nobody has written: noise.
fn noise() -> Vec<u8> {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    let next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(32 * MIB as usize).collect()
}

impl Drop for Volume {
    fn drop(&mut self) {
        if is_mounted(&self.data()) {
            run("umount", &[self.data().to_str().unwrap()]);
        }
        run("losetup", &["-d", &self.device]);
    }
}

fn which(program: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].iter().map(|d| Path::new(d).join(program)).find(|p| p.exists())
}

fn is_mounted(place: &Path) -> bool {
    fs::read_to_string("/proc/mounts").unwrap().contains(&format!(" {} ", place.display()))
}

#[test]
fn a_new_volume_is_formatted_once() {
    for bytes in [Vec::new(), noise()] {
        let Some(volume) = Volume::new("a_new_volume_is_formatted_once", &bytes, 0) else { return };
        // As long as nobody says that it is new, it is left alone, whatever is on it.
        volume.is_refused(&[], "has no file system that is known, and is not new");
        volume.make().code(0).shows(&["is new: it is formatted"]);
        assert!(is_mounted(&volume.data()));
        fs::write(volume.data().join("record"), "kept").unwrap();
        // While it is mounted there is nothing to do.
        assert_eq!(volume.boot().code(0).out, "");
        assert_eq!(volume.make().code(0).out, "");
        // What is taken for new by mistake, after a run that was cut off, keeps what it has.
        for again in [&[][..], &["--new"]] {
            volume.shut_down();
            assert!(!volume.script(PATH, again).code(0).out.contains("formatted"));
            assert_eq!(fs::read_to_string(volume.data().join("record")).unwrap(), "kept");
        }
    }
}

#[test]
fn what_is_on_a_volume_is_never_lost() {
    // A partition table: in use, for something that cannot be mounted as it is.
    let Some(volume) = Volume::new("what_is_on_a_volume_is_never_lost", b"\x80\x20\x21\0\x83\x3c\x28\x01\0\x08\0\0\0\x50\0\0", 446) else {
        return;
    };
    let mut f = fs::OpenOptions::new().write(true).open(volume.dir.path().join("volume")).unwrap();
    f.seek(SeekFrom::Start(510)).unwrap();
    f.write_all(b"\x55\xaa").unwrap();
    drop(f);
    for args in [&[][..], &["--new"]] {
        volume.is_refused(args, "no file system");
    }
}

#[test]
fn what_cannot_be_read_is_not_taken_for_new() {
    use std::os::unix::fs::PermissionsExt;
    let Some(volume) = Volume::new("what_cannot_be_read_is_not_taken_for_new", b"", 0) else { return };
    // A device that gives errors: said by a `blkid` of ours, for want of one that breaks.
    let dir = volume.dir.path().join("broken");
    fs::create_dir(&dir).unwrap();
    let blkid = dir.join("blkid");
    fs::write(&blkid, "#!/bin/sh\necho 'Input/output error' >&2\nexit 4\n").unwrap();
    fs::set_permissions(&blkid, fs::Permissions::from_mode(0o755)).unwrap();
    let before = volume.bytes();
    let ran = volume.script(&format!("{}:{PATH}", dir.display()), &["--new"]);
    ran.code(1).says(&["cannot be read (blkid: 4); it is left alone", "Input/output error"]);
    assert!(volume.bytes() == before, "it was changed");
}

#[test]
fn a_file_system_of_others_is_mounted_as_it_is() {
    let Some(volume) = Volume::new("a_file_system_of_others_is_mounted_as_it_is", b"", 0) else { return };
    run("mkfs.ext4", &["-q", "-L", "others", &volume.device]).code(0);
    assert!(!volume.make().code(0).out.contains("formatted"));
    assert!(is_mounted(&volume.data()));
    let label = run("blkid", &["-p", "-o", "value", "-s", "LABEL", &volume.device]).code(0).out;
    assert_eq!(label, "others\n");
}
