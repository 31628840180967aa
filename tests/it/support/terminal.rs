//! A program on a terminal of its own, as an operator sees it.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::{SOON, eventually};

/// A program on a terminal; killed on drop.
pub struct Terminal {
    pub child: Child,
    /// The other end of the terminal.
    end: OwnedFd,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts `command` on a terminal with this many columns and lines.
    pub fn run(command: &mut Command, columns: u16, lines: u16) -> Self {
        let end = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&end).expect("a fresh terminal");
        unlockpt(&end).expect("a fresh terminal");
        let path = ptsname(&end, Vec::new()).expect("it has a name").into_string().expect("ASCII");
        let terminal = File::options().read(true).write(true).open(path).expect("the other end");
        let out = || Stdio::from(terminal.try_clone().expect("a file can be cloned"));
        tcsetwinsize(&end, size(columns, lines)).expect("it can be set");
        let child = command
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .env_remove("COLUMNS")
            .env_remove("LINES")
            .stdin(out())
            .stdout(out())
            .stderr(out())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (seen, mut reader) = (Arc::default(), File::from(end.try_clone().expect("it can be cloned")));
        let kept: Arc<Mutex<Vec<u8>>> = Arc::clone(&seen);
        // It ends with an error once the program and `terminal` are gone.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                kept.lock().expect("no reader panics").extend_from_slice(&bytes[..count]);
            }
        });
        Self { child, end, seen }
    }

    /// Gives the terminal another size.
    pub fn resize(&self, columns: u16, lines: u16) {
        tcsetwinsize(&self.end, size(columns, lines)).expect("it can be set");
    }

    /// All that was written to it so far.
    pub fn seen(&self) -> String {
        String::from_utf8(self.seen.lock().expect("no reader panics").clone()).expect("UTF-8")
    }

    /// The last picture that was drawn whole from the top left corner, without colours.
    pub fn picture(&self) -> String {
        let seen = self.seen();
        let whole = seen.rsplit("\x1b[H").find(|picture| picture.ends_with("\x1b[J")).unwrap_or_default();
        let whole = whole.replace("\x1b[J", "").replace("\x1b[K", "").replace('\r', "");
        let mut plain = String::new();
        let mut parts = whole.split("\x1b[");
        plain += parts.next().unwrap_or_default();
        parts.for_each(|part| plain += part.split_once('m').expect("only colours are left").1);
        plain
    }

    /// Waits until the last picture holds these words.
    #[track_caller]
    pub fn wait(&self, words: &str) {
        eventually(&format!("the terminal shows {words:?}; it shows:\n{}", self.picture()), SOON, || {
            self.picture().contains(words)
        });
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- terminal ----\n{}", self.picture());
        }
    }
}

fn size(columns: u16, lines: u16) -> Winsize {
    Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
