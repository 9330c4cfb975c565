//! The batches of one server and their states, without a clock. Every function takes the time.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

/// The longest time from the creation of a batch to its end.
pub(super) const EXPIRY: Duration = Duration::from_secs(86_400);
/// The time from the creation of a batch to the end of its results.
const ARCHIVED_AFTER: Duration = Duration::from_secs(29 * 86_400);
/// The longest time from a cancellation to the end.
const CANCEL_TIME: Duration = Duration::from_secs(1);

/// Result of one request of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ItemResult {
    /// The message, as JSON.
    Succeeded(Bytes),
    /// The error response, as JSON.
    Errored(Bytes),
    Canceled,
    Expired,
}

/// One request of a batch.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) custom_id: String,
    /// The result if the request is processed before the end of the batch. A scripted cancellation
    /// or expiry is always the result.
    pub(super) result: ItemResult,
}

/// State of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    InProgress,
    Canceling,
    Ended,
}

/// Numbers of requests by their state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) processing: usize,
    pub(super) succeeded: usize,
    pub(super) errored: usize,
    pub(super) canceled: usize,
    pub(super) expired: usize,
}

/// A batch. It processes its requests one after the other, at equal intervals.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) id: String,
    /// In the order of processing.
    items: Vec<Item>,
    pub(super) created: SystemTime,
    /// Time in which all requests are processed.
    time: Duration,
    pub(super) canceled: Option<SystemTime>,
}

impl Batch {
    /// Creates a batch that needs `time` for all its requests. The last request is processed first,
    /// so that the results are not in the order of the requests.
    pub(super) fn new(id: String, mut items: Vec<Item>, now: SystemTime, time: Duration) -> Self {
        items.reverse();
        Self {
            id,
            items,
            created: now,
            time,
            canceled: None,
        }
    }

    pub(super) fn expires(&self) -> SystemTime {
        self.created + EXPIRY
    }

    /// Returns true if the batch can be found, which it cannot for this time from its creation.
    pub(super) fn is_visible(&self, now: SystemTime, hidden: Duration) -> bool {
        now >= self.created + hidden
    }

    /// Returns the time at which the batch ends, or has ended.
    pub(super) fn end(&self) -> SystemTime {
        let end = self.created + self.time.min(EXPIRY);
        match self.canceled {
            Some(at) => end.min(at + CANCEL_TIME.min(self.time / 10)),
            None => end,
        }
    }

    pub(super) fn status(&self, now: SystemTime) -> Status {
        if now >= self.end() {
            Status::Ended
        } else if self.canceled.is_some() {
            Status::Canceling
        } else {
            Status::InProgress
        }
    }

    /// Returns the time at which the results were removed. `None` if they are not yet.
    pub(super) fn archived(&self, now: SystemTime) -> Option<SystemTime> {
        Some(self.created + ARCHIVED_AFTER).filter(|at| now >= *at)
    }

    /// Returns true if the batch has results.
    pub(super) fn has_results(&self, now: SystemTime) -> bool {
        self.status(now) == Status::Ended && self.archived(now).is_none()
    }

    /// Cancels the batch. Returns false if it has ended. A further call changes nothing.
    pub(super) fn cancel(&mut self, now: SystemTime) -> bool {
        if self.status(now) == Status::Ended {
            return false;
        }
        self.canceled.get_or_insert(now);
        true
    }

    /// Returns the number of requests that are not processed yet.
    pub(super) fn queued(&self, now: SystemTime) -> usize {
        match self.status(now) {
            Status::Ended => 0,
            _ => self.items.len() - self.processed(now),
        }
    }

    /// Returns the counts. Every request counts as processing until the end.
    pub(super) fn counts(&self, now: SystemTime) -> Counts {
        let mut counts = Counts::default();
        if self.status(now) != Status::Ended {
            counts.processing = self.items.len();
            return counts;
        }
        for (_, result) in self.results() {
            let count = match result {
                ItemResult::Succeeded(_) => &mut counts.succeeded,
                ItemResult::Errored(_) => &mut counts.errored,
                ItemResult::Canceled => &mut counts.canceled,
                ItemResult::Expired => &mut counts.expired,
            };
            *count += 1;
        }
        counts
    }

    /// Returns the `custom_id` of each request and its result at the end.
    pub(super) fn results(&self) -> impl Iterator<Item = (&str, &ItemResult)> {
        let processed = self.processed(self.end());
        let rest = match self.canceled {
            Some(_) => &ItemResult::Canceled,
            None => &ItemResult::Expired,
        };
        self.items.iter().enumerate().map(move |(index, item)| {
            let is_scripted = matches!(item.result, ItemResult::Canceled | ItemResult::Expired);
            let is_own = is_scripted || index < processed;
            (&*item.custom_id, if is_own { &item.result } else { rest })
        })
    }

    /// Returns the number of requests that are processed by this time.
    fn processed(&self, at: SystemTime) -> usize {
        let elapsed = at.duration_since(self.created).unwrap_or_default();
        if elapsed >= self.time {
            return self.items.len();
        }
        let done = self.items.len() as u128 * elapsed.as_nanos() / self.time.as_nanos().max(1);
        usize::try_from(done).unwrap_or(self.items.len())
    }
}

/// A page of batches.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page<T> {
    pub(super) data: Vec<T>,
    pub(super) has_more: bool,
}

/// Position of a page.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cursor<'a> {
    Start,
    /// The page after this id.
    After(&'a str),
    /// The page before this id.
    Before(&'a str),
}

/// All batches of one server that are not deleted.
#[derive(Debug, Default)]
pub(crate) struct BatchStore {
    /// In the order of creation.
    batches: Vec<Batch>,
}

impl BatchStore {
    pub(super) fn insert(&mut self, batch: Batch) {
        self.batches.push(batch);
    }

    pub(super) fn get(&mut self, id: &str) -> Option<&mut Batch> {
        self.batches.iter_mut().find(|batch| batch.id == id)
    }

    pub(super) fn remove(&mut self, id: &str) {
        self.batches.retain(|batch| batch.id != id);
    }

    /// Returns the number of requests of all batches that are not processed yet.
    pub(super) fn queued(&self, now: SystemTime) -> usize {
        self.batches.iter().map(|batch| batch.queued(now)).sum()
    }

    /// Returns a page, the newest batch first. `None` if the cursor is not known.
    pub(super) fn page(&self, cursor: Cursor<'_>, limit: usize) -> Option<Page<&Batch>> {
        let position = |id| self.batches.iter().position(|batch| batch.id == id);
        let (range, has_more) = match cursor {
            Cursor::Before(id) => {
                let start = position(id)? + 1;
                let end = start.saturating_add(limit).min(self.batches.len());
                (start..end, end < self.batches.len())
            }
            Cursor::Start | Cursor::After(_) => {
                let end = match cursor {
                    Cursor::After(id) => position(id)?,
                    _ => self.batches.len(),
                };
                let start = end.saturating_sub(limit);
                (start..end, start > 0)
            }
        };
        Some(Page {
            data: self.batches[range].iter().rev().collect(),
            has_more,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn succeeded() -> ItemResult {
        ItemResult::Succeeded(Bytes::from_static(b"{}"))
    }

    fn batch(results: &[ItemResult], time: Duration) -> Batch {
        let items = results.iter().enumerate().map(|(index, result)| Item {
            custom_id: index.to_string(),
            result: result.clone(),
        });
        Batch::new("a".to_owned(), items.collect(), START, time)
    }

    fn results(batch: &Batch) -> Vec<(&str, ItemResult)> {
        let results = batch.results();
        results.map(|(id, result)| (id, result.clone())).collect()
    }

    #[test]
    fn counts_change_at_the_end_only_and_sum_to_the_total() {
        let error = ItemResult::Errored(Bytes::from_static(b"{}"));
        let batch = batch(
            &[succeeded(), error.clone(), ItemResult::Expired],
            seconds(9),
        );
        let processing = Counts {
            processing: 3,
            ..Counts::default()
        };
        let last = START + seconds(9) - Duration::from_nanos(1);
        for now in [START, START + seconds(6), last] {
            assert_eq!(batch.status(now), Status::InProgress);
            assert_eq!(batch.counts(now), processing);
            assert!(!batch.has_results(now));
        }
        let end = START + seconds(9);
        assert_eq!(batch.status(end), Status::Ended);
        assert!(batch.has_results(end));
        let ended = Counts {
            succeeded: 1,
            errored: 1,
            expired: 1,
            ..Counts::default()
        };
        assert_eq!(batch.counts(end), ended);
        let expected = [("2", ItemResult::Expired), ("1", error), ("0", succeeded())];
        assert_eq!(results(&batch), expected);
    }

    #[test]
    fn queue_shrinks_while_requests_are_processed() {
        let batch = batch(&vec![succeeded(); 10], seconds(100));
        let queued = |at| batch.queued(START + seconds(at));
        assert_eq!([0, 9, 10, 55, 99, 100].map(queued), [10, 10, 9, 5, 1, 0]);
    }

    #[test]
    fn cancelled_batch_keeps_what_was_processed() {
        let mut batch = batch(&vec![succeeded(); 4], seconds(8));
        let cancel = START + seconds(4);
        assert!(batch.cancel(cancel));
        assert_eq!(batch.status(cancel), Status::Canceling);
        assert_eq!(batch.counts(cancel).processing, 4);
        // A second cancellation does not move the end.
        assert!(batch.cancel(cancel + Duration::from_millis(400)));
        let end = cancel + Duration::from_millis(800);
        assert_eq!((batch.end(), batch.status(end)), (end, Status::Ended));
        let (done, rest) = (succeeded(), ItemResult::Canceled);
        let expected = [("3", &done), ("2", &done), ("1", &rest), ("0", &rest)];
        assert!(batch.results().eq(expected));
        assert!(!batch.cancel(end));
    }

    #[test]
    fn request_in_flight_at_the_cancellation_finishes() {
        let mut batch = batch(&[succeeded(), succeeded()], seconds(4));
        batch.cancel(START + Duration::from_millis(1_700));
        let expected = [("1", succeeded()), ("0", ItemResult::Canceled)];
        assert_eq!(results(&batch), expected);
    }

    #[test]
    fn batch_expires_after_a_day() {
        let batch = batch(&[succeeded(), succeeded(), succeeded()], EXPIRY * 2);
        assert_eq!(
            batch.status(batch.expires() - seconds(1)),
            Status::InProgress
        );
        assert_eq!(batch.status(batch.expires()), Status::Ended);
        let expected = [
            ("2", succeeded()),
            ("1", ItemResult::Expired),
            ("0", ItemResult::Expired),
        ];
        assert_eq!(results(&batch), expected);
    }

    #[test]
    fn results_are_archived_29_days_after_creation() {
        let batch = batch(&[succeeded()], seconds(1));
        let archived = START + seconds(29 * 86_400);
        assert!(batch.has_results(archived - seconds(1)));
        assert!(!batch.has_results(archived));
        assert_eq!(batch.archived(archived + seconds(5)), Some(archived));
        assert_eq!(batch.counts(archived).succeeded, 1);
    }

    #[test]
    fn batch_without_time_has_ended_at_its_creation() {
        let batch = batch(&[succeeded()], Duration::ZERO);
        assert_eq!(batch.status(START), Status::Ended);
        assert_eq!(batch.counts(START).succeeded, 1);
    }

    #[test]
    fn pages_in_both_directions_cover_all_batches() {
        let mut store = BatchStore::default();
        for id in ["a", "b", "c", "d", "e"] {
            store.insert(Batch::new(id.to_owned(), Vec::new(), START, EXPIRY));
        }
        let page = |cursor, limit| {
            let page = store.page(cursor, limit)?;
            let ids: Vec<&str> = page.data.iter().map(|batch| &*batch.id).collect();
            Some((ids.concat(), page.has_more))
        };
        let shown = |ids: &str, has_more| Some((ids.to_owned(), has_more));
        assert_eq!(page(Cursor::Start, 2), shown("ed", true));
        assert_eq!(page(Cursor::After("d"), 2), shown("cb", true));
        assert_eq!(page(Cursor::After("b"), 2), shown("a", false));
        assert_eq!(page(Cursor::After("a"), 2), shown("", false));
        assert_eq!(page(Cursor::Before("a"), 2), shown("cb", true));
        assert_eq!(page(Cursor::Before("c"), 2), shown("ed", false));
        assert_eq!(page(Cursor::Start, 5), shown("edcba", false));
        assert_eq!(page(Cursor::After("x"), 5), None);
        store.remove("c");
        let all = store.page(Cursor::Start, 5).map(|page| page.data.len());
        assert_eq!(all, Some(4));
    }
}
