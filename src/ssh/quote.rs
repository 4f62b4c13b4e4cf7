//! Words for a POSIX shell: sshd gives the command line to the user's shell.

/// Joins program and arguments so that a POSIX shell splits them into just these words again
/// (POSIX.1-2017, Shell Command Language, 2.2.2: inside single quotes nothing is special).
pub fn join(command: &[String]) -> String {
    command.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+:,./-_".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::command::Command;

    #[test]
    fn only_what_needs_it_is_quoted() {
        let table = [
            ("podman", "podman"),
            ("--filter=label", "'--filter=label'"),
            ("a/b:1.0", "a/b:1.0"),
            ("", "''"),
            ("it's", r"'it'\''s'"),
            ("~", "'~'"),
            ("é", "'é'"),
        ];
        for (word, quoted) in table {
            assert_eq!(quote(word), quoted);
        }
    }

    #[tokio::test]
    async fn a_shell_splits_into_the_same_words() {
        let words =
            ["", " ", "a b", "$HOME `id` $(id)", "'", "\"\\\n\t", "*", "~", ";&|<>#!", "é\u{1F980}", "-n"];
        let words: Vec<String> = words.map(str::to_owned).to_vec();
        let script = format!("printf '%s\\0' {}", join(&words));
        let output = Command::new("sh").arg("-c").arg(script).output().await.unwrap();
        let expected: String = words.iter().flat_map(|word| [word.as_str(), "\0"]).collect();
        assert_eq!(String::from_utf8(output).unwrap(), expected);
    }
}
