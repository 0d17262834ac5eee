//! Exchanges between processes, each with a GPU of its own, real or emulated. A test starts its own binary once for each rank.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use super::*;
use crate::collective::{Exchange, Join, Over, Rendezvous};
use crate::cuda::ops::parts::{self, Parts};
use crate::cuda::{CudaOptions, gpus};
use crate::device::Device;
use crate::ops::adam;
use crate::weights::{Gradients, Weights};

/// What a rank's process is told: scenario, rank, ranks, a folder of the test's.
const SCENARIO: &str = "HEADSTART_TEST_NCCL_SCENARIO";
const RANK: &str = "HEADSTART_TEST_NCCL_RANK";
const RANKS: &str = "HEADSTART_TEST_NCCL_RANKS";
const FOLDER: &str = "HEADSTART_TEST_NCCL_FOLDER";
const EMULATOR_TIMEOUT: &str = "HEADSTART_EMULATOR_NCCL_TIMEOUT_MS";

/// How long a lost rank is not known to be lost.
const UNTIL_NOTICED: Duration = Duration::from_millis(300);

/// How several ranks come to use one real GPU. `ranks`: NCCL 2.30 and newer can be told to allow it; `hosts`: each rank is
/// made to look like a machine of its own, so that NCCL goes through the network.
const SHARED: &str = "HEADSTART_TEST_SHARED_GPU";

const PATIENCE: Duration = Duration::from_secs(30);

/// One rank's process.
struct Rank {
    number: usize,
    count: usize,
    folder: PathBuf,
    device: Device,
}

impl Rank {
    fn cuda(&self) -> &Context {
        self.device.cuda().unwrap()
    }

    /// The id that rank 0 leaves in the folder.
    fn id(&self, library: &Library) -> UniqueId {
        let (draft, place) = (self.folder.join("draft"), self.folder.join("id"));
        if self.number == 0 {
            fs::write(&draft, library.unique_id().unwrap().0).unwrap();
            fs::rename(&draft, &place).unwrap();
        }
        while !place.exists() {
            thread::sleep(Duration::from_millis(2));
        }
        UniqueId(fs::read(&place).unwrap().try_into().unwrap())
    }

    /// Connects. A rank is lost some time after it wrote `gone`.
    fn connect(&self, timeout: Duration) -> Result<Nccl, EngineError> {
        let (library, _) = Library::find(&[])?;
        let id = self.id(&library);
        let gone = self.folder.join("gone");
        let check = Box::new(move || {
            let written = fs::metadata(&gone).and_then(|m| m.modified());
            let long = written.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > UNTIL_NOTICED));
            if !long {
                return Ok(());
            }
            Err(EngineError::Rank { rank: 1, what: "is gone".to_owned(), fix: "start it again".to_owned() })
        });
        Nccl::connect(self.cuda(), library, id, (self.number, self.count), check, timeout)
    }

    /// What rank `from` sends to rank `to` in a round.
    fn values(from: usize, to: usize, round: usize, len: usize) -> Vec<f32> {
        (0..len).map(|i| (from * 64 + to) as f32 + 0.1 * (i % 1013) as f32 + 1e-3 * round as f32).collect()
    }
}

fn is_emulated() -> bool {
    crate::load::control(c"emulator_launches").is_some()
}

/// Ends the process as from outside.
fn raise(signal: i32) {
    // SAFETY: a signal to the own process.
    unsafe { libc::raise(signal) };
}

/// The processes of one test, which are gone when it ends.
struct Ranks {
    /// `None`: it ended.
    processes: Vec<Option<Child>>,
    folder: PathBuf,
}

impl Ranks {
    /// Starts the first `started` of `count` ranks; `None` where there are not so many GPUs.
    fn start(scenario: &str, count: usize, started: usize) -> Option<Self> {
        if !crate::load::ready() {
            return None;
        }
        let there = gpus(&CudaOptions::default()).unwrap().len();
        let shared = std::env::var(SHARED).unwrap_or_default();
        if !is_emulated() && there < started && shared.is_empty() {
            println!("skipped: {there} of {started} GPUs are there");
            return None;
        }
        let folder =
            std::env::temp_dir().join(format!("headstart-nccl-{scenario}-{count}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let start = |rank: usize| {
            let mut call = Command::new(std::env::current_exe().unwrap());
            match shared.as_str() {
                "ranks" => call.env("NCCL_MULTI_RANK_GPU_ENABLE", "1").env("NCCL_MAX_CTAS", "4"),
                "hosts" => call.env("NCCL_HOSTID", format!("host{rank}")),
                _ => &mut call,
            };
            call.args(["--exact", "cuda::nccl::tests::as_a_rank", "--nocapture"])
                .env(SCENARIO, scenario)
                .env(RANK, rank.to_string())
                .env(RANKS, count.to_string())
                .env(FOLDER, &folder)
                .env("TMPDIR", &folder)
                .env(EMULATOR_TIMEOUT, if scenario == "unmatched" { "500" } else { "20000" })
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        };
        Some(Self { processes: (0..started).map(|rank| Some(start(rank))).collect(), folder })
    }

    /// What the ranks wrote, once all but the given one ended well.
    fn end_well(mut self, except: Option<usize>) -> Vec<String> {
        let mut written = Vec::new();
        for rank in (0..self.processes.len()).filter(|rank| except != Some(*rank)) {
            let process = self.processes[rank].take().unwrap();
            let Output { status, stdout, stderr } = process.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
            assert!(status.success(), "rank {rank} ended with {status}:\n{text}");
            assert!(text.contains("1 passed"), "rank {rank} ran no test:\n{text}");
            written.push(text);
        }
        written
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().flatten() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The body of every rank's process; without one, there is nothing to do.
#[test]
fn as_a_rank() {
    let Ok(scenario) = std::env::var(SCENARIO) else { return };
    let variable = |name: &str| std::env::var(name).unwrap();
    assert!(crate::load::ready());
    let number: usize = variable(RANK).parse().unwrap();
    let options = CudaOptions::default();
    let there = if is_emulated() { 1 } else { gpus(&options).unwrap().len() };
    let device = Device::gpu(number % there, std::num::NonZeroUsize::new(1), &options).unwrap();
    let rank = Rank {
        number,
        count: variable(RANKS).parse().unwrap(),
        folder: Path::new(&variable(FOLDER)).into(),
        device,
    };
    match scenario.as_str() {
        "exchange" => exchange_all_to_all(&rank),
        "mismatched" => mismatched(&rank),
        "unmatched" => unmatched(&rank),
        "killed" => lose_rank_1(&rank, libc::SIGKILL),
        "stopped" => lose_rank_1(&rank, libc::SIGSTOP),
        "unnamed" => lose_rank_1_without_knowing_it(&rank),
        "mute" => greet_a_mute_rank(&rank),
        "joined" => train_together(&rank, None),
        "joined_killed" => train_together(&rank, Some(libc::SIGKILL)),
        "joined_stopped" => train_together(&rank, Some(libc::SIGSTOP)),
        "speed" => time_exchanges(&rank),
        "absent" => wait_for_an_absent_rank(&rank),
        other => unreachable!("{other}"),
    }
}

fn exchange_all_to_all(rank: &Rank) {
    let (cuda, me, ranks) = (rank.cuda(), rank.number, rank.count);
    let nccl = rank.connect(PATIENCE).unwrap();
    for (round, len) in [1, 1000, 100_003, 1000, 1000].into_iter().enumerate() {
        // Each rank is sent two messages, of len and of 7 values; what is sent is computed on the stream just before.
        let half: Vec<Vec<f32>> = (0..ranks).map(|to| Rank::values(me, to, round, len)).collect();
        let sent: Vec<_> = half.iter().map(|values| cuda.upload(values)).collect();
        let again: Vec<_> = half.iter().map(|values| cuda.upload(values)).collect();
        let small = cuda.upload(&[me as f32; 7]);
        let received = cuda.upload(&vec![f32::NAN; len * ranks]);
        let small_received = cuda.upload(&vec![f32::NAN; 7 * ranks]);
        // Work that is captured and replayed stands before the exchange.
        device_work(&rank.device, || {
            for (to, from) in sent.iter().zip(&again) {
                parts::add(cuda, to.ptr(), from.ptr(), len);
            }
        });
        let (bytes, small_bytes) = (len * 4, 7 * 4);
        let sends: Vec<_> = (0..ranks)
            .flat_map(|to| {
                [(to, sent[to].ptr(), bytes), (to, small.ptr(), small_bytes), (to, small.ptr(), 0)]
            })
            .collect();
        let receives: Vec<_> = (0..ranks)
            .flat_map(|from| {
                let small = small_received.ptr().offset(from * small_bytes);
                [(from, received.ptr().offset(from * bytes), bytes), (from, small, small_bytes)]
            })
            .collect();
        nccl.exchange(&sends, &receives);
        // And what is added up behind it is what came.
        drop((sent, again));
        let overwriting = cuda.upload(&vec![f32::NAN; len]);
        let sum = cuda.allocate(len * 4);
        let all = Parts {
            own: received.ptr(),
            own_index: 0,
            others: received.ptr().offset(bytes),
            stride: len,
            count: ranks,
        };
        parts::fold(cuda, &all, sum.ptr(), len);
        let (mut found, mut small_found) = (vec![0.0_f32; len], vec![0.0_f32; 7 * ranks]);
        cuda.download(&mut found, sum.ptr());
        cuda.download(&mut small_found, small_received.ptr());
        rank.device.check().unwrap();
        drop(overwriting);
        let came: Vec<Vec<f32>> = (0..ranks)
            .map(|from| Rank::values(from, me, round, len).iter().map(|x| 2.0 * x).collect())
            .collect();
        let expected: Vec<f32> = (0..len)
            .map(|i| crate::collective::tree::fold(came.iter().map(|part| part[i]), |a, b| a + b).unwrap())
            .collect();
        assert!(found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "round {round}");
        assert!(
            small_found.iter().enumerate().all(|(i, x)| x.to_bits() == ((i / 7) as f32).to_bits()),
            "{small_found:?}"
        );
    }
}

/// Runs work as a step of training runs it.
fn device_work(device: &Device, work: impl FnMut()) {
    device.run(1, work);
}

/// Rank 1 expects another length than rank 0 sends.
fn mismatched(rank: &Rank) {
    let cuda = rank.cuda();
    let nccl = rank.connect(PATIENCE).unwrap();
    let buffer = cuda.upload(&[1.0_f32; 100]);
    if rank.number == 0 {
        nccl.exchange(&[(1, buffer.ptr(), 400)], &[]);
        // All may have been sent before the other rank gives up, or not.
        let _: Result<(), EngineError> = rank.device.check();
    } else {
        nccl.exchange(&[], &[(0, buffer.ptr(), 396)]);
        assert!(matches!(rank.device.check(), Err(EngineError::Cuda { .. })));
    }
}

/// Rank 0 expects what rank 1 does not send.
fn unmatched(rank: &Rank) {
    let cuda = rank.cuda();
    let nccl = rank.connect(PATIENCE).unwrap();
    let buffer = cuda.upload(&[1.0_f32; 100]);
    if rank.number == 0 {
        nccl.exchange(&[], &[(1, buffer.ptr(), 400)]);
        assert!(matches!(rank.device.check(), Err(EngineError::Cuda { .. })));
        fs::write(rank.folder.join("seen"), "").unwrap();
    }
    while !rank.folder.join("seen").exists() {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Rank 1 is lost while the others wait for it on their GPUs: their wait ends, and the error says who it was.
fn lose_rank_1(rank: &Rank, signal: i32) {
    let cuda = rank.cuda();
    let nccl = rank.connect(PATIENCE).unwrap();
    let buffer = cuda.upload(&[1.0_f32; 100]);
    let (others, own): (Vec<usize>, _) =
        ((0..rank.count).filter(|other| *other != rank.number).collect(), buffer.ptr());
    let sends: Vec<_> = others.iter().map(|&to| (to, own, 40)).collect();
    let receives: Vec<_> = others.iter().map(|&from| (from, own.offset(40 * (1 + from)), 40)).collect();
    nccl.exchange(&sends, &receives);
    rank.device.check().unwrap();
    if rank.number == 1 {
        fs::write(rank.folder.join("gone"), "").unwrap();
        raise(signal);
    }
    let began = Instant::now();
    nccl.exchange(&sends, &receives);
    let mut values = [0.0_f32; 100];
    cuda.download(&mut values, own);
    let queued = rank.device.check_queued();
    assert!(matches!(queued, Err(EngineError::Rank { rank: 1, .. })), "{queued:?}");
    // It sticks, and what comes behind it does nothing.
    nccl.exchange(&sends, &receives);
    assert!(matches!(rank.device.check(), Err(EngineError::Rank { rank: 1, .. })));
    drop(nccl);
    assert!(matches!(rank.device.check(), Err(EngineError::Rank { rank: 1, .. })));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

/// NCCL notices that a rank is gone, and nobody knows which.
fn lose_rank_1_without_knowing_it(rank: &Rank) {
    let cuda = rank.cuda();
    let nccl = rank.connect(PATIENCE).unwrap();
    let buffer = cuda.upload(&[1.0_f32; 100]);
    let other = 1 - rank.number;
    if rank.number == 1 {
        raise(libc::SIGKILL);
    }
    nccl.exchange(&[(other, buffer.ptr(), 40)], &[(other, buffer.ptr().offset(40), 40)]);
    for _ in 0..2 {
        let found = rank.device.check();
        assert!(
            matches!(&found, Err(EngineError::Cuda { call, .. }) if call.starts_with("nccl")),
            "{found:?}"
        );
    }
}

fn wait_for_an_absent_rank(rank: &Rank) {
    let began = Instant::now();
    let found = rank.connect(Duration::from_millis(500));
    assert!(matches!(found, Err(EngineError::Rendezvous { .. })), "{found:?}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // The GPU is of use all the same.
    rank.device.check().unwrap();
}

/// A step's exchanges, between ranks that joined each other over TCP; rank 1 may be lost in the next one.
fn train_together(rank: &Rank, signal: Option<i32>) {
    let (me, ranks) = (rank.number, rank.count);
    let join = Join {
        rank: me,
        world_size: ranks,
        local_rank: me,
        over: Over::Tcp { rendezvous: Rendezvous::File(rank.folder.join("rendezvous")) },
        timeout: Duration::from_secs(if signal == Some(libc::SIGSTOP) { 3 } else { 20 }),
        version: String::new(),
    };
    let collective = Collective::join(&join).unwrap();
    let len = 70 * 65_536 + 777;
    let exchange = Exchange::new(&rank.device, &collective, len).unwrap();
    assert!(exchange.detour().is_none(), "{:?}", exchange.detour());
    let parts: Vec<Vec<f32>> = (0..ranks).map(|from| Rank::values(from, 0, from, len)).collect();
    let mut gradients = Gradients::new(len);
    gradients.values_mut().copy_from_slice(&parts[me]);
    exchange.reduce(&rank.device, &mut gradients).unwrap();
    rank.device.check().unwrap();
    let sum =
        |i: usize| crate::collective::tree::fold(parts.iter().map(|part| part[i]), |a, b| a + b).unwrap();
    for i in exchange.shares().own().flatten() {
        assert_eq!(gradients.values()[i].to_bits(), sum(i).to_bits(), "element {i}");
    }
    // Each rank changes its own share of the weights, and all have the same afterwards.
    let mut weights = Weights::new(vec![0.0; len]);
    for i in exchange.shares().own().flatten() {
        weights.values_mut()[i] = sum(i);
    }
    let range = |start: usize, len: usize| adam::Range {
        start,
        grad: start,
        moment: 0,
        len,
        lr: 1.0,
        weight_decay: 0.1,
        step: 1,
    };
    let ranges = [range(0, 100_000), range(100_000, len - 100_000)];
    exchange.gather_weights(&rank.device, &gradients, &mut weights, &ranges).unwrap();
    rank.device.check().unwrap();
    assert!(weights.values().iter().enumerate().all(|(i, weight)| weight.to_bits() == sum(i).to_bits()));
    let Some(signal) = signal else {
        drop(exchange);
        collective.leave();
        return;
    };
    if me == 1 {
        raise(signal);
    }
    exchange.reduce(&rank.device, &mut gradients).unwrap();
    let lost = rank.device.check();
    assert!(matches!(lost, Err(EngineError::Rank { rank: 1, .. })), "{lost:?}");
}

/// Rank 1 is connected and says nothing.
fn greet_a_mute_rank(rank: &Rank) {
    let seen = rank.folder.join("seen");
    if rank.number == 0 {
        wait_for_an_absent_rank(rank);
        fs::write(seen, "").unwrap();
        return;
    }
    let (library, _) = Library::find(&[]).unwrap();
    let id = rank.id(&library);
    let own = rank.cuda().attempt(|| library.begin(id, rank.number, rank.count)).unwrap();
    while !seen.exists() {
        let _: Result<Progress, Failure> = library.state(own);
        thread::sleep(Duration::from_millis(5));
    }
    library.abort(own).unwrap();
}

/// What each rank sends to each other in a second, where GPUs are real.
fn time_exchanges(rank: &Rank) {
    let (cuda, ranks, me) = (rank.cuda(), rank.count, rank.number);
    let nccl = rank.connect(PATIENCE).unwrap();
    let most = if is_emulated() { 1 << 16 } else { 256 << 20 };
    let (from, to) = (cuda.allocate(most * ranks), cuda.allocate(most * ranks));
    let others: Vec<usize> = (0..ranks).filter(|other| *other != me).collect();
    for bytes in (12..=28).step_by(4).map(|power| 1 << power).filter(|bytes| *bytes <= most) {
        let part = |all: DevicePtr| others.iter().map(move |&rank| (rank, all.offset(rank * bytes), bytes));
        let (sends, receives): (Vec<_>, Vec<_>) = (part(from.ptr()).collect(), part(to.ptr()).collect());
        let mut best = f64::INFINITY;
        for _ in 0..6 {
            rank.device.check().unwrap();
            let began = Instant::now();
            nccl.exchange(&sends, &receives);
            rank.device.check().unwrap();
            best = best.min(began.elapsed().as_secs_f64());
        }
        let gb_per_s = (bytes * others.len()) as f64 / best / 1e9;
        println!(
            "rank {me} of {ranks}: {} KiB to each: {:.3} ms, {gb_per_s:.2} GB/s",
            bytes >> 10,
            best * 1e3
        );
    }
}

#[test]
#[ignore = "for timing on real GPUs"]
fn speed_of_exchanges() {
    for count in [2, 4, 8] {
        let Some(ranks) = Ranks::start("speed", count, count) else { return };
        for line in
            ranks.end_well(None).iter().flat_map(|text| text.lines()).filter(|line| line.contains("GB/s"))
        {
            println!("{line}");
        }
    }
}

#[test]
fn ranks_that_joined_add_gradients_share_weights_and_name_the_one_that_is_lost() {
    for (scenario, count, lost) in [
        ("joined", 2, None),
        ("joined", 4, None),
        ("joined_killed", 4, Some(1)),
        ("joined_stopped", 2, Some(1)),
    ] {
        let Some(ranks) = Ranks::start(scenario, count, count) else { return };
        ranks.end_well(lost);
    }
}

#[test]
fn two_ranks_exchange() {
    let Some(ranks) = Ranks::start("exchange", 2, 2) else { return };
    ranks.end_well(None);
}

#[test]
fn four_ranks_exchange() {
    let Some(ranks) = Ranks::start("exchange", 4, 4) else { return };
    ranks.end_well(None);
}

#[test]
fn lengths_that_differ_and_messages_nobody_sends_are_seen_on_the_emulator() {
    if !crate::load::ready() || !is_emulated() {
        return;
    }
    for (scenario, words) in [
        ("mismatched", "ncclRecv of 396 elements of type 0 from rank 0, which sends 400"),
        ("unmatched", "an exchange hangs, and nobody aborts it: it waits, to receive from rank 1"),
    ] {
        let written = Ranks::start(scenario, 2, 2).unwrap().end_well(None);
        assert!(written.iter().any(|text| text.contains(words)), "{written:?}");
    }
}

#[test]
fn a_rank_that_is_lost_ends_the_wait_of_the_others() {
    for (scenario, count) in [("killed", 3), ("stopped", 2), ("unnamed", 2)] {
        let Some(ranks) = Ranks::start(scenario, count, count) else { return };
        ranks.end_well(Some(1));
    }
}

#[test]
fn a_rank_that_never_comes_is_not_waited_for_for_ever() {
    let Some(ranks) = Ranks::start("absent", 2, 1) else { return };
    ranks.end_well(None);
    let Some(ranks) = Ranks::start("mute", 2, 2) else { return };
    ranks.end_well(None);
}

#[test]
fn one_rank_exchanges_with_itself_beside_captured_work() {
    let Some(device) = crate::testing::gpu() else { return };
    let cuda = device.cuda().unwrap();
    let nccl = Nccl::join(cuda, &Collective::alone(), PATIENCE).unwrap();
    let from = cuda.upload_lasting(&[1.0_f32; 100]);
    let to = cuda.upload_lasting(&[0.0_f32; 100]);
    // An exchange in what may be captured is made, too, but call by call.
    let mut work = || {
        parts::add(cuda, from.ptr(), from.ptr(), 100);
        nccl.exchange(&[(0, from.ptr(), 400)], &[(0, to.ptr(), 400)]);
        parts::add(cuda, from.ptr(), from.ptr(), 100);
    };
    for round in 0..4 {
        device.run(1, &mut work);
        let mut found = [0.0_f32; 100];
        cuda.download(&mut found, to.ptr());
        device.check().unwrap();
        assert!(found.iter().all(|x| x.to_bits() == (2.0 * 4.0_f32.powi(round)).to_bits()), "{found:?}");
    }
    let counts = device.graph_counts().unwrap();
    assert_eq!((counts.queued, counts.captured, counts.replayed), (4, 0, 0));
}

#[test]
fn ranks_agree_on_the_version() {
    assert!(agree(&[22_703, 22_703]).is_ok());
    let what = |versions: &[i32]| agree(versions).unwrap_err().to_string();
    assert!(what(&[22_703, 0]).contains("rank 1 has no NCCL"));
    assert!(what(&[22_703, 22_703, 21_805]).contains("rank 0 has NCCL 2.27.3, rank 2 has 2.18.5"));
}

#[test]
fn a_missing_library_is_an_error_that_says_where_it_was_sought() {
    let folders = [PathBuf::from("no-such-folder")];
    let found =
        super::super::libraries::open("NCCL", &["libno-nccl.so.2", "libno-nccl.so"], &folders, "install it");
    let text = found.unwrap_err().to_string();
    for words in ["NCCL (libno-nccl.so.2)", "the system's library paths, no-such-folder", "install it"] {
        assert!(text.contains(words), "{text}");
    }
}
