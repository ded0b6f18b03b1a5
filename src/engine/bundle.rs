//! The bundle: the programs for the hosts, with their digests.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// A program of the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// where it is here
    pub path: PathBuf,
    /// SHA-256, hex
    pub digest: String,
}

impl Program {
    fn open(path: PathBuf) -> Result<Self> {
        let bytes = std::fs::read(&path).map_err(|e| {
            Error::failed(format!("{}: {e}", path.display()))
                .hint("the bundle's programs lie beside septet: build them all with `cargo build --release`, or set SEPTET_BUNDLE to their directory")
        })?;
        // The ELF header says for which machine it is: e_machine at byte 18.
        let machine = bytes.get(18..20).map(|b| u16::from_le_bytes([b[0], b[1]]));
        let host = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
        if bytes.get(..4) != Some(b"\x7fELF") || machine != Some(host) {
            return Err(Error::failed(format!("{}: is not a program for {}", path.display(), std::env::consts::ARCH)));
        }
        let digest = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        Ok(Self { path, digest })
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

impl Bundle {
    /// Finds the bundle: `SEPTET_BUNDLE`, or the directory of this program.
    pub fn find() -> Result<Self> {
        let dir = match std::env::var_os("SEPTET_BUNDLE") {
            Some(d) => PathBuf::from(d),
            None => std::env::current_exe()?.parent().map(Path::to_owned).unwrap_or_default(),
        };
        let program = |name: &str| Program::open(dir.join(name));
        Ok(Self { agent: program("septet-agent")?, coordinator: program("septet-coordinator")?, broker: program("septet-broker")? })
    }
}
