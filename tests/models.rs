//! `headstart models`, and names of published models wherever a model is asked for; with a hub on the loopback.
//!
//! Owns: what the environment's variables of `huggingface_hub` do. Never: leaves this machine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;
use support::Place;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub with one small model, `someone/small`; what it was asked, with the headers.
fn hub() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    let log = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::clone(&log);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let request: Vec<String> =
                lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let request = request.join("\n");
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            asked.lock().unwrap().push(request);
            let (status, body) = match path.strip_prefix(&format!("/someone/small/resolve/{COMMIT}/")) {
                Some("config.json") => (200, r#"{"model_type": "bert"}"#.to_owned()),
                Some("model.safetensors") => (200, "weights".to_owned()),
                _ if path == "/api/models/someone/small/revision/main" => {
                    let files =
                        [json!({"rfilename": "config.json"}), json!({"rfilename": "model.safetensors"})];
                    (200, json!({"sha": COMMIT, "siblings": files}).to_string())
                }
                _ => (404, String::new()),
            };
            let head = format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\nETag: \"{:x}\"\r\n\r\n",
                body.len(),
                path.len()
            );
            // A client that goes away early is its own business.
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    (address, log)
}

/// A place that asks this hub.
fn place_with(address: &str) -> Place {
    Place::new().with("HF_ENDPOINT", address).with("HF_HUB_OFFLINE", "0").with("HF_TOKEN", "hf_secret\n")
}

fn snapshot(place: &Place) -> PathBuf {
    place.path("huggingface/hub/models--someone--small/snapshots").join(COMMIT)
}

#[test]
fn a_pulled_model_lies_in_the_hugging_face_cache_and_is_found_by_its_name() {
    let (address, log) = hub();
    let place = place_with(&address);
    let done = place.run("models pull someone/small");
    done.succeeds();
    assert_eq!(done.stdout.trim(), snapshot(&place).display().to_string());
    assert!(
        done.stderr.contains("downloading someone/small (commit 0123456789ab): 2 files"),
        "{}",
        done.stderr
    );
    let asked = log.lock().unwrap().clone();
    assert!(asked.iter().all(|request| request.to_lowercase().contains("authorization: bearer hf_secret")));
    assert!(!format!("{}{}", done.stdout, done.stderr).contains("hf_secret"));

    let again = place.run("models pull someone/small --json").json();
    assert_eq!((&again["origin"], &again["commit"]), (&json!("cache"), &json!(COMMIT)));
    assert_eq!(log.lock().unwrap().len(), asked.len() + 1, "a second pull asks where the branch is, no more");
    let shown = place.run("models show someone/small --json").json();
    assert_eq!(shown["files"], again["files"]);
    assert_eq!(shown["folder"], json!(snapshot(&place)));

    // The library is given the folder; what comes of that is its own business.
    place.write("t.csv", "text,label\na,x\nb,y\n");
    for call in [
        "finetune --model someone/small --data t.csv --out run",
        "eval someone/small --data t.csv",
        "predict someone/small",
        "generate someone/small --prompt a",
        "bench predict --model someone/small",
    ] {
        let done = place.run(call);
        assert_eq!(done.code, Some(1), "{call}: {}", done.stderr);
        let said = format!("model: someone/small at commit {COMMIT}, in ");
        assert!(done.stderr.contains(&said), "{call}: {}", done.stderr);
        assert!(done.stderr.contains(&snapshot(&place).display().to_string()), "{call}: {}", done.stderr);
    }
    assert!(!place.path("run").exists());
    place.run("models pull someone/other").refuses(1, &["no model of this name", "fix: "]);
}

#[test]
fn the_cache_is_where_the_environment_says_and_the_network_stays_shut_where_it_says() {
    let (address, log) = hub();
    let elsewhere = Place::new();
    let cache = elsewhere.path("hub");
    let place = place_with(&address).with("HF_HUB_CACHE", cache.display().to_string());
    let folder = place.run("models pull someone/small --json").json()["folder"].as_str().unwrap().to_owned();
    assert!(folder.starts_with(cache.to_str().unwrap()), "{folder}");
    let asked = log.lock().unwrap().len();
    for variables in [[("HF_HUB_OFFLINE", "1")], [("TRANSFORMERS_OFFLINE", "yes")]] {
        let mut place = place_with(&address);
        for (name, value) in variables {
            place = place.with(name, value);
        }
        place.run("models pull someone/small").refuses(1, &["is not on this machine", "snapshots", "fix: "]);
    }
    place_with(&address)
        .run("predict someone/small --offline")
        .refuses(1, &["is not on this machine", "--offline"]);
    place.run("models pull someone/small --offline").succeeds();
    assert_eq!(log.lock().unwrap().len(), asked);
}

#[test]
fn tokens_come_from_their_file_too_and_are_refused_where_they_cannot_be_any() {
    let (address, log) = hub();
    let place = Place::new().with("HF_ENDPOINT", &*address).with("HF_HUB_OFFLINE", "0");
    place.write("huggingface/token", "hf_of_the_file\n");
    place.run("models pull someone/small").succeeds();
    assert!(log.lock().unwrap()[0].to_lowercase().contains("authorization: bearer hf_of_the_file"));
    Place::new()
        .with("HF_ENDPOINT", "hub.example")
        .run("models list")
        .refuses(2, &["HF_ENDPOINT", "https://", "fix: "]);
    let place = Place::new().with("HF_TOKEN", "two words");
    let done = place.run("models list");
    done.refuses(2, &["HF_TOKEN holds no token", "fix: "]);
}

#[test]
fn the_catalogue_is_listed_and_unknown_names_get_the_nearest() {
    let place = Place::new();
    let list = place.run("models list").succeeds().stdout.clone();
    assert!(list.lines().any(|line| line.starts_with("minilm-l6 ") && line.ends_with("not here")), "{list}");
    let lines = place.run("models list --json").json_lines();
    let minilm = lines.iter().find(|line| line["name"] == "minilm-l6").unwrap();
    assert_eq!((&minilm["folder"], &minilm["licence"]), (&json!(null), &json!("Apache-2.0")));
    // What another program has put into the cache is here.
    let commit = minilm["commit"].as_str().unwrap();
    let folder =
        format!("huggingface/hub/models--sentence-transformers--all-MiniLM-L6-v2/snapshots/{commit}");
    place.write(&format!("{folder}/config.json"), "{}");
    place.write(&format!("{folder}/model.safetensors"), "");
    let list = place.run("models list").succeeds().stdout.clone();
    assert!(list.lines().any(|line| line.starts_with("minilm-l6 ") && line.ends_with(" here")), "{list}");
    let pulled = place.run("models pull minilm-l6");
    pulled.succeeds();
    assert_eq!(
        fs::canonicalize(pulled.stdout.trim()).unwrap(),
        fs::canonicalize(place.path(&folder)).unwrap()
    );
    assert!(pulled.stderr.contains("is not the published file"), "{}", pulled.stderr);

    let shown = place.run("models show bert-base-uncased").succeeds().stdout.clone();
    assert!(shown.contains("google-bert/bert-base-uncased at 86b5e093"), "{shown}");
    assert!(shown.contains("headstart models pull bert-base-uncased"), "{shown}");
    place.run("predict distilbret").refuses(1, &["no folder `distilbret`", "are distilbert,", "fix: "]);
    place.run("models pull ./x").refuses(2, &["is a path", "fix: "]);
    place.run("models show x --mirror nowhere").refuses(1, &["no folder `x`", "fix: "]);
    place.run("models list --mirror nowhere").refuses(2, &["nowhere is not a folder", "fix: "]);
}
