//! The outcomes that lead to a fallback, and the signals that they give.

use std::time::Duration;

use tower_claude_core::{Class, Kind, Reach};

use crate::{
    cooldown::Signal,
    selection::{FallbackScope, SignalPair, Triggers},
};

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

fn scope(class: Class) -> FallbackScope {
    Triggers::default().scope(&class)
}

#[test]
fn failure_that_another_model_may_avoid_leads_to_fallback() {
    for kind in ALL {
        let expected = match kind {
            Kind::RateLimited | Kind::RampLimited => FallbackScope::OtherRateGroup,
            Kind::Overloaded
            | Kind::ServerError
            | Kind::Timeout
            | Kind::Transport
            | Kind::Truncated => FallbackScope::AnyOther,
            _ => FallbackScope::None,
        };
        assert_eq!(scope(Class::new(*kind)), expected, "{kind:?}");
    }
    // The model is missing, closed to this account, or unfit for the request.
    let client_errors = [
        Kind::NotFound,
        Kind::Forbidden,
        Kind::BadRequest,
        Kind::SpendLimit,
    ];
    for class in client_errors.map(|kind| Class::new(kind).with_reach(Reach::Model)) {
        assert_eq!(scope(class), FallbackScope::AnyOther, "{class:?}");
    }
    // The request, or the account, is to blame.
    for kind in [Kind::Transport, Kind::Timeout, Kind::ServerError] {
        for reach in [Reach::Request, Reach::Credential] {
            let class = Class::new(kind).with_reach(reach);
            assert_eq!(scope(class), FallbackScope::None, "{class:?}");
            assert_eq!(
                Triggers::default().signals(&class),
                SignalPair::NONE,
                "{class:?}"
            );
        }
    }
    // A verdict on one request cools nothing down.
    for class in [
        Class::new(Kind::RateLimited).with_reach(Reach::Request),
        Class::new(Kind::SpendLimit).with_reach(Reach::Model),
        Class::new(Kind::NotFound),
    ] {
        let signals = Triggers::default().signals(&class);
        assert_eq!(
            (signals.model, signals.group),
            (Signal::Reachable, Signal::Reachable)
        );
    }
    let with_refusals = Triggers {
        refusals: true,
        ..Triggers::default()
    };
    assert_eq!(
        with_refusals.scope(&Class::new(Kind::ModelRefusal)),
        FallbackScope::AnyOther
    );
}

#[test]
fn spend_limit_leads_to_fallback_only_if_enabled() {
    let spent = Class::new(Kind::SpendLimit);
    let with_spend_limits = Triggers {
        spend_limits: true,
        ..Triggers::default()
    };
    assert_eq!(with_spend_limits.scope(&spent), FallbackScope::AnyOther);
    assert_eq!(
        with_spend_limits.signals(&spent).model,
        Signal::Failure { retry_after: None }
    );
    assert_eq!(Triggers::default().signals(&spent).model, Signal::Reachable);
    assert_eq!(
        with_spend_limits.signals(&spent.into_local()),
        SignalPair::NONE
    );
}

#[test]
fn rejection_by_a_stand_in_leads_to_the_next() {
    for kind in [
        Kind::BadRequest,
        Kind::Forbidden,
        Kind::TooLarge,
        Kind::SpendLimit,
    ] {
        let class = Class::new(kind);
        assert_eq!(scope(class), FallbackScope::None, "{kind:?}");
        let next = Triggers::default().scope_of_stand_in(&class);
        assert_eq!(next, FallbackScope::AnyOther, "{kind:?}");
        let local = Triggers::default().scope_of_stand_in(&class.into_local());
        assert_eq!(local, FallbackScope::None, "{kind:?}");
    }
    let bad = Class::new(Kind::Unauthorized);
    assert_eq!(
        Triggers::default().scope_of_stand_in(&bad),
        FallbackScope::None
    );
}

#[test]
fn local_rejection_leads_to_fallback_and_gives_no_signal() {
    // An open circuit, a full queue, a deadline that would pass, a credential that is not accepted.
    for (kind, expected) in [
        (Kind::Overloaded, FallbackScope::AnyOther),
        (Kind::RateLimited, FallbackScope::OtherRateGroup),
        (Kind::Timeout, FallbackScope::OtherRateGroup),
        (Kind::Unauthorized, FallbackScope::None),
        (Kind::TooLarge, FallbackScope::None),
    ] {
        let class = Class::new(kind).into_local();
        assert_eq!(scope(class), expected, "{kind:?}");
        assert_eq!(
            Triggers::default().signals(&class),
            SignalPair::NONE,
            "{kind:?}"
        );
    }
}

#[test]
fn rate_limit_counts_against_the_group_and_not_the_model() {
    let retry_after = Some(Duration::from_secs(7));
    let class = Class::new(Kind::RateLimited).with_retry_after(retry_after);
    let signals = Triggers::default().signals(&class);
    assert_eq!(signals.model, Signal::Busy { retry_after });
    assert_eq!(signals.group, Signal::Failure { retry_after });
    let signals = Triggers::default().signals(&Class::new(Kind::Overloaded));
    assert_eq!(signals.model, Signal::Failure { retry_after: None });
    assert_eq!(signals.group, Signal::None);
}
