//! A hub on the loopback for the tests: one model, a second server for its large files, and the ways in which both misbehave.
//!
//! Owns: just enough of the hub's HTTP. Never: leaves this machine.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::data::download::sha256_bytes;

/// Files from so many bytes on are large: they lie on the other server, under their SHA-256.
pub const LARGE: usize = 10_000;

/// How the hub behaves.
#[derive(Debug, Clone, Default)]
pub struct Behaviour {
    /// Who may read: with this token only.
    pub token: Option<&'static str>,
    /// Answers the first requests so, with these headers.
    pub first: Vec<(u16, &'static str)>,
    /// Answers every request so, with these headers.
    pub always: Option<(u16, &'static str)>,
    /// The other server closes its first connections after so many bytes of body each.
    pub cuts: Vec<usize>,
    /// The other server sends so many bytes and says that this is all.
    pub truncates: Option<usize>,
    /// The other server sends other bytes than the hub promises.
    pub corrupts: bool,
    /// The model has moved: the hub redirects from here.
    pub moved_from: Option<&'static str>,
}

/// A request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `hub` or `cdn`, method, path.
    pub what: String,
    pub authorization: String,
    pub range: String,
}

/// A running hub; it ends with the test process.
pub struct Hub {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

/// What the servers hold.
struct Model {
    repo: String,
    branch: String,
    commit: String,
    files: BTreeMap<String, Vec<u8>>,
    behaviour: Behaviour,
    cdn: String,
}

/// Headers that matter of a request.
struct Asked {
    method: String,
    path: String,
    authorization: String,
    range: String,
    if_range: String,
}

impl Hub {
    /// A hub with one model, whose branch `main` is at `commit`.
    pub fn start(repo: &str, commit: &str, files: &[(&str, &[u8])], behaviour: Behaviour) -> Self {
        let (hub, cdn) = (listener(), listener());
        let address = hub.local_addr().unwrap().to_string();
        let files = files.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect();
        let model = Arc::new(Model {
            repo: repo.to_owned(),
            branch: "main".to_owned(),
            commit: commit.to_owned(),
            files,
            behaviour,
            cdn: cdn.local_addr().unwrap().to_string(),
        });
        let requests = Arc::new(Mutex::new(Vec::new()));
        for (listener, answer) in [(hub, answer_hub as Answer), (cdn, answer_cdn as Answer)] {
            let (model, log) = (Arc::clone(&model), Arc::clone(&requests));
            thread::spawn(move || {
                for (index, stream) in listener.incoming().flatten().enumerate() {
                    let (model, log) = (Arc::clone(&model), Arc::clone(&log));
                    // A client that goes away early is its own business.
                    thread::spawn(move || drop(answer(stream, index, &model, &log)));
                }
            });
        }
        Self { address, requests }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// How many requests of this kind there were, by the beginning of what they asked.
    pub fn count(&self, start: &str) -> usize {
        self.requests().iter().filter(|request| request.what.starts_with(start)).count()
    }
}

type Answer = fn(TcpStream, usize, &Model, &Mutex<Vec<Request>>) -> std::io::Result<()>;

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn read(stream: &TcpStream) -> std::io::Result<Asked> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut asked =
        Asked { method, path, authorization: String::new(), range: String::new(), if_range: String::new() };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => asked.authorization = value.to_owned(),
            "range" => asked.range = value.to_owned(),
            "if-range" => asked.if_range = value.to_owned(),
            _ => {}
        }
    }
    Ok(asked)
}

fn note(server: &str, asked: &Asked, log: &Mutex<Vec<Request>>) {
    log.lock().unwrap().push(Request {
        what: format!("{server} {} {}", asked.method, asked.path),
        authorization: asked.authorization.clone(),
        range: asked.range.clone(),
    });
}

fn send(
    mut stream: TcpStream,
    asked: &Asked,
    status: u16,
    headers: &str,
    body: &[u8],
) -> std::io::Result<()> {
    let length = body.len();
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n")?;
    if asked.method != "HEAD" {
        stream.write_all(body)?;
    }
    stream.flush()
}

fn answer_hub(
    stream: TcpStream,
    index: usize,
    model: &Model,
    log: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let asked = read(&stream)?;
    note("hub", &asked, log);
    let behaviour = &model.behaviour;
    if let Some((status, headers)) = behaviour.first.get(index).or(behaviour.always.as_ref()) {
        return send(stream, &asked, *status, headers, b"no");
    }
    if let Some(old) = behaviour.moved_from.filter(|old| asked.path.contains(old)) {
        let location = format!("Location: {}\r\n", asked.path.replace(old, &model.repo));
        return send(stream, &asked, 307, &location, b"");
    }
    let allowed = behaviour.token.is_none_or(|token| asked.authorization == format!("Bearer {token}"));
    if !allowed || !asked.path.contains(&model.repo) {
        return send(stream, &asked, 401, "X-Error-Code: RepoNotFound\r\n", b"no");
    }
    let api = format!("/api/models/{}/revision/", model.repo);
    if let Some(revision) = asked.path.strip_prefix(&api) {
        if revision != model.branch && revision != model.commit {
            return send(stream, &asked, 404, "X-Error-Code: RevisionNotFound\r\n", b"no");
        }
        let files: Vec<_> = model.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let body = serde_json::json!({ "sha": model.commit, "siblings": files, "id": model.repo });
        return send(stream, &asked, 200, "", body.to_string().as_bytes());
    }
    let resolve = format!("/{}/resolve/{}/", model.repo, model.commit);
    let file = asked.path.strip_prefix(&resolve).and_then(|name| model.files.get_key_value(name));
    let Some((name, content)) = file else {
        return send(stream, &asked, 404, "X-Error-Code: EntryNotFound\r\n", b"no");
    };
    let commit = format!("X-Repo-Commit: {}\r\n", model.commit);
    let sum = sha256_bytes(content);
    if content.len() < LARGE {
        let headers = format!("{commit}ETag: \"{}\"\r\n", &sum[..40]);
        return send(stream, &asked, 200, &headers, content);
    }
    let headers = format!(
        "{commit}X-Linked-Size: {}\r\nX-Linked-ETag: \"{sum}\"\r\nETag: \"of-the-redirect\"\r\nLocation: http://{}/{name}?sig=secret\r\n",
        content.len(),
        model.cdn
    );
    send(stream, &asked, 302, &headers, b"Found. Redirecting")
}

fn answer_cdn(
    mut stream: TcpStream,
    index: usize,
    model: &Model,
    log: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let asked = read(&stream)?;
    note("cdn", &asked, log);
    let behaviour = &model.behaviour;
    let name = asked.path.trim_start_matches('/').split('?').next().unwrap_or_default();
    let Some(content) = model.files.get(name) else { return send(stream, &asked, 404, "", b"no") };
    let mut content = content.clone();
    let etag = format!("\"{}\"", &sha256_bytes(&content)[..8]);
    if behaviour.corrupts {
        content[5_000] ^= 1;
    }
    content.truncate(behaviour.truncates.unwrap_or(content.len()));
    let same = asked.if_range.is_empty() || asked.if_range == etag;
    let start = asked.range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')?.parse().ok());
    let start: usize = start.filter(|_| same).unwrap_or(0);
    let (body, whole) = (&content[start.min(content.len())..], content.len());
    let status = if start > 0 { 206 } else { 200 };
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\nETag: {etag}\r\n",
        body.len()
    )?;
    if start > 0 {
        write!(stream, "Content-Range: bytes {start}-{}/{whole}\r\n", whole - 1)?;
    }
    stream.write_all(b"\r\n")?;
    let most = behaviour.cuts.get(index).map_or(body.len(), |cut| *cut.min(&body.len()));
    stream.write_all(&body[..most])?;
    stream.flush()
}
