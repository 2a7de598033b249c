//! Throws broken bytes at everything that decodes bytes of others, and holds two things: no panic, and no more memory than the
//! input's length warrants.
//!
//! Works on the stable toolchain, without coverage: seeded mutations of a corpus, so an equal seed tries equal inputs. Every
//! target runs in a process of its own, side by side, because memory is counted a process. What is found is written to a file;
//! moved into `tests/fuzz/corpus/TARGET`, it is tried first from then on.
//!
//! `FUZZ_SECONDS` (default 5) is the time a target gets, `FUZZ_SEED` the seed; `scripts/fuzz TARGET --minutes N` runs long.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test program: it panics where a test would, prints what it found and measures its own time"
)]

mod http;
mod mutate;
mod stored;
mod text;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use peak_alloc::PeakAlloc;

use self::mutate::Mutator;

/// Counts what is allocated, to see what an input costs.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Takes one input.
pub(crate) type Take = Box<dyn FnMut(&[u8])>;

/// A decoder under test.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// Inputs to begin with, besides those of the corpus.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
    /// Makes the function that takes one input.
    pub(crate) start: fn() -> Take,
    /// Bytes that an input may cost at most: a base, and a number a byte of it.
    pub(crate) limit_bytes: (usize, usize),
    /// Whether mutations keep it readable text more often than not.
    pub(crate) is_text: bool,
}

fn targets() -> Vec<Target> {
    [text::targets(), stored::targets(), http::targets()].into_iter().flatten().collect()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--target", name] => run_target(name, false),
        ["--target", name, "--note-inputs"] => run_target(name, true),
        ["--list"] => {
            for target in targets() {
                println!("{}", target.name);
            }
            ExitCode::SUCCESS
        }
        // What `cargo test` passes on are filters and flags of its own harness; a filter picks targets.
        _ => run_all(arguments.iter().find(|argument| !argument.starts_with('-')).map(String::as_str)),
    }
}

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a whole number"))
}

fn findings() -> PathBuf {
    std::env::temp_dir().join("undercurrent-fuzz")
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort_unstable();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Every target in a process of its own, as many at once as there are cores.
fn run_all(filter: Option<&str>) -> ExitCode {
    let names: Vec<&str> = targets().iter().map(|target| target.name).collect();
    let chosen: Vec<&str> =
        names.into_iter().filter(|name| filter.is_none_or(|filter| name.contains(filter))).collect();
    let waiting = std::sync::Mutex::new(chosen.iter());
    let failed = std::sync::Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let Some(name) = waiting.lock().unwrap().next() else { return };
                    if !run_child(name) {
                        failed.lock().unwrap().push(*name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    if failed.is_empty() {
        println!("test result: ok. {} fuzz targets passed; 0 failed", chosen.len());
        return ExitCode::SUCCESS;
    }
    println!("test result: FAILED. fuzz targets that failed: {}", failed.join(", "));
    ExitCode::FAILURE
}

fn run_child(name: &str) -> bool {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(&program).args(["--target", name]).output().unwrap();
    print!("{}", String::from_utf8_lossy(&output.stdout));
    match output.status.code() {
        Some(0) => return true,
        Some(1) => print!("{}", String::from_utf8_lossy(&output.stderr)),
        // It did not end by itself: an allocation that failed, a stack that ran over. The same again, noting each input.
        ended => {
            println!("{name}: died ({ended:?}, {}): looking for the input", output.status);
            let output = Command::new(program).args(["--target", name, "--note-inputs"]).output().unwrap();
            println!("{name}: {}; the last input is in `{}`", output.status, findings().join(name).display());
        }
    }
    false
}

/// Tries inputs until the time is over; exits 1 at the first that breaks a rule.
fn run_target(name: &str, note_inputs: bool) -> ExitCode {
    let target = targets().into_iter().find(|target| target.name == name).expect("a target that `--list` names");
    let seed = setting("FUZZ_SEED", 1);
    let until = Instant::now() + Duration::from_secs(setting("FUZZ_SECONDS", 5));
    let mut inputs = (target.seeds)();
    inputs.extend(corpus(name));
    assert!(!inputs.is_empty(), "{name} has no input to begin with");
    let mut take = (target.start)();
    let mut mutator = Mutator::new(seed, target.is_text);
    std::fs::create_dir_all(findings()).unwrap();
    let mut count = 0_u64;
    let mut dearest = 0;
    loop {
        // The corpus as it is first, so that what was found once is never met again.
        let input = match usize::try_from(count).ok().and_then(|place| inputs.get(place)) {
            Some(input) => input.clone(),
            None if Instant::now() >= until => break,
            None => mutator.next(&inputs),
        };
        if note_inputs {
            std::fs::write(findings().join(name), &input).unwrap();
        }
        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        let outcome = catch_unwind(AssertUnwindSafe(|| take(&input)));
        let cost = MEMORY.peak_usage().saturating_sub(before);
        dearest = dearest.max(cost);
        let (base, factor) = target.limit_bytes;
        let limit = base + factor * input.len();
        let problem = match outcome {
            Err(_) => Some("panicked".to_owned()),
            Ok(()) if cost > limit => Some(format!("took {cost} bytes, at most {limit} are allowed")),
            Ok(()) => None,
        };
        if let Some(problem) = problem {
            let file = findings().join(format!("{name}-{seed}-{count}"));
            std::fs::write(&file, &input).unwrap();
            println!("{name}: input {count} of seed {seed} {problem}; it is in `{}`", file.display());
            return ExitCode::FAILURE;
        }
        count += 1;
    }
    println!("{name}: {count} inputs, {dearest} bytes at most for one, seed {seed}");
    ExitCode::SUCCESS
}
