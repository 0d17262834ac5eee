//! `headstart launch`: several processes of this program on this machine, as one command.
//!
//! Owns: starting them, stopping them together, and who failed how. Never: what they do.
//!
//! The processes are in groups of their own, so that Ctrl-C on a terminal reaches them once, through here; and each holds
//! the reading end of a pipe whose closing says that this process is gone, even if it was killed.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Child, ChildStdin, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::args::{self, EvalArgs, FinetuneArgs, LaunchArgs, PretrainArgs, RankArgs};
use crate::launched::{EACH, RANK_0, STOP, VARIABLE};
use crate::progress;
use crate::settings::Usage;
use crate::settings::ranks::Mpi;
use crate::{INTERRUPTED, USAGE};

/// Between two looks at the processes.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What the others have to notice by themselves that one has failed.
const GRACE: Duration = Duration::from_secs(10);
/// The signal at which nothing is waited for any more.
const KILLING_SIGNAL: u32 = 3;

/// A process that was started.
struct Started {
    name: String,
    child: Child,
    /// Its input, until it cannot be told anything any more.
    input: Option<ChildStdin>,
    ended: Option<Ended>,
}

/// How a process ended.
#[derive(Clone, Copy)]
struct Ended {
    status: ExitStatus,
    /// At which look; those of the same one ended about together.
    look: u64,
}

/// Runs it.
pub fn run(args: LaunchArgs) -> Result<ExitCode> {
    let LaunchArgs { nproc, mpi, command } = args;
    if nproc == 0 {
        return Err(Usage("--nproc 0: there is nothing to start\n  fix: --nproc 2 starts two".into()).into());
    }
    // What is called wrongly is said once, and not by each of them.
    let program = OsString::from("headstart");
    let ranks = match args::parse([program].into_iter().chain(command.iter().cloned())) {
        Ok(args::Command::Pretrain(args)) => {
            let PretrainArgs { ranks, .. } = *args;
            ranks
        }
        Ok(args::Command::Distill(args)) => {
            let PretrainArgs { ranks, .. } = args.pretrain;
            ranks
        }
        Ok(args::Command::Finetune(args)) => {
            let FinetuneArgs { ranks, .. } = *args;
            ranks
        }
        Ok(args::Command::Eval(EvalArgs { ranks, .. })) => ranks,
        Ok(_) => {
            let fix = "headstart launch --nproc 2 -- pretrain ...";
            return Err(Usage(format!(
                "only pretrain, distill, finetune and eval are done by several processes together\n  fix: {fix}"
            ))
            .into());
        }
        Err(error) => {
            let _ = error.print();
            return Ok(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE)));
        }
    };
    check_free(&ranks)?;
    progress::count_signals()?;
    let mut started = Vec::new();
    let began =
        if mpi { by_mpirun(nproc, &command, &mut started) } else { by_itself(nproc, &command, &mut started) };
    if let Err(error) = began {
        for process in &mut started {
            process.kill();
        }
        return Err(error);
    }
    wait_for(&mut started);
    Ok(outcome(&started))
}

/// Refuses what this command says itself.
fn check_free(ranks: &RankArgs) -> Result<(), Usage> {
    let RankArgs { rank, world_size, rendezvous, comm_timeout: _ } = ranks;
    let given = [
        ("rank", rank.is_some()),
        ("world_size", world_size.is_some()),
        ("rendezvous", rendezvous.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Usage(format!(
            "--{flag}: `headstart launch` gives it to each process by itself\n  fix: leave it out"
        ))),
        None => Ok(()),
    }
}

fn by_itself(nproc: usize, command: &[OsString], started: &mut Vec<Started>) -> Result<()> {
    let program = std::env::current_exe().context("cannot find this program's file")?;
    // Free now; rank 0 takes it in a moment.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = port.context("cannot find a free port on this machine")?.to_string();
    for rank in 0..nproc {
        let mut process = Command::new(&program);
        process.args(&command[..1]);
        process.args(["--rank", &rank.to_string(), "--world_size", &nproc.to_string()]);
        process.args(["--rendezvous", &address]).args(&command[1..]).env(VARIABLE, EACH);
        // Another launcher's, around this one.
        process.env_remove("LOCAL_RANK");
        started.push(Started::start(format!("rank {rank}"), process)?);
    }
    Ok(())
}

fn by_mpirun(nproc: usize, command: &[OsString], started: &mut Vec<Started>) -> Result<()> {
    if Mpi::HERE == Mpi::Absent {
        return Err(Usage(
            "--mpi: this program was built without MPI\n  \
             fix: build it with `--features mpi`; without --mpi the processes of one machine talk over TCP"
                .into(),
        )
        .into());
    }
    let said = match Command::new("mpirun").arg("--version").stdin(Stdio::null()).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => {
            return Err(Usage(format!(
                "--mpi: mpirun cannot be started: {error}\n  \
                 fix: install an MPI (Debian and Ubuntu: apt-get install openmpi-bin), or leave --mpi out to go over TCP"
            ))
            .into());
        }
    };
    let mut process = Command::new("mpirun");
    if said.contains("Open MPI") || said.contains("OpenRTE") {
        // Each process takes its share of the processors by itself, and how many there are is said here.
        process.args(["--bind-to", "none", "--oversubscribe"]);
    }
    process.args(["-n", &nproc.to_string()]);
    process.arg(std::env::current_exe().context("cannot find this program's file")?);
    process.args(command).env(VARIABLE, RANK_0);
    started.push(Started::start("mpirun".into(), process)?);
    Ok(())
}

impl Started {
    fn start(name: String, mut process: Command) -> Result<Self> {
        process.stdin(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut process, 0);
        let mut child = process.spawn().with_context(|| format!("cannot start {name}"))?;
        let input = child.stdin.take();
        Ok(Self { name, child, input, ended: None })
    }

    /// Asks it to save and stop; asked again it ends at once.
    fn ask_to_stop(&mut self) {
        // One that has ended needs no asking.
        if self
            .input
            .as_mut()
            .is_some_and(|input| input.write_all(STOP).and_then(|()| input.flush()).is_err())
        {
            self.input = None;
        }
    }

    fn kill(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    fn look(&mut self, look: u64) {
        if self.ended.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            self.ended = Some(Ended { status, look });
        }
    }

    fn has_failed(&self) -> bool {
        self.ended.is_some_and(|ended| !ended.status.success())
    }
}

/// Until all have ended. Signals are handed on; when one has failed, the others have some time to notice.
fn wait_for(started: &mut [Started]) {
    let (mut look, mut handed_on, mut failed, mut killed) = (0, 0, None, false);
    loop {
        look += 1;
        for process in &mut *started {
            process.look(look);
        }
        if started.iter().all(|process| process.ended.is_some()) {
            return;
        }
        while handed_on < progress::signals() {
            handed_on += 1;
            started.iter_mut().for_each(Started::ask_to_stop);
        }
        if failed.is_none() && started.iter().any(Started::has_failed) {
            failed = Some(Instant::now());
        }
        // One that was stopped has failed only in name: all of them save and end together.
        let late = handed_on == 0 && failed.is_some_and(|since: Instant| since.elapsed() > GRACE);
        if (late || handed_on >= KILLING_SIGNAL) && !killed {
            killed = true;
            for process in started.iter_mut().filter(|process| process.ended.is_none()) {
                // Killed `mpirun` could not end its processes; without input they end by themselves.
                process.input = None;
                drop(process.child.kill());
            }
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// The first failure's code, and who failed how.
fn outcome(started: &[Started]) -> ExitCode {
    let mut failures: Vec<(&Started, Ended)> = started
        .iter()
        .filter_map(|process| Some((process, process.ended.filter(|e| !e.status.success())?)))
        .collect();
    // Of those that ended together, one that was killed did not do so because of the others.
    failures.sort_by_key(|(_, ended)| (ended.look, ended.status.code().is_some()));
    let Some((first, ended)) = failures.first() else { return ExitCode::SUCCESS };
    let code = exit_code(ended.status);
    if !(code == INTERRUPTED && progress::interrupted()) && started.len() > 1 {
        let mut table = format!("error: {} of {} failed first", first.name, started.len());
        for process in started {
            let how = process.ended.map_or_else(|| "was not seen to end".into(), |ended| how(ended.status));
            let _ = write!(table, "\n  {}: {how}", process.name);
        }
        progress::say(&table);
    }
    ExitCode::from(code)
}

fn how(status: ExitStatus) -> String {
    match (status.code(), signal(status)) {
        (Some(0), _) => "done".into(),
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}{}", signal_name(signal)),
        (None, None) => "ended in a way the system does not tell".into(),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        2 => " (SIGINT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        9 => " (SIGKILL; the system does so when memory runs out)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

/// As a shell has it: 128 and the signal's number for one that was killed.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| Some(128 + signal(status)?)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal(_: ExitStatus) -> Option<i32> {
    None
}
