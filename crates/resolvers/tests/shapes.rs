//! Resolvers in the shape of the public ones, with the libraries that those assume.

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;

use support::{Bench, failed, resolved};

/// A vault that answers each request line that it knows; the others get what a vault's error page may hold.
fn vault(answers: &'static [(&'static str, &'static str)]) -> u16 {
    let server = TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = server.local_addr().expect("address").port();
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let mut reader = BufReader::new(stream.expect("a connection"));
            let (mut head, mut length) = (Vec::new(), 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).expect("a line");
                let line = line.trim().to_owned();
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                    length = value.parse().expect("a length");
                }
                if line.is_empty() {
                    break;
                }
                head.push(line);
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("the body");
            let asked = format!("{}\n{}", head.join("\n"), String::from_utf8(body).expect("text"));
            let known = answers.iter().find(|(part, _)| part.split(" & ").all(|part| asked.contains(part)));
            let answer = known.map_or("{\"errors\": [\"hunter2\"]}", |(_, answer)| answer);
            let length = answer.len();
            let mut stream = reader.into_inner();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{answer}")
                .expect("answered");
        }
    });
    port
}

fn shape(bench: &Bench, class: &str, more: &str) -> std::sync::Arc<dyn midward_resolvers::Resolver> {
    let jar = bench.jars.tests();
    bench.resolver(&format!("kind = 'jar'\njar = '{}'\nclass = 'jars.Shapes${class}'\n{more}", jar.display()))
}

#[tokio::test]
async fn a_safe_kept_in_a_field_does_not_reach_the_next_call() {
    let bench = Bench::new();
    let resolver = shape(&bench, "SafeInField", "parameters = { 'ext.cred.safe_name' = 'usual' }");
    assert_eq!(resolved(&*resolver, "other:crm").await.0, "other/crm");
    assert_eq!(resolved(&*resolver, "crm").await, ("usual/crm".into(), "of usual/crm".into()));
    let swallowed = failed(&*resolver, "fails").await;
    assert_eq!(swallowed.code, "empty_secret");
    for empty in ["user (empty)", "pswd (empty)"] {
        assert!(swallowed.detail.contains(empty), "{swallowed}");
    }
}

#[tokio::test]
async fn a_getter_constructor_and_an_http_client_work() {
    let bench = Bench::new();
    let port = vault(&[(
        "GET /v1/kv/data/crm & accept: application/json",
        "{\"data\": {\"data\": {\"username\": \"client-1\", \"password\": \"pä\\\"ss\"}}}",
    )]);
    let more = format!(
        "connect = ['127.0.0.1:{port}']\nparameters = {{ 'mid.external_credentials.vault.address' = 'http://127.0.0.1:{port}' }}"
    );
    let resolver = shape(&bench, "GetterAndHttp", &more);
    assert_eq!(resolved(&*resolver, "kv/data/crm").await, ("client-1".into(), "pä\"ss".into()));
    // The whole reply is in the exception's text.
    let thrown = failed(&*resolver, "kv/data/other").await;
    assert_eq!(thrown.code, "resolver_failed");
    assert!(thrown.detail.contains("java.lang.IllegalStateException"), "{thrown}");
}

#[tokio::test]
async fn a_properties_file_named_by_the_environment_is_read() {
    let bench = Bench::new();
    let file = bench.folder.path().join("resolver.properties");
    // "hidden", as the file has it.
    std::fs::write(&file, "crm.oauth_2_0.user=client-1\ncrm.oauth_2_0.pswd=aGlkZGVu\n").expect("written");
    let variable = format!("environment_values = {{ CREDENTIAL_RESOLVER_FILE = '{}' }}", file.display());
    let closed = failed(&*shape(&bench, "PropertiesFile", &variable), "crm").await;
    assert_eq!(closed.code, "constructor_failed", "the path is not listed: {closed}");
    let resolver = shape(&bench, "PropertiesFile", &format!("{variable}\nreadable_paths = ['{}']", file.display()));
    assert_eq!(resolved(&*resolver, "crm").await, ("client-1".into(), "hidden".into()));
    assert_eq!(failed(&*resolver, "none").await.code, "empty_secret");
}

#[tokio::test]
async fn parameters_of_an_own_prefix_and_a_file_of_its_own_are_found() {
    let bench = Bench::new();
    let own = bench.folder.path().join("own");
    std::fs::write(&own, "me:mine\n").expect("written");
    let port = vault(&[
        ("POST /oauth2/token & username=me & password=mine", "{\"access_token\": \"t-1\"}"),
        (
            "GET /api/v1/secrets/42 & Authorization: Bearer t-1",
            "{\"items\": [{\"slug\": \"username\", \"itemValue\": \"u\"}, {\"slug\": \"password\", \"itemValue\": \"p\"}]}",
        ),
    ]);
    let more = format!(
        "connect = ['127.0.0.1:{port}']\nreadable_paths = ['{0}']\n\
         parameters = {{ 'ext.tss.url' = 'http://127.0.0.1:{port}', 'ext.tss.file' = '{0}' }}",
        own.display()
    );
    assert_eq!(resolved(&*shape(&bench, "OwnPrefix", &more), "42").await, ("u".into(), "p".into()));
}
