//! The hub itself: what a model consists of, and what is said of a file before it is sent.
//!
//! Owns: addresses, headers, and what the hub's refusals mean. Never: files.

use serde::Deserialize;

use super::name::{Reference, nearest};
use super::{HubOptions, OnReport, Report};
use crate::data::download::{Answer, Method, ask};
use crate::error::{Error, Result};

/// A model's files at one commit.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    /// The commit.
    pub sha: String,
    /// Its files.
    pub siblings: Vec<Sibling>,
}

/// A file of a model.
#[derive(Debug, Deserialize)]
pub(super) struct Sibling {
    /// Its path in the model's folder.
    #[serde(rename = "rfilename")]
    pub name: String,
}

/// What the hub says of a file.
#[derive(Debug)]
pub(super) struct FileHead {
    /// What names its content: the SHA-256 of a large file, the git hash of a small one.
    pub etag: String,
    /// Its length, where that is said.
    pub bytes: Option<u64>,
}

/// The hub, asked for one model.
pub(super) struct Remote<'a> {
    pub options: &'a HubOptions,
    pub reference: &'a Reference,
    /// The place of the model that is asked for.
    pub repo: &'a str,
}

impl Remote<'_> {
    /// What the model's revision consists of.
    pub fn listing(&self, report: &mut OnReport<'_>) -> Result<Listing> {
        let revision = self.reference.revision.replace('/', "%2F");
        let url = format!("{}/api/models/{}/revision/{revision}", self.options.endpoint, self.repo);
        let answer = self.ask(Method::Get, &url, self.repo, report)?;
        let listing: Listing = serde_json::from_slice(&answer.body).map_err(|_| Error::Download {
            url: url.clone(),
            what: "what answers there is no Hugging Face hub".into(),
            fix: "check the address (HF_ENDPOINT), and whether a proxy answers in its place".into(),
        })?;
        if super::name::is_commit(&listing.sha) {
            return Ok(listing);
        }
        let what = "the answer names no commit".into();
        Err(Error::Download { url, what, fix: "check the address (HF_ENDPOINT)".into() })
    }

    /// Where a commit's file is sent from.
    pub fn url_of(&self, commit: &str, file: &str) -> String {
        format!("{}/{}/resolve/{commit}/{file}", self.options.endpoint, self.repo)
    }

    /// What is said of a commit's file before it is sent.
    pub fn head(&self, commit: &str, file: &str, report: &mut OnReport<'_>) -> Result<FileHead> {
        let url = self.url_of(commit, file);
        let answer = self.ask(Method::Head, &url, file, report)?;
        let redirected = (300..400).contains(&answer.status());
        let etag = answer.header("x-linked-etag").or_else(|| answer.header("etag").filter(|_| !redirected));
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
        let is_name = |etag: &&str| {
            !etag.is_empty()
                && etag.len() <= 128
                && etag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        let Some(etag) = etag.filter(is_name) else {
            return Err(Error::Download {
                url,
                what: "the answer has no ETag to tell one content from another".into(),
                fix: "check the address (HF_ENDPOINT): what answers there is no Hugging Face hub".into(),
            });
        };
        let length = answer.header("content-length").filter(|_| !redirected);
        let bytes = answer.header("x-linked-size").or(length).and_then(|bytes| bytes.parse().ok());
        Ok(FileHead { etag: etag.to_owned(), bytes })
    }

    fn ask(&self, method: Method, url: &str, name: &str, report: &mut OnReport<'_>) -> Result<Answer> {
        let token = self.options.token.as_ref();
        let answer = ask(method, url, token, name, &mut |progress| report(Report::Progress(progress)))?;
        match answer.status() {
            200..=399 => Ok(answer),
            status => Err(self.refusal(url, status, answer.header("x-error-code").unwrap_or_default())),
        }
    }

    /// What a refusal means. The hub answers 401 for what does not exist, too, to whoever has no token.
    fn refusal(&self, url: &str, status: u16, code: &str) -> Error {
        let (repo, endpoint) = (self.repo, &self.options.endpoint);
        let with_token = self.options.token.is_some();
        let pass_token = "set HF_TOKEN to a token that may read it, or log in with `hf auth login`";
        match (status, code) {
            (_, "RevisionNotFound") => Error::Missing {
                what: format!("{repo} has no branch, tag or commit `{}` at {endpoint}", self.reference.revision),
                fix: format!("{endpoint}/{repo}/tree/main lists those it has"),
            },
            (_, "EntryNotFound") => Error::Download {
                url: url.to_owned(),
                what: format!("the hub answered {status}: there is no such file"),
                fix: "run the same command again: the model may have been changed just now".into(),
            },
            (_, "GatedRepo") | (403, _) => Error::Download {
                url: url.to_owned(),
                what: format!("the hub answered {status}: the model is gated or private, and {}", if with_token {
                    "the token that was sent may not read it"
                } else {
                    "no token was sent"
                }),
                fix: format!("accept its conditions at {endpoint}/{repo}, and {pass_token}"),
            },
            (401, _) if with_token => Error::Download {
                url: url.to_owned(),
                what: "the hub answered 401: it does not accept the token that was sent, or the model is not there".into(),
                fix: format!("check HF_TOKEN and the name; {}", nearest(repo)),
            },
            (401 | 404, _) => Error::Missing {
                what: format!(
                    "there is no folder `{repo}` here, and {endpoint} has no model of this name that everybody may read \
                     (it answered {status})"
                ),
                fix: format!("check the name ({}); if it is private, {pass_token}", nearest(repo)),
            },
            _ => Error::Download {
                url: url.to_owned(),
                what: format!("the hub answered {status}"),
                fix: "check the address (HF_ENDPOINT), or try again later".into(),
            },
        }
    }
}
