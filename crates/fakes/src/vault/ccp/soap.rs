//! `POST /SERVICE/v1.1/AIM.asmx` with the action `https://tempuri.org/GetPassword`.

use std::fmt::Write as _;

use hyper::{Response, StatusCode};
use roxmltree::Document;

use super::{Answer, Fields, typed};
use crate::http::Body;

const TYPE: &str = "text/xml; charset=utf-8";

pub(super) fn question(body: &[u8], action: Option<&str>, shown: Option<&str>) -> Result<Fields, Answer> {
    let invalid = |text: &str| Answer::Refused { code: "APPAP081E".to_owned(), text: text.to_owned() };
    if action.map(|action| action.trim_matches('"')) != Some("https://tempuri.org/GetPassword") {
        return Err(invalid("Server did not recognize the value of HTTP Header SOAPAction"));
    }
    let document = std::str::from_utf8(body).ok().and_then(|text| Document::parse(text).ok());
    let document = document.ok_or_else(|| invalid("Request message content is invalid"))?;
    let request = document.descendants().find(|node| node.has_tag_name(("https://tempuri.org/", "passwordWSRequest")));
    let request = request.ok_or_else(|| invalid("Request message content is invalid: no passwordWSRequest"))?;
    let given: Vec<(String, String)> = request
        .children()
        .filter(roxmltree::Node::is_element)
        .map(|child| (child.tag_name().name().to_owned(), child.text().unwrap_or_default().to_owned()))
        .collect();
    super::question(&given, shown)
}

pub(super) fn response(answer: &Answer) -> Response<Body> {
    match answer {
        Answer::Account(account) | Answer::Fault { account, .. } => {
            typed(StatusCode::OK, TYPE, envelope(&result(account)))
        }
        Answer::Refused { code, text } => {
            let text = escape(&format!("System.Web.Services.Protocols.SoapException: {code} {text}"));
            let fault = format!(
                "<soap:Fault><faultcode>soap:Server</faultcode><faultstring>{text}</faultstring><detail /></soap:Fault>"
            );
            typed(StatusCode::INTERNAL_SERVER_ERROR, TYPE, envelope(&fault))
        }
    }
}

fn result(account: &Fields) -> String {
    let mut own = String::new();
    let mut pairs = String::new();
    for (name, value) in &account.0 {
        let value = escape(value);
        let _ = match name.trim_start_matches("PassProps.") {
            "Password" => write!(own, "<Content>{value}</Content>"),
            name @ ("UserName" | "Address" | "Database" | "PolicyID") => write!(own, "<{name}>{value}</{name}>"),
            name => write!(pairs, "<KeyAndValue><key>{name}</key><value>{value}</value></KeyAndValue>"),
        };
    }
    format!(
        "<GetPasswordResponse xmlns=\"https://tempuri.org/\"><GetPasswordResult>{own}<Properties>{pairs}</Properties>\
         </GetPasswordResult></GetPasswordResponse>"
    )
}

fn envelope(body: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><soap:Envelope xmlns:soap=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\"><soap:Body>\
         {body}</soap:Body></soap:Envelope>"
    )
}

/// As .NET writes it: a carriage return would not survive otherwise.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\r', "&#xD;")
}
