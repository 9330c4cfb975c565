//! The journal in a file.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime},
};

use proptest::prelude::*;
use tokio::time::sleep;
use tower_claude_batch::{
    BatchLayer, BatchNumber, FileJournal, ItemId, Journal, JournalError, Key, PoolId, Record,
};

use crate::api::*;

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-claude-batch-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("journal")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn planned(number: u64) -> Record {
    Record::Planned {
        batch: BatchNumber(number),
        pool: PoolId([7; 16]),
        at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_900_000_000_123),
        items: vec![ItemId::new(Key([1; 16]), 0), ItemId::new(Key([2; 16]), 9)],
    }
}

fn records() -> Vec<Record> {
    vec![
        planned(1),
        Record::Created {
            batch: BatchNumber(1),
            id: "msgbatch_1".to_owned(),
        },
        Record::Delivered {
            batch: BatchNumber(1),
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_900_000_000_999),
            items: vec![ItemId::new(Key([1; 16]), 0)],
        },
        Record::Closed {
            batch: BatchNumber(u64::MAX),
        },
    ]
}

#[test]
fn records_and_secret_are_there_after_a_restart() {
    let folder = Folder::new();
    let mut journal = FileJournal::open(folder.file()).unwrap();
    assert_eq!(journal.replay(), []);
    let secret = journal.secret();
    let (first, second) = (records(), vec![planned(2)]);
    journal.append(&first, true).unwrap();
    journal.append(&second, false).unwrap();
    drop(journal);
    let mut journal = FileJournal::open(folder.file()).unwrap();
    assert_eq!(journal.replay(), [first, second].concat());
    assert_eq!(journal.secret(), secret);
    journal.compact(&records()).unwrap();
    journal.append(&[planned(3)], true).unwrap();
    drop(journal);
    let mut journal = FileJournal::open(folder.file()).unwrap();
    assert_eq!(journal.replay(), [records(), vec![planned(3)]].concat());
    assert_eq!(journal.secret(), secret);
    let other = FileJournal::open(folder.0.join("other")).unwrap();
    assert_ne!(other.secret(), secret);
}

#[cfg(unix)]
#[test]
fn only_the_user_can_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let mut journal = FileJournal::open(folder.file()).unwrap();
    let mode = || fs::metadata(folder.file()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    journal.compact(&records()).unwrap();
    assert_eq!(mode(), 0o600);
}

#[test]
fn second_journal_of_a_file_is_locked_out_until_the_first_is_dropped() {
    let folder = Folder::new();
    let first = FileJournal::open(folder.file()).unwrap();
    let second = FileJournal::open(folder.file());
    assert!(
        matches!(second, Err(JournalError::Locked { .. })),
        "{second:?}"
    );
    drop(first);
    let mut second = FileJournal::open(folder.file()).unwrap();
    second.compact(&[]).unwrap();
    assert!(
        FileJournal::open(folder.file()).is_err(),
        "also after a compaction"
    );
}

#[test]
fn file_that_is_no_journal_is_left_as_it_is() {
    let folder = Folder::new();
    let cases: [(&[u8], &str); 5] = [
        (b"hello\n", "foreign"),
        (b"x", "foreign"),
        (b"\xff\xfe\0\n", "foreign"),
        (b"{\"a\":1}\nmore\n", "foreign"),
        (&[b'5'; 500], "foreign"),
    ];
    for (content, cause) in cases {
        fs::write(folder.file(), content).unwrap();
        let error = FileJournal::open(folder.file()).unwrap_err();
        assert_eq!(error.cause(), cause, "{error}");
        assert!(error.to_string().contains("journal"), "{error}");
        assert_eq!(fs::read(folder.file()).unwrap(), content);
    }
    let error = FileJournal::open(folder.0.join("none").join("journal")).unwrap_err();
    assert_eq!(error.cause(), "io");
    assert!(std::error::Error::source(&error).is_some());
}

/// Returns the content of a journal with these records.
fn content(records: &[Record]) -> Vec<u8> {
    let folder = Folder::new();
    let mut journal = FileJournal::open(folder.file()).unwrap();
    journal.append(records, true).unwrap();
    fs::read(folder.file()).unwrap()
}

fn opened(content: &[u8]) -> Result<Vec<Record>, JournalError> {
    let folder = Folder::new();
    fs::write(folder.file(), content).unwrap();
    let mut journal = FileJournal::open(folder.file())?;
    let records = journal.replay();
    // What was cut is gone, so that the next line is whole.
    journal.append(&[planned(9)], true).unwrap();
    drop(journal);
    let mut journal = FileJournal::open(folder.file())?;
    let mut expected = records.clone();
    expected.push(planned(9));
    assert_eq!(journal.replay(), expected);
    Ok(records)
}

#[test]
fn file_that_was_cut_anywhere_has_all_whole_lines() {
    let (whole, all) = (content(&records()), records());
    let ends: Vec<usize> = whole
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n')
        .map(|(at, _)| at + 1)
        .collect();
    for end in 0..=whole.len() {
        let lines = ends.iter().filter(|at| **at <= end).count();
        let found = opened(&whole[..end]).unwrap_or_else(|error| panic!("cut at {end}: {error}"));
        assert_eq!(found, all[..lines.saturating_sub(1)], "cut at {end}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn changed_byte_is_never_read_as_another_record(at in 0_usize..400, bit in 0_u8..8) {
        let mut changed = content(&records());
        let at = at % changed.len();
        changed[at] ^= 1 << bit;
        match opened(&changed) {
            // The last line is cut, or joined with the one before it. Or a digit is a capital.
            Ok(found) => {
                let records = records();
                prop_assert!(found.len() >= records.len() - 2);
                prop_assert_eq!(&found[..], &records[..found.len()]);
            }
            Err(error) => prop_assert!(["damaged", "foreign", "version"].contains(&error.cause())),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn question_asked_again_after_a_restart_gets_the_paid_answer() {
    let folder = Folder::new();
    let clock = clock();
    let fake = api().build();
    let open = || {
        let journal = FileJournal::open(folder.file()).unwrap();
        BatchLayer::new(journal).with_clock(clock.clone())
    };
    let world = World::with(fake.clone(), open());
    let calls = ["a", "b"].map(|text| world.ask(text, 5 * HOUR));
    sleep(6 * MINUTE).await;
    assert_eq!(world.batched().len(), 2);
    calls.iter().for_each(tokio::task::JoinHandle::abort);
    world.driver.abort();
    let _ = world.driver.await;
    let text = fs::read_to_string(folder.file()).unwrap();
    for secret in ["key-a", "\"content\"", "sonnet"] {
        assert!(!text.contains(secret), "{text}");
    }
    assert!(text.len() < 600, "{text}");
    // The batch ends while the program is down.
    sleep(HOUR).await;
    let world = World::with(fake, open());
    let calls = ["b", "a", "c"].map(|text| world.ask(text, 5 * HOUR));
    let [b, a, c] = calls;
    for call in [a, b] {
        assert_eq!(call.await.unwrap().status, 200);
    }
    assert_eq!((world.batched().len(), world.snapshot().attached), (2, 2));
    assert_eq!(c.await.unwrap().status, 200);
    assert_eq!((world.batched().len(), world.live()), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn answer_is_delivered_again_only_soon_after_a_restart() {
    let folder = Folder::new();
    let clock = clock();
    let fake = api().build();
    let open = |redelivery| {
        let journal = FileJournal::open(folder.file()).unwrap();
        BatchLayer::new(journal)
            .with_redelivery(redelivery)
            .with_clock(clock.clone())
    };
    for (wait, redelivery, batches) in [
        (MINUTE, HOUR, 1),
        (30 * MINUTE, HOUR, 1),
        (2 * HOUR, HOUR, 1),
        (MINUTE, HOUR, 2),
        (MINUTE, Duration::ZERO, 3),
    ] {
        let world = World::with(fake.clone(), open(redelivery));
        assert_eq!(world.ask("q", 20 * HOUR).await.unwrap().status, 200);
        assert_eq!(world.batched().len(), batches, "{wait:?}");
        sleep(SECOND).await;
        world.driver.abort();
        let _ = world.driver.await;
        sleep(wait).await;
    }
    // Within one run an answer is never delivered again.
    let world = World::with(fake.clone(), open(HOUR));
    for batches in [3, 4] {
        assert_eq!(world.ask("q", 20 * HOUR).await.unwrap().status, 200);
        assert_eq!(world.batched().len(), batches);
    }
    // What is over is forgotten, and a compaction keeps what is not.
    sleep(3 * HOUR).await;
    assert_eq!(world.ask("other", 20 * HOUR).await.unwrap().status, 200);
    sleep(SECOND).await;
    world.driver.abort();
    let _ = world.driver.await;
    let records = FileJournal::open(folder.file()).unwrap().replay();
    let open: Vec<_> = records
        .iter()
        .filter_map(|record| match record {
            Record::Planned { batch, .. } => Some(*batch),
            _ => None,
        })
        .filter(|number| !records.contains(&Record::Closed { batch: *number }))
        .collect();
    assert_eq!(open.len(), 1, "{records:?}");
}

#[tokio::test(start_paused = true)]
async fn journal_that_cannot_be_written_sends_calls_live_and_is_reported() {
    /// A journal that fails while the flag is set.
    struct Failing(std::sync::Arc<std::sync::atomic::AtomicBool>);

    impl Journal for Failing {
        fn secret(&self) -> [u8; 32] {
            [3; 32]
        }

        fn replay(&mut self) -> Vec<Record> {
            Vec::new()
        }

        fn append(&mut self, _: &[Record], _: bool) -> Result<(), JournalError> {
            match self.0.load(Ordering::Relaxed) {
                false => Ok(()),
                true => Err(JournalError::Io {
                    action: "write",
                    path: PathBuf::from("journal"),
                    source: std::io::ErrorKind::StorageFull.into(),
                }),
            }
        }

        fn compact(&mut self, records: &[Record]) -> Result<(), JournalError> {
            self.append(records, true)
        }

        fn is_persistent(&self) -> bool {
            true
        }
    }

    let fails = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let world = World::with(api().build(), BatchLayer::new(Failing(fails.clone())));
    assert_eq!(world.ask("q", 5 * HOUR).await.unwrap().status, 200);
    assert_eq!((world.requests().len(), world.live()), (0, 1));
    assert_eq!(world.snapshot().went_live["journal"], 1);
    assert!(world.handle().journal_failures() >= 1);
    fails.store(false, Ordering::Relaxed);
    assert_eq!(world.ask("q", 5 * HOUR).await.unwrap().status, 200);
    assert_eq!(world.live(), 1);
    let log = world.log.take();
    assert!(
        log.contains(&"store_lost io".to_owned()) && log.contains(&"store_regained".to_owned()),
        "{log:?}"
    );
}
