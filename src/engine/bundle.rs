//! The bundle: the programs for the hosts of one architecture, with their digests.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// What a host's processor runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Architecture {
    /// x86-64
    X86_64,
    /// 64-bit ARM
    Aarch64,
}

impl Architecture {
    /// That of this program.
    pub const NATIVE: Architecture = if cfg!(target_arch = "aarch64") { Architecture::Aarch64 } else { Architecture::X86_64 };

    /// In the spelling of `uname -m`.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::X86_64 => "x86_64",
            Architecture::Aarch64 => "aarch64",
        }
    }
    /// From the names that `uname`, Debian or EC2 use.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "x86_64" | "amd64" => Some(Architecture::X86_64),
            "aarch64" | "arm64" => Some(Architecture::Aarch64),
            _ => None,
        }
    }
    /// `e_machine` of its ELF files.
    fn machine(self) -> u16 {
        match self {
            Architecture::X86_64 => 62,
            Architecture::Aarch64 => 183,
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What servers of a kind that understand one another have in common. A program carries it as text, `septet-peer-protocol=N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerProtocol(u32);

impl PeerProtocol {
    /// Stands before the number.
    pub const MARK: &str = "septet-peer-protocol=";

    /// The first mark in a program's bytes, or in what was found there. A program without one is older than the mark.
    pub fn find(bytes: &[u8]) -> Option<Self> {
        let mark = Self::MARK.as_bytes();
        let digits_at = bytes.windows(mark.len()).position(|w| w == mark)? + mark.len();
        let digits = bytes[digits_at..].iter().take(9).take_while(|b| b.is_ascii_digit());
        let text: String = digits.map(|b| char::from(*b)).collect();
        text.parse().ok().map(Self)
    }
}

/// A program of the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// where it is here
    pub path: PathBuf,
    /// SHA-256, hex
    pub digest: String,
    /// what it speaks to servers of its kind
    pub peer_protocol: Option<PeerProtocol>,
}

impl Program {
    fn open(path: PathBuf, architecture: Architecture) -> Result<Self> {
        let bytes = std::fs::read(&path).map_err(|e| {
            let hint = if architecture == Architecture::NATIVE {
                "the bundle's programs lie beside septet: build them all with `cargo build --release`, or set SEPTET_BUNDLE to their directory".to_owned()
            } else {
                format!("programs for {architecture} lie in the directory `{architecture}` of the bundle: build them with `cargo build --release --target {architecture}-unknown-linux-gnu`, put them there, or choose other instance types")
            };
            Error::failed(format!("{}: {e}", path.display())).hint(hint)
        })?;
        // The ELF header says for which machine it is: e_machine at byte 18.
        let machine = bytes.get(18..20).map(|b| u16::from_le_bytes([b[0], b[1]]));
        if bytes.get(..4) != Some(b"\x7fELF") || machine != Some(architecture.machine()) {
            return Err(Error::failed(format!("{}: is not a program for {architecture}", path.display())));
        }
        let digest = hex::encode(Sha256::digest(&bytes));
        Ok(Self { path, digest, peer_protocol: PeerProtocol::find(&bytes) })
    }

    /// Its bytes.
    pub fn read(&self) -> Result<Vec<u8>> {
        std::fs::read(&self.path).map_err(|e| Error::failed(format!("{}: {e}", self.path.display())))
    }
}

/// The programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// the host-side program
    pub agent: Program,
    /// the coordinator
    pub coordinator: Program,
    /// the broker
    pub broker: Program,
}

/// The bundles of all architectures, read when they are asked for.
#[derive(Debug)]
pub struct Bundles {
    dir: PathBuf,
    read: [OnceLock<Result<Bundle>>; 2],
}

impl Bundles {
    /// Finds them: `SEPTET_BUNDLE`, or the directory of this program. Nothing is read yet.
    pub fn find() -> Result<Self> {
        let dir = match std::env::var_os("SEPTET_BUNDLE") {
            Some(d) => PathBuf::from(d),
            None => std::env::current_exe()?.parent().map(Path::to_owned).unwrap_or_default(),
        };
        Ok(Self { dir, read: Default::default() })
    }

    /// The bundle of an architecture: in the directory of its name, and that of this machine's own beside septet too.
    pub fn of(&self, architecture: Architecture) -> Result<&Bundle> {
        let cell = &self.read[usize::from(architecture == Architecture::NATIVE)];
        let read = cell.get_or_init(|| {
            let own = self.dir.join(architecture.name());
            let dir = if own.is_dir() || architecture != Architecture::NATIVE { own } else { self.dir.clone() };
            let program = |name: &str| Program::open(dir.join(name), architecture);
            Ok(Bundle { agent: program("septet-agent")?, coordinator: program("septet-coordinator")?, broker: program("septet-broker")? })
        });
        read.as_ref().map_err(Clone::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_that_a_program_speaks() {
        let find = |text: &str| PeerProtocol::find(text.as_bytes()).map(|p| p.0);
        assert_eq!(find("\0abc septet-peer-protocol=\0 septet-peer"), None);
        assert_eq!(find("\0septet-peer-protocol=12x septet-peer-protocol=13"), Some(12));
        assert_eq!(find("running septet-peer-protocol=3"), Some(3));
        assert_eq!(find("septet-peer-protocol=12345678901"), Some(123_456_789));
        assert_eq!(find("septet-peer-protocol"), None);
    }
}
