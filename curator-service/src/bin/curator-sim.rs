//! The simulation from a command line: many seeds, one seed with its trace, or the deliberate bugs. Run by `cargo xtask
//! sim`.

use std::process::ExitCode;

#[cfg(debug_assertions)]
mod run {
    use std::io::{IsTerminal, Write};
    use std::process::ExitCode;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use clap::Parser;
    use curator_service::testing::simulation::{Bug, Found, Scenario, Search, Totals, search, shrink, simulate};

    /// Runs the election, the fenced store and the leader's state through faults from seeds.
    #[derive(Parser)]
    struct Arguments {
        /// How many seeds to run.
        #[arg(long, default_value_t = 20_000)]
        seeds: u64,
        /// The first of them.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Runs this one alone, and prints what happens in it.
        #[arg(long)]
        seed: Option<u64>,
        /// With --seed: only the faults with these numbers, with commas; or none.
        #[arg(long)]
        keep: Option<String>,
        /// With --seed: as many instances.
        #[arg(long)]
        nodes: Option<usize>,
        /// With --seed: as many clients.
        #[arg(long)]
        clients: Option<usize>,
        /// With --seed: faults and calls for as many milliseconds.
        #[arg(long)]
        faulty: Option<u64>,
        /// With --seed: tells each call.
        #[arg(long)]
        calls: bool,
        /// With this deliberate bug.
        #[arg(long)]
        bug: Option<String>,
        /// Looks for each deliberate bug in turn, within as many seeds each, and says what found it.
        #[arg(long)]
        bugs: bool,
        /// How many threads; all cores if not said.
        #[arg(long)]
        threads: Option<usize>,
    }

    pub(crate) fn main() -> ExitCode {
        let arguments = Arguments::parse();
        let bug = match arguments.bug.as_deref().map(named).transpose() {
            Ok(bug) => bug,
            Err(message) => {
                eprintln!("error: {message}");
                return ExitCode::from(2);
            }
        };
        if !cfg!(tokio_unstable) {
            eprintln!(
                "note: without `--cfg tokio_unstable` a seed may run another way each time; `cargo xtask sim` has it"
            );
        }
        let good = match (arguments.seed, arguments.bugs) {
            (Some(seed), _) => match one(seed, &arguments, bug) {
                Ok(good) => good,
                Err(message) => {
                    eprintln!("error: {message}");
                    return ExitCode::from(2);
                }
            },
            (None, true) => bugs(&arguments),
            (None, false) => many(&arguments, bug),
        };
        if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn named(name: &str) -> Result<Bug, String> {
        Bug::named(name).ok_or_else(|| {
            let names: Vec<_> = Bug::all().map(Bug::name).collect();
            format!("unknown bug {name} (known: {})", names.join(", "))
        })
    }

    fn one(seed: u64, arguments: &Arguments, bug: Option<Bug>) -> Result<bool, String> {
        let mut scenario = Scenario::new(seed);
        match arguments.keep.as_deref() {
            None => {}
            Some("none") => scenario = scenario.keeping(&[]),
            Some(list) => {
                let numbers = list.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>();
                scenario = scenario.keeping(&numbers.map_err(|error| format!("--keep {list}: {error}"))?);
            }
        }
        scenario.nodes = arguments.nodes.unwrap_or(scenario.nodes).max(1);
        scenario.clients = arguments.clients.unwrap_or(scenario.clients);
        scenario.faulty = arguments.faulty.map_or(scenario.faulty, Duration::from_millis);
        let outcome = simulate(&scenario, bug, arguments.calls);
        print!("{}", outcome.trace);
        match outcome.violation {
            None => println!("seed {seed}: all holds"),
            Some(ref violation) => println!("seed {seed} broke the rule: {}\n  {}", violation.rule, violation.what),
        }
        Ok(outcome.violation.is_none())
    }

    /// Whether the first few seeds run the same way twice, to the last call.
    fn runs_the_same_way(arguments: &Arguments) -> bool {
        if !cfg!(tokio_unstable) {
            return true;
        }
        let few = arguments.seeds.min(20);
        for seed in arguments.from..arguments.from + few {
            let scenario = Scenario::new(seed);
            let [one, other] = [(); 2].map(|()| simulate(&scenario, None, true).trace);
            if let Some((one, other)) = one.lines().zip(other.lines()).find(|(one, other)| one != other) {
                println!("seed {seed} does not run the same way twice:\n  {one}\n  {other}");
                return false;
            }
        }
        println!("the first {few} run the same way twice, to the last call");
        true
    }

    /// The words that see a run again.
    fn again(scenario: &Scenario, bug: Option<Bug>) -> String {
        let bug = bug.map(|bug| format!(" --bug {}", bug.name())).unwrap_or_default();
        format!("cargo xtask sim {}{bug}", scenario.arguments())
    }

    fn many(arguments: &Arguments, bug: Option<Bug>) -> bool {
        let begun = time();
        let (totals, found) = run(arguments, bug, "simulation");
        let Totals {
            seeds,
            terms,
            answered,
            forwarded,
        } = totals;
        println!(
            "{seeds} seeds, {terms} terms, {answered} answered calls ({forwarded} forwarded) in {:.1} s",
            begun.elapsed().as_secs_f64()
        );
        let Some(Found { scenario, outcome }) = found else {
            // A simulation in which nothing happens would find nothing.
            let lively = terms > seeds && answered > 50 * seeds;
            if !lively {
                println!("too little happens in it to prove anything");
            }
            return lively && runs_the_same_way(arguments);
        };
        let Some(violation) = outcome.violation else {
            return false;
        };
        println!(
            "seed {} broke the rule: {}\n  {}",
            scenario.seed, violation.rule, violation.what
        );
        println!("to see it: {}", again(&scenario, bug));
        match shrink(&scenario, bug) {
            Some((smaller, outcome)) => {
                print!("the same, made smaller:\n{}", outcome.trace);
                println!("to see it: {}", again(&smaller, bug));
            }
            None => println!("it did not break it again: something is not drawn from the seed"),
        }
        false
    }

    fn bugs(arguments: &Arguments) -> bool {
        let mut missed = 0;
        println!("| bug | found by the rule | seeds | seconds | made smaller |");
        println!("|---|---|---|---|---|");
        for bug in Bug::all() {
            let begun = time();
            let (totals, found) = run(arguments, Some(bug), bug.name());
            let took = begun.elapsed().as_secs_f64();
            match found {
                Some(Found { scenario, outcome }) => {
                    let rule = outcome.violation.map_or("", |violation| violation.rule);
                    let smaller =
                        shrink(&scenario, Some(bug)).map_or(String::new(), |(smaller, _)| smaller.arguments());
                    println!(
                        "| {} | {rule} | {} | {took:.1} | `{smaller}` |",
                        bug.name(),
                        totals.seeds
                    );
                }
                None => {
                    missed += 1;
                    println!("| {} | NOT FOUND | {} | {took:.1} | |", bug.name(), totals.seeds);
                }
            }
        }
        missed == 0
    }

    fn run(arguments: &Arguments, bug: Option<Bug>, what: &str) -> (Totals, Option<Found>) {
        let threads = arguments
            .threads
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
        let terminal = std::io::stderr().is_terminal();
        let told = AtomicU64::new(0);
        let wanted = Search {
            from: arguments.from,
            seeds: arguments.seeds,
            threads,
            bug,
        };
        let done = search(wanted, |totals| {
            let part = totals.seeds * 20 / arguments.seeds.max(1);
            if terminal && totals.seeds % 50 == 0 {
                let _ = write!(
                    std::io::stderr(),
                    "\r{what}: {} of {} seeds ",
                    totals.seeds,
                    arguments.seeds
                );
            } else if !terminal && told.fetch_max(part, Ordering::Relaxed) < part {
                eprintln!("{what}: {} of {} seeds", totals.seeds, arguments.seeds);
            }
        });
        if terminal {
            eprint!("\r\x1b[K");
        }
        done
    }

    #[allow(clippy::disallowed_methods, reason = "for the reader")]
    fn time() -> std::time::Instant {
        std::time::Instant::now()
    }
}

#[cfg(debug_assertions)]
fn main() -> ExitCode {
    run::main()
}

#[cfg(not(debug_assertions))]
fn main() -> ExitCode {
    eprintln!("error: this build has no debug assertions, and so no simulation: run `cargo xtask sim`");
    ExitCode::from(2)
}
