//! `lab/*.toml` and scenario files: raw, then checked; errors name file, key and line.
