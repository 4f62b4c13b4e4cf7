//! Where a bench puts what it measured: on standard output, and with `--write` into `docs/performance.md`, between the
//! two lines that bear its name.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "a table is what was asked for")]

use std::path::Path;

/// Prints `text`, and writes it where it stands for `name` if that is asked for.
pub(crate) fn tell(name: &str, text: &str) {
    print!("{text}");
    if !std::env::args().any(|arg| arg == "--write") {
        return;
    }
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->\n"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = document.split_once(&begin).unwrap();
    let (_, after) = rest.split_once(&end).unwrap();
    std::fs::write(path, format!("{before}{begin}\n{}\n\n{end}{after}", text.trim())).unwrap();
}

/// Whether a bound is met, as it stands in a table.
#[allow(dead_code, reason = "not each bench has bounds")]
pub(crate) fn yes(met: bool) -> &'static str {
    if met { "yes" } else { "no" }
}
