//! Variables and matrices of a scenario file: `${name}` stands for a value, and the file for one scenario each
//! combination. Values are put into the text before it is read, so they can stand wherever a string can; they hold
//! nothing that could end one, so that a line stays the line it is.

use super::error::ConfigError;
use super::raw::Source;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use toml::Spanned;

/// The most scenarios that one file may stand for.
const MAX_COMBINATIONS: usize = 64;
/// The longest value in bytes.
const MAX_VALUE: usize = 128;

/// What is read of a file before anything is put into it.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    variables: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    matrix: BTreeMap<String, Spanned<Vec<String>>>,
    #[serde(flatten)]
    _rest: BTreeMap<String, IgnoredAny>,
}

/// The file's text once for each combination, with the values of its matrix, in the order of their names.
pub(super) fn expand(source: &Source) -> Result<Vec<(Vec<String>, Source)>, ConfigError> {
    let Head { variables, matrix, .. } = source.parse()?;
    for (name, value) in &variables {
        let key = format!("variables.{name}");
        check(name, value.get_ref()).map_err(|cause| source.value(&value.span(), key, cause))?;
        if matrix.contains_key(name) {
            let cause = format!("{name:?} is in [matrix] as well: leave one out");
            return Err(source.value(&value.span(), format!("variables.{name}"), cause));
        }
    }
    let mut all: Vec<Vec<(&str, &str)>> = vec![Vec::new()];
    for (name, values) in &matrix {
        let key = format!("matrix.{name}");
        let error = |cause: String| source.value(&values.span(), key.clone(), cause);
        let list = values.get_ref();
        if list.is_empty() {
            return Err(error("is empty: name at least one value".to_owned()));
        }
        list.iter().try_for_each(|value| check(name, value)).map_err(error)?;
        all =
            all.iter().flat_map(|chosen| list.iter().map(|v| [&chosen[..], &[(name, v)]].concat())).collect();
        if all.len() > MAX_COMBINATIONS {
            return Err(error(format!("makes more than {MAX_COMBINATIONS} scenarios of one file")));
        }
    }
    let fixed = variables.iter().map(|(name, value)| (name.as_str(), value.get_ref().as_str()));
    let fixed: Vec<_> = fixed.collect();
    all.into_iter()
        .map(|chosen| {
            let values: BTreeMap<_, _> = fixed.iter().copied().chain(chosen.iter().copied()).collect();
            let text = filled(source, &values)?;
            Ok((chosen.into_iter().map(|(_, value)| value.to_owned()).collect(), source.with_text(text)))
        })
        .collect()
}

fn check(name: &str, value: &str) -> Result<(), String> {
    let word = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if name.is_empty() || name.len() > MAX_VALUE || !word(name) {
        return Err(format!("{name:?} is no name: use letters, digits, _ and -"));
    }
    let harmless = |c: char| !c.is_control() && !matches!(c, '"' | '\'' | '\\' | '$');
    if value.is_empty() || value.len() > MAX_VALUE || !value.chars().all(harmless) {
        let cause =
            format!("{value:?} is not 1 to {MAX_VALUE} bytes without quotes, backslashes, $ and line ends");
        return Err(cause);
    }
    Ok(())
}

/// The text with every `${name}` replaced; `$${` stays as `${`.
fn filled(source: &Source, values: &BTreeMap<&str, &str>) -> Result<String, ConfigError> {
    let text = source.text();
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    while let Some(found) = text.get(at..).and_then(|rest| rest.find("${")) {
        let begin = at + found;
        let before = text.get(at..begin).unwrap_or_default();
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            at = begin + 2;
            continue;
        }
        let rest = text.get(begin + 2..).unwrap_or_default();
        let name = rest.split(['}', '\n']).next().unwrap_or_default();
        let closed = rest.get(name.len()..).is_some_and(|rest| rest.starts_with('}'));
        let Some(value) = values.get(name).filter(|_| closed) else {
            let known = values.keys().copied().collect::<Vec<_>>().join(", ");
            let known =
                if known.is_empty() { "there is none".to_owned() } else { format!("there are {known}") };
            let shown: String = name.chars().take(40).collect();
            let cause = format!(
                "is neither in [variables] nor in [matrix] ({known}); for the characters themselves write $${{"
            );
            return Err(source.value(&(begin..begin), format!("${{{shown}}}"), cause));
        };
        out.push_str(before);
        out.push_str(value);
        at = begin + 2 + name.len() + 1;
    }
    out.push_str(text.get(at..).unwrap_or_default());
    Ok(out)
}
