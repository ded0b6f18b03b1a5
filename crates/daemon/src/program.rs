//! The frame of a server program: exit codes and where errors go.
//!
//! Exit codes: 0 after a clean stop, 1 for an error, 2 for a configuration that is not usable.

use std::{fmt::Display, path::Path, process::ExitCode};

/// A program by its name, which begins its error messages.
#[derive(Debug, Clone, Copy)]
pub struct Program(pub &'static str);

/// Threads of the asynchronous runtime.
const WORKERS: usize = 2;

impl Program {
    /// A configuration with the warnings about it, which are logged; or the exit code after the error was printed.
    ///
    /// # Errors
    /// Exit code 2.
    pub fn configured<C, E: Display>(self, read: Result<(C, Vec<String>), E>) -> Result<C, ExitCode> {
        match read {
            Ok((config, warnings)) => {
                warnings.iter().for_each(|w| tracing::warn!("{w}"));
                Ok(config)
            }
            Err(e) => {
                eprintln!("{}: {e}", self.0);
                Err(ExitCode::from(2))
            }
        }
    }

    /// The end of `--check` for a file that is usable.
    pub fn checked(self, file: &Path) -> ExitCode {
        println!("{}: ok", file.display());
        ExitCode::SUCCESS
    }

    /// The end of a run or a subcommand.
    pub fn ended<E: Display>(self, result: Result<(), E>) -> ExitCode {
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("{}: {e}", self.0);
                ExitCode::FAILURE
            }
        }
    }

    /// Runs a server to its end.
    pub fn run(self, server: impl Future<Output = Result<(), String>>) -> ExitCode {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
        match runtime {
            Ok(runtime) => self.ended(runtime.block_on(server)),
            Err(e) => self.ended(Err(e)),
        }
    }
}
