//! Bundles, the evidence of runs, as files: written, read, checked, made fit to be shared, and thrown away in time.
//!
//! ```text
//!  <run>/               a directory, for people                <run>.tar      one file, compressed
//!    bundle.json        what it is, each file's SHA-256          bundle.json  first, so that one cut short can be judged
//!    run.json           scenario, image manifest, outcome        run.json.gz
//!    events.jsonl       the run's events, one a line             events.jsonl.gz
//!    console/DEV.log    the console's bytes, as they came        console/DEV.log.gz
//!    journal/DEV.jsonl  its journal: when each chunk came, …     journal/DEV.jsonl.gz
//! ```
//!
//! Hashes are those of the content, not of what it is packed in, so both forms have the same list. An archive is
//! plain tar with each file a gzip member of its own: any tar and gunzip read it, and what is damaged or missing
//! spoils no other file. The layout's versions: `docs/bundles.md`.

mod error;
mod open;
mod pack;
mod read;
mod redact;
mod store;

pub use error::BundleError;
pub use open::{Bundle, Condition, Form};
pub use pack::{Packer, export, unpack};
pub use read::{ConsolePiece, relative};
pub use redact::{Redaction, redact};
pub use store::{Kept, kept, prune};

/// What an archive's file is called after the run's id.
pub const ARCHIVE: &str = "tar";
/// The most files of one bundle.
pub const MAX_FILES: usize = 10_000;
/// The most bytes of one bundle, unpacked: some hundred times what a run on virtual machines writes.
pub const MAX_BYTES: u64 = 4 << 30;
/// The most bytes of one file that are held in memory, to be shown or redacted: a run writes some MB, a console that is never
/// still 40 MB an hour at 115200 baud. Archives come from others, and a few MB of gzip can be gigabytes.
pub const MAX_HELD: u64 = 64 << 20;

#[cfg(test)]
mod tests;
