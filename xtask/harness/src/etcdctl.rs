//! What is stored in a cluster, as etcdctl sees it: a view of etcd that shares no code with the product.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::etcd::{At, EtcdCluster, parsed};
use super::process::{Capture, Orphan, ProcessSpec, Recorded, bound, run};
use crate::error::Result;

/// How long one of the helpers here may take.
const CALL: Duration = Duration::from_secs(10);

/// A key with all that etcd knows about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, with the namespace before it.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// When the key was made.
    pub create_revision: i64,
    /// When it was last written.
    pub mod_revision: i64,
    /// How often it was written since it was made.
    pub version: i64,
    /// The lease that it hangs on, 0 for none.
    pub lease: i64,
}

impl KeyValue {
    /// The key as text, with replacements for what is none.
    pub fn key_text(&self) -> String {
        String::from_utf8_lossy(&self.key).into_owned()
    }
}

/// A lease as etcd sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Its number.
    pub id: i64,
    /// How long it lives if nobody renews it, in whole seconds; `None` when it has ended.
    pub remaining: Option<Duration>,
    /// The TTL that was granted.
    pub granted: Duration,
    /// The keys that hang on it.
    pub keys: Vec<Vec<u8>>,
}

impl EtcdCluster {
    /// Runs etcdctl to its end and hands back what it printed.
    ///
    /// # Errors
    /// When it fails or takes longer than `within`.
    pub fn etcdctl(&self, at: At, args: &[&str], within: Duration) -> Result<String> {
        let member = self.choose(at)?;
        let mut command = bound(self.binaries().etcdctl(), Orphan::Kill);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCDCTL_")) {
            command.env_remove(name);
        }
        command
            .env("ETCDCTL_API", "3")
            .envs(self.etcdctl_access())
            .args(["--endpoints", &self.direct_client_url(member)]);
        command
            .args(["--command-timeout", &format!("{}ms", within.as_millis())])
            .args(args);
        run(command, within)?.success(&format!("etcdctl {}", args.join(" ")))
    }

    /// Starts an etcdctl that goes on, such as `elect` or `watch`, and records what it prints. It goes through the
    /// member's proxy if it has one. The name is that of its log.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn etcdctl_start(&self, name: &str, member: usize, args: &[&str]) -> Result<Recorded> {
        let spec = ProcessSpec::new(name, self.binaries().etcdctl())
            .without_env("ETCDCTL_")
            .env("ETCDCTL_API", "3");
        let access = self.etcdctl_access();
        let spec = access
            .iter()
            .fold(spec, |spec, (name, value)| spec.env(*name, value))
            .args(["--endpoints", &self.client_url(member)])
            .args(args)
            .capture(Capture::Stdout);
        Recorded::start(&spec, self.scratch())
    }

    /// All keys that begin so, in the order of their creation. The prefix contains the namespace.
    ///
    /// # Errors
    /// When etcd does not answer in time.
    pub fn get_prefix(&self, at: At, prefix: &str) -> Result<Vec<KeyValue>> {
        let text = self.etcdctl(
            at,
            &[
                "get",
                prefix,
                "--prefix",
                "--sort-by=CREATE",
                "--order=ASCEND",
                "-w",
                "json",
            ],
            CALL,
        )?;
        parsed("get", &text, key_values)
    }

    /// One key.
    ///
    /// # Errors
    /// When etcd does not answer in time.
    pub fn get(&self, at: At, key: &str) -> Result<Option<KeyValue>> {
        let text = self.etcdctl(at, &["get", key, "-w", "json"], CALL)?;
        Ok(parsed("get", &text, key_values)?.into_iter().next())
    }

    /// The revision of the store.
    ///
    /// # Errors
    /// When etcd does not answer in time.
    pub fn revision(&self, at: At) -> Result<i64> {
        let text = self.etcdctl(at, &["get", "no such key", "-w", "json"], CALL)?;
        parsed("get", &text, |answer| answer["header"]["revision"].as_i64())
    }

    /// Forgets everything before that revision.
    ///
    /// # Errors
    /// When etcd refuses, or does not answer in time.
    pub fn compact(&self, at: At, revision: i64) -> Result<()> {
        self.etcdctl(at, &["compact", &revision.to_string()], CALL).map(drop)
    }

    /// The numbers of all leases.
    ///
    /// # Errors
    /// When etcd does not answer in time.
    pub fn leases(&self, at: At) -> Result<Vec<i64>> {
        let text = self.etcdctl(at, &["lease", "list", "-w", "json"], CALL)?;
        parsed("lease list", &text, |answer| match &answer["leases"] {
            Value::Null => Some(Vec::new()),
            leases => leases.as_array()?.iter().map(|lease| lease["id"].as_i64()).collect(),
        })
    }

    /// Ends a lease, and with it the keys that hang on it.
    ///
    /// # Errors
    /// When there is no such lease, or etcd does not answer in time.
    pub fn lease_revoke(&self, at: At, id: i64) -> Result<()> {
        self.etcdctl(at, &["lease", "revoke", &format!("{id:x}")], CALL)
            .map(drop)
    }

    /// What is known about a lease.
    ///
    /// # Errors
    /// When etcd does not answer in time.
    pub fn lease_time_to_live(&self, at: At, id: i64) -> Result<LeaseInfo> {
        let text = self.etcdctl(
            at,
            &["lease", "timetolive", &format!("{id:x}"), "--keys", "-w", "json"],
            CALL,
        )?;
        parsed("lease timetolive", &text, lease_info)
    }

    /// etcd's own number of a member.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub fn member_id(&self, member: usize) -> Result<u64> {
        let text = self.etcdctl(At::Member(member), &["endpoint", "status", "-w", "json"], CALL)?;
        parsed("endpoint status", &text, |answer| {
            answer[0]["Status"]["header"]["member_id"].as_u64()
        })
    }

    /// Makes a member etcd's own leader, and waits until it is.
    ///
    /// # Errors
    /// When etcd refuses or does not follow in time.
    pub fn move_leader(&self, to: usize) -> Result<()> {
        let from = self.leader(CALL)?;
        if from == to {
            return Ok(());
        }
        let id = format!("{:x}", self.member_id(to)?);
        self.etcdctl(At::Member(from), &["move-leader", &id], CALL)?;
        super::clock::wait_until("etcd's leader to move", CALL, || {
            (self.leader(CALL).ok()? == to).then_some(())
        })
    }

    /// Follows the keys that begin so: etcdctl prints `PUT` or `DELETE`, then the key, then the value, a line each.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn watch_prefix(&self, name: &str, member: usize, prefix: &str) -> Result<Arc<Recorded>> {
        self.etcdctl_start(name, member, &["watch", "--prefix", prefix])
            .map(Arc::new)
    }
}

/// What `get` answers.
fn key_values(answer: &Value) -> Option<Vec<KeyValue>> {
    match &answer["kvs"] {
        Value::Null => Some(Vec::new()),
        kvs => kvs.as_array()?.iter().map(key_value).collect(),
    }
}

fn key_value(kv: &Value) -> Option<KeyValue> {
    // What is zero or empty is left out.
    let number = |name: &str| kv[name].as_i64().unwrap_or_default();
    Some(KeyValue {
        key: bytes(&kv["key"])?,
        value: bytes(&kv["value"])?,
        create_revision: number("create_revision"),
        mod_revision: number("mod_revision"),
        version: number("version"),
        lease: number("lease"),
    })
}

fn lease_info(answer: &Value) -> Option<LeaseInfo> {
    let keys = match &answer["keys"] {
        Value::Null => Vec::new(),
        keys => keys.as_array()?.iter().map(bytes).collect::<Option<_>>()?,
    };
    Some(LeaseInfo {
        id: answer["id"].as_i64()?,
        remaining: u64::try_from(answer["ttl"].as_i64()?).ok().map(Duration::from_secs),
        granted: Duration::from_secs(answer["granted-ttl"].as_u64()?),
        keys,
    })
}

/// etcdctl writes bytes in base64, and leaves out what is empty.
fn bytes(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::Null => Some(Vec::new()),
        value => STANDARD.decode(value.as_str()?).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_etcdctl_are_read() {
        let text = r#"{"header":{"revision":3},"kvs":[{"key":"YQ==","create_revision":2,"mod_revision":3,"version":2,
            "value":"Yw==","lease":2324035583313433606},{"key":"Yg==","create_revision":3,"mod_revision":3,"version":1}],"count":2}"#;
        let kvs = parsed("get", text, key_values).unwrap();
        let first = KeyValue {
            key: b"a".to_vec(),
            value: b"c".to_vec(),
            create_revision: 2,
            mod_revision: 3,
            version: 2,
            lease: 2_324_035_583_313_433_606,
        };
        assert_eq!(kvs[0], first);
        assert_eq!((kvs[1].value.as_slice(), kvs[1].lease), (&b""[..], 0));
        assert_eq!(parsed("get", r#"{"header":{"revision":3}}"#, key_values).unwrap(), []);
        assert!(parsed("get", "Error: context deadline exceeded", key_values).is_err());

        let text = r#"{"id":17,"ttl":29,"granted-ttl":30,"keys":["YQ=="]}"#;
        let lease = parsed("lease", text, lease_info).unwrap();
        assert_eq!(
            (lease.remaining, lease.granted),
            (Some(Duration::from_secs(29)), Duration::from_secs(30))
        );
        assert_eq!(lease.keys, [b"a"]);
        let ended = parsed("lease", r#"{"id":17,"ttl":-1,"granted-ttl":0,"keys":null}"#, lease_info).unwrap();
        assert_eq!(ended.remaining, None);
    }
}
