//! The archive that the kernel unpacks at boot: cpio in its "newc" form, which is described in the
//! kernel's Documentation/driver-api/early-userspace/buffer-format.rst.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const SYMLINK: u32 = 0o120_777;
const END: &str = "TRAILER!!!";

/// Files without their leading "/". Directories come before what is in them.
pub struct Archive<W>(W);

impl<W: Write> Archive<W> {
    pub fn new(to: W) -> Self {
        Self(to)
    }

    pub fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY, &[])
    }

    pub fn file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.entry(name, EXECUTABLE, content)
    }

    pub fn symlink(&mut self, name: &str, to: &str) -> io::Result<()> {
        self.entry(name, SYMLINK, to.as_bytes())
    }

    pub fn finish(mut self) -> io::Result<()> {
        self.entry(END, 0, &[])?;
        self.0.flush()
    }

    /// All of root's, without links and dates.
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        let links = 1;
        // inode, mode, uid, gid, links, mtime, size, 4 device numbers, name's size, checksum
        let fields = [0, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        let header = fields.map(|field| format!("{field:08X}")).concat();
        self.padded(format!("070701{header}{name}\0").as_bytes())?;
        self.padded(content)
    }

    fn padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)?;
        let end = bytes.len().next_multiple_of(4);
        self.0.write_all(&[0; 4][..end - bytes.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_contents_end_at_multiples_of_four() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.file("init", b"12345").unwrap();
        archive.finish().unwrap();
        // 110 bytes of header, "init\0" and one of padding; then 5 bytes and 3 of padding
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[110..124], b"init\0\x0012345\0\0\0");
        assert_eq!(&bytes[124..130], b"070701");
        assert_eq!(bytes.len() % 4, 0);
    }
}
