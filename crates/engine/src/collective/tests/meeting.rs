//! How ranks come together, and what keeps them from it.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::EngineError;
use crate::collective::handshake::{self, Hello, Purpose, Word};
use crate::collective::{Collective, Join, Over, Rendezvous};

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn joins(world_size: usize, rendezvous: &Rendezvous, timeout: Duration) -> Vec<Join> {
    let over = Over::Tcp { rendezvous: rendezvous.clone() };
    let version = "1.2.3".to_owned();
    (0..world_size)
        .map(|rank| Join {
            rank,
            world_size,
            local_rank: 0,
            over: over.clone(),
            timeout,
            version: version.clone(),
        })
        .collect()
}

/// Each joins on a thread of its own; what became of it.
fn all(joins: &[Join]) -> Vec<Result<Collective, EngineError>> {
    std::thread::scope(|scope| {
        let started: Vec<_> = joins.iter().map(|join| scope.spawn(|| Collective::join(join))).collect();
        started.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

/// They fail, all of them for the same reason.
fn reason(joins: &[Join]) -> String {
    let mut texts: Vec<String> = all(joins).into_iter().map(|one| one.unwrap_err().to_string()).collect();
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
    texts.remove(0)
}

fn address() -> Rendezvous {
    Rendezvous::Address(format!("127.0.0.1:{}", free_port()))
}

const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(10);

fn working(collectives: Vec<Result<Collective, EngineError>>) {
    std::thread::scope(|scope| {
        for collective in collectives {
            let collective = collective.unwrap();
            scope.spawn(move || {
                assert_eq!(collective.gather_equal(&[5]).unwrap(), vec![[5]; collective.world_size()]);
                collective.leave();
            });
        }
    });
}

#[test]
fn ranks_meet_at_an_address_or_by_a_file() {
    working(all(&joins(3, &address(), LONG)));
    let file = std::env::temp_dir().join(format!("headstart-ranks-{}", std::process::id()));
    let rendezvous = Rendezvous::File(file.clone());
    working(all(&joins(4, &rendezvous, LONG)));
    assert!(!file.exists());
    // A file of an earlier run, whose port somebody else has now.
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    std::fs::write(&file, format!("headstart ranks 1\nabc\n{}\n", other.local_addr().unwrap())).unwrap();
    drop(other);
    working(all(&joins(2, &rendezvous, LONG)));
    assert!(!file.exists());
    let alone = Collective::join(&joins(1, &Rendezvous::File(PathBuf::from("/nowhere")), LONG)[0]).unwrap();
    assert!(alone.is_alone() && alone.leads());
}

#[test]
fn ranks_wait_for_one_that_comes_late() {
    for late in [0, 1] {
        let rendezvous = address();
        let joins = joins(2, &rendezvous, SHORT * 20);
        std::thread::scope(|scope| {
            let early = scope.spawn(|| Collective::join(&joins[1 - late]));
            sleep(Duration::from_secs(3));
            let late = Collective::join(&joins[late]);
            working(vec![early.join().unwrap(), late]);
        });
    }
}

#[test]
fn ranks_that_do_not_come_are_named() {
    let mut joins = joins(4, &address(), SHORT);
    joins.remove(2);
    let why = reason(&joins);
    assert!(why.starts_with("the ranks did not come together: rank 2 of 4 did not come\n  fix: "), "{why}");
    let why = reason(&joins[..1]);
    assert!(why.starts_with("the ranks did not come together: ranks 1, 2, 3 of 4 did not come\n"), "{why}");
    let why = reason(&joins[1..2]);
    assert!(why.contains("rank 1 did not find rank 0 at 127.0.0.1:"), "{why}");
}

#[test]
fn what_differs_is_named_on_all_ranks() {
    let mut version = joins(3, &address(), LONG);
    version[2].version = "1.2.4".to_owned();
    let why = reason(&version);
    assert!(why.contains("rank 0 is version 1.2.3, rank 2 is version 1.2.4\n"), "{why}");
    let mut world_size = joins(3, &address(), LONG);
    world_size[1].world_size = 4;
    let why = reason(&world_size);
    assert!(why.contains("rank 0 was told of 3 ranks, rank 1 of 4\n"), "{why}");
    let mut same = joins(3, &address(), LONG);
    same[2].rank = 1;
    let why = reason(&same);
    assert!(why.contains("two processes say that they are rank 1: at 127.0.0.1:"), "{why}");
    let mut beyond = joins(2, &address(), LONG);
    beyond[1].rank = 2;
    assert!(Collective::join(&beyond[1]).unwrap_err().to_string().contains("this is rank 2 of 2\n"));
}

#[test]
fn a_rank_that_comes_and_goes_again_is_named() {
    let rendezvous = address();
    let joins = joins(3, &rendezvous, LONG);
    let Rendezvous::Address(at) = &rendezvous else { unreachable!() };
    // It is number 2, and leaves when it was told where the others are.
    let greeting = Hello::new(Purpose::Data, 0, 2, 3, "1.2.3");
    std::thread::scope(|scope| {
        let others = [&joins[0], &joins[1]].map(|join| scope.spawn(|| Collective::join(join)));
        let start = Instant::now();
        let stream = loop {
            match handshake::call(at.parse().unwrap(), &greeting, LONG) {
                Ok(stream) => break stream,
                Err(e) => assert!(start.elapsed() < LONG, "{e}"),
            }
        };
        assert_eq!(handshake::hear(&stream, start + LONG).unwrap().0, Word::Places);
        drop(stream);
        for other in others {
            let why = other.join().unwrap().unwrap_err().to_string();
            assert!(why.contains(": rank 2 came and is gone: "), "{why}");
        }
    });
}

#[test]
#[cfg(not(feature = "mpi"))]
fn without_mpi_the_error_says_how_to_build() {
    let join = Join { over: Over::Mpi, ..joins(2, &address(), LONG).remove(0) };
    let why = Collective::join(&join).unwrap_err().to_string();
    assert!(
        why.contains("without MPI\n  fix: build it with `cargo build --release --features mpi`"),
        "{why}"
    );
}

#[test]
fn an_address_that_is_taken_is_named() {
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let rendezvous = Rendezvous::Address(other.local_addr().unwrap().to_string());
    let why = Collective::join(&joins(2, &rendezvous, SHORT)[0]).unwrap_err().to_string();
    assert!(why.contains(&format!("rank 0 cannot listen at {}: ", other.local_addr().unwrap())), "{why}");
    for nonsense in ["nonsense", "127.0.0.1", "127.0.0.1:http", ""] {
        let rendezvous = Rendezvous::Address(nonsense.to_owned());
        for join in joins(2, &rendezvous, SHORT) {
            let why = Collective::join(&join).unwrap_err().to_string();
            assert!(why.contains(nonsense), "{why}");
        }
    }
}

#[test]
fn whoever_else_connects_does_no_harm() {
    let port = free_port();
    let rendezvous = Rendezvous::Address(format!("127.0.0.1:{port}"));
    let joins = joins(3, &rendezvous, LONG);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| Collective::join(&joins[0]));
        let mut scanners = Vec::new();
        let greetings: [&[u8]; 6] = [
            b"GET / HTTP/1.1\r\n\r\n",
            b"",
            b"HSranks\n",
            b"HSranks\n\xff\xff\xff\xff\xff\xff",
            &[0; 4000],
            b"H",
        ];
        for greeting in greetings.repeat(20) {
            let start = Instant::now();
            let mut scanner = loop {
                match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                    Ok(scanner) => break scanner,
                    Err(e) => assert!(start.elapsed() < LONG, "{e}"),
                }
            };
            let _ = scanner.write_all(greeting);
            scanners.push(scanner); // some stay
            if scanners.len() % 3 == 0 {
                scanners.remove(0);
            }
        }
        let others =
            [scope.spawn(|| Collective::join(&joins[1])), scope.spawn(|| Collective::join(&joins[2]))];
        let mut all = vec![first.join().unwrap()];
        all.extend(others.map(|one| one.join().unwrap()));
        working(all);
    });
}
