//! The defaults of `curator serve`, each stated once: the help, `config show` and the instance use the same values.

use clap::Command;
use curator_listener::{DEFAULT_ADDRESS, ListenerConfig};
use curator_service::{CURATOR_PORT, StateLimits};

/// The default of `--leader-ttl`.
pub(crate) const LEADER_TTL: &str = "10s";
/// The default of `--failover-limit`.
pub(crate) const FAILOVER_LIMIT: &str = "1s";
/// The default of `--grace`.
pub(crate) const GRACE: &str = "5s";

/// The default of `--hold-limit`.
pub(crate) fn hold_limit() -> usize {
    ListenerConfig::default().hold_limit
}

/// The default of `--max-connections`.
pub(crate) fn max_connections() -> u32 {
    u32::try_from(ListenerConfig::default().max_connections).unwrap_or(u32::MAX)
}

/// The default of `--max-record-bytes`.
pub(crate) fn max_record_bytes() -> u32 {
    u32::try_from(StateLimits::default().record).unwrap_or(u32::MAX)
}

/// The default of `--max-state-bytes`.
pub(crate) fn max_state_bytes() -> u64 {
    u64::try_from(StateLimits::default().total).unwrap_or(u64::MAX)
}

/// The default of a flag that depends on other values, in words; `None` for all other flags.
pub(crate) fn computed(flag: &str) -> Option<String> {
    Some(match flag {
        "node-id" => "the node id in the certificate; with --embedded, the first node of the cluster".to_owned(),
        "listen" => format!("{DEFAULT_ADDRESS}, IPv6 and IPv4; without TLS, 127.0.0.1:{CURATOR_PORT}"),
        "advertise" => "the first listen address; required if that is a wildcard address".to_owned(),
        "hold-cap" => "leader TTL + 5s".to_owned(),
        "stuck-after" => "leader TTL, at least 5s".to_owned(),
        "max-connections-per-peer" => "a quarter of --max-connections; unlimited for loopback".to_owned(),
        "max-connection-age" => "unlimited".to_owned(),
        "threads" => "number of CPU cores".to_owned(),
        "otlp-endpoint" => "none: no spans are recorded".to_owned(),
        _ => return None,
    })
}

/// Appends the computed defaults to the help of the flags, in all subcommands.
pub(crate) fn describe(command: Command) -> Command {
    command.mut_subcommands(describe).mut_args(|arg| {
        let Some(default) = arg.get_long().and_then(computed) else {
            return arg;
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let long = arg.get_long_help().map_or_else(|| help.clone(), ToString::to_string);
        let with_default = |text: &str| format!("{} [default: {default}]", text.trim_end().trim_end_matches('.'));
        arg.help(with_default(&help)).long_help(with_default(&long))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use curator_service::{Config, FixedConsensus};

    use super::*;
    use crate::cli::options::{parse_duration, parse_failover_limit};

    #[test]
    fn defaults_are_those_of_the_library() {
        let config = Config::new("node-1", Arc::new(FixedConsensus::not_running("a test")));
        assert_eq!(parse_duration(LEADER_TTL), Ok(config.effective_ttl()));
        assert_eq!(parse_duration(GRACE), Ok(config.grace));
        let limit = parse_failover_limit(FAILOVER_LIMIT).expect("a limit");
        assert_eq!(limit.0, config.failover_limit);
        assert_eq!(hold_limit(), config.hold_limit);
        assert_eq!(usize::try_from(max_connections()), Ok(config.max_connections));
        assert_eq!(config.effective_stuck_after(), config.effective_ttl());
        let short = Config {
            leader_ttl: Duration::from_secs(1),
            ..config
        };
        assert_eq!(short.effective_stuck_after(), Duration::from_secs(5));
        assert!(max_record_bytes() > 0 && max_state_bytes() > u64::from(max_record_bytes()));
    }

    #[test]
    fn help_has_the_computed_defaults() {
        let command = crate::cli::command();
        let serve = command.find_subcommand("serve").expect("declared");
        for arg in serve.get_arguments() {
            let Some(default) = arg.get_long().and_then(computed) else {
                continue;
            };
            let help = arg.get_long_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.ends_with(&format!("[default: {default}]")), "{help}");
        }
    }
}
