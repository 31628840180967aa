//! Bytes that may hold a secret. They are wiped on drop, and when they move to larger storage.
//!
//! A plain `Vec` leaves a copy in freed memory when it grows, and that copy cannot be wiped.

use zeroize::Zeroizing;

/// A growable byte buffer that wipes its storage.
#[derive(Default)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// Shows only the length.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({} bytes)", self.len())
    }
}

impl std::ops::Deref for Secret {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Secret {
    /// Appends bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        let length = self.len() + bytes.len();
        if length > self.0.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(length.max(2 * self.0.capacity())));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(bytes);
    }

    /// Drops and wipes the first `count` bytes.
    pub fn consume(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        let mut rest = Self::default();
        rest.extend(&self[count..]);
        *self = rest;
    }

    /// Drops and wipes all bytes and frees the storage.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_shrinks_and_shows_nothing() {
        let mut secret = Secret::default();
        for piece in [&b"AUTH"[..], b" ", b"password of some length"] {
            secret.extend(piece);
        }
        assert_eq!(&*secret, b"AUTH password of some length");
        assert_eq!(format!("{secret:?}"), "Secret(28 bytes)");
        secret.consume(5);
        assert_eq!(&*secret, b"password of some length");
        assert_eq!(secret.0.capacity(), secret.len(), "nothing is left behind the bytes");
        secret.clear();
        assert!(secret.is_empty() && secret.0.capacity() == 0);
    }
}
