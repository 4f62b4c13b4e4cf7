//! Just enough XML to write what libvirt reads and to read what libvirt writes: elements, attributes,
//! text. No doctypes, no entities beyond the predefined ones; libvirt writes none.

use std::fmt::{self, Write};

/// A text that XML 1.0 cannot hold (control characters, not UTF-8).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} cannot be written as XML")]
pub struct NotXml {
    /// The text.
    pub text: String,
}

/// A text made safe for an attribute or an element's content.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(&'a str);

/// Makes `text` safe.
pub fn escape(text: &str) -> Result<Escaped<'_>, NotXml> {
    // XML 1.0 §2.2, production Char.
    let allowed = |c: char| (c >= ' ' || "\t\n\r".contains(c)) && !matches!(c, '\u{fffe}' | '\u{ffff}');
    if text.chars().all(allowed) { Ok(Escaped(text)) } else { Err(NotXml { text: text.to_owned() }) }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '\'' => f.write_str("&apos;")?,
                '"' => f.write_str("&quot;")?,
                // An attribute's line breaks and tabs would be read as blanks (XML 1.0 §3.3.3).
                '\t' | '\n' | '\r' => write!(f, "&#{};", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// One piece of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// `<name key='value'>`; `<name/>` is followed by its `Close`.
    Open {
        /// With its prefix.
        name: String,
        /// In their order.
        attributes: Vec<(String, String)>,
    },
    /// `</name>`.
    Close {
        /// With its prefix.
        name: String,
    },
    /// Text that is not all blank, without blanks around it.
    Text(String),
}

impl Token {
    /// The value of an attribute, when this opens an element called `element` that has it.
    pub fn attribute(&self, element: &str, key: &str) -> Option<&str> {
        match self {
            Self::Open { name, attributes } if name == element => {
                attributes.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
            }
            _ => None,
        }
    }
}

/// Splits a document; stops at what it does not understand.
pub fn tokens(document: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = document;
    while let Some(start) = rest.find('<') {
        let (text, tail) = rest.split_at(start);
        if !text.trim().is_empty() {
            tokens.push(Token::Text(unescape(text.trim())));
        }
        let skipped = [("<!--", "-->"), ("<?", "?>"), ("<![CDATA[", "]]>"), ("<!", ">")]
            .into_iter()
            .find(|(open, _)| tail.starts_with(open));
        if let Some((_, close)) = skipped {
            let Some(end) = tail.find(close) else { break };
            rest = tail.get(end + close.len()..).unwrap_or_default();
            continue;
        }
        let Some(end) = tag_end(tail) else { break };
        let tag = tail.get(1..end).unwrap_or_default();
        rest = tail.get(end + 1..).unwrap_or_default();
        if let Some(name) = tag.strip_prefix('/') {
            tokens.push(Token::Close { name: name.trim().to_owned() });
            continue;
        }
        let (tag, empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let name = tag.split_whitespace().next().unwrap_or_default().to_owned();
        let attributes = attributes(tag.get(name.len()..).unwrap_or_default());
        tokens.push(Token::Open { name: name.clone(), attributes });
        if empty {
            tokens.push(Token::Close { name });
        }
    }
    tokens
}

/// Where the `>` is that ends the tag at the start of `text`: not one inside quotes.
fn tag_end(text: &str) -> Option<usize> {
    let mut quote = None;
    text.char_indices().find_map(|(at, c)| {
        match (quote, c) {
            (None, '>') => return Some(at),
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
        None
    })
}

fn attributes(mut text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while let Some((key, tail)) = text.split_once('=') {
        let tail = tail.trim_start();
        let Some(quote) = tail.chars().next().filter(|c| "'\"".contains(*c)) else { break };
        let Some((value, after)) = tail.get(1..).and_then(|tail| tail.split_once(quote)) else { break };
        found.push((key.trim().to_owned(), unescape(value)));
        text = after;
    }
    found
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, tail)) = rest.split_once('&') {
        out.push_str(before);
        let Some((entity, after)) = tail.split_once(';') else {
            out.push('&');
            rest = tail;
            continue;
        };
        match character(entity) {
            Some(c) => out.push(c),
            None => {
                out.push('&');
                out.push_str(entity);
                out.push(';');
            }
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn character(entity: &str) -> Option<char> {
    match entity {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "apos" => Some('\''),
        "quot" => Some('"'),
        _ => {
            let number = entity.strip_prefix('#')?;
            let code = match number.strip_prefix('x') {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn open(name: &str, attributes: &[(&str, &str)]) -> Token {
        let attributes = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Token::Open { name: name.to_owned(), attributes }
    }

    #[test]
    fn documents_are_split_into_elements_and_text() {
        let document =
            "<?xml version='1.0'?><!-- <x> --><a k='1 > 0' p:l=\"&quot;&#10;&#x41;\">\n <b/> t&amp;t </a>";
        let close = |name: &str| Token::Close { name: name.to_owned() };
        let expected = [
            open("a", &[("k", "1 > 0"), ("p:l", "\"\nA")]),
            open("b", &[]),
            close("b"),
            Token::Text("t&t".to_owned()),
            close("a"),
        ];
        assert_eq!(tokens(document), expected);
    }

    #[test]
    fn what_xml_cannot_hold_is_refused() {
        for bad in ["a\0b", "\u{1b}[31m", "\u{ffff}"] {
            assert_eq!(escape(bad).unwrap_err().text, bad);
        }
    }

    proptest! {
        #[test]
        fn what_is_escaped_reads_back(text in "[ -~\t\n\ré\u{1F980}]{0,40}") {
            let document = format!("<a k='{0}' l=\"{0}\"/>", escape(&text).unwrap());
            prop_assert_eq!(&tokens(&document)[0], &open("a", &[("k", &text), ("l", &text)]));
        }

        #[test]
        fn any_text_is_survived(text in "[<>&;'\"=/!?a \\-\\[\\]]{0,60}") {
            tokens(&text);
        }
    }
}
