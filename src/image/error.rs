//! What can go wrong with images.

use crate::support::command::CommandError;
use std::io;
use std::path::{Path, PathBuf};

/// An operation on images failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// This machine has no busybox that runs without libraries.
    #[error("this machine has no static busybox")]
    NoBusybox,
    /// A recipe cannot be read.
    #[error("cannot read recipe {}", file.display())]
    RecipeRead {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A recipe says something it must not.
    #[error("{file}:{line}: key `{key}`: {message}")]
    Recipe {
        /// The file, or the built-in recipe's name.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The key; empty when there is none on that line.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// No recipe of that name is built in.
    #[error("there is no recipe {name:?}; built in are: {}", super::recipe::BUILT_IN.join(", "))]
    NoRecipe {
        /// The name that was asked for.
        name: String,
    },
    /// The host has no source of Debian packages, and the recipe names no mirror.
    #[error("none of the host's apt sources has Debian packages")]
    NoMirror,
    /// What was given as a mirror is none.
    #[error("{mirror:?} is not the address of a Debian archive")]
    Mirror {
        /// What was given.
        mirror: String,
    },
    /// A lock cannot be taken as one.
    #[error("{} is not a lock for this image: {message}", file.display())]
    LockFile {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Building needs root.
    #[error("building an image needs root")]
    NotRoot,
    /// A tool is not installed.
    #[error("{tool} is not installed (Debian package {package})")]
    MissingTool {
        /// The program.
        tool: String,
        /// The Debian package that has it.
        package: &'static str,
        /// Why.
        source: Box<CommandError>,
    },
    /// A tool failed.
    #[error("cannot {step}")]
    Tool {
        /// What it was to do.
        step: &'static str,
        /// Why.
        source: Box<CommandError>,
    },
    /// mmdebstrap ended with a failure.
    #[error("cannot make the base root: mmdebstrap ended with {status}: {tail}")]
    Bootstrap {
        /// How it ended.
        status: std::process::ExitStatus,
        /// The last lines it printed.
        tail: String,
    },
    /// No room is left in the store.
    #[error("the disk is full: {} (while trying to {operation})", path.display())]
    DiskFull {
        /// What was being done.
        operation: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of an image is not there.
    #[error("{part} of image {image} is missing: {}", path.display())]
    PartMissing {
        /// Its role.
        part: String,
        /// The image's id.
        image: String,
        /// Where it should be.
        path: PathBuf,
    },
    /// A file of an image is not what was built.
    #[error("{part} of image {image} is corrupt: {} has SHA-256 {found}", path.display())]
    PartCorrupt {
        /// Its role.
        part: String,
        /// The image's id.
        image: String,
        /// Where it lies; its name is the SHA-256 it should have.
        path: PathBuf,
        /// What it has.
        found: String,
    },
    /// A file that images are made of is not what was built.
    #[error("{} is corrupt: it has SHA-256 {found}", path.display())]
    BaseCorrupt {
        /// Where it lies; its name is the SHA-256 it should have.
        path: PathBuf,
        /// What it has.
        found: String,
    },
    /// An image that was to be removed is in use.
    #[error("image {image} is in use")]
    InUse {
        /// The image's id.
        image: String,
    },
    /// A manifest is not one, or not one of this version.
    #[error("{} is not a manifest of version {}", path.display(), super::manifest::MANIFEST_VERSION)]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why; none when only the version or the id differs.
        source: Option<serde_json::Error>,
    },
    /// No image has that id.
    #[error("there is no image {id}")]
    NoImage {
        /// The id or its beginning.
        id: String,
    },
    /// Several images' ids begin so.
    #[error("{count} images begin with {id}")]
    Ambiguous {
        /// The beginning.
        id: String,
        /// How many.
        count: usize,
    },
    /// What was installed is not what the lock says.
    #[error("the build does not match its lock: {package} is {found}, locked is {locked}")]
    LockMismatch {
        /// The first package that differs.
        package: String,
        /// Its version (and SHA-256) as built.
        found: String,
        /// The same as locked.
        locked: String,
    },
    /// The packages do not hold what the image needs.
    #[error("the packages hold no {what}")]
    Incomplete {
        /// What was looked for.
        what: String,
    },
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl ImageError {
    /// What to try, for people.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::MissingTool { .. } => Some("run lab/setup"),
            Self::NoBusybox => Some("install busybox-static (Arch: busybox); lab/setup does"),
            Self::NoMirror => Some(
                "name a Debian archive with --mirror, or in PILAB_MIRROR: http://deb.debian.org/debian, for example",
            ),
            Self::Mirror { .. } => Some("http://deb.debian.org/debian is one, for example"),
            Self::NoRecipe { .. } => Some("a recipe of your own is named by its path: ./my.toml"),
            Self::LockFile { .. } => Some("pilab image ls --json says where an image's lock lies, in `lock`"),
            Self::NotRoot => Some("run it with sudo; afterwards the image is used without"),
            Self::PartMissing { .. } | Self::PartCorrupt { .. } => {
                Some("remove the image (pilab image rm) and build it again")
            }
            Self::BaseCorrupt { .. } => {
                Some("build it again: it is made anew then; should it be corrupt again, so is the disk")
            }
            Self::InUse { .. } => {
                Some("a run or a coordinator boots devices from it: once that has ended, try again")
            }
            Self::Manifest { .. } => Some(
                "remove the image (pilab image rm) and build it again, or use the pilab that has built it",
            ),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run it with sudo; afterwards the image is used without")
            }
            Self::DiskFull { .. } => {
                Some("free some room (pilab image rm), or put the store elsewhere: PILAB_IMAGE_DIR")
            }
            Self::LockMismatch { .. } => Some(
                "an archive keeps its newest packages alone: name one of the lock's day (--mirror \
                 http://snapshot.debian.org/archive/debian/…), or build without --lock to get today's packages",
            ),
            _ => None,
        }
    }

    /// An error of a file operation; a full disk gets its own.
    pub(super) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            Self::DiskFull { operation, path: path.to_owned() }
        } else {
            Self::Io { operation, path: path.to_owned(), source }
        }
    }

    /// An error of a tool; one that is not installed gets its own, and so does a full disk.
    pub(super) fn tool(step: &'static str, package: &'static str, into: &Path, source: CommandError) -> Self {
        match source {
            CommandError::Missing { ref program, .. } => {
                Self::MissingTool { tool: program.clone(), package, source: Box::new(source) }
            }
            // strerror(3) of ENOSPC, as every tool prints it in the C locale.
            CommandError::Failed { ref stderr, .. } if stderr.contains("No space left on device") => {
                Self::DiskFull { operation: step, path: into.to_owned() }
            }
            source => Self::Tool { step, source: Box::new(source) },
        }
    }
}

/// Names operation and path in an `io::Result`.
pub(super) trait At<T> {
    /// `operation` as in "cannot {operation} {path}".
    fn at(self, operation: &'static str, path: &Path) -> Result<T, ImageError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T, ImageError> {
        self.map_err(|source| ImageError::io(operation, path, source))
    }
}
