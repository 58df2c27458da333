//! A stand-in for CyberArk's `clipasswordsdk` that asks the fake vault. Standard library only, for a fast start.
//!
//! `clipasswordsdk GetPassword -p AppDescs.AppID=APP -p "Query=Safe=S;Folder=Root;Object=O" -o Password -d SEP`
//!
//! The vault's port: `-p ConnectionParms.Port=N`, else `FAKE_AIM_PORT`, else 18923. `/p /o /d` work as on Windows.

use std::io::{self, Write as _};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use midward_fakes::vault::line::{Answer, DEFAULT_PORT, Fields, PORT_VARIABLE, ask};

/// The argument with which the program starts itself as a child that only holds its pipes open.
const HOLD_PIPE: &str = "--hold-pipe";
/// The longest that a misbehaving program lives, so that a failed test leaves nothing behind for ever.
const LONGEST_LIFE: Duration = Duration::from_mins(10);
const HOLD_TIME: Duration = Duration::from_mins(1);
const HUGE: usize = 64 * 1024 * 1024;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    if arguments.first().is_some_and(|first| first == HOLD_PIPE) {
        std::thread::sleep(HOLD_TIME);
        return ExitCode::SUCCESS;
    }
    let outcome = Invocation::parse(&arguments).and_then(|invocation| invocation.run());
    match outcome {
        Ok(code) => code,
        Err(refusal) => {
            // Nothing is left to tell when stderr is closed as well.
            drop(writeln!(io::stderr(), "{} {}", refusal.code, refusal.text));
            ExitCode::FAILURE
        }
    }
}

struct Refusal {
    code: String,
    text: String,
}

struct Invocation {
    request: Fields,
    output: Vec<String>,
    separator: String,
    port: u16,
}

impl Invocation {
    fn parse(arguments: &[String]) -> Result<Self, Refusal> {
        let mut arguments = arguments.iter();
        if !arguments.next().is_some_and(|command| command.eq_ignore_ascii_case("GetPassword")) {
            return Err(usage("the command GetPassword is expected"));
        }
        let mut request = Fields::default();
        request.push("op", "GetPassword");
        request.push("client", "cli");
        let mut output = Vec::new();
        let mut separator = ",".to_owned();
        let mut port = std::env::var(PORT_VARIABLE).ok();
        while let Some(flag) = arguments.next() {
            let Some(value) = arguments.next() else { return Err(usage("an option without a value")) };
            match flag.as_str() {
                "-p" | "/p" => {
                    let (name, value) = value.split_once('=').ok_or_else(|| usage("-p takes NAME=VALUE"))?;
                    // `Query="Safe=..."` arrives with its quotes when no shell took them off.
                    let value = unquoted(value);
                    match name.to_ascii_lowercase().as_str() {
                        "appdescs.appid" => request.push("AppID", value),
                        "query" => request.push("Query", value),
                        "queryformat" => request.push("QueryFormat", value),
                        "requiredprops" => request.push("RequiredProps", value),
                        "reason" => request.push("Reason", value),
                        "failrequestonpasswordchange" => request.push("FailRequestOnPasswordChange", value),
                        "connectionparms.port" => port = Some(value.to_owned()),
                        "connectionparms.timeout" => {}
                        _ => return Err(usage(&format!("the parameter {name} is unknown"))),
                    }
                }
                "-o" | "/o" => output = unquoted(value).split(',').map(|name| name.trim().to_owned()).collect(),
                "-d" | "/d" => value.clone_into(&mut separator),
                _ => return Err(usage("an option that is neither -p, -o nor -d")),
            }
        }
        if output.is_empty() {
            return Err(usage("-o is missing"));
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => port.parse().map_err(|_| usage("the port is not a number"))?,
        };
        Ok(Self { request, output, separator, port })
    }

    fn run(&self) -> Result<ExitCode, Refusal> {
        let answer = ask(self.port, &self.request).map_err(|error| Refusal {
            code: "APPAP007E".to_owned(),
            text: format!("Connection to the Vault has failed. Further information: {error}"),
        })?;
        match answer {
            Answer::Account(account) => print(&self.line(&account)),
            Answer::Refused { code, text } => Err(Refusal { code, text }),
            Answer::Fault { mode, account } => self.misbehave(&mode, &account),
        }
    }

    /// The values in the order of `-o`, joined by the separator, not escaped.
    fn line(&self, account: &Fields) -> String {
        let values: Vec<&str> = self.output.iter().map(|name| account.value(name).unwrap_or("<na>")).collect();
        format!("{}\n", values.join(&self.separator))
    }

    fn misbehave(&self, mode: &str, account: &Fields) -> Result<ExitCode, Refusal> {
        match mode {
            "exit_with_stdout" => print(&self.line(account)).map(|_| ExitCode::FAILURE),
            "secret_on_stderr" => Err(Refusal { code: "APPAP999E".to_owned(), text: self.line(account) }),
            "hang" => {
                std::thread::sleep(LONGEST_LIFE);
                Ok(ExitCode::FAILURE)
            }
            "huge" => print(&"x".repeat(HUGE)),
            "fork_keeps_pipe" => {
                let this = std::env::current_exe().map_err(|error| unable(&error))?;
                Command::new(this).arg(HOLD_PIPE).stdin(Stdio::null()).spawn().map_err(|error| unable(&error))?;
                print(&self.line(account))
            }
            other => Err(usage(&format!("the vault ordered the unknown fault {other}"))),
        }
    }
}

fn print(line: &str) -> Result<ExitCode, Refusal> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| unable(&error))?;
    Ok(ExitCode::SUCCESS)
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

fn usage(reason: &str) -> Refusal {
    Refusal { code: "APPAP081E".to_owned(), text: format!("Request message content is invalid: {reason}.") }
}

fn unable(error: &io::Error) -> Refusal {
    Refusal { code: "APPAP999E".to_owned(), text: error.to_string() }
}
