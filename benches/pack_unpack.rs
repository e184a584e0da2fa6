//! Packing and unpacking, against GNU tar and gzip at the same level (6): a tree of 2,000 files of
//! 4 KiB, and one file of 64 MiB that compresses to a third. Both sides start from a warm page cache and sync
//! nothing. Run with `cargo bench --bench pack_unpack`.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;
use std::process::Command;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use danube_artifacts::archive::{Limits, PackOptions, pack, unpack};

/// Text as builds write it: words from a small stock in an order that does not repeat.
fn text(len: usize, mut seed: u64) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "warning:",
        "unused",
        "variable",
        "Compiling",
        "danube",
        "v0.1.0",
        "src/lib.rs",
        "fn",
        "let",
        "0x7f3a",
        "error",
        "note:",
        "->",
        "finished",
        "in",
        "target",
    ];
    let mut text = Vec::with_capacity(len + 16);
    while text.len() < len {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.extend_from_slice(WORDS[(seed >> 60) as usize].as_bytes());
        text.extend_from_slice(format!(" {:x}\n", seed >> 44 & 0xff).as_bytes());
    }
    text.truncate(len);
    text
}

fn sh(script: &str, dir: &Path) {
    let status = Command::new("sh").args(["-c", script]).current_dir(dir).status();
    assert!(status.expect("a shell").success(), "{script}");
}

fn pack_unpack(criterion: &mut Criterion) {
    for (name, files, len) in [("2000 files of 4 KiB", 2000, 4096), ("64 MiB", 1, 64 << 20)] {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("tree");
        for n in 0..files {
            let path = root.join(format!("d{}/f{n}", n % 50));
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, text(len, n as u64)).expect("written");
        }
        let mut group = criterion.benchmark_group(format!("pack_unpack/{name}"));
        group.sample_size(10).throughput(Throughput::Bytes((files * len) as u64));
        let archive = dir.path().join("ours.tar.gz");
        group.bench_function("pack", |b| {
            b.iter(|| {
                let file = BufWriter::new(File::create(&archive).expect("a file"));
                pack(&root, file, &PackOptions::default()).expect("packed")
            });
        });
        group.bench_function("limit: tar | gzip -6", |b| {
            b.iter(|| sh("tar -C tree -cf - . | gzip -6 > theirs.tar.gz", dir.path()));
        });
        // Removing the tree before is not measured.
        let fresh = |name: &str| {
            let path = dir.path().join(name);
            sh(&format!("rm -rf {name}"), dir.path());
            path
        };
        group.bench_function("unpack", |b| {
            b.iter_batched(
                || fresh("ours"),
                |into| {
                    let source = File::open(&archive).expect("a file");
                    unpack(source, &into, &Limits::default()).expect("unpacked")
                },
                BatchSize::PerIteration,
            );
        });
        group.bench_function("limit: gzip -d | tar", |b| {
            b.iter_batched(
                || fs::create_dir(fresh("theirs")).expect("a directory"),
                |()| sh("gzip -dc theirs.tar.gz | tar -C theirs -xf -", dir.path()),
                BatchSize::PerIteration,
            );
        });
        group.finish();
        let size = |name: &str| fs::metadata(dir.path().join(name)).expect("a file").len();
        let (ours, theirs) = (size("ours.tar.gz"), size("theirs.tar.gz"));
        assert!(ours < theirs * 11 / 10, "the same level compresses alike: {ours}, {theirs}");
    }
}

criterion_group!(benches, pack_unpack);
criterion_main!(benches);
