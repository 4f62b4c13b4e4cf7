//! `[bundles]` of a lab file: how many runs' evidence is kept, and for how long.

use super::error::ConfigError;
use super::raw::Source;
use crate::model::bundle::Retention;
use serde::Deserialize;
use std::ops::Range;
use std::time::Duration;
use toml::Spanned;

/// What is kept when nobody says: a run of virtual machines takes some 100 KB.
pub const USUAL: Retention =
    Retention { count: Some(1000), age: Some(Duration::from_secs(90 * 86400)), bytes: Some(10 << 30) };

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBundles {
    keep: Option<Spanned<usize>>,
    age: Option<Spanned<String>>,
    size: Option<Spanned<String>>,
}

impl RawBundles {
    pub(super) fn check(self, source: &Source) -> Result<Retention, ConfigError> {
        let error = |span: Range<usize>, key: &str, cause: String| {
            source.value(&span, format!("bundles.{key}"), cause)
        };
        let mut retention = USUAL;
        if let Some(keep) = self.keep {
            if *keep.get_ref() == 0 {
                return Err(error(
                    keep.span(),
                    "keep",
                    "the last bundle is always kept: at least 1".to_owned(),
                ));
            }
            retention.count = Some(*keep.get_ref());
        }
        if let Some(age) = self.age {
            let told = humantime::parse_duration(age.get_ref());
            let told = told.map_err(|e| {
                error(age.span(), "age", format!("{:?} is no time such as \"90d\": {e}", age.get_ref()))
            })?;
            retention.age = Some(told);
        }
        if let Some(size) = self.size {
            let told = bytes(size.get_ref()).map_err(|cause| error(size.span(), "size", cause))?;
            retention.bytes = Some(told);
        }
        Ok(retention)
    }
}

/// A number of bytes in words: `500 MiB`, `2GB`, `4096`.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size such as \"10 GiB\" or \"500 MB\"");
    let digits = text.trim().find(|c: char| !c.is_ascii_digit()).unwrap_or(text.trim().len());
    let (number, unit) = text.trim().split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(wrong()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, wanted) in [("4096", 4096), ("500 MB", 500_000_000), ("2GiB", 2 << 30), (" 1 KiB ", 1024)]
        {
            assert_eq!(bytes(text), Ok(wanted), "{text}");
        }
        for bad in ["", "GiB", "1 gb", "-1", "1.5 GiB", "99999999999 TiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
