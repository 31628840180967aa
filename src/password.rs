//! A password from a file. It is never shown, and never stands in a config.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::Zeroizing;

use crate::file;

/// Longest password in bytes.
const LONGEST: usize = 1024;

/// Largest password file in bytes.
const LARGEST: u64 = 64 * 1024;

/// A password; wiped on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Password {
    /// Reads the file, which must hold one line; the line end is not part of the password.
    pub fn read(path: &Path) -> Result<Self, String> {
        let what = |error: std::io::Error| {
            let hint = match error.kind() {
                std::io::ErrorKind::PermissionDenied => "; it must belong to the gateway's user",
                std::io::ErrorKind::NotFound => "; write the password into it, mode 0600",
                _ => "",
            };
            format!("password file {}: {error}{hint}", path.display())
        };
        let bytes = file::read(path, LARGEST).map_err(what)?;
        if bytes.starts_with(b"\xef\xbb\xbf") {
            return Err(format!(
                "password file {}: it begins with a byte order mark; save it without one",
                path.display()
            ));
        }
        let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Err(format!("password file {}: it is empty", path.display()));
        }
        if line.len() > LONGEST || line.contains(&b'\n') {
            return Err(format!(
                "password file {}: it must hold one line of at most {LONGEST} bytes",
                path.display()
            ));
        }
        Ok(Self(Zeroizing::new(line.to_vec())))
    }

    /// Whether every user of this host has some access to the file.
    pub fn is_open_to_all(path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|file| file.mode() & 0o007 != 0)
    }

    /// The password's bytes, to be sent to Redis.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether `guess` equals the password. The time that this takes depends only on the lengths.
    pub fn is(&self, guess: &[u8]) -> bool {
        verify_slices_are_equal(&self.0, guess).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_a_password_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let read = |text: &[u8]| {
            let path = folder.path().join("pw");
            std::fs::write(&path, text).unwrap();
            Password::read(&path)
        };
        assert!(read(b"secret\n").unwrap().is(b"secret"));
        assert!(read(b"with space \r\n").unwrap().is(b"with space "));
        assert!(!read(b"secret").unwrap().is(b"secreT") && !read(b"secret").unwrap().is(b"secret1"));
        for (bad, why) in
            [(&b""[..], "empty"), (b"\n", "empty"), (b"a\nb\n", "one line"), (&[b'x'; 2000], "one line")]
        {
            assert!(read(bad).unwrap_err().contains(why));
        }
        assert!(Password::read(&folder.path().join("none")).unwrap_err().contains("mode 0600"));
        assert_eq!(format!("{:?}", read(b"secret").unwrap()), "***");
    }
}
