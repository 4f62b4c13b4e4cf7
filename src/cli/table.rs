//! Plain text: columns, and text of others made safe to print.

/// How a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// At its left edge: words.
    Left,
    /// At its right edge: numbers.
    Right,
}

/// Lays rows out in columns, two spaces apart and `indent` from the edge, no spaces at line ends. A column
/// without an alignment is at its left edge.
pub fn columns(rows: &[Vec<String>], aligns: &[Align], indent: usize) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let cell = |row: &Vec<String>, column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
    let widths: Vec<usize> =
        (0..count).map(|column| rows.iter().map(|row| cell(row, column)).max().unwrap_or_default()).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = " ".repeat(indent);
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            if column > 0 {
                line.push_str("  ");
            }
            match aligns.get(column) {
                Some(Align::Right) => line.push_str(&format!("{cell:>width$}")),
                _ => line.push_str(&format!("{cell:<width$}")),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `text` without control characters, which a console line or an error of others may hold and a terminal
/// would obey.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Seconds with one decimal.
pub fn seconds(seconds: f64) -> String {
    format!("{seconds:.1}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".into(), "1.0".into()], vec!["née".into(), "10.0".into(), "x".into()], vec![]];
        assert_eq!(columns(&rows, &[Align::Left, Align::Right], 1), " a     1.0\n née  10.0  x\n\n");
    }

    #[test]
    fn what_a_terminal_would_obey_is_not_printed() {
        assert_eq!(printable("a\x1b[2Jb\r\n"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}");
    }
}
