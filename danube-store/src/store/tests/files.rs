//! Files that are missing, damaged, swapped, full or not to be written.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use danube_core::ErrorClass;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// One sentence: one line that names the file.
fn expect_one_sentence(error: &Error, path: &Path) {
    let text = error.to_string();
    assert!(text.contains(path.to_str().unwrap()) && !text.contains('\n'), "{text}");
}

#[tokio::test]
async fn a_database_is_private_and_so_is_the_directory_made_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("new/data");
    let store = open(&data).await.unwrap();
    store.create(&job("j")).await.unwrap();
    assert_eq!(mode(&data), 0o700);
    for file in ["danube.db", "danube.db-wal", "danube.db-shm"] {
        assert_eq!(mode(&data.join(file)), 0o600, "{file}");
    }
    drop(store);
    let left: Vec<_> = fs::read_dir(&data).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["danube.db"], "closed in good order, the file is all");
}

#[tokio::test]
async fn a_database_that_others_could_read_is_made_private() {
    let (store, dir) = temporary().await;
    drop(store);
    let path = dir.path().join("danube.db");
    fs::set_permissions(&path, Permissions::from_mode(0o664)).unwrap();
    drop(open(dir.path()).await.unwrap());
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn a_name_is_a_path_whatever_it_looks_like() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["file:x?mode=memory", ":memory:", "größe 100%.db", "-wal"] {
        let store = Store::open(&dir.path().join(name), StoreOptions::default()).await.unwrap();
        store.create(&job("j")).await.unwrap();
        drop(store);
        assert!(fs::metadata(dir.path().join(name)).unwrap().len() > 0, "{name}");
    }
}

#[tokio::test]
async fn what_is_no_database_or_a_damaged_one_is_told_and_left() {
    let (store, good) = temporary().await;
    for n in 0..200 {
        let record = JobRecord { work_dir: "/w".repeat(100), ..job(&format!("j{n}")) };
        store.create(&record).await.unwrap();
    }
    drop(store);
    let good = fs::read(good.path().join("danube.db")).unwrap();
    let mut header = good.clone();
    header[..16].fill(b'x');
    let mut zeroed = good.clone();
    zeroed[100..4096].fill(0);
    let mut cut = good.clone();
    cut.truncate(4096 * 3 + 7);
    let cases = [
        ("text", b"this is not a database, it is a letter to somebody\n".repeat(100)),
        ("a damaged header", header),
        ("a damaged first page", zeroed),
        ("an end cut off", cut),
    ];
    for (desc, bytes) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("danube.db");
        fs::write(&path, &bytes).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let opened = async {
            let store = open(dir.path()).await?;
            store.list(&JobQuery::default().with_limit(1000)).await?;
            store.create(&job("new")).await
        };
        let error = opened.await.expect_err(desc);
        assert!(matches!(error, Error::Corrupt { .. }), "{desc}: {error:?}");
        assert_eq!(error.class(), ErrorClass::Internal);
        expect_one_sentence(&error, &path);
        assert!(fs::read(&path).unwrap() == bytes, "{desc}: the file was changed");
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_damage_and_not_a_panic() {
    let (store, _dir) = temporary().await;
    for (n, change) in [
        "state = 'paused', finished_at_ms = 1",
        "state = 'lost', lost_reason = 'bored', finished_at_ms = 1",
        "created_at_ms = 9223372036854775807",
        "log_bytes = -1",
        "id = '../etc/passwd'",
    ]
    .into_iter()
    .enumerate()
    {
        let named = format!("j{n}");
        store.create(&job(&named)).await.unwrap();
        store
            .write("damage", move |t| {
                Ok(t.execute(&format!("UPDATE jobs SET {change} WHERE id = ?1"), [named])?)
            })
            .await
            .unwrap();
        let error = store.list(&JobQuery::default().with_limit(1)).await.unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{change}: {error:?}");
        store.write("mend", |t| Ok(t.execute("DELETE FROM jobs", [])?)).await.unwrap();
    }
}

#[tokio::test]
async fn an_empty_file_is_a_new_database() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("danube.db"), b"").unwrap();
    assert_eq!(open(dir.path()).await.unwrap().migrated().from, 0);
}

#[tokio::test]
async fn a_log_without_its_database_is_not_thrown_away() {
    let (store, dir) = temporary().await;
    store.create(&job("j")).await.unwrap();
    let (path, wal) = (dir.path().join("danube.db"), dir.path().join("danube.db-wal"));
    let other = tempfile::tempdir().unwrap();
    let (other_path, other_wal) =
        (other.path().join("danube.db"), other.path().join("danube.db-wal"));
    fs::copy(&wal, &other_wal).unwrap();
    for with_an_empty_file in [false, true] {
        if with_an_empty_file {
            fs::write(&other_path, b"").unwrap();
        }
        let error = open(other.path()).await.unwrap_err();
        assert!(matches!(error, Error::OrphanedWal { .. }), "{error:?}");
        expect_one_sentence(&error, &other_path);
        assert!(fs::read(&other_wal).unwrap() == fs::read(&wal).unwrap());
    }
    // Put back, the two belong together again, and what was acknowledged is there.
    fs::copy(&path, &other_path).unwrap();
    let restored = open(other.path()).await.unwrap();
    assert_eq!(restored.get(&id("j")).await.unwrap(), job("j"));
}

#[tokio::test]
async fn files_that_were_swapped_under_it_are_told_before_anything_is_lost() {
    for file in ["danube.db", "danube.db-wal"] {
        let (store, dir) = temporary().await;
        store.create(&job("j")).await.unwrap();
        let (path, aside) = (dir.path().join(file), dir.path().join("aside"));
        fs::rename(&path, &aside).unwrap();
        for replacement in [None, Some(b"")] {
            if let Some(bytes) = replacement {
                fs::write(&path, bytes).unwrap();
            }
            let error = store.create(&job("lost")).await.unwrap_err();
            assert!(matches!(error, Error::Replaced { .. }), "{file}: {error:?}");
            expect_one_sentence(&error, &path);
            assert_eq!(error.class(), ErrorClass::Unavailable);
            assert!(store.get(&id("j")).await.is_err(), "{file}");
        }
        // Put back, it goes on where it was.
        fs::rename(&aside, &path).unwrap();
        store.create(&job("k")).await.unwrap();
        assert_eq!(store.get(&id("j")).await.unwrap(), job("j"));
    }
}

#[tokio::test]
async fn what_cannot_be_written_is_told_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), b"x").unwrap();
    fs::create_dir(dir.path().join("directory")).unwrap();
    symlink("elsewhere", dir.path().join("link")).unwrap();
    for below in ["file/danube.db", "directory", "link", "file/a/b/danube.db"] {
        let path = dir.path().join(below);
        let error = Store::open(&path, StoreOptions::default()).await.unwrap_err();
        assert!(matches!(error, Error::Unwritable { .. }), "{below}: {error:?}");
        assert_eq!(error.class(), ErrorClass::Denied);
        expect_one_sentence(&error, &path);
    }
    assert!(!dir.path().join("elsewhere").exists());
}

#[tokio::test]
async fn a_full_database_refuses_writes_goes_on_reading_and_recovers() {
    let (store, _dir) = temporary().await;
    store.create(&job("j")).await.unwrap();
    let limit = |pages: i64| {
        let store = store.clone();
        async move {
            let writer = store.0.writer.lock().await;
            writer.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
        }
    };
    limit(1).await;
    let big = JobRecord { work_dir: "w".repeat(16_000), ..job("big") };
    let mut error = None;
    for n in 0..100 {
        let record = JobRecord { id: id(&format!("big-{n}")), ..big.clone() };
        if let Err(refused) = store.create(&record).await {
            error = Some(refused);
            break;
        }
    }
    let error = error.expect("the limit is reached");
    assert!(matches!(error, Error::Full { .. }), "{error:?}");
    assert_eq!(error.class(), ErrorClass::Exhausted);
    expect_one_sentence(&error, store.path());
    assert_eq!(store.get(&id("j")).await.unwrap(), job("j"));
    limit(1_000_000).await;
    store.create(&big).await.unwrap();
}
