//! What a reader of etcd learns: SECURITY.md lists it for each key.

use super::stage::{Stage, id, key};

#[tokio::test(start_paused = true)]
async fn what_etcd_gives_away_is_what_is_said_of_it() {
    let security = include_str!("../../../../SECURITY.md");
    let (_, said) = security
        .split_once("## What a plaintext etcd gives away")
        .expect("there is such a section");
    let said = said.split("\n## ").next().unwrap_or_default();
    let stage = Stage::new().await;
    stage.up(2).await;
    stage.register(3).await.unwrap();
    let all = stage.all().await;
    for kv in &all {
        let name = String::from_utf8_lossy(&kv.key);
        // Keys of other namespaces have two slashes after the namespace.
        let end = name
            .match_indices('/')
            .find(|(at, _)| *at > 0)
            .map_or(name.len(), |(at, _)| at + 1);
        assert!(
            said.contains(&format!("`{}", &name[..end])),
            "nothing is said of {name}"
        );
    }
    // The authority's key is stored in a form that anyone can use.
    let authority = all
        .iter()
        .find(|kv| kv.key.starts_with(b"/cluster-pki/keys/"))
        .expect("the authority's key");
    assert_eq!(authority.value.len(), 64, "the seed and the public key of Ed25519");
    let record = stage.record(&id(2)).await;
    assert_eq!(record.public_key, key(2));
    assert_eq!(record.cluster_unlock_key.len(), 32);
}
