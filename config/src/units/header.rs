use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use super::written;

/// The name of a header, in any case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderName(http::HeaderName);

written!(HeaderName, expecting: "the name of a header", schema: {
    "type": "string",
    "title": "Header name",
    "pattern": r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$",
    "examples": ["x-request-id"],
});

impl FromStr for HeaderName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match http::HeaderName::from_bytes(text.as_bytes()) {
            Ok(name) => Ok(Self(name)),
            Err(_) if text.is_empty() => Err("a header's name cannot be empty".into()),
            Err(_) => Err(format!("`{text}` is not a header's name: letters, digits and !#$%&'*+-.^_`|~ only")),
        }
    }
}

/// Why a header is nobody's to write but the gateway's, if it is.
pub fn settled_by_the_gateway(name: &http::HeaderName) -> Option<&'static str> {
    match name.as_str() {
        "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer" | "transfer-encoding" | "upgrade"
        | "http2-settings" => Some("belongs to one connection, which the gateway settles itself"),
        "content-length" => Some("follows from the body, so the gateway sets it itself"),
        _ => None,
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Deref for HeaderName {
    type Target = http::HeaderName;

    fn deref(&self) -> &http::HeaderName {
        &self.0
    }
}

impl From<HeaderName> for http::HeaderName {
    fn from(name: HeaderName) -> Self {
        name.0
    }
}

/// The value of a header: text without line breaks or other control characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderText(http::HeaderValue);

written!(HeaderText, expecting: "the text of a header", schema: {
    "type": "string",
    "title": "Header text",
    "description": "Text without line breaks or other control characters.",
});

impl FromStr for HeaderText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match http::HeaderValue::from_bytes(text.as_bytes()) {
            Ok(value) => Ok(Self(value)),
            Err(_) => Err("a header's text cannot hold line breaks or control characters".into()),
        }
    }
}

impl fmt::Display for HeaderText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.0.as_bytes()))
    }
}

impl Deref for HeaderText {
    type Target = http::HeaderValue;

    fn deref(&self) -> &http::HeaderValue {
        &self.0
    }
}

impl From<HeaderText> for http::HeaderValue {
    fn from(text: HeaderText) -> Self {
        text.0
    }
}

/// A request method: `"GET"`, or any other token in capitals.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Method(http::Method);

written!(Method, expecting: "a request method", schema: {
    "type": "string",
    "title": "Method",
    "pattern": r"^[!#$%&'*+\-.^_`|~0-9A-Z]+$",
    "examples": ["GET", "POST"],
});

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // RFC 9110 §9.1: methods are case-sensitive, so `get` would match nothing.
        if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
            let capitals = text.to_ascii_uppercase();
            return Err(format!("`{text}` is not a request method; did you mean `{capitals}`?"));
        }
        match http::Method::from_bytes(text.as_bytes()) {
            Ok(method) => Ok(Self(method)),
            Err(_) => Err(format!("`{text}` is not a request method")),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Deref for Method {
    type Target = http::Method;

    fn deref(&self) -> &http::Method {
        &self.0
    }
}

impl From<Method> for http::Method {
    fn from(method: Method) -> Self {
        method.0
    }
}
