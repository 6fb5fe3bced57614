//! Whether the threads that serve connections go round: what a watchdog is told by.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use curator_listener::{LeaderTerm, Listener, Role, TermGuard};
use tokio::time::timeout;

use crate::fixture::{Instance, config, in_time, say, term, undetermined};

/// Long enough for what is to come at once, and short enough to wait for what does not come.
const MOMENT: Duration = Duration::from_millis(300);

/// A guard that keeps the thread that asks it, once.
struct Sticky {
    armed: AtomicBool,
    stuck: tokio::sync::Notify,
    free: Mutex<mpsc::Receiver<()>>,
}

#[async_trait]
impl TermGuard for Sticky {
    fn is_valid(&self) -> bool {
        let serves = std::thread::current()
            .name()
            .is_some_and(|name| name.starts_with("listener-"));
        if serves && self.armed.swap(false, Ordering::SeqCst) {
            self.stuck.notify_one();
            let free = self.free.lock().unwrap();
            let _ = free.recv();
        }
        true
    }

    fn remaining(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn ended(&self) {
        std::future::pending::<()>().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_is_stuck_gives_no_answer_until_it_is_free() {
    let (free, freed) = mpsc::channel();
    let guard = Arc::new(Sticky {
        armed: AtomicBool::new(false),
        stuck: tokio::sync::Notify::new(),
        free: Mutex::new(freed),
    });
    let role = Role::Leader(LeaderTerm::new(term(1), guard.clone()));
    let mut two_threads = config();
    two_threads.threads = 2;
    let instance = Instance::with(role, two_threads, |service| service);
    instance.serves(true).await;
    in_time(instance.handle.responds()).await;
    in_time(instance.client().say(say(1))).await.unwrap();

    guard.armed.store(true, Ordering::SeqCst);
    let mut client = instance.client();
    let call = tokio::spawn(async move { client.say(say(2)).await });
    in_time(guard.stuck.notified()).await;
    timeout(MOMENT, instance.handle.responds())
        .await
        .expect_err("one of two is stuck");
    free.send(()).unwrap();
    in_time(instance.handle.responds()).await;
    in_time(call).await.unwrap().unwrap();

    let handle = instance.handle.clone();
    instance.stop().await;
    timeout(MOMENT, handle.responds())
        .await
        .expect_err("nobody serves any more");
}

#[tokio::test]
async fn a_listener_responds_only_while_it_serves() {
    let waiting = Listener::bind(["127.0.0.1:0".parse().unwrap()], config()).unwrap();
    timeout(MOMENT, waiting.handle().responds())
        .await
        .expect_err("it does not serve yet");
    // On the caller's own runtime, without a leader.
    let instance = Instance::start(undetermined());
    in_time(instance.handle.responds()).await;
    let handle = instance.handle.clone();
    instance.stop().await;
    timeout(MOMENT, handle.responds())
        .await
        .expect_err("nobody serves any more");
}
