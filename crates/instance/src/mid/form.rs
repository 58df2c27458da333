//! The form of what MIDs say, whatever their program is. What one of them says is bound beside what others say, in one
//! transaction for all; and PostgreSQL takes no text with a NUL.

use midward_wire::{Heartbeat, MAX_KIND_LEN, MAX_OUTCOMES, MAX_REASON_LEN, MAX_RESOLVERS};

use super::incarnation;
use crate::check;
use crate::problem::Problem;

const ACTION: &str = "Use versions of Midward on both sides that go together.";

pub(super) fn heartbeat(heartbeat: &Heartbeat) -> Result<(), Problem> {
    incarnation::check(&heartbeat.incarnation)?;
    if heartbeat.resolvers.len() > MAX_RESOLVERS {
        let detail = format!("a MID has {MAX_RESOLVERS} resolvers at most");
        return Err(Problem::bad_request("too_many_resolvers", detail, "Configure fewer."));
    }
    text("program_version", &heartbeat.program_version, MAX_KIND_LEN)?;
    heartbeat.resolvers.iter().try_for_each(|resolver| {
        check::name("resolver", &resolver.name)?;
        text("kind", &resolver.kind, MAX_KIND_LEN)?;
        text("reason", resolver.reason.as_deref().unwrap_or_default(), MAX_REASON_LEN)
    })
}

/// Identifiers of requests, with their epochs, that are handed back in one message.
pub(super) fn handed_back<'a>(requests: impl ExactSizeIterator<Item = &'a str>) -> Result<(), Problem> {
    if requests.len() > MAX_OUTCOMES {
        let detail = format!("a message hands back {} requests, more than {MAX_OUTCOMES}", requests.len());
        return Err(Problem::bad_request("too_many_outcomes", detail, ACTION));
    }
    for id in requests {
        check::name("request", id)?;
    }
    Ok(())
}

fn text(field: &str, text: &str, longest: usize) -> Result<(), Problem> {
    if text.len() <= longest && !text.contains(char::is_control) {
        return Ok(());
    }
    let detail = format!("{field} is longer than {longest} bytes, or holds a control character");
    Err(Problem::bad_request("invalid_heartbeat", detail, ACTION))
}

#[cfg(test)]
mod tests {
    use super::*;
    use midward_wire::{ResolverHealth, ResolverStatus};

    type Change = fn(&mut Heartbeat, String);

    fn beat() -> Heartbeat {
        let resolver = ResolverStatus {
            name: "r".to_owned(),
            kind: "jar".to_owned(),
            health: ResolverHealth::Degraded,
            reason: Some("kein JAR für r".to_owned()),
        };
        Heartbeat {
            version: 1,
            incarnation: "inc".to_owned(),
            program_version: "1.0".to_owned(),
            capacity: 1,
            running: 0,
            draining: false,
            resolvers: vec![resolver],
        }
    }

    #[test]
    fn a_heartbeat_holds_what_can_be_stored_and_shown() {
        assert!(heartbeat(&beat()).is_ok());
        let fields: [(&str, usize, Change); 4] = [
            ("invalid_name", 80, |beat, text| beat.resolvers[0].name = text),
            ("invalid_heartbeat", MAX_KIND_LEN, |beat, text| beat.resolvers[0].kind = text),
            ("invalid_heartbeat", MAX_REASON_LEN, |beat, text| beat.resolvers[0].reason = Some(text)),
            ("invalid_heartbeat", MAX_KIND_LEN, |beat, text| beat.program_version = text),
        ];
        for (code, longest, change) in fields {
            let with = |text: String| {
                let mut beat = beat();
                change(&mut beat, text);
                heartbeat(&beat).map_err(|problem| problem.failure.code)
            };
            assert_eq!(with("a".repeat(longest)), Ok(()));
            assert_eq!(with("a".repeat(longest + 1)), Err(code.to_owned()));
            assert_eq!(with("a\0".to_owned()), Err(code.to_owned()));
        }
        let mut many = beat();
        many.resolvers = vec![many.resolvers[0].clone(); MAX_RESOLVERS + 1];
        assert!(heartbeat(&many).is_err());
    }

    #[test]
    fn what_is_handed_back_is_named_and_counted() {
        let ids = |count: usize, id: &'static str| handed_back(vec![id; count].into_iter());
        assert!(ids(MAX_OUTCOMES, "0a").is_ok() && ids(0, "").is_ok());
        assert!(ids(MAX_OUTCOMES + 1, "0a").is_err() && ids(1, "a\0").is_err() && ids(1, "").is_err());
    }
}
