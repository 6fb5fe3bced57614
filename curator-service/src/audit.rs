//! The audit log: one line for each change, with caller, action, target and outcome, under a log target of its own.
//!
//! Requests are logged by names only, never by values, so no line contains a secret.

use curator_proto::admin_api::{IssueOwnRequest, RotateRegisterTicketRequest, StepDownRequest};
use curator_proto::management_api::{
    ApproveNodeRequest, ConfigureClusterRequest, DecommissionNodeRequest, DeleteNodeRequest, GetRegisterTicketRequest,
    UpdateNodeLabelsRequest, UpdateNodeRolesRequest,
};
use tonic::{Request, Status};
use tracing::info;

use crate::auth::Caller;
use crate::validate::{Selector, id_of_key};

/// The log target of audit lines.
const TARGET: &str = "curator::audit";
/// Maximum length of caller-chosen text in a line, in characters.
const MAX_TEXT_LEN: usize = 256;

/// A request that is audited.
pub(crate) trait Audited {
    /// The name of the action.
    const ACTION: &'static str;

    /// What the action applies to.
    fn target(&self) -> String;

    /// A summary of the change.
    fn change(&self) -> String {
        String::new()
    }
}

/// One request, from arrival to end. Exactly one line is logged, whatever the outcome.
pub(crate) struct Entry {
    action: &'static str,
    caller: String,
    target: String,
    change: String,
    trace_id: String,
    closed: bool,
}

impl Entry {
    pub(crate) fn of<T: Audited>(request: &Request<T>) -> Self {
        let caller = match request.extensions().get::<Caller>() {
            Some(Caller::User { identity }) => format!("user {identity}"),
            Some(Caller::Node { id, .. }) => format!("node {id}"),
            Some(Caller::Anybody { key: Some(key) }) => {
                format!("key of {}", id_of_key("key", key).unwrap_or_default())
            }
            Some(Caller::Anybody { key: None }) | None => "anonymous".to_owned(),
        };
        Self {
            action: T::ACTION,
            caller: truncated(&caller),
            target: truncated(&request.get_ref().target()),
            change: truncated(&request.get_ref().change()),
            trace_id: trace_id(request).unwrap_or_default(),
            closed: false,
        }
    }

    /// Logs the outcome.
    pub(crate) fn close<T>(mut self, outcome: &Result<T, Status>) {
        match outcome {
            Ok(_) => self.log("ok", ""),
            Err(status) => self.log(status.code().description(), status.message()),
        }
    }

    /// Logs only if `close` is called.
    pub(crate) fn quiet(mut self) -> Self {
        self.closed = true;
        self
    }

    fn log(&mut self, outcome: &str, reason: &str) {
        self.closed = true;
        info!(
            target: TARGET,
            action = self.action,
            caller = self.caller,
            on = self.target,
            change = self.change,
            outcome,
            reason = truncated(reason),
            trace_id = self.trace_id,
            "audit"
        );
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.closed {
            self.log(
                "abandoned",
                "the call was cancelled or the term ended; the change may or may not have been made",
            );
        }
    }
}

/// The trace ID from the caller's `traceparent` header.
fn trace_id<T>(request: &Request<T>) -> Option<String> {
    let said = request.metadata().get("traceparent")?.to_str().ok()?;
    let id = said.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
}

/// Truncates the text and replaces control characters.
fn truncated(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(MAX_TEXT_LEN).map(plain).collect()
}

/// The ID of the selected node; empty if the selector is invalid.
fn node(selector: Option<impl Into<Selector>>) -> String {
    Selector::id(selector).unwrap_or_default()
}

impl Audited for ApproveNodeRequest {
    const ACTION: &'static str = "approve node";

    fn target(&self) -> String {
        id_of_key("pubkey", &self.pubkey).unwrap_or_default()
    }
}

impl Audited for DeleteNodeRequest {
    const ACTION: &'static str = "delete node";

    fn target(&self) -> String {
        node(self.node.clone())
    }

    fn change(&self) -> String {
        let all = [
            (self.safety_bypass_has_roles.is_some(), "bypass has_roles"),
            (
                self.safety_bypass_not_decommissioned.is_some(),
                "bypass not_decommissioned",
            ),
        ];
        joined(all.iter().filter(|(set, _)| *set).map(|(_, text)| (*text).to_owned()))
    }
}

impl Audited for DecommissionNodeRequest {
    const ACTION: &'static str = "decommission node";

    fn target(&self) -> String {
        node(self.node.clone())
    }
}

impl Audited for UpdateNodeLabelsRequest {
    const ACTION: &'static str = "change labels";

    fn target(&self) -> String {
        node(self.node.clone())
    }

    fn change(&self) -> String {
        let set = self.upsert.iter().map(|pair| format!("+{}", pair.key));
        joined(set.chain(self.delete.iter().map(|key| format!("-{key}"))))
    }
}

impl Audited for UpdateNodeRolesRequest {
    const ACTION: &'static str = "change roles";

    fn target(&self) -> String {
        node(self.node.clone())
    }

    fn change(&self) -> String {
        let all = [
            (self.consensus_member, "consensus_member"),
            (self.kubernetes_controller, "kubernetes_controller"),
            (self.kubernetes_worker, "kubernetes_worker"),
        ];
        joined(all.iter().filter_map(|(wish, name)| match wish {
            Some(true) => Some(format!("+{name}")),
            Some(false) => Some(format!("-{name}")),
            None => None,
        }))
    }
}

impl Audited for ConfigureClusterRequest {
    const ACTION: &'static str = "configure cluster";

    fn target(&self) -> String {
        "cluster".to_owned()
    }

    fn change(&self) -> String {
        joined(self.update_mask.iter().flat_map(|mask| mask.paths.iter().cloned()))
    }
}

impl Audited for GetRegisterTicketRequest {
    const ACTION: &'static str = "read register ticket";

    fn target(&self) -> String {
        "register ticket".to_owned()
    }
}

impl Audited for RotateRegisterTicketRequest {
    const ACTION: &'static str = "rotate register ticket";

    fn target(&self) -> String {
        "register ticket".to_owned()
    }
}

impl Audited for IssueOwnRequest {
    const ACTION: &'static str = "issue certificate";

    fn target(&self) -> String {
        "the caller's certificate".to_owned()
    }

    fn change(&self) -> String {
        if self.anew { "renew" } else { "return existing" }.to_owned()
    }
}

impl Audited for StepDownRequest {
    const ACTION: &'static str = "step down";

    fn target(&self) -> String {
        "leader".to_owned()
    }

    fn change(&self) -> String {
        match self.to_node_id.as_str() {
            "" => String::new(),
            to => format!("to {to}"),
        }
    }
}

/// Joins the items, truncated to the maximum length.
fn joined(all: impl Iterator<Item = String>) -> String {
    all.take(MAX_TEXT_LEN)
        .map(|each| truncated(&each))
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use curator_proto::management_api::update_node_labels_request::Pair;

    use super::*;

    #[test]
    fn an_entry_tells_names_and_no_values_and_ends_somewhere() {
        let mut request = Request::new(UpdateNodeLabelsRequest {
            upsert: vec![Pair {
                key: "rack\n".repeat(1_000),
                value: "value".into(),
            }],
            delete: vec!["zone".into(); 1_000],
            node: None,
        });
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        request.metadata_mut().insert("traceparent", trace.parse().unwrap());
        request.extensions_mut().insert(Caller::User {
            identity: "owner".into(),
        });
        let entry = Entry::of(&request);
        assert_eq!(entry.caller, "user owner");
        assert_eq!(entry.trace_id, "0af7651916cd43dd8448eb211c80319c");
        assert!(
            !entry.change.contains("value") && !entry.change.contains('\n'),
            "{}",
            entry.change
        );
        assert!(entry.change.starts_with("+rack") && entry.change.chars().count() <= MAX_TEXT_LEN);
        entry.close(&Ok(()));
        let stranger = Entry::of(&Request::new(GetRegisterTicketRequest {}));
        assert_eq!((&*stranger.caller, &*stranger.trace_id), ("anonymous", ""));
    }
}
