//! What calls for another model, and what it says about the last.

use std::time::Duration;

use tower_claude_core::{Class, Kind, breaker::Verdict};

use crate::policy::{Findings, Remedy, Triggers};

const ALL: &[Kind] = &[
    Kind::Success,
    Kind::RateLimited,
    Kind::RampLimited,
    Kind::SpendLimit,
    Kind::Overloaded,
    Kind::ServerError,
    Kind::Timeout,
    Kind::Transport,
    Kind::Conflict,
    Kind::BadRequest,
    Kind::Unauthorized,
    Kind::Forbidden,
    Kind::NotFound,
    Kind::TooLarge,
    Kind::ModelRefusal,
    Kind::Truncated,
];

fn remedy(class: Class) -> Remedy {
    Triggers::default().remedy(&class)
}

#[test]
fn only_what_another_model_may_do_better() {
    for kind in ALL {
        let expected = match kind {
            Kind::RateLimited | Kind::RampLimited => Remedy::OtherGroup,
            Kind::Overloaded
            | Kind::ServerError
            | Kind::Timeout
            | Kind::Transport
            | Kind::NotFound
            | Kind::Truncated => Remedy::AnyOther,
            _ => Remedy::None,
        };
        assert_eq!(remedy(Class::new(*kind)), expected, "{kind:?}");
    }
    let declined = Triggers {
        refusals: true,
        ..Triggers::default()
    };
    assert_eq!(
        declined.remedy(&Class::new(Kind::ModelRefusal)),
        Remedy::AnyOther
    );
}

#[test]
fn a_spend_limit_of_one_model_only_where_that_is_said() {
    let spent = Class::new(Kind::SpendLimit);
    let singly = Triggers {
        spend_limits: true,
        ..Triggers::default()
    };
    assert_eq!(singly.remedy(&spent), Remedy::AnyOther);
    assert_eq!(
        singly.findings(&spent).model,
        Verdict::Failure { retry_after: None }
    );
    assert_eq!(Triggers::default().findings(&spent), Findings::of(&spent));
    assert_eq!(singly.findings(&spent.into_local()), Findings::NONE);
}

#[test]
fn what_a_stand_in_rejects_the_next_may_take() {
    for kind in [
        Kind::BadRequest,
        Kind::Forbidden,
        Kind::TooLarge,
        Kind::SpendLimit,
    ] {
        let class = Class::new(kind);
        assert_eq!(remedy(class), Remedy::None, "{kind:?}");
        let next = Triggers::default().remedy_of_stand_in(&class);
        assert_eq!(next, Remedy::AnyOther, "{kind:?}");
        let local = Triggers::default().remedy_of_stand_in(&class.into_local());
        assert_eq!(local, Remedy::None, "{kind:?}");
    }
    let bad = Class::new(Kind::Unauthorized);
    assert_eq!(Triggers::default().remedy_of_stand_in(&bad), Remedy::None);
}

#[test]
fn refusals_of_layers_inside_act_at_once_and_say_nothing() {
    // An open circuit; a queue too long; a deadline that would pass; a credential that is not accepted.
    for (kind, expected) in [
        (Kind::Overloaded, Remedy::AnyOther),
        (Kind::RateLimited, Remedy::OtherGroup),
        (Kind::Timeout, Remedy::OtherGroup),
        (Kind::Unauthorized, Remedy::None),
        (Kind::TooLarge, Remedy::None),
    ] {
        let class = Class::new(kind).into_local();
        assert_eq!(remedy(class), expected, "{kind:?}");
        assert_eq!(Findings::of(&class), Findings::NONE, "{kind:?}");
    }
}

#[test]
fn a_429_speaks_of_the_limits_and_not_of_the_model() {
    let retry_after = Some(Duration::from_secs(7));
    let class = Class::new(Kind::RateLimited).with_retry_after(retry_after);
    let found = Findings::of(&class);
    assert_eq!(found.model, Verdict::Busy { retry_after });
    assert_eq!(found.group, Verdict::Failure { retry_after });
    let found = Findings::of(&Class::new(Kind::Overloaded));
    assert_eq!(found.model, Verdict::FAILURE);
    assert_eq!(found.group, Verdict::Ignored);
}
