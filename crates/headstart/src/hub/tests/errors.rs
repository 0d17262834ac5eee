//! What a hub may refuse, and what a file may be.

use std::fs;

use super::*;
use crate::hub::ENTRIES;

fn hub(behaviour: Behaviour) -> (Hub, User) {
    let hub = Hub::start(REPO, COMMIT, &files(&weights()), behaviour);
    let user = User::new(hub.endpoint());
    (hub, user)
}

fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` in: {text}");
    }
}

#[test]
fn what_is_not_there_or_not_for_everybody_is_said() {
    let (_hub, user) = hub(Behaviour::default());
    let text = user.error("someone/bert-base-uncasde");
    assert_says(&text, &["there is no folder", "has no model of this name", "bert-base-uncased", "HF_TOKEN"]);
    let text = user.error(&format!("{REPO}@no-such-branch"));
    assert_says(&text, &["no branch, tag or commit `no-such-branch`", "/tree/main"]);

    let (_hub, mut user) = hub(Behaviour { token: Some("hf_right"), ..Behaviour::default() });
    assert_says(&user.error(REPO), &["everybody may read", "HF_TOKEN"]);
    user.options.token = Token::new("hf_wrong");
    let text = user.error(REPO);
    assert_says(&text, &["does not accept the token"]);
    assert!(!text.contains("hf_wrong"));

    let gated = Behaviour { always: Some((403, "X-Error-Code: GatedRepo\r\n")), ..Behaviour::default() };
    let (hub, mut user) = hub(gated);
    assert_says(&user.error(REPO), &["403", "no token was sent", "accept its conditions at", REPO]);
    user.options.token = Token::new("hf_x");
    assert_says(&user.error(REPO), &["the token that was sent may not read it"]);
    assert!(user.tree().is_empty() && hub.count("cdn") == 0);

    let (_hub, user) = hub_of(&[("README.md", b"x"), ("tf_model.h5", b"x"), ("config.json", b"{}")]);
    assert_says(
        &user.error(REPO),
        &["has no model.safetensors", "it has README.md, config.json, tf_model.h5"],
    );
}

fn hub_of(files: &[(&str, &[u8])]) -> (Hub, User) {
    let hub = Hub::start(REPO, COMMIT, files, Behaviour::default());
    let user = User::new(hub.endpoint());
    (hub, user)
}

#[test]
fn a_busy_hub_is_asked_again_but_not_for_ever() {
    let busy = Behaviour { first: vec![(429, "Retry-After: 0\r\n"), (503, "")], ..Behaviour::default() };
    let (hub, user) = hub(busy);
    user.resolve(REPO);
    assert_eq!(hub.count("hub GET /api"), 3);

    let always = Behaviour { always: Some((429, "Retry-After: 0\r\n")), ..Behaviour::default() };
    let (hub, user) = self::hub(always);
    assert_says(&user.error(REPO), &["429: too many requests", "3 times in a row"]);
    assert_eq!(hub.requests().len(), 3);

    let long = Behaviour { always: Some((429, "Retry-After: 3600\r\n")), ..Behaviour::default() };
    let (hub, user) = self::hub(long);
    assert_says(&user.error(REPO), &["429", "again in 3600 seconds, as the server asks"]);
    assert_eq!(hub.requests().len(), 1);
}

#[test]
fn a_body_that_is_cut_or_wrong_is_not_kept() {
    for behaviour in [
        Behaviour { truncates: Some(150_000), ..Behaviour::default() },
        Behaviour { corrupts: true, ..Behaviour::default() },
    ] {
        let (_hub, user) = hub(behaviour.clone());
        let text = user.error(REPO);
        let words =
            if behaviour.corrupts { "what arrived has SHA-256" } else { "150000 bytes, expected 200000" };
        assert_says(&text, &[words, "thrown away", "model.safetensors"]);
        // A signed address is as good as a password.
        assert!(!text.contains("sig="), "{text}");
        let sum = sha256_bytes(&weights());
        assert!(!user.tree().iter().any(|name| name.contains(&sum)), "{:#?}", user.tree());
        assert!(!user.repo().join("refs").exists());
    }
}

#[test]
fn what_changes_in_the_cache_is_noticed() {
    let (hub, user) = hub(Behaviour::default());
    let model = user.resolve(REPO);
    let change = |name: &str, content: &[u8]| {
        // As an editor would: the content, through the link.
        fs::write(fs::canonicalize(model.folder.join(name)).unwrap(), content).unwrap();
    };
    change("config.json", br#"{"model_type": "gpt2"}"#);
    let text = user.error(REPO);
    assert_says(&text, &["config.json", "was recorded when it was seen first", "delete", "models pull"]);
    change("config.json", br#"{"model_type": "bert"}"#);
    user.resolve(REPO);
    // Also where length and time of change are as they were, when a pull looks at every byte.
    let path = fs::canonicalize(model.folder.join("model.safetensors")).unwrap();
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    let mut content = weights();
    content[7] ^= 1;
    fs::write(&path, &content).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    user.resolve(REPO);
    let error = pull(REPO, &user.options, &mut quiet).unwrap_err().to_string();
    assert_says(&error, &["model.safetensors", "recorded"]);
    // What the error advises helps.
    fs::remove_file(&path).unwrap();
    pull(REPO, &user.options, &mut quiet).unwrap();
    assert_eq!(hub.count("cdn GET"), 2);

    // Damage of what another program has cached shows against its name.
    let user = User::cached_by_another_program(&files(&weights()));
    let blob = user.repo().join("blobs").join(sha256_bytes(&weights()));
    fs::write(&blob, &content).unwrap();
    #[cfg(unix)]
    assert_says(&user.error(REPO), &["model.safetensors", "is what the hub has"]);
}

#[test]
fn weights_of_the_catalogue_are_the_published_ones_or_not_downloaded() {
    let entry = ENTRIES.iter().find(|entry| entry.name() == "minilm-l6").unwrap();
    let (repo, commit) = (entry.repo(), entry.commit.unwrap());
    let hub = Hub::start(repo, commit, &files(&weights()), Behaviour::default());
    let user = User::new(hub.endpoint());
    let text = user.error("minilm-l6");
    assert_says(&text, &["53aa51172d142c89", "was published", "HF_ENDPOINT"]);
    assert_eq!(hub.count("cdn"), 0);
    // At another commit nothing is known of them; what its owner has changed is for whoever names it.
    let hub = Hub::start(repo, COMMIT, &files(&weights()), Behaviour::default());
    let user = User::new(hub.endpoint());
    assert_eq!(user.resolve("minilm-l6@main").commit.as_deref(), Some(COMMIT));
    assert_says(&user.error("minilm-l6"), &[commit]);
    // What is in `main` is better than nothing.
    let offline = HubOptions { offline: true, ..user.options.clone() };
    assert_eq!(resolve("minilm-l6", &offline, &mut quiet).unwrap().commit.as_deref(), Some(COMMIT));
}

#[test]
fn offline_and_not_here_says_where_it_looked() {
    let user = User::offline();
    let text = user.error("bert-base-uncased");
    assert_says(
        &text,
        &[
            "`google-bert/bert-base-uncased` is not on this machine",
            "models--google-bert--bert-base-uncased/snapshots/86b5e0934494bd15c9632b12f734a8a67f723594",
            "models--bert-base-uncased/snapshots/",
            "--offline",
        ],
    );
    assert!(describe("bert-base-uncased", &user.options).unwrap().unwrap().found.is_none());
    assert!(describe("./x", &user.options).unwrap().is_none());
    assert!(user.tree().is_empty());
}

#[test]
fn what_answers_but_is_no_hub_is_no_model() {
    let page = Behaviour { always: Some((200, "ETag: \"x\"\r\n")), ..Behaviour::default() };
    let (_hub, user) = hub(page);
    assert_says(&user.error(REPO), &["no Hugging Face hub", "HF_ENDPOINT"]);
    let round = Behaviour { moved_from: Some("someone"), ..Behaviour::default() };
    let (_hub, user) = hub(round);
    assert_says(&user.error(REPO), &["redirects more than 10 times"]);
}
