//! The events at the end of attempts and calls.

use bytes::Bytes;
use http::{Request, StatusCode, response::Parts};
use tokio::time::Instant;
use tower_claude_wire::{self as wire, Billing, Peek, Platform, Usage};
use tracing::level_filters::LevelFilter;

use super::{
    attempt_policy::AttemptPolicy,
    call_policy::CallPolicy,
    spans::{self, Entered},
};
use crate::{
    call::Call,
    call_record::CallRecord,
    class::{Class, Kind},
    endpoint::Endpoint,
    event::{
        AttemptDetails, AttemptEnd, CallEnd, Ending, Event, EventSink, RequestDetails,
        ResponseDetails, emit,
    },
    host::host,
    rejection::Rejection,
    request::requested_model,
    request_body::RequestBody,
    scope::Scope,
};

/// The layers that a driver reports for, and the destination of its events.
pub(super) struct Reporter {
    call_layer: &'static str,
    attempt_layer: &'static str,
    sink: EventSink,
}

impl Reporter {
    pub(super) fn of<P: CallPolicy, A: AttemptPolicy>(call: &P, attempts: &A) -> Self {
        let (mut outermost, mut innermost) = (None, "driver");
        let mut first: Option<EventSink> = None;
        let mut visit = |layer, sink: &EventSink| {
            outermost.get_or_insert(layer);
            innermost = layer;
            if !first.as_ref().is_some_and(EventSink::is_observed) {
                first = Some(sink.clone());
            }
        };
        call.visit_sinks(&mut visit);
        attempts.visit_sinks(&mut visit);
        Self {
            call_layer: outermost.unwrap_or(innermost),
            attempt_layer: innermost,
            sink: first.unwrap_or_default(),
        }
    }

    /// Returns true if an observer or a subscriber gets events of this call.
    #[inline(always)]
    pub(super) fn is_on(&self, call: &Call) -> bool {
        // Three loads for a call without observer and subscriber.
        (LevelFilter::current() >= LevelFilter::WARN
            || self.sink.is_observed()
            || call.has_record())
            && self.is_wanted(call)
    }

    #[cold]
    fn is_wanted(&self, call: &Call) -> bool {
        self.sink.is_observed()
            || call.has_record()
            || tracing::enabled!(target: "tower_claude", tracing::Level::WARN)
            || spans::are_enabled()
    }

    /// Returns the own sink if it has an observer, or else the one of another driver.
    fn sink_or(&self, other: &EventSink) -> EventSink {
        match self.sink.is_observed() {
            true => self.sink.clone(),
            false => other.clone(),
        }
    }
}

/// The facts about one call in one driver, for its events. It exists only if they are wanted.
pub(super) struct Report {
    /// The number of the driver in the call.
    number: u32,
    /// The driver is the outermost one, and has not yet reported the end of the call.
    reports_call: bool,
    endpoint: Endpoint,
    /// The start of the present attempt.
    started_at: Instant,
    /// Present until the end of the attempt is reported.
    sent_at: Option<Instant>,
    /// The start of the delay before the next attempt.
    delayed_since: Option<Instant>,
    model: Option<Box<str>>,
    scope: Option<Scope>,
    status: Option<StatusCode>,
    request_id: Option<Box<str>>,
    cause: Option<Box<str>>,
    /// Facts about the response, if the observer wants them.
    response: Option<Box<ResponseDetails>>,
    /// The first content of the last attempt.
    first_content: Option<Instant>,
    /// The usage of the present attempt.
    usage: Usage,
    /// The properties of the present attempt that change its price, if there are prices for it.
    billing: Option<Billing>,
    /// False if the present attempt asks for no output (`max_tokens: 0`), so that none is no
    /// refusal.
    wants_output: bool,
    /// A subscriber gets the spans of this call.
    has_spans: bool,
    /// The observer wants the bodies of rejected requests.
    keeps_body: bool,
    /// Facts about the request, if the observer wants details.
    request: Option<RequestDetails>,
    /// The body of the present attempt, if it is kept.
    body: Option<Bytes>,
}

// All of it is off the path of a call without observer and subscriber.
impl Report {
    /// Starts to report a call. Its request is as the caller sent it.
    #[cold]
    pub(super) fn start(
        reporter: &Reporter,
        call: &Call,
        request: &mut Request<RequestBody>,
        now: Instant,
    ) -> Box<Self> {
        request.body_mut().parse();
        let mut record = call.record();
        let reports_call = record.drivers == 0 || record.ended;
        if reports_call {
            *record = CallRecord::new();
            record.asked = requested_model(request).map(Box::from);
            let endpoint = Endpoint::of(request.uri().path());
            let span = spans::of_call(endpoint, record.asked.as_deref());
            record.span = (!span.is_disabled()).then_some(span);
        }
        let has_spans = record.span.is_some();
        record.drivers += 1;
        if !record.sink.is_observed() {
            record.sink = reporter.sink.clone();
        }
        let sink = reporter.sink_or(&record.sink);
        let keeps_body = sink.wants_rejected_requests();
        let details = sink.wants_details().then(|| RequestDetails::of(request));
        Box::new(Self {
            number: record.drivers,
            reports_call,
            endpoint: Endpoint::of(request.uri().path()),
            started_at: now,
            sent_at: None,
            delayed_since: None,
            model: None,
            scope: None,
            status: None,
            request_id: None,
            cause: None,
            response: None,
            first_content: None,
            usage: Usage::default(),
            billing: None,
            wants_output: true,
            has_spans,
            keeps_body,
            request: details,
            body: None,
        })
    }

    /// Enters the span of the call.
    #[cold]
    pub(super) fn enter_call(&self, call: &Call) -> Entered {
        if !self.has_spans {
            return Entered::NONE;
        }
        let span = call.record().span.clone();
        Entered::new(span)
    }

    /// Enters the span of the present attempt, or else that of the call.
    #[cold]
    pub(super) fn enter_attempt(&self, call: &Call) -> Entered {
        if !self.has_spans {
            return Entered::NONE;
        }
        let record = call.record();
        let span = record
            .attempt_span
            .as_ref()
            .or(record.span.as_ref())
            .cloned();
        drop(record);
        Entered::new(span)
    }

    /// Records that the attempt is over and the next one follows after a delay.
    #[cold]
    pub(super) fn delay(&mut self) {
        self.delayed_since = Some(Instant::now());
    }

    /// Starts the next attempt, with this request.
    #[cold]
    pub(super) fn begin_attempt(&mut self, call: &Call, request: &Request<RequestBody>) {
        self.started_at = Instant::now();
        self.end_delay(call, self.started_at);
        self.reset(request);
    }

    /// Forgets the last attempt.
    fn reset(&mut self, request: &Request<RequestBody>) {
        self.model = requested_model(request).map(Box::from);
        self.status = None;
        self.request_id = None;
        self.cause = None;
        self.response = None;
        self.first_content = None;
        self.usage = Usage::default();
        self.billing = None;
    }

    fn end_delay(&mut self, call: &Call, now: Instant) {
        if let Some(since) = self.delayed_since.take() {
            call.record().backoff += now.saturating_duration_since(since);
        }
    }

    /// Records that the attempt is about to be sent.
    #[cold]
    pub(super) fn send(
        &mut self,
        call: &Call,
        request: &Request<RequestBody>,
        scope: Option<&Scope>,
        now: Instant,
    ) {
        // A policy may have changed the request.
        self.reset(request);
        self.set_billing(request);
        self.scope = scope.cloned();
        self.body = request.body().bytes().filter(|_| self.keeps_body).cloned();
        self.sent_at = Some(now);
        let mut record = call.record();
        let wait = now.saturating_duration_since(self.started_at);
        record.attempt_wait += wait;
        record.wait += wait;
        record.sender = self.number;
        record.model.clone_from(&self.model);
        if scope.is_some() {
            record.scope.clone_from(&self.scope);
        }
        if self.has_spans {
            self.start_span(&mut record);
        }
    }

    fn set_billing(&mut self, request: &Request<RequestBody>) {
        if self.endpoint != Endpoint::Messages {
            return;
        }
        let peek = request.body().peek();
        let platform = Platform::of(
            &host(request.uri(), request.headers()),
            request.uri().path(),
        );
        let billing = Billing::default()
            .with_fast(peek.is_some_and(Peek::fast))
            .with_us(peek.is_some_and(Peek::us_inference))
            .with_platform(platform);
        self.billing = Some(billing);
        self.wants_output = peek.and_then(Peek::max_tokens) != Some(0);
    }

    /// Returns the properties that change the price of the present attempt. The API bills a refusal
    /// before any output only for some of its reasons, so the price of such an attempt is not
    /// known.
    fn billing(&self) -> Option<Billing> {
        let may_be_refused = self.wants_output && self.usage.limited_output() == Some(0);
        self.billing.filter(|_| !may_be_refused)
    }

    /// Starts the span of an attempt, unless the attempt is part of one of an outer driver, which
    /// has started it.
    fn start_span(&self, record: &mut CallRecord) {
        let is_started = record.attempt_span.is_some() && record.span_driver < self.number;
        record.span_driver = self.number;
        if !is_started && let Some(call) = &record.span {
            let span = spans::of_attempt(call, self.model.as_deref(), record.attempts);
            record.attempt_span = Some(span);
        }
    }

    /// Records the usage of the attempt.
    #[cold]
    pub(super) fn set_usage(&mut self, usage: &Usage) {
        self.usage.clone_from(usage);
    }

    /// Returns true if no usage of the attempt is known.
    pub(super) fn has_no_usage(&self) -> bool {
        self.usage.is_empty()
    }

    /// Returns true if no inner driver reports the present attempt.
    #[cold]
    pub(super) fn is_sender(&self, call: &Call) -> bool {
        call.record().sender == self.number
    }

    #[cold]
    pub(super) fn on_head(&mut self, head: &Parts) {
        self.status = Some(head.status);
        self.request_id = wire::request_id(&head.headers).map(Box::from);
        if self.request.is_some() {
            self.response = Some(Box::new(ResponseDetails::of(&head.headers)));
        }
    }

    /// Records the body of a failed response.
    #[cold]
    pub(super) fn on_error_body(&mut self, body: &[u8]) {
        if let Some(response) = &mut self.response {
            response.add_error(body);
        }
    }

    #[cold]
    pub(super) fn set_cause(&mut self, cause: Option<String>) {
        self.cause = cause.map(Box::from);
    }

    /// Records that the first content has arrived.
    #[cold]
    pub(super) fn on_content(&mut self) {
        if self.first_content.is_none() {
            self.first_content = Some(Instant::now());
        }
    }

    pub(super) fn details(&self) -> AttemptDetails<'_> {
        AttemptDetails {
            model: self.model.as_deref(),
            scope: self.scope.as_ref(),
            status: self.status,
            request_id: self.request_id.as_deref(),
            cause: self.cause.as_deref(),
        }
    }

    /// Records that the attempt ends without having been sent.
    #[cold]
    pub(super) fn end_unsent(&mut self, call: &Call) {
        if self.has_spans
            && let Some(span) = call.record().attempt_span.take()
        {
            spans::record_unsent(&span);
        }
        if self.sent_at.take().is_none() && self.delayed_since.is_none() {
            let now = Instant::now();
            call.record().wait += now.saturating_duration_since(self.started_at);
        }
    }

    /// Reports the end of the attempt, unless an inner driver has done so.
    #[cold]
    pub(super) fn end_attempt(
        &mut self,
        reporter: &Reporter,
        call: &Call,
        ending: Ending,
        class: Class,
    ) {
        let Some(sent_at) = self.sent_at.take() else {
            return;
        };
        let now = Instant::now();
        let mut record = call.record();
        if record.sender != self.number {
            return;
        }
        record.sender = 0;
        record.attempts += 1;
        let sink = reporter.sink_or(&record.sink);
        let billing = self.billing();
        let bill = billing.zip(self.model.as_deref());
        let bill = bill.and_then(|(billing, model)| {
            let catalog = sink.catalog();
            catalog.bill(model, &self.usage, billing)
        });
        record.add_usage(&self.usage);
        record.add_bill(bill, &self.usage);
        record.request_id.clone_from(&self.request_id);
        record.cause.clone_from(&self.cause);
        let wait = std::mem::take(&mut record.attempt_wait);
        let span = record.attempt_span.take();
        let (number, attempt) = (record.number, record.attempts);
        drop(record);
        let end = AttemptEnd {
            layer: reporter.attempt_layer,
            call: number,
            attempt,
            ending,
            class,
            endpoint: self.endpoint,
            model: self.model.as_deref(),
            scope: self.scope.as_ref(),
            credential: call.known_credential(),
            tenant: call.tenant().map(|tenant| &*tenant.0),
            workload: call.workload(),
            status: self.status,
            request: self.request.as_ref(),
            response: self.response.as_deref(),
            wait,
            first_content: self
                .first_content
                .map(|at| at.saturating_duration_since(sent_at)),
            duration: now.saturating_duration_since(sent_at),
            usage: &self.usage,
            billing,
            bill,
            request_id: self.request_id.as_deref(),
            cause: self.cause.as_deref(),
        };
        let body = self.body.take();
        let emit_end = || {
            emit(&sink, &Event::AttemptEnded(&end));
            if self.keeps_body && matches!(class.kind, Kind::BadRequest | Kind::Forbidden) {
                sink.on_rejected_request(&end, body.as_deref());
            }
        };
        match span {
            Some(span) => {
                spans::record_attempt(&span, &end);
                span.in_scope(emit_end);
            }
            None => emit_end(),
        }
    }

    /// Reports the end of the call, if this is the outermost driver.
    #[cold]
    pub(super) fn end_call(&mut self, reporter: &Reporter, call: &Call, result: &CallResult) {
        if !std::mem::take(&mut self.reports_call) {
            return;
        }
        let now = Instant::now();
        let record = {
            let mut record = call.record();
            record.ended = true;
            let (drivers, number) = (record.drivers, record.number);
            let mut taken = std::mem::take(&mut *record);
            (record.ended, record.drivers, record.number) = (true, drivers, number);
            if self.cause.is_some() {
                taken.cause.clone_from(&self.cause);
            }
            taken
        };
        let arrived = call.first_arrival();
        let end = CallEnd {
            layer: reporter.call_layer,
            call: record.number,
            ending: result.ending,
            class: result.class,
            endpoint: self.endpoint,
            asked: record.asked.as_deref(),
            model: record.model.as_deref(),
            scope: record.scope.as_ref(),
            credential: call.known_credential(),
            tenant: call.tenant().map(|tenant| &*tenant.0),
            workload: call.workload(),
            status: result.status,
            attempts: record.attempts,
            wait: record.wait,
            backoff: record.backoff,
            first_content: self
                .first_content
                .map(|at| at.saturating_duration_since(arrived)),
            duration: now.saturating_duration_since(arrived),
            usage: &record.usage,
            bill: record.bill(),
            request_id: record.request_id.as_deref(),
            request: self.request.as_ref(),
            rejection: result.rejection,
            cause: record.cause.as_deref(),
            fallback: record.fallback,
        };
        let sink = reporter.sink_or(&record.sink);
        let emit_end = || emit(&sink, &Event::CallEnded(&end));
        match &record.span {
            Some(span) => {
                spans::record_call(span, &end);
                span.in_scope(emit_end);
            }
            None => emit_end(),
        }
    }

    /// Reports the end of an attempt whose response the caller has begun to get.
    pub(super) fn end_response(&mut self, reporter: &Reporter, call: &Call, failed: Option<Class>) {
        let (ending, class) = ending_of(failed);
        self.end_attempt(reporter, call, ending, class);
    }

    /// Reports the end of a call whose response the caller has begun to get.
    pub(super) fn end_answer(&mut self, reporter: &Reporter, call: &Call, failed: Option<Class>) {
        let (ending, class) = ending_of(failed);
        let result = CallResult {
            ending,
            class,
            status: self.status,
            rejection: None,
        };
        self.end_call(reporter, call, &result);
    }

    /// Reports that the caller has dropped the call. `is_sent` is true if the server may have its
    /// request.
    #[cold]
    pub(super) fn end_dropped(&mut self, reporter: &Reporter, call: &Call, is_sent: bool) {
        let now = Instant::now();
        self.end_delay(call, now);
        if is_sent {
            // A layer outside may have ended the attempt.
            let is_late =
                call.is_timed_out() || call.deadline().is_some_and(|deadline| deadline <= now);
            let (ending, class) = match is_late {
                true => (Ending::Failed, Class::new(Kind::Timeout)),
                false => (Ending::Dropped, Class::SUCCESS),
            };
            self.end_attempt(reporter, call, ending, class);
        } else {
            self.end_unsent(call);
        }
        let result = CallResult {
            ending: Ending::Dropped,
            class: Class::SUCCESS,
            status: self.status,
            rejection: None,
        };
        self.end_call(reporter, call, &result);
    }
}

/// Returns the end of a response that the caller has begun to get.
const fn ending_of(failed: Option<Class>) -> (Ending, Class) {
    match failed {
        Some(class) => (Ending::Broken, class),
        None => (Ending::Answered, Class::SUCCESS),
    }
}

/// The result of a call for its caller.
pub(super) struct CallResult {
    pub(super) ending: Ending,
    pub(super) class: Class,
    pub(super) status: Option<StatusCode>,
    pub(super) rejection: Option<Rejection>,
}

impl CallResult {
    /// Returns the result of a call that a layer has rejected.
    pub(super) fn rejected(rejection: &Rejection) -> Self {
        Self {
            ending: Ending::Failed,
            class: rejection.class(),
            status: Some(rejection.status()),
            rejection: Some(*rejection),
        }
    }
}
