//! The flags of all commands.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::output::Format;
use crate::text::parse_duration;

/// The timeout of a command, unless a flag, a variable or the context sets one.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The heading of these flags in the help of a command, below the command's own flags.
const GLOBAL_OPTIONS: &str = "Options of all commands";

fn timeout_help() -> String {
    format!(
        "Timeout of the whole command [default: {}]",
        humantime::format_duration(DEFAULT_TIMEOUT)
    )
}

/// The flags of all commands.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Flags {
    /// Address of an instance, as host:port. Separate several addresses with commas, or repeat the flag; requests go to
    /// the first instance that responds.
    #[arg(
        long,
        help_heading = GLOBAL_OPTIONS,
        short,
        global = true,
        env = "CURATORCTL_ENDPOINTS",
        value_name = "ADDRESS",
        value_delimiter = ','
    )]
    pub(crate) endpoint: Vec<String>,

    /// CA certificate (PEM) used to verify instances.
    #[arg(long, help_heading = GLOBAL_OPTIONS, global = true, env = "CURATORCTL_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,

    /// Accept only these nodes as instances: ids of consensus members, separated by commas or given by repeated flags.
    /// Without this flag, any node that proves to be a consensus member is accepted.
    #[arg(
        long,
        help_heading = GLOBAL_OPTIONS,
        global = true,
        env = "CURATORCTL_MEMBERS",
        value_name = "NODE",
        value_delimiter = ','
    )]
    pub(crate) member: Vec<String>,

    /// Accept any node of the cluster as an instance, without proof that it is a consensus member. Needed if the Go
    /// Curator or an earlier release leads the cluster.
    #[arg(long, help_heading = GLOBAL_OPTIONS, global = true, env = "CURATORCTL_ANY_NODE", conflicts_with = "member")]
    pub(crate) any_node: bool,

    /// Client certificate (PEM).
    #[arg(long, help_heading = GLOBAL_OPTIONS, global = true, env = "CURATORCTL_CERT", value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,

    /// Private key (PEM) of the client certificate.
    #[arg(long, help_heading = GLOBAL_OPTIONS, global = true, env = "CURATORCTL_KEY", value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,

    /// Connect without TLS, to loopback addresses only. Calls are unauthenticated.
    #[arg(
        long,
        help_heading = GLOBAL_OPTIONS,
        global = true,
        env = "CURATORCTL_INSECURE_LOOPBACK_ONLY",
        conflicts_with_all = ["ca", "member", "any_node", "cert", "key"]
    )]
    pub(crate) insecure_loopback_only: bool,

    #[arg(
        long,
        help_heading = GLOBAL_OPTIONS,
        global = true,
        env = "CURATORCTL_TIMEOUT",
        value_name = "DURATION",
        value_parser = parse_duration,
        help = timeout_help()
    )]
    pub(crate) timeout: Option<Duration>,

    /// Output format.
    #[arg(long, help_heading = GLOBAL_OPTIONS, short, global = true, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) output: Format,

    /// Context to use instead of the current one.
    #[arg(long, help_heading = GLOBAL_OPTIONS, global = true, env = "CURATORCTL_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<String>,

    /// File with the contexts [default: curatorctl/config.toml in $XDG_CONFIG_HOME or ~/.config].
    #[arg(long, help_heading = GLOBAL_OPTIONS, global = true, env = "CURATORCTL_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}
