//! Short inputs that stand for long ones.
//!
//! ASCII bytes and 0xff stand for themselves. [`AGAIN`] repeats the byte before it, to reach length
//! limits. The others stand for a whole command, as an array or as a line, for a reply, or for
//! words of a line. So changing one byte of the input changes one word of the conversation.

use replgate::internal::redis::command;

/// Repeats the byte before it; the count is the byte that follows, times 64.
pub const AGAIN: u8 = 0x1f;

/// The first byte that stands for a command as an array.
const ARRAY: u8 = 0x80;

/// The first byte that stands for a command as a line.
const LINE: u8 = 0xa0;

/// The first byte that stands for a reply.
const ANSWER: u8 = 0xc0;

/// The first byte that stands for one or two words of a line.
const WORDS: u8 = 0xe0;

/// Commands that replicas send, and others.
const COMMANDS: [&str; 32] = [
    "PING",
    "REPLPING",
    "AUTH secret",
    "AUTH repl secret",
    "REPLCONF listening-port 6380",
    "REPLCONF ip-address own.example",
    "REPLCONF listening-port 7001 ip-address own.example",
    "REPLCONF capa eof capa psync2",
    "REPLCONF capa rdb-channel-repl capa dual-channel capa zstd",
    "REPLCONF rdb-no-compress 1 rdb-no-checksum 1",
    "REPLCONF rdb-only 1",
    "REPLCONF capa eof rdb-only 1 rdb-channel 1 main-ch-client-id 17",
    "REPLCONF rdb-filter-only functions",
    "REPLCONF set-rdb-client-id 17",
    "REPLCONF version 8.1.0",
    "REPLCONF ACK 42",
    "REPLCONF ACK 51 FACK 42",
    "REPLCONF GETACK *",
    "PSYNC ? -1",
    "PSYNC 0123456789012345678901234567890123456789 43",
    "PSYNC 0123456789012345678901234567890123456789 43 FAILOVER",
    "SYNC",
    "CLUSTER SYNCSLOTS SYNC id 0 100",
    "CLUSTER SYNCSLOTS CONF NODE-ID x",
    "CLUSTER FAILOVER TAKEOVER",
    "FLUSHALL",
    "INFO",
    "MULTI",
    "CONFIG SET dir /",
    "REPLICAOF NO ONE",
    "SHUTDOWN NOSAVE",
    "REPLCONF capa eof rdb-only 1 rdb-channel 1",
];

/// A master's replies, and what follows them.
const ANSWERS: [&[u8]; 20] = [
    b"+OK\r\n",
    b"+PONG\r\n",
    b"-ERR unknown command\r\n",
    b"-NOAUTH Authentication required.\r\n",
    b"-NOPERM this user has no permissions\r\n",
    b"-NOTREADY try again\r\n",
    b"+FULLRESYNC 0123456789012345678901234567890123456789 42\r\n",
    b"+CONTINUE\r\n",
    b"+CONTINUE 9876543210987654321098765432109876543210\r\n",
    b"+RDBCHANNELSYNC 17\r\n",
    b"+DUALCHANNELSYNC\r\n",
    b"$ENDOFF:42 0123456789012345678901234567890123456789 0 17\r\n",
    b"$9\r\n",
    b"REDIS0010",
    b"$EOF:abcdefghijabcdefghijabcdefghijabcdefghij\r\n",
    b"abcdefghijabcdefghijabcdefghijabcdefghij",
    b"\n\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"VCS",
    b"+WHAT\r\n",
];

/// The parts of a line: a command that replicas send, options that belong together and options that
/// do not, and the line's end.
const OPTIONS: [&str; 12] = [
    "REPLCONF",
    " rdb-only 1",
    " rdb-channel 1",
    " rdb-channel 0",
    " rdb-filter-only functions",
    " main-ch-client-id 17",
    " main-ch-client-id 5",
    " set-rdb-client-id 17",
    " listening-port 6380",
    " ip-address own.example",
    " capa eof",
    "\r\n",
];

/// The bytes that `script` stands for, up to `most`.
pub fn written_out(script: &[u8], most: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut script = script.iter().copied();
    while let Some(byte) = script.next() {
        let command = |first: u8| COMMANDS[usize::from(byte - first)];
        match byte {
            AGAIN => {
                let count = script.next().map_or(0, |count| usize::from(count) * 64);
                let last = out.last().copied().unwrap_or(b'\n');
                out.extend(std::iter::repeat_n(last, count));
            }
            ARRAY..LINE => {
                out.extend(command::encode(
                    &command(ARRAY).split(' ').map(str::as_bytes).collect::<Vec<_>>(),
                ));
            }
            LINE..ANSWER => out.extend(format!("{}\r\n", command(LINE)).bytes()),
            ANSWER..WORDS => out.extend(ANSWERS[usize::from(byte - ANSWER) % ANSWERS.len()]),
            WORDS..=0xfe => out.extend(OPTIONS[usize::from(byte - WORDS) % OPTIONS.len()].bytes()),
            _ => out.push(byte),
        }
        if out.len() >= most {
            out.truncate(most);
            break;
        }
    }
    out
}
