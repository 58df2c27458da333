//! The CCP's SOAP interface, of old sites: `POST /SERVICE/v1.1/AIM.asmx`. Pure.

use std::fmt::Write as _;

use bytes::Bytes;
use http::Request;
use http::header::CONTENT_TYPE;
use midward_core::{Failure, Secret};
use roxmltree::{Document, Node, ParsingOptions};
use url::Url;

use super::account::{Account, is_true};
use super::ccp::{Answer, not_understood};
use super::config::CyberArkCcpConfig;
use super::criteria::Criteria;
use super::rest::parameters;
use crate::cloud::misconfigured;
use crate::cyberark_codes::is_cyberark_code;

const ACTION: &str = "\"https://tempuri.org/GetPassword\"";
/// Most nodes of an answer.
const MAX_NODES: u32 = 4096;

/// Below the service.
pub(super) const PATH: &[&str] = &["v1.1", "AIM.asmx"];

/// `endpoint` is that of [`PATH`].
pub(super) fn request(
    endpoint: &Url,
    config: &CyberArkCcpConfig,
    criteria: &Criteria,
) -> Result<Request<Bytes>, Failure> {
    let mut body = String::from(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><soap:Envelope xmlns:soap=\"http://schemas.xmlsoap.org/soap/envelope/\">\
         <soap:Body><GetPassword xmlns=\"https://tempuri.org/\"><passwordWSRequest>",
    );
    for (name, value) in parameters(config, criteria) {
        let _ = write!(body, "<{name}>{}</{name}>", escaped(&value));
    }
    body += "</passwordWSRequest></GetPassword></soap:Body></soap:Envelope>";
    Request::post(endpoint.as_str())
        .header(CONTENT_TYPE, "text/xml; charset=utf-8")
        .header("SOAPAction", ACTION)
        .body(Bytes::from(body))
        .map_err(|_| misconfigured("the url or service cannot be asked"))
}

/// Reads a body, whatever the status was. A document type is refused, and so is every entity but XML's own five.
pub(super) fn read(body: &[u8], client_id_property: &str) -> Result<Answer, Failure> {
    let wrong = || not_understood("what is no SOAP envelope");
    let text = std::str::from_utf8(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)).map_err(|_| wrong())?;
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    // What the parser says may quote the document.
    let document = Document::parse_with_options(text, options).map_err(|_| wrong())?;
    if document.root_element().tag_name().name() != "Envelope" {
        return Err(wrong());
    }
    let named = |name: &'static str| document.descendants().find(move |node| node.tag_name().name() == name);
    if let Some(fault) = named("Fault") {
        let said: String = fault.descendants().filter(Node::is_text).filter_map(|node| node.text()).collect();
        let code = said.split(|c: char| !c.is_ascii_alphanumeric()).find(|word| is_cyberark_code(word));
        return Ok(Answer::Refused(code.unwrap_or_default().to_owned()));
    }
    let account = named("GetPasswordResult").ok_or_else(|| not_understood("a SOAP envelope without an account"))?;
    let property = |name: &str| property(account, name);
    Ok(Answer::Account(Account {
        client_id: property(client_id_property),
        content: property("Content"),
        changing: property("PasswordChangeInProcess").is_some_and(|flag| is_true(flag.expose())),
    }))
}

/// One of the account's own elements, or of the pairs below `Properties`.
fn property(account: Node<'_, '_>, name: &str) -> Option<Secret> {
    let is = |node: &Node<'_, '_>, name: &str| node.tag_name().name().eq_ignore_ascii_case(name);
    if let Some(own) = account.children().find(|child| is(child, name)) {
        return Some(text(own));
    }
    let pairs = account.children().filter(|child| is(child, "Properties")).flat_map(|properties| properties.children());
    for pair in pairs {
        let part = |part: &str| pair.children().find(|child| is(child, part));
        if let (Some(key), Some(value)) = (part("key"), part("value"))
            && text(key).expose().eq_ignore_ascii_case(name.as_bytes())
        {
            return Some(text(value));
        }
    }
    None
}

fn text(node: Node<'_, '_>) -> Secret {
    let parts = || node.children().filter(Node::is_text).filter_map(|part| part.text());
    let mut bytes = Vec::with_capacity(parts().map(str::len).sum());
    parts().for_each(|part| bytes.extend_from_slice(part.as_bytes()));
    Secret::new(bytes)
}

fn escaped(value: &str) -> String {
    value.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(body: &str) -> String {
        format!(
            "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>{body}</s:Body></s:Envelope>"
        )
    }

    fn account(properties: &str) -> String {
        envelope(&format!(
            "<GetPasswordResponse xmlns=\"https://tempuri.org/\"><GetPasswordResult>{properties}</GetPasswordResult></GetPasswordResponse>"
        ))
    }

    #[test]
    fn the_request_is_what_the_service_documents() {
        let config = toml::from_str("url = 'https://ccp.example'\napp_id = 'A&B'").expect("legal");
        let criteria = Criteria { safe: Some("S<".into()), object: Some("crm".into()), ..Criteria::default() };
        let endpoint = super::super::rest::endpoint(&config, PATH).expect("a host");
        let request = request(&endpoint, &config, &criteria).expect("legal");
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/AIMWebService/v1.1/AIM.asmx"));
        let body = std::str::from_utf8(request.body()).expect("text");
        assert!(
            body.contains(
                "<passwordWSRequest><AppID>A&amp;B</AppID><Safe>S&lt;</Safe><Object>crm</Object></passwordWSRequest>"
            ),
            "{body}"
        );
        assert!(Document::parse(body).is_ok());
    }

    #[test]
    fn an_account_is_read_with_its_properties() {
        let body = account(
            "<Content>a&amp;b<![CDATA[<c>]]>&#xD;\u{e9}</Content><UserName>u</UserName><Properties><KeyAndValue><key>ClientID</key>\
             <value>c</value></KeyAndValue><KeyAndValue><key>passwordchangeinprocess</key><value>true</value></KeyAndValue></Properties>",
        );
        for (property, id) in [("UserName", "u"), ("clientid", "c")] {
            let Ok(Answer::Account(found)) = read(body.as_bytes(), property) else { panic!("no account") };
            assert_eq!(found.client_id, Some(Secret::from(id)));
            assert_eq!(found.content, Some(Secret::from("a&b<c>\r\u{e9}")));
            assert!(found.changing);
        }
    }

    #[test]
    fn a_fault_gives_its_code_and_nothing_else() {
        let fault = |text: &str| {
            envelope(&format!("<s:Fault><faultcode>s:Server</faultcode><faultstring>{text}</faultstring></s:Fault>"))
        };
        let code = |text: &str| match read(fault(text).as_bytes(), "UserName") {
            Ok(Answer::Refused(code)) => code,
            _ => panic!("not refused"),
        };
        assert_eq!(code("System.Exception: APPAP004E Password object matching query [x] was not found"), "APPAP004E");
        assert_eq!(code("hunter2"), "");
    }

    #[test]
    fn what_is_no_envelope_or_could_expand_is_refused() {
        let bomb = format!(
            "<!DOCTYPE e [<!ENTITY a \"aaaa\">]>{}",
            account("<Content>&a;</Content>").trim_start_matches("<?xml version=\"1.0\"?>")
        );
        let outside = "<!DOCTYPE e SYSTEM \"file:///etc/passwd\"><Envelope/>".to_owned();
        let entity = account("<Content>&other;</Content>");
        let long = account(&"<a/>".repeat(5000));
        for bad in [bomb, outside, entity, long, "<html></html>".to_owned(), String::new(), envelope("")] {
            let failure = read(bad.as_bytes(), "UserName").err().map(|failure| failure.code);
            assert_eq!(failure.as_deref(), Some("vault_answer_invalid"), "{}", &bad[..bad.len().min(100)]);
        }
    }
}
