//! What every adapter must do, whatever vault is behind it. An adapter's test describes its vault as a [`Vault`] and
//! calls [`run`]; what its vault cannot be brought into is named there, with the vault's own reason.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use midward_core::{Clock as _, Failure, FingerprintKey, MaterialField, Persistence, SystemClock, SystemRandom};
use midward_resolvers::{BoxFuture, Lookup, Resolution, Resolver};
use tracing_subscriber::filter::LevelFilter;

/// In every secret that the suite stores: no text may hold it.
pub(crate) const CANARY: &str = "c4n4ry";
/// For a look-up of a vault that answers.
const PATIENCE: Duration = Duration::from_secs(60);
/// For a look-up of a vault that does not answer.
const DEADLINE: Duration = Duration::from_secs(2);
/// How much later than its deadline a look-up may end on a busy machine.
const SLACK: Duration = Duration::from_secs(5);
const AT_ONCE: usize = 64;

/// What can be wrong with a vault or with one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// No such record. The suite asks for a name that it never stored; never ordered.
    NotFound,
    /// The record is there, and the resolver may not read it.
    Denied,
    /// More than one record fits.
    Ambiguous,
    /// The record's secret is empty.
    Empty,
    /// No answer, for longer than anybody waits.
    Slow,
    /// Nobody is there, or the connection breaks.
    Dead,
}

/// A vault with an adapter in front of it. Records have names of `a-z`, `0-9` and `-`.
pub(crate) trait Vault: Sync {
    /// The adapter under test: the same object at each call.
    fn resolver(&self) -> Arc<dyn Resolver>;

    /// Stores a record, or replaces it.
    fn put<'a>(&'a self, name: &'a str, client_id: &'a str, secret: &'a str) -> BoxFuture<'a, ()>;

    /// Brings trouble to the record `name` (or to the whole vault) until [`Self::heal`]. `Err`: this vault can have no
    /// such trouble, and why.
    fn trouble<'a>(&'a self, name: &'a str, trouble: Trouble) -> BoxFuture<'a, Result<(), &'static str>>;

    /// Ends all trouble with `name`; the record is as it was.
    fn heal<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()>;

    /// How many questions have reached the vault so far.
    fn questions(&self) -> usize;

    /// The identifier of a record.
    fn credential_id(&self, name: &str) -> String {
        name.to_owned()
    }

    /// The failure's code that an adapter has for a trouble.
    fn code(&self, trouble: Trouble) -> &'static str {
        match trouble {
            Trouble::NotFound => "vault_not_found",
            Trouble::Denied => "vault_denied",
            Trouble::Ambiguous => "vault_ambiguous",
            Trouble::Empty => "empty_secret",
            Trouble::Slow => "vault_timeout",
            Trouble::Dead => "vault_unreachable",
        }
    }

    /// Identifiers that this adapter must refuse besides those that all refuse.
    fn bad_identifiers(&self) -> &[&str] {
        &[]
    }
}

/// Checks all of it. `impossible`: the troubles that this vault cannot have; any other is an error, and so is one of
/// these that turns out to be possible.
pub(crate) async fn run(vault: &dyn Vault, impossible: &[Trouble]) {
    let suite = Suite { vault, resolver: vault.resolver(), said: Mutex::default() };
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(log.clone()).finish();
    let guard = tracing::subscriber::set_default(subscriber);
    suite.resolver.warm_up().await;
    suite.found_byte_exact().await;
    suite.rotated().await;
    suite.not_found().await;
    suite.identifiers().await;
    suite.side_by_side().await;
    let mut cannot = BTreeSet::new();
    for trouble in [Trouble::Denied, Trouble::Ambiguous, Trouble::Empty, Trouble::Slow, Trouble::Dead] {
        if let Err(why) = suite.troubled(trouble).await {
            assert!(!why.is_empty(), "{trouble:?}: say why");
            cannot.insert(trouble);
        }
    }
    assert_eq!(cannot, impossible.iter().copied().collect(), "what this vault cannot have");
    tracing::trace!("all cases are done");
    drop(guard);
    suite.kept_to_itself(&log);
    suite.resolver.shut_down().await;
}

struct Suite<'a> {
    vault: &'a dyn Vault,
    resolver: Arc<dyn Resolver>,
    /// All that the adapter said.
    said: Mutex<Vec<String>>,
}

impl Suite<'_> {
    async fn found_byte_exact(&self) {
        let secret = long_secret();
        assert!(secret.len() >= 4096);
        self.vault.put("exact", "client-exact", &secret).await;
        self.expect("exact", "client-exact", &secret).await;
        self.vault.put("short", "client-short", &format!("{CANARY}-x")).await;
        self.expect("short", "client-short", &format!("{CANARY}-x")).await;
    }

    async fn rotated(&self) {
        let key = FingerprintKey::generate(&SystemRandom);
        let mut prints = BTreeSet::new();
        for version in 1..=3 {
            let secret = format!("{CANARY}-version-{version}");
            self.vault.put("rotated", "client-rotated", &secret).await;
            let found = self.expect("rotated", "client-rotated", &secret).await;
            prints.insert(found.material.fingerprint(&key).to_string());
        }
        assert_eq!(prints.len(), 3, "each version has its own fingerprint");
    }

    async fn not_found(&self) {
        let failure = self.refused("never-stored", PATIENCE).await;
        self.is(&failure, Trouble::NotFound);
    }

    async fn identifiers(&self) {
        let (before, long) = (self.vault.questions(), "a".repeat(161));
        let all = ["a;b", "a\"b", "a\nb", "a\0b", "a/../b", "..\\a", "a?b", "-a", long.as_str()];
        for bad in all.iter().chain(self.vault.bad_identifiers()) {
            let failure = self.ask(bad, PATIENCE).await.expect_err("a bad identifier");
            assert_eq!((failure.code.as_str(), failure.persistence), ("invalid_credential_id", Persistence::Permanent));
            assert!(!failure.to_string().contains("a;b"), "{failure}");
        }
        assert_eq!(self.vault.questions(), before, "the vault was asked");
    }

    async fn side_by_side(&self) {
        let secret = |number: usize| format!("{CANARY}-{number}-of-its-own");
        for number in 0..AT_ONCE {
            self.vault.put(&format!("id-{number}"), &format!("client-{number}"), &secret(number)).await;
        }
        let before = self.vault.questions();
        let all = (0..AT_ONCE).map(|number| async move {
            self.expect(&format!("id-{number}"), &format!("client-{number}"), &secret(number)).await;
        });
        join_all(all).await;
        assert!(self.vault.questions() > before, "the vault counts questions");
    }

    async fn troubled(&self, trouble: Trouble) -> Result<(), &'static str> {
        let name = format!("{trouble:?}").to_lowercase();
        let (id, secret) = (format!("client-{name}"), format!("{CANARY}-{name}"));
        self.vault.put(&name, &id, &secret).await;
        self.expect(&name, &id, &secret).await;
        self.vault.trouble(&name, trouble).await?;
        let begin = SystemClock.boot();
        let lasts = matches!(trouble, Trouble::Slow | Trouble::Dead);
        let failure = self.refused(&name, if lasts { DEADLINE } else { PATIENCE }).await;
        let took = SystemClock.boot().saturating_since(begin);
        self.is(&failure, trouble);
        assert!(!lasts || took < DEADLINE + SLACK, "{trouble:?}: ended after {took:?}");
        self.vault.heal(&name).await;
        self.healed(&name, &id, &secret).await;
        Ok(())
    }

    /// By itself: nothing is configured, started or told anew.
    async fn healed(&self, name: &str, id: &str, secret: &str) {
        let mut pause = tokio::time::interval(Duration::from_millis(50));
        let again = async {
            while self.ask(&self.vault.credential_id(name), PATIENCE).await.is_err() {
                pause.tick().await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, again).await.is_ok(), "{name}: not healed");
        self.expect(name, id, secret).await;
    }

    async fn expect(&self, name: &str, id: &str, secret: &str) -> Resolution {
        let found = self.ask(&self.vault.credential_id(name), PATIENCE).await;
        let found = found.unwrap_or_else(|failure| panic!("{name}: {failure}"));
        let field = |field| found.material.field(field).map(midward_core::Secret::expose);
        assert_eq!(field(MaterialField::ClientId), Some(id.as_bytes()), "{name}");
        // Not by assert_eq, which would print it.
        assert!(field(MaterialField::ClientSecret) == Some(secret.as_bytes()), "{name}: another secret");
        assert!(!found.changing, "{name}");
        found
    }

    async fn refused(&self, name: &str, deadline: Duration) -> Failure {
        self.ask(&self.vault.credential_id(name), deadline).await.expect_err(name)
    }

    fn is(&self, failure: &Failure, trouble: Trouble) {
        assert_eq!(failure.code, self.vault.code(trouble), "{trouble:?}: {failure}");
        let transient = matches!(trouble, Trouble::Slow | Trouble::Dead);
        assert_eq!(failure.persistence == Persistence::Transient, transient, "{trouble:?}: {failure}");
        assert!(!failure.action.is_empty() && !failure.detail.is_empty(), "{failure:?}");
    }

    async fn ask(&self, credential_id: &str, deadline: Duration) -> Result<Resolution, Failure> {
        let lookup = Lookup { credential_id: credential_id.to_owned(), address: None, fresh: true };
        let outcome = self.resolver.resolve(&lookup, deadline).await;
        let text = match &outcome {
            Ok(found) => format!("{found:?}"),
            Err(error) => format!("{error:?} {error}"),
        };
        let resolver = format!("{:?} {:?}", self.resolver, self.resolver.report());
        self.said.lock().unwrap_or_else(PoisonError::into_inner).extend([text, resolver]);
        outcome.map_err(|error| *error.0)
    }

    fn kept_to_itself(&self, log: &Log) {
        for text in self.said.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            assert!(!text.contains(CANARY), "a secret in what the adapter said: {text}");
        }
        let written = log.0.lock().unwrap_or_else(PoisonError::into_inner);
        let written = String::from_utf8_lossy(&written);
        assert!(written.contains("all cases are done"), "the log is not seen");
        let line = written.lines().find(|line| line.contains(CANARY));
        assert_eq!(line, None, "a secret in the log");
    }
}

/// What separates and quotes somewhere, and characters of one to four bytes; a space at its end.
fn long_secret() -> String {
    let part = "%+&;,\"'|:=\\/?#<>{}[]()!$`~^*@ \u{e9}\u{df}\u{20ac}\u{65e5}\u{1f512}%41+%2B&amp;";
    format!("{CANARY}{}\" ' ", part.repeat(4096 / part.len() + 1))
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
