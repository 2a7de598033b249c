//! The command line: what each command takes, what it prints and how it exits.

mod ablate;
mod audit;
mod check;
mod circles;
mod dead_letters;
mod demo;
mod erase;
mod evaluate;
mod generate;
mod history_args;
mod models;
mod output;
mod replay;
mod retrain;
mod run;
mod send;
mod settings;
mod snapshots;
mod tail;
mod topics;
mod train;
mod tune;
mod verify_features;
mod webhook;

use std::{ffi::OsStr, io::IsTerminal, process::ExitCode};

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

pub use settings::GlobalArgs;

use crate::config::{Config, ConfigError, LogFormat, LoggingConfig};

/// Candle asks this variable, at every product of matrices, how many threads to use.
const THREADS_VARIABLE: &str = "RAYON_NUM_THREADS";

const EXAMPLES: &str = "\
Examples:
  undercurrent demo                                  watch a real year of shopping stream through
  undercurrent check --config undercurrent.toml      say everything that is wrong before starting
  undercurrent run --config undercurrent.toml        run the daemon
  undercurrent run --set input.log=kafka --set kafka.brokers=broker:9092
  UNDERCURRENT__HTTP__LISTEN=127.0.0.1:9000 undercurrent run

Configuration: defaults, then the file, then UNDERCURRENT__SECTION__KEY, then --set.
`undercurrent config print` shows the result; docs/configuration.md explains every key.

Exit codes: 0 done (also after SIGTERM or Ctrl-C), 1 failed, 2 wrong usage or wrong configuration.";

/// Reads what users do and says, while it still matters, who is about to leave, who is about to buy, and what each will
/// want next.
#[derive(Debug, Parser)]
#[command(name = "undercurrent", version, about, after_help = EXAMPLES, max_term_width = 110, propagate_version = true)]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon until SIGTERM or Ctrl-C
    Run,
    /// Watch a real year of shopping stream through, and see how right the alerts were
    Demo(demo::DemoArgs),
    /// Check the configuration, and the broker when there is one; exit 2 and name every wrong key
    Check,
    /// Send events from files into the topics (or into the embedded log)
    Send(send::SendArgs),
    /// Fold event files into snapshots of past moments, for training and for a first start
    Replay(replay::ReplayArgs),
    /// Show outputs as readable lines
    Tail(tail::TailArgs),
    /// Make up shoppers, for load and tests
    Generate(generate::GenerateArgs),
    /// Train before a moment, predict after it, and compare with baselines
    Evaluate(evaluate::EvaluateArgs),
    /// Train again without each part, and say what each is worth
    Ablate(ablate::AblateArgs),
    /// Search for the settings of the trees on folds of the past
    Tune(tune::TuneArgs),
    /// Find circles of users who choose alike, and whether leaving runs in them
    Circles(circles::CirclesArgs),
    /// Train a model bundle on event files or snapshots
    Train(train::TrainArgs),
    /// Train a candidate on the snapshots and promote it if it beats the champion
    Retrain(retrain::RetrainArgs),
    /// Fold the input log again and say whether a score comes out as it was written
    Audit(audit::AuditArgs),
    /// Say whether the daemon sees users exactly as training does
    VerifyFeatures(verify_features::VerifyArgs),
    /// Forget users: their graphs, scores and lists
    Erase(erase::EraseArgs),
    /// List, show and send again the records that were refused
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLettersCommand),
    /// List the alerts that the webhook's receiver never took, and post them again
    #[command(subcommand)]
    Webhook(webhook::WebhookCommand),
    /// List and verify snapshots
    #[command(subcommand)]
    Snapshots(SnapshotsCommand),
    /// List, show, promote and roll back model bundles
    #[command(subcommand)]
    Models(models::ModelsCommand),
    /// Make the Kafka topics
    #[command(subcommand)]
    Topics(TopicsCommand),
    /// Show the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script for your shell
    Completions {
        /// Shell to complete for
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
enum SnapshotsCommand {
    /// List the snapshots
    List(snapshots::SnapshotArgs),
    /// Read every byte of every snapshot and say what is damaged
    Verify(snapshots::SnapshotArgs),
}

#[derive(Debug, Subcommand)]
enum TopicsCommand {
    /// Make the topics that do not exist yet, with the settings the daemon needs
    Create(topics::CreateArgs),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the configuration in force as TOML
    Print,
}

/// Starts this program again with candle's own threads switched off, unless the caller has decided.
///
/// The variable is read from the environment of the process, which a running program may not change safely, so the
/// program is replaced by itself before it has done anything. Costs a millisecond.
pub fn restart_single_threaded() -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt;
    if std::env::var_os(THREADS_VARIABLE).is_some() {
        return Ok(());
    }
    let program = std::env::current_exe().context("cannot find this program's own file to start it again")?;
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| OsStr::new("undercurrent").to_owned());
    let error = std::process::Command::new(&program).arg0(name).args(arguments).env(THREADS_VARIABLE, "1").exec();
    Err(error).with_context(|| format!("cannot start `{}` again", program.display()))
}

/// Parses the command line, runs the command and turns the outcome into an exit code.
pub fn run() -> ExitCode {
    // clap exits by itself: 0 for help and version, 2 for wrong usage.
    let cli = Cli::parse();
    match execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

/// Prints `error` with its causes to standard error and picks the exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    output::error(&format!("{error:#}"));
    if error.downcast_ref::<ConfigError>().is_some() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

/// Whether the reader of standard output went away, as `head` does: nothing to complain about.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

fn execute(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Run => run::run(&cli.global),
        Command::Demo(args) => demo::run(&cli.global, &args),
        Command::Check => check::run(&cli.global),
        Command::Send(args) => send::run(&cli.global, &args),
        Command::Replay(args) => replay::run(&cli.global, &args),
        Command::Tail(args) => tail::run(&cli.global, &args),
        Command::Generate(args) => generate::run(&args),
        Command::Evaluate(args) => evaluate::run(args),
        Command::Ablate(args) => ablate::run(args),
        Command::Tune(args) => tune::run(args),
        Command::Circles(args) => circles::run(args),
        Command::Train(args) => train::run(&cli.global, args),
        Command::Retrain(args) => retrain::run(&cli.global, &args),
        Command::Audit(args) => audit::run(&cli.global, &args),
        Command::VerifyFeatures(args) => verify_features::run(&cli.global, args),
        Command::Erase(args) => erase::run(&cli.global, &args),
        Command::DeadLetters(command) => dead_letters::run(&cli.global, command),
        Command::Webhook(command) => webhook::run(&cli.global, command),
        Command::Snapshots(SnapshotsCommand::List(args)) => snapshots::list(&cli.global, &args),
        Command::Snapshots(SnapshotsCommand::Verify(args)) => snapshots::verify(&cli.global, &args),
        Command::Models(command) => models::run(&cli.global, command),
        Command::Topics(TopicsCommand::Create(args)) => topics::create(&cli.global, &args),
        Command::Config(ConfigCommand::Print) => {
            let config = cli.global.load()?;
            output::text(&config.to_toml()?)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "undercurrent", &mut script);
            output::bytes(&script)
        }
    }
}

/// Sends the program's log lines to standard error. `RUST_LOG` wins over the configuration.
fn start_logging(config: &LoggingConfig) -> anyhow::Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) => EnvFilter::try_new(&text).with_context(|| format!("`RUST_LOG={text}` is no filter"))?,
        Err(_) => EnvFilter::try_new(&config.filter).context("`logging.filter`")?,
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NONE)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}

/// The configuration and its logging, for commands that do the daemon's work.
fn prepare(global: &GlobalArgs) -> anyhow::Result<Config> {
    let config = global.load()?;
    start_logging(&config.logging)?;
    Ok(config)
}
