//! Entry of the command line: arguments in, exit code out.

use std::io::{Write, stderr};
use std::process::ExitCode;
use std::time::Duration;

/// How long threads that still block (a libvirt call, say) are waited for in the end.
const LAST_CALL: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    // Before anything is opened or started that could get hold of it.
    pilab::support::fdstore::inherit();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(stderr(), "error: cannot start the runtime: {error}");
            return pilab::cli::exit::Exit::Lab.into();
        }
    };
    let exit = runtime.block_on(pilab::cli::main(&pilab::compose::local(), std::env::args_os()));
    runtime.shutdown_timeout(LAST_CALL);
    exit
}
