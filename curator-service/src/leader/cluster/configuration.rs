//! Changes of the cluster configuration, optionally conditional on the previous values.

use curator_proto::common::ClusterConfiguration;
use curator_proto::management_api::{ConfigureClusterRequest, ConfigureClusterResponse};
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};
use tonic::Status;

use crate::leader::Leader;
use crate::leader::nodes::lookup;
use crate::state::keys::CLUSTER_CONFIGURATION;
use crate::validate::Invalid;

/// The only field that can be changed.
const WRITABLE: &str = "kubernetes.node_labels_to_synchronize";
const MAX_RULES: usize = 256;
const MAX_RULE_BYTES: usize = 1_024;
const MAX_PATHS: usize = 64;

impl Leader {
    /// Replaces the fields in the mask; if `base_config` is given, only if they still match it.
    pub(in crate::leader) async fn configure_cluster(
        &self,
        request: ConfigureClusterRequest,
    ) -> Result<ConfigureClusterResponse, Status> {
        let merge = Merge::new(&request)?;
        self.state
            .transact(|tx| {
                // An invalid stored configuration is not an error of the caller.
                let cluster = lookup::cluster(tx).map_err(|status| Status::internal(status.message()))?;
                let merged = merge.apply(cluster.configuration())?;
                let cluster = cluster
                    .replaced(merged)
                    .map_err(|invalid| Status::internal(invalid.to_string()))?;
                tx.put(CLUSTER_CONFIGURATION, cluster.encode());
                Ok(ConfigureClusterResponse {
                    resulting_config: Some(cluster.configuration().clone()),
                })
            })
            .await
    }
}

/// A change that passed all checks that do not need the current configuration.
struct Merge<'a> {
    base: Option<&'a ClusterConfiguration>,
    new: &'a ClusterConfiguration,
    /// Whether the writable field is in the mask.
    rules: bool,
}

impl<'a> Merge<'a> {
    fn new(request: &'a ConfigureClusterRequest) -> Result<Self, Invalid> {
        let missing = |field| Invalid::new(field, "required");
        let mask = request.update_mask.as_ref().ok_or_else(|| missing("update_mask"))?;
        let new = request.new_config.as_ref().ok_or_else(|| missing("new_config"))?;
        let base = request.base_config.as_ref();
        if mask.paths.len() > MAX_PATHS {
            return Err(Invalid::new("update_mask", "must have at most 64 paths"));
        }
        let paths = normalized(&mask.paths);
        if let Some(unknown) = paths.iter().find(|path| !is_path(path)) {
            let shown: String = unknown.chars().take(100).collect();
            return Err(Invalid::new(format!("update_mask: {shown:?}"), "unknown field"));
        }
        for path in &paths {
            if *path != WRITABLE {
                return Err(Invalid::new(
                    format!("update_mask: {path:?}"),
                    format!("read-only field; only {WRITABLE} can be changed"),
                ));
            }
        }
        let merge = Self {
            base,
            new,
            rules: !paths.is_empty(),
        };
        if merge.rules {
            merge.check()?;
        }
        Ok(merge)
    }

    fn check(&self) -> Result<(), Invalid> {
        let kubernetes = self
            .new
            .kubernetes
            .as_ref()
            .ok_or_else(|| Invalid::new("new_config.kubernetes", "required"))?;
        if self.base.is_some_and(|base| base.kubernetes.is_none()) {
            return Err(Invalid::new("base_config.kubernetes", "required"));
        }
        let rules = &kubernetes.node_labels_to_synchronize;
        let field = || format!("new_config.{WRITABLE}");
        if rules.len() > MAX_RULES {
            return Err(Invalid::new(field(), "must have at most 256 entries"));
        }
        if rules.iter().any(|rule| rule.regexp.len() > MAX_RULE_BYTES) {
            return Err(Invalid::new(field(), "each entry must be at most 1,024 bytes"));
        }
        Ok(())
    }

    fn apply(&self, current: &ClusterConfiguration) -> Result<ClusterConfiguration, Status> {
        let mut merged = current.clone();
        if !self.rules {
            return Ok(merged);
        }
        let rules = |of: &ClusterConfiguration| {
            let kubernetes = of.kubernetes.as_ref();
            kubernetes.map_or_else(Vec::new, |kubernetes| kubernetes.node_labels_to_synchronize.clone())
        };
        if self.base.is_some_and(|base| rules(base) != rules(current)) {
            return Err(Status::failed_precondition(format!(
                "base_config.{WRITABLE}: configuration changed since base_config was read; re-read and retry"
            )));
        }
        merged.kubernetes.get_or_insert_default().node_labels_to_synchronize = rules(self.new);
        Ok(merged)
    }
}

/// Checks a request and merges it into a configuration.
#[cfg(any(test, fuzzing))]
pub(in crate::leader) fn merge_into(
    request: &ConfigureClusterRequest,
    current: &ClusterConfiguration,
) -> Option<ClusterConfiguration> {
    Merge::new(request).ok()?.apply(current).ok()
}

/// Sorts the paths and removes duplicates and paths whose parent is present.
fn normalized(paths: &[String]) -> Vec<&str> {
    let mut sorted: Vec<&str> = paths.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let mut kept: Vec<&str> = Vec::new();
    for path in sorted {
        let covered = kept.iter().any(|parent| {
            path.strip_prefix(parent)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        if !covered {
            kept.push(path);
        }
    }
    kept
}

/// Whether the path names a field of the configuration. Only the last element may be a list.
fn is_path(path: &str) -> bool {
    let configuration = || -> Option<MessageDescriptor> {
        let pool = DescriptorPool::decode(curator_proto::FILE_DESCRIPTOR_SET).ok()?;
        pool.get_message_by_name("metropolis.proto.common.ClusterConfiguration")
    };
    let mut message = configuration();
    for name in path.split('.') {
        let Some(field) = message.and_then(|message| message.get_field_by_name(name)) else {
            return false;
        };
        message = match field.kind() {
            Kind::Message(message) if !field.is_list() => Some(message),
            _ => None,
        };
    }
    true
}

#[cfg(test)]
mod tests {
    use curator_proto::common::cluster_configuration::Kubernetes;
    use curator_proto::common::cluster_configuration::kubernetes::NodeLabelsToSynchronize;
    use prost_types::FieldMask;
    use tonic::Code;

    use super::*;

    fn config(rules: &[&str]) -> ClusterConfiguration {
        let rule = |regexp: &&str| NodeLabelsToSynchronize {
            regexp: (*regexp).into(),
        };
        ClusterConfiguration {
            cluster_domain: "a".into(),
            kubernetes: Some(Kubernetes {
                node_labels_to_synchronize: rules.iter().map(rule).collect(),
            }),
            ..ClusterConfiguration::default()
        }
    }

    fn merged(
        base: Option<ClusterConfiguration>,
        new: Option<ClusterConfiguration>,
        mask: Option<&[&str]>,
    ) -> Result<ClusterConfiguration, Code> {
        let request = ConfigureClusterRequest {
            base_config: base,
            new_config: new,
            update_mask: mask.map(|paths| FieldMask {
                paths: paths.iter().map(|path| (*path).into()).collect(),
            }),
        };
        let merge = Merge::new(&request).map_err(|invalid| Status::from(invalid).code())?;
        merge.apply(&config(&["old"])).map_err(|status| status.code())
    }

    #[test]
    fn an_empty_mask_changes_nothing() {
        for base in [None, Some(config(&[])), Some(ClusterConfiguration::default())] {
            assert_eq!(merged(base, Some(config(&["new"])), Some(&[])), Ok(config(&["old"])));
        }
    }

    #[test]
    fn the_rules_are_replaced_if_the_base_is_what_is() {
        let (new, mask) = (Some(config(&["new"])), Some(&[WRITABLE][..]));
        assert_eq!(merged(None, new.clone(), mask), Ok(config(&["new"])));
        assert_eq!(merged(Some(config(&["old"])), new.clone(), mask), Ok(config(&["new"])));
        assert_eq!(
            merged(Some(config(&["else"])), new, mask),
            Err(Code::FailedPrecondition)
        );
        assert_eq!(
            merged(None, Some(config(&["new"])), Some(&[WRITABLE, WRITABLE])),
            Ok(config(&["new"]))
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let new = || Some(config(&["new"]));
        let empty = ClusterConfiguration::default;
        for (base, new, mask) in [
            (None, None, Some(&[][..])),
            (None, new(), None),
            (None, new(), Some(&["nothing"][..])),
            (None, new(), Some(&[""][..])),
            (None, new(), Some(&["kubernetes"][..])),
            (None, new(), Some(&["kubernetes", WRITABLE][..])),
            (None, new(), Some(&["cluster_domain"][..])),
            (None, new(), Some(&["tpm_mode", WRITABLE][..])),
            (None, new(), Some(&["kubernetes.node_labels_to_synchronize.regexp"][..])),
            (None, Some(empty()), Some(&[WRITABLE][..])),
            (Some(empty()), new(), Some(&[WRITABLE][..])),
            (None, Some(config(&["x"; 257])), Some(&[WRITABLE][..])),
        ] {
            assert_eq!(merged(base, new, mask), Err(Code::InvalidArgument), "{mask:?}");
        }
    }
}
