//! What a check found, as a line for people and as an object for programs.

use std::{fmt, net::SocketAddr};

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Status {
    #[serde(rename = "ok")]
    Ok,
    /// Works, though not all of it or not as well.
    #[serde(rename = "warn")]
    Warn,
    #[serde(rename = "FAIL")]
    Fail,
}

#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub status: Status,
    /// What was looked at; a stable name.
    pub subject: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<SocketAddr>,
    pub message: String,
    /// What to do about it.
    pub next: Option<String>,
}

impl Finding {
    pub fn ok(subject: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: Status::Ok,
            subject,
            service: None,
            target: None,
            message: message.into(),
            next: None,
        }
    }

    pub fn warn(
        subject: &'static str,
        message: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self {
            status: Status::Warn,
            next: Some(next.into()),
            ..Self::ok(subject, message)
        }
    }

    pub fn fail(
        subject: &'static str,
        message: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self {
            status: Status::Fail,
            ..Self::warn(subject, message, next)
        }
    }

    pub fn of(self, service: &str, target: Option<SocketAddr>) -> Self {
        Self {
            service: Some(service.to_owned()),
            target,
            ..self
        }
    }

    /// For where something else tells the status, as a log does.
    pub fn text(&self) -> String {
        let mut text = self.subject.to_owned();
        for part in [
            self.service.clone(),
            self.target.map(|target| target.to_string()),
        ] {
            text.extend(part.map(|part| format!(" {part}")));
        }
        text += &format!(": {}", self.message);
        text.extend(self.next.iter().map(|next| format!("; next: {next}")));
        text
    }
}

/// `FAIL target default 127.0.0.1:80: nothing listens there; next: start the application`
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.text())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        })
    }
}
