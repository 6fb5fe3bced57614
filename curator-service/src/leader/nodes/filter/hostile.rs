//! Filters that are built to be expensive, each measured in a process of its own.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use curator_election::clock::{BootClock, Clock};
use curator_proto::common::node_labels::Pair;
use curator_proto::common::{NodeLabels, NodeStatus};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::auth::Caller;
use crate::leader::nodes::filter::*;

/// The filter that the measured process evaluates.
const FILTER: &str = "CURATOR_TEST_HOSTILE_FILTER";
/// Prefix of a count of filters to generate from the grammar.
const BY_GRAMMAR: &str = "by grammar ";
/// Number of nodes to evaluate.
const NODES: usize = 50;
/// Maximum peak memory of the process. Without a filter it needs a few tens of MiB.
const MAX_MEMORY: usize = 200 << 20;
/// Maximum time of one filter. The limit is two seconds, and an unoptimized build is slow to parse.
const MAX_TIME: Duration = Duration::from_secs(8);

fn node() -> Node {
    let pairs = (0..128).map(|number| Pair {
        key: format!("{}.example/{number}", "d".repeat(60)),
        value: "v".repeat(63),
    });
    Node {
        labels: Some(NodeLabels { pairs: pairs.collect() }),
        status: Some(NodeStatus {
            external_address: "192.0.2.1".into(),
            ..NodeStatus::default()
        }),
        ..crate::leader::nodes::filter::tests::node()
    }
}

/// A clock that stands still, to test step limits: an unoptimized build needs long for each step.
#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now(&self) -> curator_election::clock::Instant {
        curator_election::clock::Instant::default()
    }

    fn sleep_until(&self, _: curator_election::clock::Instant) -> futures::future::BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

/// Evaluates as a call does, and returns the result.
async fn asked(filter: &str, nodes: Vec<Node>, clock: impl Clock) -> Result<usize, Status> {
    let caller = Caller::User {
        identity: "owner".into(),
    };
    let turn = Turns::default().next(&caller).await?;
    let (kept, ended) = kept(filter.into(), nodes.into_iter(), Arc::new(clock), turn).await?;
    ended.map_or(Ok(kept.len()), Err)
}

/// Filters of every kind that costs more than it seems.
fn nasty() -> Vec<(&'static str, String)> {
    let times = |text: &str, times: usize| text.repeat(times);
    let tree = format!("[['{}']]{}", "x".repeat(16), times(".map(a,[a,a,a,a,a,a,a,a])", 12));
    let twice = format!("[1]{}", times(".map(a,[a,a])", 40));
    let labels = "node.labels.pairs";
    let long = format!("['{}']{}", "x".repeat(64), times(".map(a,a+a+a+a)", 12));
    vec![
        ("a list eight times as long a dozen times", format!("size({tree}) == 1")),
        ("such a tree as a text", format!("string({tree}) == ''")),
        ("such a tree with itself", format!("{twice} == {twice}")),
        ("such a tree in a list", format!("{twice} in [{twice}]")),
        ("such a tree in an error", format!("{twice} < 1")),
        ("such a tree with a number", format!("{twice} + 1 == 1")),
        ("such a tree as an answer", tree),
        ("such a tree as a key", format!("{{{twice}: 1}} == {{}}")),
        ("such a tree as an index", format!("[1][{twice}] == 1")),
        (
            "a text four times as long a dozen times",
            format!("size({long}[0]) == 1"),
        ),
        (
            "lists that grow",
            format!("size([[1]]{}) == 1", times(".map(a,a+a+a+a)", 20)),
        ),
        (
            "bytes that grow",
            format!("size([b'xxxx']{}) == 1", times(".map(a,a+a+a+a)", 20)),
        ),
        (
            "maps of maps",
            format!("size([1]{}) == 1", times(".map(a,{1:a,2:a,3:a})", 40)),
        ),
        (
            "loops in loops, many of them",
            vec![format!("{labels}.all(a,{labels}.exists(b,a.key<b.value))"); 40].join("&&"),
        ),
        (
            "lists made in loops in loops",
            format!("size({labels}.map(a,{labels}.map(b,[a,b,a,b]))) == 1"),
        ),
        (
            "a loop over what loops have made",
            format!("{labels}{}.all(a,true)", times(".map(a,[a,a])", 60)),
        ),
        ("a large expression", "'a'.matches('((a{1,100}){1,100}){1,100}')".into()),
        (
            "an expression of all letters",
            "'a'.matches('\\\\w{1,300}\\\\w{1,300}')".into(),
        ),
        (
            "an expression for each label",
            format!("{labels}.all(a,'x'.matches('a{{1,60}}'+a.key))"),
        ),
        (
            "a slow expression on a long text",
            format!("{long}[0].matches('(x+x+)+y(x*)*(.*)(.*)(.*)z')"),
        ),
        (
            "an expression that is none",
            format!("'a'.matches('{}')", times("(", 2_000)),
        ),
        ("brackets", times("(", 2_000) + "true" + &times(")", 2_000)),
        ("brackets without end", times("(", 4_000)),
        ("lists in lists", times("[", 2_000) + &times("]", 2_000)),
        (
            "brackets in a text that is none",
            format!("'\\\"{}", times("([{", 1_200)),
        ),
        ("maps in maps", times("{1:", 1_000) + "1" + &times("}", 1_000)),
        ("nots", times("!", 4_000) + "true"),
        ("nots between brackets", times("!(", 60) + "true" + &times(")", 60)),
        ("minuses", times("- ", 2_000) + "1 == 1"),
        ("questions", times("true?false:", 360) + "true"),
        (
            "questions in questions",
            times("true?", 600) + "true" + &times(":true", 600),
        ),
        ("fields", format!("node{}", times(".a", 2_000))),
        ("indices", format!("node{}", times("[0]", 1_300))),
        ("a long sum", times("1+", 2_000) + "1 == 1"),
        ("a long or", times("1==2||", 650) + "true"),
        ("calls of calls", times("size(", 60) + "1" + &times(")", 60)),
        ("methods", format!("node.id{}", times(".size()", 580))),
        ("errors without end", times("1 1 ", 1_000)),
        ("signs", times("@#$%", 1_000)),
        ("a name without end", "n".repeat(4_096)),
        ("a number without end", "1".repeat(4_096)),
        ("a text without end", format!("'{}", "x".repeat(4_000))),
        ("commas", format!("size({}1)", times("1,", 2_000))),
        (
            "loops without elements",
            times("[].all(a,", 60) + "true" + &times(")", 60),
        ),
        ("questioning fields", format!("node{}", times(".?a", 1_300))),
        ("messages", times("a{b:", 1_000) + "1" + &times("}", 1_000)),
        ("zeros", format!("duration('{}s') == duration('1s')", "9".repeat(4_000))),
        (
            "a time of years",
            "timestamp('99999999-01-01T00:00:00Z') == timestamp('1-1-1T0:0:0Z')".into(),
        ),
    ]
}

/// Random combinations of such parts.
fn generated() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("node.labels.pairs".to_owned()),
        Just("node.labels.pairs.map(p, p.key)".to_owned()),
        Just("node".to_owned()),
        Just("'0123456789abcdef'".to_owned()),
        Just("[1, 2, 3, 4, 5, 6, 7, 8]".to_owned()),
        Just("b'xyz'".to_owned()),
        Just("9223372036854775807".to_owned()),
    ];
    leaf.prop_recursive(24, 40, 3, |inner| {
        prop_oneof![
            4 => (inner.clone(), 1..12_usize).prop_map(|(of, times)| of + &".map(a, [a, a, a, a])".repeat(times)),
            3 => (inner.clone(), 1..20_usize)
                .prop_map(|(of, times)| format!("[{of}]{}", ".map(a, a + a)".repeat(times))),
            2 => (inner.clone(), inner.clone()).prop_map(|(of, with)| format!("{of}.filter(a, a != {with})")),
            2 => (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left} == {right})")),
            2 => (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left} + {right})")),
            1 => (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left} in [{right}, {left}])")),
            1 => (inner.clone(), inner.clone()).prop_map(|(key, value)| format!("{{'k': {value}, 'l': {key}}}")),
            1 => inner.clone().prop_map(|of| format!("string({of})")),
            1 => inner.clone().prop_map(|of| format!("size({of})")),
            1 => inner.clone().prop_map(|of| format!("{of}.exists(x, {of}.all(y, x == y))")),
            1 => (inner.clone(), inner)
                .prop_map(|(text, pattern)| format!("string({text}).matches(string({pattern}))")),
        ]
    })
}

/// The code that runs in the measured process; not a test by itself.
#[tokio::test]
async fn what_is_measured() {
    let Ok(filter) = std::env::var(FILTER) else {
        return;
    };
    let clock = BootClock;
    let mut slowest = (Duration::ZERO, String::new());
    let mut ask = async |filter: &str| {
        let began = clock.now();
        let answer = asked(filter, vec![node(); NODES], BootClock).await;
        let took = clock.now().saturating_since(began);
        if took > slowest.0 {
            slowest = (took, filter.to_owned());
        }
        if let Err(refused) = answer {
            let known = matches!(
                refused.code(),
                tonic::Code::InvalidArgument | tonic::Code::Unavailable | tonic::Code::ResourceExhausted
            );
            assert!(known && refused.message().len() <= 600, "{filter}: {refused}");
        }
    };
    if let Some(cases) = filter
        .strip_prefix(BY_GRAMMAR)
        .and_then(|cases| cases.parse::<u32>().ok())
    {
        let mut dice = StdRng::seed_from_u64(7);
        for _ in 0..cases {
            let mut tape = vec![0; 600];
            dice.fill_bytes(&mut tape);
            ask(&grammar::written(&tape)).await;
        }
    }
    match filter.parse::<u32>() {
        _ if filter.starts_with(BY_GRAMMAR) => {}
        Ok(cases) => {
            let mut runner = TestRunner::new(Config::default());
            for _ in 0..cases {
                let text = generated().new_tree(&mut runner).expect("a filter").current();
                ask(&text).await;
            }
        }
        Err(_) => ask(&filter).await,
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap_or("0 kB");
    let (took, text) = slowest;
    println!(
        "measured {} {} {text:.60}",
        peak.trim().trim_end_matches(" kB"),
        took.as_millis()
    );
}

/// The peak memory and the longest time of a process that evaluates this filter.
fn measured(filter: &str) -> (usize, Duration) {
    let name = "leader::nodes::filter::hostile::what_is_measured";
    // Limits the damage of a broken limit to the child process.
    let limited = "ulimit -v 4000000; exec timeout 60 \"$0\" --exact --nocapture \"$1\"";
    let program = std::env::current_exe().expect("this test");
    let output = Command::new("sh")
        .args(["-c", limited])
        .arg(program)
        .arg(name)
        .env(FILTER, filter)
        .output();
    let output = output.expect("a process");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{filter:.200}: {said} {why}");
    let line = said
        .lines()
        .find_map(|line| line.split_once("measured "))
        .map(|(_, line)| line);
    let mut words = line.expect(&said).split(' ').map(str::parse::<u64>);
    let (Some(Ok(kib)), Some(Ok(millis))) = (words.next(), words.next()) else {
        panic!("{said}");
    };
    println!("{} MiB, {millis} ms: {filter:.80}", kib >> 10);
    (
        usize::try_from(kib).expect("it fits") << 10,
        Duration::from_millis(millis),
    )
}

#[test]
fn no_filter_takes_more_than_its_share() {
    for (what, filter) in nasty() {
        let (memory, took) = measured(&filter);
        assert!(memory < MAX_MEMORY, "{what}: {memory} bytes");
        assert!(took < MAX_TIME, "{what}: {took:?}");
    }
}

#[test]
fn no_filter_that_is_put_together_at_random_does() {
    let (memory, took) = measured("300");
    assert!(memory < MAX_MEMORY, "{memory} bytes");
    assert!(took < MAX_TIME, "{took:?}");
}

/// The same with filters that the fuzzer generates from bytes, here from a fixed seed.
#[test]
fn no_filter_that_the_grammar_makes_does() {
    let (memory, took) = measured(&format!("{BY_GRAMMAR}150"));
    assert!(memory < MAX_MEMORY, "{memory} bytes");
    assert!(took < MAX_TIME, "{took:?}");
}

/// Filters as people write them, on nodes of the maximum size.
#[tokio::test]
async fn honest_filters_are_within_theirs() {
    for filter in [
        "node.state == NODE_STATE_UP && has(node.roles.kubernetes_worker)",
        "node.labels.pairs.exists(pair, pair.key == 'rack' && pair.value == 'r1')",
        "node.labels.pairs.filter(pair, pair.key.startsWith('d')).size() == 128",
        "node.labels.pairs.all(a, !node.labels.pairs.exists_one(b, a.key == b.value))",
        "node.labels.pairs.all(a, a.key.matches('^d+\\\\.[a-z]+/[0-9]{1,3}$')) || node.id.matches('metropolis-.*')",
        "node.status.external_address in ['192.0.2.1', '192.0.2.2']",
    ] {
        if let Err(refused) = asked(filter, vec![node(); 2], Still).await {
            panic!("{filter}: {refused}");
        }
    }
    assert_eq!(
        asked(
            "node.id.startsWith('metropolis')",
            vec![crate::leader::nodes::filter::tests::node(); 10_000],
            Still
        )
        .await
        .unwrap(),
        10_000
    );
}

/// A cancelled call holds no thread: the next call of the same caller gets its turn.
#[tokio::test]
async fn a_filter_ends_with_its_call() {
    let turns = Turns::default();
    let caller = Caller::User {
        identity: "owner".into(),
    };
    let loops = "node.labels.pairs.all(a, node.labels.pairs.all(b, a.key != b.value))";
    let all = async {
        for _ in 0..20 {
            let turn = turns.next(&caller).await.unwrap();
            // Each would take seconds, until it exceeds its steps.
            let call = kept(loops.into(), vec![node(); 1_000].into_iter(), Arc::new(Still), turn);
            tokio::select! {
                biased;
                _ = call => panic!("the evaluation must take longer"),
                () = tokio::task::yield_now() => {}
            }
        }
        turns.next(&caller).await.unwrap()
    };
    tokio::time::timeout(Duration::from_secs(30), all)
        .await
        .expect("evaluations stop with their calls");
}
