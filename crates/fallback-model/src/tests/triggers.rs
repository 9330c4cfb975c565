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
    Kind::Refusal,
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
    let declined = Triggers { refusals: true };
    assert_eq!(
        declined.remedy(&Class::new(Kind::Refusal)),
        Remedy::AnyOther
    );
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
