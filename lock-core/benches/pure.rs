//! What costs no I/O: the decisions, names, and the check of a guard.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use lock_core::backend::{Ahead, Entry, Kind, Standing};
use lock_core::bench::is_granted;
use lock_core::memory::Memory;
use lock_core::{Client, Name};

fn main() {
    let criterion = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    let mut criterion = criterion.configure_from_args();
    decisions(&mut criterion);
    names(&mut criterion);
    check(&mut criterion);
    criterion.final_summary();
}

/// For the last of a queue, with all of it in sight.
fn decisions(criterion: &mut Criterion) {
    let cases = [
        ("mutex", Kind::Exclusive, Kind::Exclusive),
        ("write behind readers", Kind::Write, Kind::Read),
        ("read behind readers", Kind::Read, Kind::Read),
        ("semaphore", Kind::Permits(1), Kind::Permits(1)),
    ];
    for (name, mine, others) in cases {
        let mut group = criterion.benchmark_group(format!("decision/{name}"));
        for length in [1, 10, 1000] {
            let ahead = Ahead { nearest: (0..length).rev().map(|n| standing(n, others)).collect(), more: false };
            // Nobody behind so many is granted a permit.
            let limit = u32::try_from(length).expect("at most 1000");
            let granted = mine == Kind::Read;
            assert_eq!(is_granted(mine, limit, &ahead), granted, "{name}");
            group.bench_function(BenchmarkId::from_parameter(length), |bencher| {
                bencher.iter(|| is_granted(mine, limit, black_box(&ahead)));
            });
        }
    }
}

fn standing(n: u64, kind: Kind) -> Standing {
    Standing { entry: Entry { key: format!("ledger/s1-{n:032x}").into(), incarnation: n }, kind }
}

fn names(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("name");
    for (case, text) in [("plain", "nightly-backup"), ("escaped", "jobs/nightly backup/%7"), ("long", &"x".repeat(100))]
    {
        let segment = Name::new(text).expect("a name").segment().to_owned();
        assert_eq!(Name::from_segment(&segment).expect("a segment").as_str(), text);
        group.bench_function(format!("new/{case}"), |bencher| bencher.iter(|| Name::new(black_box(text))));
        group.bench_function(format!("from_segment/{case}"), |bencher| {
            bencher.iter(|| Name::from_segment(black_box(&segment)));
        });
    }
    drop(group);
    // The part of a key that tells what its entry asks for.
    let tag = Kind::Permits(3).tag().expect("a kind of this library");
    assert_eq!(Kind::from_tag(&tag), Some(Kind::Permits(3)));
    criterion.bench_function("kind/from_tag", |bencher| bencher.iter(|| Kind::from_tag(black_box(&tag))));
    criterion.bench_function("kind/tag", |bencher| bencher.iter(|| black_box(Kind::Permits(3)).tag()));
}

fn check(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let guard = runtime.block_on(async {
        let client = Client::connect(Memory::new()).await?;
        client.mutex("ledger")?.lock().await
    });
    let guard = guard.expect("granted");
    criterion.bench_function("guard/check", |bencher| bencher.iter(|| black_box(&guard).check()));
    guard.check().expect("renewed by the client's own runtime");
}
