//! The line protocol between the AIM client and the vault. Standard library only: the AIM client's program links this.
//!
//! One TCP connection for each request. The client sends lines `key=value` and an empty line; keys are `op`, `AppID`,
//! `Query`, `QueryFormat`, `RequiredProps`, `Reason`, `FailRequestOnPasswordChange` and `client`. The vault answers
//! `OK`, `ERR CODE text` or `FAULT mode`, then lines `Property=value`, then an empty line. Values and the text are
//! percent-encoded UTF-8 (RFC 3986 2.1).

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpStream};

/// The vault's port when nothing else says so.
pub const DEFAULT_PORT: u16 = 18_923;

/// The environment variable that names the vault's port.
pub const PORT_VARIABLE: &str = "FAKE_AIM_PORT";

/// Names and values, in order.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fields(pub Vec<(String, String)>);

/// What the vault answered.
#[derive(Clone, PartialEq, Eq)]
pub enum Answer {
    Account(Fields),
    Refused {
        code: String,
        text: String,
    },
    /// The client program itself is to misbehave, in this way, with this account.
    Fault {
        mode: String,
        account: Fields,
    },
}

impl Fields {
    pub fn push(&mut self, name: &str, value: &str) {
        self.0.push((name.to_owned(), value.to_owned()));
    }

    /// The value of a name, compared without case.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// One line for each field, without the empty line at the end.
    pub fn encode(&self) -> String {
        let mut lines = String::new();
        for (name, value) in &self.0 {
            let _ = writeln!(lines, "{name}={}", percent_encode(value));
        }
        lines
    }

    /// Takes in one line `name=value`.
    pub fn push_line(&mut self, line: &str) -> io::Result<()> {
        let (name, value) = line.split_once('=').ok_or_else(|| malformed("a line without `=`"))?;
        self.0.push((name.to_owned(), percent_decode(value)?));
        Ok(())
    }
}

impl Answer {
    pub fn encode(&self) -> String {
        match self {
            Self::Account(account) => format!("OK\n{}\n", account.encode()),
            Self::Refused { code, text } => format!("ERR {code} {}\n\n", percent_encode(text)),
            Self::Fault { mode, account } => format!("FAULT {mode}\n{}\n", account.encode()),
        }
    }
}

/// Asks the vault on this machine.
pub fn ask(port: u16, request: &Fields) -> io::Result<Answer> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.write_all(format!("{}\n", request.encode()).as_bytes())?;
    let mut lines = BufReader::new(stream).lines();
    let mut next = || lines.next().unwrap_or_else(|| Err(malformed("the vault closed the connection")));
    let status = next()?;
    let mut account = Fields::default();
    loop {
        let line = next()?;
        if line.is_empty() {
            break;
        }
        account.push_line(&line)?;
    }
    match status.split_once(' ') {
        None if status == "OK" => Ok(Answer::Account(account)),
        Some(("FAULT", mode)) => Ok(Answer::Fault { mode: mode.to_owned(), account }),
        Some(("ERR", rest)) => {
            let (code, text) = rest.split_once(' ').unwrap_or((rest, ""));
            Ok(Answer::Refused { code: code.to_owned(), text: percent_decode(text)? })
        }
        _ => Err(malformed("the vault's answer is not understood")),
    }
}

/// RFC 3986: all but the unreserved characters.
pub fn percent_encode(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// The inverse of [`percent_encode`]; `+` stays `+`.
pub fn percent_decode(encoded: &str) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(malformed("a percent sign without two hexadecimal digits"));
        };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or(0));
    }
    String::from_utf8(bytes).map_err(|_| malformed("a value that is not UTF-8"))
}

fn malformed(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_value_survives_the_line() {
        for value in ["", "a b", "%+&=;,\n\r\"'", "ключ🔑", "100%"] {
            let mut fields = Fields::default();
            fields.push_line(&format!("Name={}", percent_encode(value))).expect("a good line");
            assert_eq!(fields.value("NAME"), Some(value));
        }
    }

    #[test]
    fn broken_lines_are_refused() {
        for line in ["no equals sign", "a=%", "a=%4", "a=%zz", "a=%ff"] {
            assert!(Fields::default().push_line(line).is_err(), "{line}");
        }
    }
}
