//! Exit codes: stable, described in `docs/exit-codes.md`.

use crate::model::run::Verdict;

/// How the command ends. The order is that of precedence: when several hold, the greatest wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// All was done; every run passed.
    Ok,
    /// Nothing went wrong, but a run was skipped, and that is not passed.
    Skipped,
    /// The lab's fault.
    Lab,
    /// A device's fault.
    Device,
    /// Time ran out.
    Timeout,
    /// A fault in what is under test.
    Failed,
    /// The command line or an input file is wrong; nothing was started.
    Usage,
    /// Somebody stopped it.
    Cancelled,
    /// A program that was run in the command's place ended so: the ssh of `pilab ssh`.
    Program(u8),
}

impl Exit {
    /// All of pilab's own, in order of precedence.
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::Skipped,
        Self::Lab,
        Self::Device,
        Self::Timeout,
        Self::Failed,
        Self::Usage,
        Self::Cancelled,
    ];

    /// The number the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Device => 3,
            Self::Lab => 4,
            Self::Timeout => 5,
            Self::Skipped => 6,
            // What a shell reports of a program that SIGINT ended: 128 + 2.
            Self::Cancelled => 130,
            Self::Program(code) => code,
        }
    }

    /// What a command with these runs ends with.
    pub fn of(verdicts: impl IntoIterator<Item = Verdict>) -> Self {
        verdicts.into_iter().map(Self::from).max().unwrap_or(Self::Ok)
    }
}

impl From<Verdict> for Exit {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Passed => Self::Ok,
            Verdict::Failed => Self::Failed,
            Verdict::Device => Self::Device,
            Verdict::Lab => Self::Lab,
            Verdict::Timeout => Self::Timeout,
            Verdict::Cancelled => Self::Cancelled,
            Verdict::Skipped => Self::Skipped,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decisive_run_decides() {
        use Verdict::*;
        for (verdicts, code) in [
            (&[][..], 0),
            (&[Passed, Passed], 0),
            (&[Passed, Failed, Lab], 1),
            (&[Device, Passed], 3),
            (&[Lab, Device], 3),
            (&[Lab, Skipped, Passed], 4),
            (&[Timeout, Lab, Device], 5),
            (&[Passed, Skipped], 6),
            (&[Failed, Cancelled], 130),
        ] {
            assert_eq!(Exit::of(verdicts.iter().copied()).code(), code, "{verdicts:?}");
        }
    }

    #[test]
    fn the_document_lists_every_code_in_order_of_precedence() {
        let text = include_str!("../../docs/exit-codes.md");
        let listed: Vec<u8> = text
            .lines()
            .filter_map(|line| line.strip_prefix("| ")?.split('|').next()?.trim().parse().ok())
            .collect();
        let mut wanted = Exit::ALL.map(Exit::code);
        wanted.reverse();
        assert_eq!(listed, wanted);
    }
}
