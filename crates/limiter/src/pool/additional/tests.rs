//! The renewal of a limit per day.

use std::time::Duration;

use super::*;

const HOUR: u64 = DAY / 24;

fn rolling() -> DailyLimit {
    DailyLimit::new(1_000, Day::Rolling, 0)
}

fn resets_at(hour: u32) -> DailyLimit {
    let day = Day::ResetsAt {
        seconds_after_midnight_utc: hour * 3_600,
    };
    DailyLimit::new(1_000, day, 0)
}

/// This hour of some day.
fn wall(hour: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * 86_400 + hour * 3_600)
}

fn take(day: &mut DailyLimit, now: u64, amount: u64) {
    day.advance(now);
    assert_eq!(day.wait(now, amount), 0, "{day:?}");
    day.take(amount);
}

#[test]
fn rolling_day_admits_at_most_the_limit_in_24_hours() {
    let mut rng = fastrand::Rng::with_seed(5);
    let mut day = rolling();
    let mut taken: Vec<(u64, u64)> = Vec::new();
    let mut now = 0;
    while now < 20 * DAY {
        now += rng.u64(0..HOUR);
        let amount = rng.u64(1..200);
        day.advance(now);
        let wait = day.wait(now, amount);
        if rng.bool() && wait > 0 {
            // Long enough, and no longer than a quarter of an hour too long.
            let mut later = day.clone();
            later.advance(now + wait);
            assert_eq!(later.wait(now + wait, amount), 0);
            assert!(wait <= DAY + QUARTER);
            now += wait;
            day.advance(now);
        }
        if day.wait(now, amount) == 0 {
            day.take(amount);
            taken.push((now, amount));
            let recent = taken.iter().filter(|(at, _)| now - at < DAY);
            assert!(recent.map(|(_, amount)| amount).sum::<u64>() <= 1_000);
        }
    }
    let all: u64 = taken.iter().map(|(_, amount)| amount).sum();
    assert!(all > 18_000, "hardly used: {all}");
}

#[test]
fn rolling_day_corrects_the_quarter_of_the_charge() {
    let mut day = rolling();
    take(&mut day, 0, 800);
    take(&mut day, 12 * HOUR, 200);
    day.recharge(0, 800, 300);
    assert_eq!(day.left(), 500);
    day.advance(DAY + QUARTER);
    assert_eq!(day.left(), 800);
    // Gone already: nothing to give back.
    day.recharge(0, 300, 0);
    assert_eq!(day.left(), 800);
}

#[test]
fn day_resets_at_its_time_of_day() {
    let mut day = resets_at(7);
    day.set_wall_time(0, wall(3));
    take(&mut day, 0, 1_000);
    assert_eq!(day.wait(0, 1), 4 * HOUR);
    assert_eq!(day.renews_in(HOUR), 3 * HOUR);
    day.advance(4 * HOUR - 1);
    assert_eq!(day.left(), 0);
    take(&mut day, 4 * HOUR, 1_000);
    assert_eq!(day.wait(4 * HOUR, 1), DAY);
    // Sent the day before: more is counted today, less is not.
    day.recharge(HOUR, 1_000, 500);
    assert_eq!(day.left(), 0);
    day.recharge(HOUR, 500, 700);
    assert_eq!(day.left(), -200);
    // Behind 2,500 others: the third day from the next.
    assert_eq!(day.wait_behind(4 * HOUR, 2_500, 400), 3 * DAY);
    day.advance(10 * DAY);
    assert_eq!((day.left(), day.wait(10 * DAY, 1_000)), (1_000, 0));
    day.take(1);
    assert_eq!(day.wait(10 * DAY, 1_000), 4 * HOUR);
}

#[test]
fn disagreeing_clocks_begin_one_new_day() {
    let mut day = resets_at(0);
    day.set_wall_time(0, wall(23));
    take(&mut day, 0, 1_000);
    // The server is past midnight already, and another of its clocks is not.
    day.set_wall_time(0, wall(24));
    assert_eq!(day.left(), 1_000);
    take(&mut day, 0, 1_000);
    for hour in [23, 24, 23, 25] {
        day.set_wall_time(HOUR / 2, wall(hour));
        assert_eq!(day.left(), 0, "{hour}");
    }
    assert_eq!(day.wait(HOUR / 2, 1), 23 * HOUR);
    day.set_wall_time(HOUR / 2, wall(23));
    assert_eq!(
        day.wait(HOUR / 2, 1),
        25 * HOUR,
        "not a second one in an hour"
    );
}

#[test]
fn day_without_wall_time_is_24_hours() {
    let mut day = resets_at(5);
    take(&mut day, HOUR, 1_000);
    assert_eq!(day.wait(HOUR, 1), 23 * HOUR);
    day.advance(DAY);
    assert_eq!(day.left(), 1_000);
}

#[test]
fn extreme_values_do_not_overflow() {
    for day in [
        Day::Rolling,
        Day::ResetsAt {
            seconds_after_midnight_utc: u32::MAX,
        },
    ] {
        let mut day = DailyLimit::new(u64::MAX, day, 0);
        day.set_wall_time(u64::MAX, SystemTime::UNIX_EPOCH);
        day.take(u64::MAX);
        day.take(u64::MAX);
        day.advance(u64::MAX);
        day.recharge(u64::MAX, u64::MAX, 0);
        day.recharge(0, 0, u64::MAX);
        day.wait(u64::MAX, u64::MAX);
        day.wait_behind(u64::MAX, u64::MAX, u64::MAX);
        day.renews_in(u64::MAX);
    }
}
