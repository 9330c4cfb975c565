//! The circuit breaker as a policy of the driver.

use std::{
    borrow::Cow,
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, response::Parts};
use tokio::time::Instant;
use tower_claude_core::{
    Call, Class, Kind, Outcome, Rejection, RequestBody, Scope,
    driver::{AttemptPolicy, Clock},
    event::EventSink,
    toolkit::{ScopeRef, host, host_hash},
};
use tower_claude_wire::{ModelCatalog, StreamState};

use crate::{
    circuits::Circuit,
    config::{Config, LAYER},
    permit::{CallPermit, settle_now},
    state_machine::{CircuitOutcome, CircuitOutcomes},
};

/// The attempt policy of a circuit breaker. See [`CircuitBreakerLayer::policy`].
///
/// All clones share their circuits.
///
/// [`CircuitBreakerLayer::policy`]: crate::CircuitBreakerLayer::policy
#[derive(Clone)]
pub struct BreakerPolicy {
    config: Arc<Config>,
}

/// The permits of one attempt.
///
/// An attempt that passes a closed circuit without failures allocates nothing and takes no lock of
/// the circuit, neither when it is admitted nor when it succeeds.
#[derive(Default)]
pub struct BreakerAttempt {
    model: Option<CallPermit>,
    /// Boxed, because few credentials ever have a circuit.
    credential: Option<Box<CallPermit>>,
    /// The end of the cool-down, if the circuit of the model is open after a failure.
    open_until: Option<Instant>,
    /// The keyed hash of the credential, whose circuit a 401 opens. 0 if there is none.
    credential_hash: u64,
}

impl BreakerPolicy {
    pub(crate) const fn new(config: Arc<Config>) -> Self {
        Self { config }
    }

    /// Passes both circuits. If there is no room for another circuit, the call passes unobserved.
    /// `host` is the host of the request if it is known.
    fn admit<'a>(
        &self,
        attempt: &mut BreakerAttempt,
        request: &'a Request<RequestBody>,
        host: Option<Cow<'a, str>>,
        clock: &mut Clock,
    ) -> Result<(), Rejection> {
        let config = &*self.config;
        if let Some(circuit) = config.circuits.of_credential(attempt.credential_hash) {
            attempt.credential = Some(Box::new(CallPermit::admit(config, circuit, clock)?));
        }
        if let Some(circuit) = self.circuit_of(request, host, clock) {
            match CallPermit::admit(config, circuit, clock) {
                Ok(permit) => attempt.model = Some(permit),
                Err(rejection) => {
                    // A probe of the credential frees its place at once.
                    attempt.credential = None;
                    return Err(rejection);
                }
            }
        }
        // Reported only when both circuits let the call pass.
        if let Some(permit) = &attempt.model {
            permit.report_probe(config);
        }
        if let Some(permit) = &attempt.credential {
            permit.report_probe(config);
        }
        Ok(())
    }

    /// Returns the circuit of a request. `host` is the host of the request if it is known.
    fn circuit_of<'a>(
        &self,
        request: &'a Request<RequestBody>,
        host: Option<Cow<'a, str>>,
        clock: &mut Clock,
    ) -> Option<Arc<Circuit>> {
        let circuits = &self.config.circuits;
        if let Some(scope_of) = &self.config.scope_of {
            let scope = scope_of(request);
            let circuit = circuits.get(&scope);
            return circuit.or_else(|| self.get_or_insert(&scope, clock));
        }
        let host = host.unwrap_or_else(|| self::host(request.uri(), request.headers()));
        let known = match host {
            Cow::Borrowed(host) => ScopeRef::of_model(request, host),
            Cow::Owned(_) => None,
        };
        let circuit = known.and_then(|scope| circuits.get(&scope));
        circuit.or_else(|| self.get_or_insert(&Scope::of_model(request), clock))
    }

    #[cold]
    fn get_or_insert(&self, scope: &Scope, clock: &mut Clock) -> Option<Arc<Circuit>> {
        let config = &*self.config;
        let (breaker, most) = (&config.breaker, config.most_circuits);
        let circuits = &config.circuits;
        circuits.get_or_insert(scope, breaker, most, || clock.now())
    }

    /// Settles the circuit of the model after a failure.
    #[cold]
    fn settle_model(&self, attempt: &mut BreakerAttempt, class: &Class, clock: &mut Clock) {
        let Some(mut permit) = attempt.model.take() else {
            return;
        };
        let outcome = CircuitOutcomes::of(class).availability;
        permit.settle(&self.config, outcome, class.kind, clock.now());
        attempt.open_until = permit.open_until(clock.now());
        self.evict_unknown(permit, class, clock);
    }

    /// Settles the circuit of the credential. Without a circuit, a fatal outcome creates it.
    ///
    /// A 401 of a key that has worked may be a mistake of the server, so the second in a row is
    /// fatal.
    #[cold]
    fn settle_credential(&self, attempt: &mut BreakerAttempt, class: &Class, clock: &mut Clock) {
        let config = &*self.config;
        let mut outcome = CircuitOutcomes::of(class).credential;
        if let CircuitOutcome::Fatal { retry_after } = outcome
            && class.kind == Kind::Unauthorized
            && config.circuits.has_worked(attempt.credential_hash)
        {
            outcome = CircuitOutcome::Doubtful { retry_after };
        }
        if let Some(mut permit) = attempt.credential.take() {
            permit.settle(config, outcome, class.kind, clock.now());
        } else if attempt.credential_hash != 0
            && matches!(
                outcome,
                CircuitOutcome::Fatal { .. } | CircuitOutcome::Doubtful { .. }
            )
        {
            let now = clock.now();
            let scope = Scope::of_credential(attempt.credential_hash);
            let circuit = config.circuits.get_or_insert(
                &scope,
                &config.credentials,
                config.most_circuits,
                || now,
            );
            if let Some(circuit) = circuit {
                settle_now(config, &circuit, outcome, class.kind, now);
            }
        }
    }

    /// Evicts the circuit of a model name that the server rejects and the catalog does not list, so
    /// that mistyped names do not fill the table.
    fn evict_unknown(&self, permit: CallPermit, class: &Class, clock: &mut Clock) {
        let rejects_name = matches!(
            class.kind,
            Kind::NotFound | Kind::BadRequest | Kind::Forbidden
        );
        let scope = permit.scope();
        if !rejects_name
            || class.local
            || scope.group.is_empty()
            || ModelCatalog::builtin().get(&scope.group).is_some()
        {
            return;
        }
        let scope = scope.clone();
        drop(permit);
        self.config.circuits.evict_if_idle(&scope, clock.now());
    }

    fn begin(&self, attempt: &mut BreakerAttempt) {
        if let Some(permit) = &mut attempt.model {
            permit.begin(&self.config);
        }
    }
}

impl AttemptPolicy for BreakerPolicy {
    type Attempt = BreakerAttempt;

    fn visit_sinks(&self, visit: &mut dyn FnMut(&'static str, &EventSink)) {
        visit(LAYER, &self.config.observers);
    }

    #[inline]
    fn reads_request(&self) -> bool {
        // A function of the user reads what it needs.
        self.config.scope_of.is_none()
    }

    /// A whole response is a success or a failure, whether the caller reads it or not.
    #[inline]
    fn ends_with_body(&self) -> bool {
        false
    }

    fn poll_admit(
        &self,
        attempt: &mut BreakerAttempt,
        request: &mut Request<RequestBody>,
        call: &Arc<Call>,
        clock: &mut Clock,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), Rejection>> {
        let mut host = None;
        attempt.credential_hash = match &self.config.credential_of {
            Some(credential_of) => match credential_of(request.headers()) {
                0 => 0,
                credential => (credential ^ host_hash(request)).max(1),
            },
            None => {
                let sender = call.sender_of(request);
                host = Some(sender.host);
                sender.credential
            }
        };
        // An attempt before this one may have been given up in a queue.
        call.set_held_back(false);
        Poll::Ready(self.admit(attempt, request, host, clock))
    }

    #[inline]
    fn recheck(&self, attempt: &mut BreakerAttempt) -> Option<Rejection> {
        if let Some(permit) = &mut attempt.model
            && let Some(rejection) = permit.revalidate(&self.config)
        {
            return Some(rejection);
        }
        let permit = attempt.credential.as_mut()?;
        permit.revalidate(&self.config)
    }

    #[inline]
    fn on_sent(&self, attempt: &mut BreakerAttempt) {
        if let Some(permit) = &mut attempt.model {
            permit.on_sent();
        }
        if let Some(permit) = &mut attempt.credential {
            permit.on_sent();
        }
    }

    #[inline]
    fn on_response(
        &self,
        attempt: &mut BreakerAttempt,
        class: &Class,
        _: Option<&mut Parts>,
        clock: &mut Clock,
    ) {
        // A success of the model is settled with the first content.
        if class.kind == Kind::Success && !class.local {
            self.config.circuits.set_worked(attempt.credential_hash);
            if attempt.credential.is_none() {
                return;
            }
        } else {
            self.settle_model(attempt, class, clock);
        }
        self.settle_credential(attempt, class, clock);
    }

    fn blocked_until(&self, attempt: &BreakerAttempt) -> Option<Instant> {
        attempt.open_until
    }

    fn on_opaque_body(&self, attempt: &mut BreakerAttempt) {
        // This media type has no recognisable first content, so count success at the head.
        self.begin(attempt);
    }

    fn on_progress(&self, attempt: &mut BreakerAttempt, stream: &StreamState) {
        if stream.has_content() || stream.is_complete() || stream.is_not_claude() {
            self.begin(attempt);
        }
    }

    #[inline]
    fn on_end(&self, attempt: &mut BreakerAttempt, outcome: &Outcome<'_>, clock: &mut Clock) {
        let Some(permit) = &mut attempt.model else {
            return;
        };
        match outcome {
            Outcome::Complete { .. } => permit.succeed(&self.config, || clock.now()),
            Outcome::Failed { class, .. } => {
                permit.fail(&self.config, class, clock.now());
                attempt.open_until = permit.open_until(clock.now());
            }
            // A dropped permit settles itself.
            _ => {}
        }
    }

    fn on_timeout(&self, attempt: &mut BreakerAttempt) {
        // The circuit of the credential ignores timeouts.
        if let Some(permit) = &mut attempt.model {
            permit.fail(&self.config, &Class::new(Kind::Timeout), Instant::now());
        }
    }
}

impl fmt::Debug for BreakerPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakerPolicy").finish_non_exhaustive()
    }
}

impl fmt::Debug for BreakerAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakerAttempt").finish_non_exhaustive()
    }
}
