//! What an answer tells of the state.

use super::error::PowerError;
use crate::model::power::PowerReading;
use crate::model::wiring::ReadBack;
use regex::Regex;
use serde_json::Value;

/// The most of an answer that is quoted, in characters.
const QUOTE: usize = 200;

/// Reads answers.
pub struct Reader {
    /// Where in a JSON answer to look, the first that is there; none for the whole of any answer.
    pointers: Vec<String>,
    on: Regex,
    off: Regex,
}

impl Reader {
    /// As the lab file describes the answers. An error when a pattern cannot be read.
    pub fn new(described: ReadBack) -> Result<Self, PowerError> {
        Self::at(described.pointer.into_iter().collect(), &described.on, &described.off)
    }

    /// Reads `true` and `ON`, `false` and `OFF` at the first of these places of a JSON answer that is there.
    pub fn json(pointers: &[&str]) -> Result<Self, PowerError> {
        let pointers = pointers.iter().map(|pointer| (*pointer).to_owned()).collect();
        Self::at(pointers, "^(?i:on|true)$", "^(?i:off|false)$")
    }

    fn at(pointers: Vec<String>, on: &str, off: &str) -> Result<Self, PowerError> {
        let pattern = |what, pattern| {
            Regex::new(pattern).map_err(|source| PowerError::Description { what, source: source.into() })
        };
        Ok(Self { pointers, on: pattern("pattern for on", on)?, off: pattern("pattern for off", off)? })
    }

    /// `Unknown` when it tells neither, or both.
    pub fn read(&self, answer: &str) -> PowerReading {
        let found = if self.pointers.is_empty() { Some(answer.trim().to_owned()) } else { self.find(answer) };
        let Some(found) = found else { return PowerReading::Unknown };
        match (self.on.is_match(&found), self.off.is_match(&found)) {
            (true, false) => PowerReading::On,
            (false, true) => PowerReading::Off,
            _ => PowerReading::Unknown,
        }
    }

    fn find(&self, answer: &str) -> Option<String> {
        let json: Value = serde_json::from_str(answer).ok()?;
        match self.pointers.iter().find_map(|pointer| json.pointer(pointer))? {
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }
}

/// The beginning of an answer, for people.
pub(super) fn quote(answer: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let answer: String = answer.chars().map(clean).collect();
    answer.trim().chars().take(QUOTE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_tells_on_or_off_or_neither() {
        use PowerReading::{Off, On, Unknown};
        let described = |pointer: Option<&str>, on: &str, off: &str| {
            let pointer = pointer.map(str::to_owned);
            Reader::new(ReadBack { pointer, on: on.to_owned(), off: off.to_owned() }).unwrap()
        };
        let shelly = Reader::json(&["/output"]).unwrap();
        let tasmota = Reader::json(&["/POWER1", "/POWER"]).unwrap();
        let words = described(None, "^on$", "^off$");
        let port = described(Some("/ports/3/state"), "^1$", "^0$");
        let table = [
            (&shelly, r#"{"id":0,"output":true}"#, On),
            (&shelly, r#"{"id":0,"output":false}"#, Off),
            (&shelly, r#"{"id":0,"output":null}"#, Unknown),
            (&shelly, r#"{"output":tr"#, Unknown),
            (&shelly, "", Unknown),
            (&tasmota, r#"{"POWER":"ON"}"#, On),
            (&tasmota, r#"{"POWER1":"OFF","POWER":"ON"}"#, Off),
            (&tasmota, r#"{"WARNING":"Need user=<username>&password=<password>"}"#, Unknown),
            (&words, " on\r\n", On),
            (&words, "on off", Unknown),
            (&port, r#"{"ports":[{},{},{},{"state":0}]}"#, Off),
        ];
        for (reader, answer, expected) in table {
            assert_eq!(reader.read(answer), expected, "{answer}");
        }
        assert_eq!(described(None, "o", "o").read("o"), Unknown, "both");
    }

    #[test]
    fn a_quote_is_short_and_has_no_control_characters() {
        assert_eq!(quote("\x1b[2Ja\nb\n"), "[2Ja b");
        assert_eq!(quote(&"ü".repeat(1000)).chars().count(), QUOTE);
    }
}
