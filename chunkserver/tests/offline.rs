//! The check of a stopped server's directory names each kind of damage.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::common::*;
use gabion_chunkserver::disk::DiskError;
use gabion_chunkserver::offline::{FindingKind, verify};

async fn stopped(dir: &std::path::Path) {
    let store = open(dir);
    write(&store, new_chunk(1), &content(1, 300_000)).await.unwrap();
    write(&store, new_chunk(2), &content(2, 200_000)).await.unwrap();
    put_small(&store, new_chunk(3), &content(3, 50_000)).await.unwrap();
    drop(store.open_write(new_chunk(4)).await.unwrap());
    assert!(
        matches!(verify(dir), Err(DiskError::Locked { .. })),
        "a running server's directory is not checked"
    );
    store.close().await;
}

fn kinds(dir: &std::path::Path) -> Vec<FindingKind> {
    verify(dir)
        .unwrap()
        .findings
        .iter()
        .map(|finding| finding.kind)
        .collect()
}

fn overwrite(path: &std::path::Path, at: u64) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xa5, 0x5a, 0xa5, 0x5a], at).unwrap();
}

#[tokio::test]
async fn a_clean_directory_is_clean_and_each_damage_has_its_name() {
    let dir = tempfile::tempdir().unwrap();
    assert!(
        matches!(verify(dir.path()), Err(DiskError::Identity { .. })),
        "an empty directory is no chunkserver's"
    );
    stopped(dir.path()).await;
    let report = verify(dir.path()).unwrap();
    assert_eq!((report.sealed, report.open, report.bytes_good), (3, 1, 550_000));
    assert_eq!(report.findings, []);

    overwrite(&data_file(dir.path(), 1), 70_000);
    assert_eq!(kinds(dir.path()), [FindingKind::FileDamaged]);
    std::fs::remove_file(data_file(dir.path(), 2)).unwrap();
    assert_eq!(kinds(dir.path()), [FindingKind::FileDamaged, FindingKind::FileMissing]);
    std::fs::File::create(data_file(dir.path(), 9)).unwrap();
    std::fs::File::create(dir.path().join("data/00/0-1-7")).unwrap();
    let report = verify(dir.path()).unwrap();
    assert_eq!(report.findings[0].chunk, Some(chunk(1)));
    assert_eq!(report.findings[0].replica, Some(new_chunk(1).replica));
    let found: Vec<_> = report.findings.iter().map(|finding| finding.kind).collect();
    assert_eq!(found[2..], [FindingKind::Stranger, FindingKind::FileWithoutRecord]);
    overwrite(&dir.path().join("disk.id"), 20);
    assert_eq!(kinds(dir.path())[0], FindingKind::Identity);
    assert!(verify(dir.path()).unwrap().is_damaged());
}

#[tokio::test]
async fn damage_of_the_index_is_named() {
    for (suffix, at_half) in [(".blob", FindingKind::Blob), (".sst", FindingKind::Index)] {
        let dir = tempfile::tempdir().unwrap();
        stopped(dir.path()).await;
        let index = std::fs::read_dir(dir.path().join("index")).unwrap();
        let files = index.map(|entry| entry.unwrap().path());
        let path = files
            .filter(|path| path.to_string_lossy().ends_with(suffix))
            .max()
            .unwrap();
        let middle = if suffix == ".sst" {
            50
        } else {
            path.metadata().unwrap().len() / 2
        };
        overwrite(&path, middle);
        assert_eq!(kinds(dir.path()), [at_half], "{suffix}");
    }
}
