//! Writes initramfs archives: cpio "newc" (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! The kernel unpacks archives that follow one another, so an initramfs is put together from parts.
//! Nothing of the host gets in: owner is root, time is 0, inodes count up.

use std::io::{self, Write};

/// An archive being written.
pub(super) struct Archive<W> {
    out: W,
    /// Bytes written, for the padding to 4.
    written: usize,
    inode: u32,
}

/// File types of the mode word (inode(7)).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub(super) fn new(out: W) -> Self {
        Self { out, written: 0, inode: 0 }
    }

    /// Adds a directory, mode 0755.
    pub(super) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY | 0o755, &[])
    }

    /// Adds a file with permission bits `mode`.
    pub(super) fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(name, REGULAR | mode, content)
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len()).map_err(|_| io::Error::other("file too large for cpio"))?;
        let name_size =
            u32::try_from(name.len() + 1).map_err(|_| io::Error::other("name too long for cpio"))?;
        // magic, then ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let header: String = fields.iter().map(|field| format!("{field:08x}")).collect();
        self.write(b"070701")?;
        self.write(header.as_bytes())?;
        self.write(name.as_bytes())?;
        self.write(&[0])?;
        self.pad()?;
        self.write(content)?;
        self.pad()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len();
        self.out.write_all(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        let missing = self.written.next_multiple_of(4) - self.written;
        self.write([0; 3].get(..missing).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_padding_are_as_the_kernel_wants_them() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("bin").unwrap();
        archive.file("init", 0o755, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        // 110-byte header, name with its zero, padding to 4, content, padding to 4.
        assert_eq!(bytes.get(..14), Some(b"07070100000001".as_slice()));
        assert_eq!(bytes.get(14..22), Some(b"000041ed".as_slice()));
        assert_eq!(bytes.get(110..120), Some(b"bin\0\0\x000707".as_slice()));
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(text.contains("init\0\0hello\0\0\x00070701"), "{text:?}");
        assert!(text.ends_with("TRAILER!!!\0\0\0\0"), "{text:?}");
        assert_eq!(bytes.len() % 4, 0);
    }
}
