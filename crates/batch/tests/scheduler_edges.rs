//! Rare orders of events, for which the scheduler must not create or bill twice.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::time::Instant;
use tower_claude_batch::{
    BatchNumber, ItemId, Key, PoolId, Record,
    scheduler::{
        Action, BatchCall, Creation, ItemOutcome, LineUse, Listed, Placement, ResultsEnd,
        Scheduler, SchedulerSettings, SharedPrefix, Status, Ticket, Verdict,
    },
};
use tower_claude_wire::Money;

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
const POOL: PoolId = PoolId([0; 16]);

/// A scheduler at a start time. All times are counted from it.
struct Run {
    scheduler: Scheduler,
    start: Instant,
    /// The time by which the wall clock was set forward.
    jump: Duration,
}

impl Run {
    fn new(change: impl FnOnce(&mut SchedulerSettings)) -> Self {
        let mut settings = SchedulerSettings::default();
        change(&mut settings);
        Self {
            scheduler: Scheduler::new(settings, 1),
            start: Instant::now(),
            jump: Duration::ZERO,
        }
    }

    fn times(&self, at: Duration) -> (Instant, SystemTime) {
        let wall = SystemTime::UNIX_EPOCH + 20_000_000 * MINUTE + at + self.jump;
        (self.start + at, wall)
    }

    fn place(
        &mut self,
        question: u8,
        tolerance: Duration,
        prefix: Option<SharedPrefix>,
    ) -> Placement {
        let (body, key) = (Bytes::from(vec![question]), Key([question; 16]));
        let deadline = self.start + tolerance;
        let call = BatchCall::new(POOL, key, Arc::from("a"), body, deadline).with_prefix(prefix);
        self.scheduler.enqueue(call, self.start)
    }

    /// Asks a question at the start.
    fn ask(&mut self, question: u8) -> Ticket {
        match self.place(question, 1_200 * MINUTE, None) {
            Placement::Waits { ticket, .. } => ticket,
            other => panic!("{other:?}"),
        }
    }

    /// Plans what is due, and returns the requests.
    fn actions(&mut self, at: Duration) -> Vec<Action> {
        let (now, wall) = self.times(at);
        self.scheduler.plan(now, wall);
        drop(self.scheduler.take_records());
        self.scheduler.on_journal(true);
        std::iter::from_fn(|| self.scheduler.next_action(now)).collect()
    }

    /// Returns the creations that are due: their numbers and the bodies in them.
    fn creations(&mut self, at: Duration) -> Vec<(BatchNumber, Vec<u8>)> {
        let actions = self.actions(at).into_iter();
        let creations = actions.filter_map(|action| match action {
            Action::Create { batch, items, .. } => {
                let bodies = items.iter().map(|(_, body)| body[0]);
                Some((batch, bodies.collect()))
            }
            _ => None,
        });
        creations.collect()
    }

    fn created(&mut self, batch: BatchNumber, creation: Creation, at: Duration) {
        let (now, wall) = self.times(at);
        self.scheduler.on_created(batch, creation, now, wall);
    }

    /// Creates a batch that has ended, and starts to read its results.
    fn end(&mut self, batch: BatchNumber, at: Duration) {
        let id = "msgbatch_1".to_owned();
        self.created(batch, Creation::Created { id }, at);
        let (now, wall) = self.times(at);
        self.scheduler.on_status(batch, Status::Ended, now, wall);
        assert!(matches!(self.actions(at)[..], [Action::Results { .. }]));
    }

    /// Expects a request for the list, and answers it.
    fn list(&mut self, list: &[Listed], at: Duration) -> Vec<Action> {
        let actions = self.actions(at);
        let is_listed = actions
            .iter()
            .any(|action| matches!(action, Action::List { .. }));
        assert!(is_listed, "{actions:?}");
        let (now, wall) = self.times(at);
        self.scheduler.on_list(POOL, Some(list), true, now, wall);
        self.actions(at)
    }

    fn line(&mut self, batch: BatchNumber, question: u8, at: Duration) -> LineUse {
        let outcome = ItemOutcome::Succeeded {
            tokens: u64::MAX,
            cost: Money::from_micros(1),
            saved: Money::from_micros(1),
            cache: (u64::MAX, 1),
        };
        let custom_id = ItemId::new(Key([question; 16]), 0).custom_id(batch);
        let now = self.times(at).0;
        self.scheduler.on_line(batch, &custom_id, outcome, now)
    }

    fn results(&mut self, batch: BatchNumber, end: ResultsEnd, at: Duration) {
        let (now, wall) = self.times(at);
        self.scheduler.on_results(batch, end, now, wall);
    }

    fn unknown(&self) -> usize {
        self.scheduler.snapshot(self.start).unknown
    }
}

fn ended(id: &str, total: u64) -> Listed {
    Listed::new(id.to_owned(), MINUTE, true, total)
}

#[test]
fn creation_that_timed_out_is_repeated_only_five_minutes_after_its_end() {
    let mut run = Run::new(|_| ());
    run.ask(1);
    let batch = run.creations(5 * MINUTE)[0].0;
    // The upload took five minutes. The API may have taken its last byte.
    run.created(batch, Creation::Ambiguous, 10 * MINUTE);
    run.list(&[], 11 * MINUTE);
    assert_eq!(run.unknown(), 1, "the list may not have it yet");
    // A list that was requested too early and arrives late shows nothing either.
    let early = 15 * MINUTE - SECOND;
    assert!(matches!(run.actions(early)[..], [Action::List { .. }]));
    let (now, wall) = run.times(16 * MINUTE);
    run.scheduler.on_list(POOL, Some(&[]), true, now, wall);
    assert_eq!(run.unknown(), 1);
    run.list(&[], 19 * MINUTE);
    assert_eq!(run.unknown(), 0);
}

#[test]
fn clock_that_is_set_neither_repeats_a_creation_nor_hides_it() {
    let mut run = Run::new(|_| ());
    run.ask(1);
    let batch = run.creations(5 * MINUTE)[0].0;
    run.created(batch, Creation::Ambiguous, 6 * MINUTE);
    run.jump = 1_000_000 * MINUTE;
    run.list(&[], 7 * MINUTE);
    assert_eq!(run.unknown(), 1);
    let next = run.list(&[ended("msgbatch_1", 1)], 9 * MINUTE);
    assert!(matches!(&next[..], [Action::Results { id, .. }] if id == "msgbatch_1"));
}

#[test]
fn batch_that_is_hidden_after_a_late_creation_is_not_given_up() {
    let mut run = Run::new(|_| ());
    run.ask(1);
    let batch = run.creations(5 * MINUTE)[0].0;
    let retry_after = Some(20 * MINUTE);
    run.created(batch, Creation::NotTaken { retry_after }, 5 * MINUTE);
    assert_eq!(run.creations(30 * MINUTE).len(), 1);
    let id = "msgbatch_1".to_owned();
    run.created(batch, Creation::Created { id }, 30 * MINUTE);
    let (now, wall) = run.times(31 * MINUTE);
    run.scheduler.on_status(batch, Status::NotFound, now, wall);
    assert_eq!(
        run.scheduler.take_verdicts(),
        [],
        "the API may not show it yet"
    );
}

#[test]
fn lost_creation_without_a_call_that_had_left_is_found() {
    let mut run = Run::new(|_| ());
    let (_, second) = (run.ask(1), run.ask(2));
    let (now, wall) = run.times(5 * MINUTE);
    run.scheduler.plan(now, wall);
    // While the journal is written.
    run.scheduler.withdraw(second, now);
    let created = run.creations(5 * MINUTE);
    assert_eq!(created[0].1, [1]);
    run.created(created[0].0, Creation::Ambiguous, 6 * MINUTE);
    let next = run.list(&[ended("msgbatch_1", 1)], 20 * MINUTE);
    assert!(matches!(next[..], [Action::Results { .. }]), "{next:?}");
}

#[test]
fn creation_that_is_repeated_has_no_call_that_went_live_meanwhile() {
    for creation in [Creation::NotTaken { retry_after: None }, Creation::TooLarge] {
        let mut run = Run::new(|_| ());
        let tickets = [1, 2, 3].map(|question| run.ask(question));
        let batch = run.creations(5 * MINUTE)[0].0;
        let now = run.times(6 * MINUTE).0;
        run.scheduler.go_live(tickets[0], now);
        run.scheduler.withdraw(tickets[2], now);
        run.created(batch, creation.clone(), 6 * MINUTE);
        let created = run.creations(8 * MINUTE);
        let bodies: Vec<Vec<u8>> = created.into_iter().map(|(_, bodies)| bodies).collect();
        assert_eq!(bodies, [[2]], "{creation:?}");
        // The question whose caller has left is a new one.
        run.ask(3);
        assert_eq!(run.scheduler.snapshot(now).attached, 0);
    }
}

#[test]
fn answer_that_its_caller_has_not_taken_is_neither_read_again_nor_lost() {
    let mut run = Run::new(|_| ());
    let (first, second) = (run.ask(1), run.ask(2));
    let batch = run.creations(5 * MINUTE)[0].0;
    run.end(batch, 6 * MINUTE);
    assert_eq!(run.line(batch, 1, 6 * MINUTE), LineUse::Deliver(first));
    run.results(batch, ResultsEnd::Failed { retry_after: None }, 6 * MINUTE);
    assert!(matches!(
        run.actions(8 * MINUTE)[..],
        [Action::Results { .. }]
    ));
    run.results(batch, ResultsEnd::NotFound, 20 * MINUTE);
    let verdicts = run.scheduler.take_verdicts();
    let tickets: Vec<Ticket> = verdicts.iter().map(|(ticket, _)| *ticket).collect();
    assert_eq!(tickets, [second]);

    let mut run = Run::new(|_| ());
    let ticket = run.ask(1);
    let batch = run.creations(5 * MINUTE)[0].0;
    run.end(batch, 6 * MINUTE);
    assert_eq!(run.line(batch, 1, 6 * MINUTE), LineUse::Deliver(ticket));
    run.results(batch, ResultsEnd::Complete, 6 * MINUTE);
    assert_eq!(run.scheduler.next_at(), None);
    assert!(run.actions(60 * MINUTE).is_empty());
    let (now, wall) = run.times(60 * MINUTE);
    run.scheduler.delivered(ticket, wall);
    assert_eq!(run.scheduler.snapshot(now).in_batches, 0);
}

#[test]
fn savings_of_an_answer_are_counted_once() {
    let mut run = Run::new(|_| ());
    let ticket = run.ask(1);
    let batch = run.creations(5 * MINUTE)[0].0;
    run.end(batch, 6 * MINUTE);
    assert_eq!(run.line(batch, 1, 6 * MINUTE), LineUse::Deliver(ticket));
    run.results(batch, ResultsEnd::Complete, 6 * MINUTE);
    run.scheduler.withdraw(ticket, run.times(6 * MINUTE).0);
    let again = run.ask(1);
    assert!(matches!(
        run.actions(7 * MINUTE)[..],
        [Action::Results { .. }]
    ));
    assert_eq!(run.line(batch, 1, 7 * MINUTE), LineUse::Deliver(again));
    let snapshot = run.scheduler.snapshot(run.start);
    assert_eq!((snapshot.attached, snapshot.answered), (1, 2));
    assert_eq!(snapshot.saved, Money::from_micros(1));
}

#[test]
fn call_that_goes_live_although_its_batch_has_ended_is_counted_as_sent_twice() {
    let mut run = Run::new(|_| ());
    let ticket = run.ask(1);
    let batch = run.creations(5 * MINUTE)[0].0;
    run.end(batch, 6 * MINUTE);
    run.results(batch, ResultsEnd::Failed { retry_after: None }, 6 * MINUTE);
    run.scheduler.go_live(ticket, run.times(1_198 * MINUTE).0);
    assert_eq!(run.scheduler.snapshot(run.start).sent_twice, 1);
}

#[test]
fn two_lost_creations_may_try_the_same_batch_of_the_list() {
    let mut run = Run::new(|settings| settings.max_items = 1);
    run.ask(1);
    run.ask(2);
    let lost: Vec<BatchNumber> = run.creations(5 * MINUTE).iter().map(|(n, _)| *n).collect();
    for batch in &lost {
        run.created(*batch, Creation::Ambiguous, 6 * MINUTE);
    }
    let theirs = || ended("msgbatch_theirs", 1);
    let next = run.list(&[theirs()], 20 * MINUTE);
    assert_eq!(next.len(), 2, "both try the batch of another program");
    run.results(lost[0], ResultsEnd::Complete, 20 * MINUTE);
    // The second one still reads while the first one tries the batch of the second.
    let list = [theirs(), ended("msgbatch_second", 1)];
    assert!(matches!(
        run.list(&list, 21 * MINUTE)[..],
        [Action::Results { .. }]
    ));
    run.results(lost[1], ResultsEnd::Complete, 21 * MINUTE);
    let next = run.list(&list, 22 * MINUTE);
    assert!(
        matches!(&next[..], [Action::Results { batch, id, .. }]
            if *batch == lost[1] && id == "msgbatch_second"),
        "{next:?}"
    );
}

#[test]
fn lost_priming_batch_that_is_found_releases_the_calls_behind_it() {
    let mut run = Run::new(|_| ());
    let prefix = Some(SharedPrefix::new(7, 50_000, true));
    for question in 1..5 {
        run.place(question, 1_200 * MINUTE, prefix);
    }
    let primer = run.creations(5 * MINUTE);
    assert_eq!(primer[0].1.len(), 1);
    run.created(primer[0].0, Creation::Ambiguous, 6 * MINUTE);
    run.list(&[ended("msgbatch_1", 1)], 8 * MINUTE);
    assert!(matches!(
        run.line(primer[0].0, 1, 8 * MINUTE),
        LineUse::Deliver(_)
    ));
    assert_eq!(run.creations(9 * MINUTE)[0].1.len(), 3);
}

#[test]
fn call_that_is_sent_at_once_leaves_no_pool() {
    let mut run = Run::new(|_| ());
    let placement = run.place(1, 11 * MINUTE, None);
    assert_eq!(placement, Placement::Live("latency"));
    assert!(!run.scheduler.has_pool(POOL));
}

#[test]
fn redelivery_without_an_end_is_bounded_by_the_results() {
    let mut run = Run::new(|settings| settings.redelivery = Duration::MAX);
    let (batch, item) = (BatchNumber(1), ItemId::new(Key([1; 16]), 0));
    let (now, wall) = run.times(Duration::ZERO);
    let (at, items) = (wall, vec![item]);
    let records = vec![
        Record::Planned {
            batch,
            pool: POOL,
            at,
            items: items.clone(),
        },
        Record::Created {
            batch,
            id: "msgbatch_1".to_owned(),
        },
        Record::Delivered { batch, at, items },
    ];
    run.scheduler.replay(records, now, wall);
    run.ask(1);
    assert_eq!(run.scheduler.snapshot(now).attached, 1);
}

#[test]
fn list_that_fails_keeps_to_its_retry_after_or_is_reported_to_all() {
    let mut run = Run::new(|_| ());
    let ticket = run.ask(1);
    let batch = run.creations(5 * MINUTE)[0].0;
    run.created(batch, Creation::Ambiguous, 5 * MINUTE);
    assert!(matches!(run.actions(6 * MINUTE)[..], [Action::List { .. }]));
    let retry_after = Some(10 * MINUTE);
    let now = run.times(6 * MINUTE).0;
    run.scheduler
        .on_list_failed(POOL, Status::Failed { retry_after }, now);
    assert_eq!(run.scheduler.next_at(), Some(now + 10 * MINUTE));
    assert!(matches!(
        run.actions(16 * MINUTE)[..],
        [Action::List { .. }]
    ));
    let now = run.times(16 * MINUTE).0;
    run.scheduler.on_list_failed(POOL, Status::Denied, now);
    assert_eq!(run.scheduler.take_verdicts(), [(ticket, Verdict::Denied)]);
}
