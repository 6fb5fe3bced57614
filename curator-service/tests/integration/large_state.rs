//! A state that does not fit in one answer of etcd, and an etcd that takes no more.

use std::net::SocketAddr;
use std::process::{Command, Output};

use curator_election::etcd::{EtcdConfig, EtcdStore};
use curator_election::store::{Op, RefusalKind, Store, Txn};
use curator_harness::curator::binary_from_env;
use curator_harness::{At, CuratorProcess, EtcdOptions, TempDir};
use curator_proto::management_api::GetRegisterTicketRequest;
use tonic::{Code, Status};

use crate::cluster::{Clients, OWNER, bootstrap, embedding, insist, request};
use crate::test_cluster::{Reach, SOON, TestCluster};

/// More than a client takes in one answer, which is 64 MiB: 1,700 values as large as the labels of a node may be.
const RECORDS: usize = 1_700;
const RECORD: usize = 42_000;
const TOGETHER: usize = 20;

fn key(number: usize) -> String {
    format!("namespaced:curator//global/filler/{number:06}")
}

async fn fill(store: &EtcdStore) {
    let numbers: Vec<usize> = (0..RECORDS).collect();
    for some in numbers.chunks(TOGETHER) {
        let ops = some
            .iter()
            .map(|number| Op::put(key(*number), vec![7; RECORD]))
            .collect();
        loop {
            // A put again is no harm.
            match store.txn(Txn::default().then(Vec::clone(&ops))).await {
                Ok(_) => break,
                Err(error) => assert!(error.refusal().is_none(), "{error}"),
            }
        }
    }
}

async fn ticket(clients: &Clients) -> Result<Vec<u8>, Status> {
    let ask = async || {
        let message = request(GetRegisterTicketRequest {}, OWNER);
        clients.management().get_register_ticket(message).await
    };
    Ok(insist(ask).await.0?.into_inner().ticket)
}

fn curator(words: &[&str]) -> Output {
    Command::new(binary_from_env().unwrap()).args(words).output().unwrap()
}

fn succeeded(done: &Output) -> String {
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{told}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_larger_than_an_answer_is_led_exported_and_imported() {
    let mut stage = tokio::task::block_in_place(|| {
        let stage = TestCluster::empty("large", EtcdOptions::default());
        assert!(bootstrap(&stage, 1).status.success());
        stage
    });
    let store = EtcdStore::new(EtcdConfig::new(stage.endpoints(0, Reach::All))).unwrap();
    fill(&store).await;
    let leader = tokio::task::block_in_place(|| {
        embedding(&mut stage);
        stage.agreed(SOON)
    });
    let addresses: Vec<SocketAddr> = stage.curators.iter().map(CuratorProcess::address).collect();
    let clients = Clients::new(&addresses);
    let first = ticket(&clients).await.expect("the owner may ask");
    // The next one can read it as well.
    tokio::task::block_in_place(|| {
        let marks = stage.marks();
        stage.curators[leader].kill().unwrap();
        stage.next_leader(&stage.others(leader), &marks, SOON);
    });
    assert_eq!(ticket(&clients).await.expect("the owner may ask"), first);

    tokio::task::block_in_place(|| {
        let endpoints = stage.endpoints(0, Reach::All).join(",");
        let file = stage.scratch.path().join("state").display().to_string();
        let exported = succeeded(&curator(&["export", "--etcd-endpoints", &endpoints, "--out", &file]));
        let count: usize = exported.split(' ').nth(1).and_then(|count| count.parse().ok()).unwrap();
        assert!(count > RECORDS, "{exported}");
        let to = [
            "import",
            "--etcd-endpoints",
            &endpoints,
            "--etcd-namespace",
            "another",
            &file,
        ];
        let imported = succeeded(&curator(&to));
        assert!(imported.contains(&format!("imported {count} keys")), "{imported}");
        // Once more it is not empty, and with --resume all of it is there.
        let again = curator(&to);
        assert!(!again.status.success());
        assert!(String::from_utf8_lossy(&again.stderr).contains("--resume"), "{again:?}");
        let resumed = succeeded(&curator(&[&to[..], &["--resume"]].concat()));
        assert!(resumed.contains(&format!("imported {count} keys")), "{resumed}");
        stage.curators.clear();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_without_space_is_told_to_callers_and_operators() {
    let mut stage = tokio::task::block_in_place(|| {
        let options = EtcdOptions {
            extra_args: vec!["--quota-backend-bytes".into(), (24 << 20).to_string()],
            ..EtcdOptions::default()
        };
        let mut stage = TestCluster::within(TempDir::new("curator-no-space").unwrap(), options);
        assert!(bootstrap(&stage, 1).status.success());
        embedding(&mut stage);
        stage.agreed(SOON);
        stage
    });
    let store = EtcdStore::new(EtcdConfig::new(stage.endpoints(0, Reach::All))).unwrap();
    let full = async {
        loop {
            let put = Op::put("/elsewhere", vec![7; 1 << 20]);
            if let Err(error) = store.txn(Txn::default().then(vec![put])).await
                && error.refusal() == Some(RefusalKind::NoSpace)
            {
                break;
            }
        }
    };
    tokio::time::timeout(3 * SOON, full).await.expect("it fills up");
    // The first time that the ticket is asked for it is made, and that is a write.
    let addresses: Vec<SocketAddr> = stage.curators.iter().map(CuratorProcess::address).collect();
    let clients = Clients::new(&addresses);
    let refused = ticket(&clients).await.expect_err("nothing can be written");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("NOSPACE"), "{refused}");
    assert!(refused.message().contains("nothing was changed"), "{refused}");

    tokio::task::block_in_place(|| {
        // And without a leader nobody can be elected.
        let marks = stage.marks();
        for curator in &mut stage.curators {
            curator.restart().unwrap();
        }
        for (curator, mark) in stage.curators.iter().zip(marks) {
            curator
                .wait_for(mark, 2 * SOON, "the reason", |event| {
                    event.text_of("level") == Some("WARN")
                        && event.text_of("reason").is_some_and(|reason| reason.contains("NOSPACE"))
                })
                .unwrap();
        }
        // Once there is space, they go on by themselves.
        // (A member with an alarm counts as one that is not healthy.)
        let revision = stage.etcd.revision(At::Member(0)).unwrap();
        stage.etcd.compact(At::Member(0), revision).unwrap();
        for member in 0..3 {
            let defragmented = stage.etcd.etcdctl(At::Member(member), &["defrag"], SOON);
            defragmented.unwrap();
        }
        stage.etcd.etcdctl(At::Member(0), &["alarm", "disarm"], SOON).unwrap();
        stage.agreed(2 * SOON);
    });
    ticket(&clients).await.expect("there is space");
    tokio::task::block_in_place(|| stage.curators.clear());
}
