//! `septet completions`

use clap::CommandFactory;

use crate::error::Result;

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    /// The shell
    shell: clap_complete::Shell,
}

/// Runs it.
pub fn run(a: &Arguments) -> Result<()> {
    let mut out = Vec::new();
    clap_complete::generate(a.shell, &mut super::Cli::command(), "septet", &mut out);
    super::print_data(&String::from_utf8_lossy(&out))
}
