//! The choice of a target for each attempt. Synchronous: time and chance are arguments.

use std::{collections::HashMap, hash::BuildHasher, sync::Arc, time::Duration};

use foldhash::fast::RandomState;
use tokio::time::Instant;
use tower_claude_core::{
    Class, Kind, Reach,
    driver::Reroute,
    toolkit::{CacheReads, PrefixMemory},
};
use tower_claude_wire::{RateCard, RateLimits, Usage};

use crate::{
    accounts::Accounts,
    conversation::{Conversation, STABLE},
    headroom::{Charge, Headroom},
    health::{Availability, HealthTable, ModelAtTarget, Unavailable},
    options::{SpreadOptions, SpreadTarget},
    skip::Skip,
    snapshot::{CoolDownSnapshot, SpreadSnapshot, TargetSnapshot},
};

/// The difference of costs up to which they count as equal, so that the hash decides.
const TIE: f64 = 0.03;
/// The output tokens that are expected before a response has ended.
const USUAL_OUTPUT: f64 = 512.0;
/// The weight of a new observation in a mean.
const NEW: f64 = 0.2;
/// The most pools whose headroom is kept for a target.
const MAX_POOLS: usize = 256;
/// The most models whose output and first content are known.
const MAX_MODELS: usize = 256;
/// The part of the input that is assumed to be new where the cache is expected to have all of it.
const LEAST_INPUT: u64 = 1;

/// The facts about a request on which the choice of a target depends.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SpreadRequest {
    /// The model as the request names it.
    pub(crate) name: Box<str>,
    /// The id of the model.
    pub model: Arc<str>,
    /// The group of models that share their limits.
    pub group: Arc<str>,
    /// The groups at targets that group models otherwise, by the index of the target.
    pub groups: Vec<Arc<str>>,
    /// The prices of the model on the Claude API.
    pub rates: RateCard,
    /// The estimated input tokens, cache reads included.
    pub input_tokens: u64,
    /// The most output tokens.
    pub max_tokens: Option<u64>,
    /// True if the request is a fast one, which has limits of its own.
    pub fast: bool,
    /// True if the thinking of the model is bound to the account.
    pub binds_account: bool,
    /// The account that the caller names for the thinking in the conversation.
    pub account: Option<Arc<str>>,
    /// The hash of the caller's credential, for targets that take it. 0 if it is not known.
    pub caller: u64,
    /// The conversation.
    pub conversation: Conversation,
}

impl SpreadRequest {
    /// Creates the facts about a request for a model, which is a group of its own.
    #[must_use]
    pub fn new(
        model: &str,
        rates: RateCard,
        input_tokens: u64,
        conversation: Conversation,
    ) -> Self {
        let model: Arc<str> = model.into();
        Self {
            name: (&*model).into(),
            group: model.clone(),
            groups: Vec::new(),
            model,
            rates,
            input_tokens,
            max_tokens: None,
            fast: false,
            binds_account: false,
            account: None,
            caller: 0,
            conversation,
        }
    }

    fn group_at(&self, target: usize) -> &Arc<str> {
        self.groups.get(target).unwrap_or(&self.group)
    }
}

/// The account to which the thinking of a conversation is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Binding {
    /// No thinking is bound.
    Free,
    /// The account that answered an earlier turn.
    Known(Arc<str>),
    /// The account that the caller has named.
    Named(Arc<str>),
    /// The account is not known, for instance after a restart. All processes assume the same one
    /// for a conversation, and keep to it. If it is another one, the API drops the thinking.
    Assumed(Arc<str>),
}

impl Binding {
    /// Returns the account, if the thinking is bound.
    #[must_use]
    pub fn account(&self) -> Option<&Arc<str>> {
        match self {
            Self::Free => None,
            Self::Known(account) | Self::Named(account) | Self::Assumed(account) => Some(account),
        }
    }
}

/// The reason why a target was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// Nothing else was left.
    Only,
    /// The conversation is in the prompt cache of the target.
    Cache,
    /// The target costs the least.
    Cost,
    /// Several targets cost the same, and the hash of the conversation decides.
    Hash,
    /// All targets are down, and this one is expected back first.
    Soonest,
}

impl Reason {
    /// Returns the name for logs and events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Only => "only",
            Self::Cache => "cache",
            Self::Cost => "cost",
            Self::Hash => "hash",
            Self::Soonest => "soonest",
        }
    }
}

/// The result of a target in one call so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tried {
    /// Not tried.
    No,
    /// It has failed, and may be asked again when all others have failed as well.
    Failed(Skip),
    /// It cannot serve the request of this call.
    Excluded(Skip),
}

/// A choice.
#[derive(Debug)]
#[non_exhaustive]
pub enum Choice {
    /// Send the request to a target.
    Send(Lease),
    /// All targets are paused. Choose again at this time.
    Wait {
        /// The end of the first pause.
        until: Instant,
    },
    /// No target is left.
    None {
        /// The time after which a target may be available again.
        retry_after: Option<Duration>,
    },
}

/// A request that was assigned to a target. It must be given back by
/// [`Spreader::on_end`], [`Spreader::on_failure`] or [`Spreader::release`].
#[derive(Debug)]
#[must_use = "the request counts as in flight until the lease is given back"]
pub struct Lease {
    target: usize,
    pool: LimitPool,
    model: Arc<str>,
    reason: Reason,
    binding: Binding,
    charge: Charge,
    reads: Option<CacheReads>,
    /// The id of the probe, if the request is one.
    probe: Option<u64>,
    /// The hash of the prompt, if thinking in its answer will be bound.
    bound_prompt: Option<u64>,
    output_weight: f64,
    sent: Instant,
}

impl Lease {
    fn place(&self) -> ModelAtTarget<'_> {
        ModelAtTarget {
            target: self.target,
            caller: self.pool.caller,
            group: &self.pool.group,
            model: &self.model,
        }
    }

    /// Returns the index of the target.
    #[must_use]
    pub const fn target(&self) -> usize {
        self.target
    }

    /// Returns the reason of the choice.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// Returns the account to which the thinking of the conversation is bound.
    #[must_use]
    pub const fn binding(&self) -> &Binding {
        &self.binding
    }

    /// Returns true if the request finds out whether the target has recovered.
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.probe.is_some()
    }

    /// Returns the tokens that are expected to be read from the prompt cache.
    #[must_use]
    pub fn expected_reads(&self) -> u64 {
        self.reads.map_or(0, |reads| reads.tokens)
    }

    /// Sets the time at which the request was sent, if it had to wait after the choice.
    pub fn set_sent(&mut self, now: Instant) {
        self.sent = now;
    }
}

/// The models and the callers that share the limits of a target.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct LimitPool {
    group: Arc<str>,
    fast: bool,
    /// The credential of the caller, as a hash. 0 for a target that has a credential of its own.
    caller: u64,
}

/// The state of one target.
#[derive(Debug)]
struct TargetState {
    settings: SpreadTarget,
    account: Arc<str>,
    /// The hash of the name, for the rendezvous.
    name: u64,
    prefixes: PrefixMemory,
    headroom: HashMap<LimitPool, Headroom, RandomState>,
    /// The mean time to the first content of each model, in seconds.
    first_content: HashMap<Arc<str>, f64, RandomState>,
    sent: u64,
    failed: u64,
}

/// A target that may get a request.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    target: usize,
    is_probe: bool,
    cost: f64,
    reads: u64,
}

/// The choice of targets, without a clock and without a runtime.
///
/// For each target that may get a request, the cost is
///
/// ```text
/// price(input - cache reads expected there, cache reads expected there, expected output)
///   + price of a second * (wait for headroom + first content + penalty for recent failures)
/// ```
///
/// The least cost wins. Costs within 3 % are equal: the conversation then goes to the winner of a
/// weighted rendezvous hash, so that its turns stay together and a lost target moves only its own
/// conversations. Cache reads make the target of earlier turns cheaper until their lifetime ends,
/// so that a conversation stays where its cache is for as long as that pays.
#[derive(Debug)]
pub struct Spreader {
    options: SpreadOptions,
    targets: Vec<TargetState>,
    health: HealthTable,
    accounts: Accounts,
    /// The mean output of each model.
    output: HashMap<Arc<str>, f64, RandomState>,
}

impl Spreader {
    /// Creates the choice among these targets. Of targets with the same name, the first counts.
    #[must_use]
    pub fn new(options: SpreadOptions, targets: Vec<SpreadTarget>) -> Self {
        let mut states: Vec<TargetState> = Vec::with_capacity(targets.len());
        for settings in targets {
            let is_same = |known: &TargetState| known.settings.target() == settings.target();
            if states.iter().any(is_same) {
                continue;
            }
            states.push(TargetState {
                account: settings.target().account().into(),
                name: STABLE.hash_one(settings.target().name()),
                settings,
                prefixes: PrefixMemory::new(),
                headroom: HashMap::default(),
                first_content: HashMap::default(),
                sent: 0,
                failed: 0,
            });
        }
        Self {
            options,
            targets: states,
            health: HealthTable::default(),
            accounts: Accounts::default(),
            output: HashMap::default(),
        }
    }

    /// Returns the number of targets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Returns true if there is no target.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Returns the settings of a target.
    #[must_use]
    pub fn target(&self, index: usize) -> Option<&SpreadTarget> {
        self.targets.get(index).map(|state| &state.settings)
    }

    /// Returns the credential on which a request draws at a target: 0, or that of the caller.
    fn caller_at(&self, request: &SpreadRequest, target: usize) -> u64 {
        let settings = &self.targets[target].settings;
        if settings.keeps_credential() {
            request.caller
        } else {
            0
        }
    }

    fn place<'r>(&self, request: &'r SpreadRequest, target: usize) -> ModelAtTarget<'r> {
        ModelAtTarget {
            target,
            caller: self.caller_at(request, target),
            group: request.group_at(target),
            model: &request.model,
        }
    }

    fn pool(&self, request: &SpreadRequest, target: usize) -> LimitPool {
        LimitPool {
            group: request.group_at(target).clone(),
            fast: request.fast,
            caller: self.caller_at(request, target),
        }
    }

    /// Chooses the target of an attempt.
    ///
    /// `tried` has one element for each target. `skipped` gets the other targets that could not be
    /// chosen. `latest` is the time until which the request may wait.
    pub fn choose(
        &mut self,
        request: &SpreadRequest,
        tried: &[Tried],
        skipped: &mut Vec<(usize, Skip)>,
        latest: Instant,
        now: Instant,
    ) -> Choice {
        skipped.clear();
        let binding = self.binding(request, tried, now);
        let charges: Vec<Charge> = (0..self.targets.len())
            .map(|target| self.charge(request, target, now))
            .collect();
        let mut open = Vec::with_capacity(self.targets.len());
        let mut again = Vec::new();
        let mut down: Vec<(usize, Unavailable)> = Vec::new();
        for (target, charge) in charges.iter().enumerate() {
            let tried = tried.get(target).copied().unwrap_or(Tried::No);
            if let Tried::Excluded(skip) = tried {
                skipped.push((target, skip));
                continue;
            }
            if let Some(account) = binding.account()
                && *account != self.targets[target].account
            {
                skipped.push((target, Skip::Account));
                continue;
            }
            let state = self.health.availability(self.place(request, target), now);
            let list = match tried {
                Tried::Failed(skip) => {
                    skipped.push((target, skip));
                    &mut again
                }
                _ => &mut open,
            };
            match state {
                Availability::Unavailable(unavailable) => {
                    if tried == Tried::No {
                        skipped.push((target, skip_of(&unavailable, now)));
                    }
                    down.push((target, unavailable));
                }
                Availability::Open | Availability::Probe => {
                    let is_probe = state == Availability::Probe;
                    list.push(self.candidate(request, target, is_probe, charge, now));
                }
            }
        }
        // Each target once, and all of them before one comes again.
        let list = if open.is_empty() { again } else { open };
        if let Some((candidate, reason)) = self.best(request, &list) {
            return self.send(request, candidate, reason, binding, &charges, skipped, now);
        }
        let Some((target, unavailable)) = down.into_iter().min_by_key(|(_, it)| it.until) else {
            return Choice::None { retry_after: None };
        };
        if unavailable.must_wait() && unavailable.until > now {
            if unavailable.until <= latest {
                return Choice::Wait {
                    until: unavailable.until,
                };
            }
            // Only a pause that the server has asked for rejects a request, and never a guess.
            if unavailable.is_explicit {
                return Choice::None {
                    retry_after: Some(unavailable.until.saturating_duration_since(now)),
                };
            }
        }
        let candidate = self.candidate(request, target, false, &charges[target], now);
        self.send(
            request,
            candidate,
            Reason::Soonest,
            binding,
            &charges,
            skipped,
            now,
        )
    }

    #[expect(clippy::too_many_arguments, reason = "the last step of one function")]
    fn send(
        &mut self,
        request: &SpreadRequest,
        candidate: Candidate,
        reason: Reason,
        binding: Binding,
        charges: &[Charge],
        skipped: &mut Vec<(usize, Skip)>,
        now: Instant,
    ) -> Choice {
        let target = candidate.target;
        skipped.retain(|(other, _)| *other != target);
        let place = self.place(request, target);
        let probe = candidate
            .is_probe
            .then(|| self.health.begin_probe(place, now));
        let pool = self.pool(request, target);
        let charge = charges[target];
        let state = &mut self.targets[target];
        state.sent += 1;
        headroom_of(state, &pool, now).take(&charge, now);
        let conversation = &request.conversation;
        let reads = state.prefixes.expect(&conversation.prefixes, now);
        Choice::Send(Lease {
            target,
            pool,
            model: request.model.clone(),
            reason,
            binding,
            charge,
            reads,
            probe,
            bound_prompt: request.binds_account.then_some(conversation.content),
            output_weight: f64::from(state.settings.output_weight().get()),
            sent: now,
        })
    }

    /// Returns the account to which the thinking of a conversation is bound.
    fn binding(&mut self, request: &SpreadRequest, tried: &[Tried], now: Instant) -> Binding {
        let thinking = &request.conversation.thinking;
        if self.options.may_lose_thinking || thinking.is_empty() {
            return Binding::Free;
        }
        if let Some(account) = &request.account {
            return Binding::Named(account.clone());
        }
        if let Some(account) = self.accounts.find(thinking, now) {
            return Binding::Known(account);
        }
        if !request.binds_account {
            return Binding::Free;
        }
        // Health and headroom differ between processes, and do not count here. Nor does a failure
        // in this call, or its second attempt would go to another account.
        let could = |target: &usize| {
            let tried = tried.get(*target).copied().unwrap_or(Tried::No);
            !matches!(
                tried,
                Tried::Excluded(
                    Skip::Residency
                        | Skip::Unportable(_)
                        // Without the model, the account cannot have made its thinking.
                        | Skip::Failed(Kind::Forbidden | Kind::NotFound)
                )
            )
        };
        let all = (0..self.targets.len()).filter(could);
        let Some(target) = self.rendezvous(request.conversation.key, all) else {
            return Binding::Free;
        };
        Binding::Assumed(self.targets[target].account.clone())
    }

    /// Returns the winner of the weighted rendezvous hash.
    fn rendezvous(&self, key: u64, targets: impl Iterator<Item = usize>) -> Option<usize> {
        let score = |target: usize| {
            let state = &self.targets[target];
            let hash = STABLE.hash_one((key, state.name));
            // In (0, 1), so that the logarithm is negative and finite.
            let uniform = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            f64::from(state.settings.weight().get()) / -uniform.ln()
        };
        targets.max_by(|a, b| score(*a).total_cmp(&score(*b)))
    }

    /// Returns the use of limits that a request is expected to have at a target.
    fn charge(&self, request: &SpreadRequest, target: usize, now: Instant) -> Charge {
        let state = &self.targets[target];
        let reads = state
            .prefixes
            .predict(&request.conversation.prefixes, now)
            .min(request.input_tokens);
        let input = request.input_tokens.saturating_sub(reads).max(LEAST_INPUT);
        let output = match request.max_tokens {
            Some(max) if state.settings.holds_max_tokens() => max as f64,
            _ => self.expected_output(request),
        };
        let weight = f64::from(state.settings.output_weight().get());
        Charge {
            requests: 1.0,
            input: input as f64,
            output,
            all: input as f64 + weight * output,
        }
    }

    fn expected_output(&self, request: &SpreadRequest) -> f64 {
        let mean = self.output.get(&request.model).copied();
        let mean = mean.unwrap_or(USUAL_OUTPUT);
        request.max_tokens.map_or(mean, |max| mean.min(max as f64))
    }

    /// Returns a target with its cost in nano-dollars.
    fn candidate(
        &self,
        request: &SpreadRequest,
        target: usize,
        is_probe: bool,
        charge: &Charge,
        now: Instant,
    ) -> Candidate {
        let state = &self.targets[target];
        let rates = &request.rates;
        let reads = (request.input_tokens as f64 - charge.input).max(0.0);
        // What is not read is written, if the prompt is cached at all.
        let input = if request.conversation.is_marked || reads > 0.0 {
            rates.cache_write_5m
        } else {
            rates.input
        };
        let price = charge.input * input as f64
            + reads * rates.cache_read as f64
            + self.expected_output(request) * rates.output as f64;
        let price = price * f64::from(state.settings.price_percent()) / 100.0;
        let headroom = state.headroom.get(&self.pool(request, target));
        let wait = headroom.map_or(Duration::ZERO, |headroom| headroom.wait(charge, now));
        // A cool-down that is over is not held against its probe, or no probe would ever be sent.
        let penalty = if is_probe {
            0.0
        } else {
            self.health.penalty(self.place(request, target), now)
        };
        let seconds = wait.as_secs_f64() + self.first_content(target, &request.model) + penalty;
        let second = self.options.second_price.picos() as f64 / 1_000.0;
        Candidate {
            target,
            is_probe,
            cost: price + second * seconds,
            reads: reads as u64,
        }
    }

    /// Returns the expected time to the first content in seconds. A target whose time is not known
    /// gets the best of the others, so that it is tried.
    fn first_content(&self, target: usize, model: &Arc<str>) -> f64 {
        let of = |state: &TargetState| state.first_content.get(model).copied();
        of(&self.targets[target]).unwrap_or_else(|| {
            let best = self.targets.iter().filter_map(of).min_by(f64::total_cmp);
            best.unwrap_or(0.0)
        })
    }

    /// Returns the candidate with the least cost.
    fn best(&self, request: &SpreadRequest, list: &[Candidate]) -> Option<(Candidate, Reason)> {
        let costs = list.iter().map(|candidate| candidate.cost);
        let least = costs.min_by(f64::total_cmp)?;
        let most = least + TIE * least.abs();
        let tied = || list.iter().filter(|candidate| candidate.cost <= most);
        let reason = match (list.len(), tied().count()) {
            (1, _) => Reason::Only,
            (_, 1) => Reason::Cost,
            _ => Reason::Hash,
        };
        let key = request.conversation.key;
        let target = self.rendezvous(key, tied().map(|candidate| candidate.target))?;
        let chosen = *list.iter().find(|candidate| candidate.target == target)?;
        let others = list.iter().filter(|candidate| candidate.target != target);
        let has_more = others
            .map(|other| other.reads)
            .all(|reads| reads < chosen.reads);
        match reason {
            Reason::Cost if chosen.reads > 0 && has_more => Some((chosen, Reason::Cache)),
            reason => Some((chosen, reason)),
        }
    }

    /// Returns the way of another attempt after `tried`. It changes nothing.
    pub fn next(&mut self, request: &SpreadRequest, tried: &[Tried], now: Instant) -> Reroute {
        let binding = self.binding(request, tried, now);
        let mut soonest: Option<Duration> = None;
        for target in 0..self.targets.len() {
            let tried = tried.get(target).copied().unwrap_or(Tried::No);
            let is_other = |account: &Arc<str>| *account != self.targets[target].account;
            if matches!(tried, Tried::Excluded(_)) || binding.account().is_some_and(is_other) {
                continue;
            }
            let state = self.health.availability(self.place(request, target), now);
            let wait = match state {
                Availability::Unavailable(unavailable) if unavailable.must_wait() => {
                    unavailable.until.saturating_duration_since(now)
                }
                Availability::Unavailable(_) => Duration::ZERO,
                Availability::Open | Availability::Probe if tried == Tried::No => {
                    return Reroute::AtOnce;
                }
                Availability::Open | Availability::Probe => Duration::ZERO,
            };
            soonest = Some(soonest.map_or(wait, |soonest| soonest.min(wait)));
        }
        soonest.map_or(Reroute::Nowhere, Reroute::After)
    }

    /// Records that a target has begun to answer: the head of a success has arrived.
    pub fn on_success(&mut self, lease: &Lease, now: Instant) {
        self.health.on_success(lease.place(), lease.sent, now);
        if let Some(prompt) = lease.bound_prompt {
            let account = self.targets[lease.target].account.clone();
            self.accounts.insert(prompt, account, now);
        }
    }

    /// Records the first content of a stream.
    pub fn on_first_content(&mut self, lease: &Lease, now: Instant) {
        let took = now.saturating_duration_since(lease.sent).as_secs_f64();
        let state = &mut self.targets[lease.target];
        learn_mean(&mut state.first_content, &lease.model, took);
    }

    /// Records the rate-limit headers of a response.
    pub fn on_limits(&mut self, lease: &Lease, limits: &RateLimits, now: Instant) {
        let state = &mut self.targets[lease.target];
        headroom_of(state, &lease.pool, now).on_limits(limits, lease.pool.fast, now);
    }

    /// Records that the request has failed, and that the target used nothing for it.
    ///
    /// `has_limits` is true if the response had rate-limit headers. `chance` is in `[0, 1)`.
    pub fn on_failure(
        &mut self,
        lease: Lease,
        class: &Class,
        has_limits: bool,
        now: Instant,
        chance: f64,
    ) {
        self.targets[lease.target].failed += 1;
        self.report(&lease, class, now, chance);
        let state = &mut self.targets[lease.target];
        let headroom = headroom_of(state, &lease.pool, now);
        headroom.settle(&lease.charge, &Charge::default(), now);
        if class.is_rate_limit() && !has_limits {
            headroom.on_rate_limited(now);
        }
        self.forget(lease);
    }

    /// Records a failure that came after the response had begun.
    pub fn on_broken(&mut self, lease: &Lease, class: &Class, now: Instant, chance: f64) {
        self.targets[lease.target].failed += 1;
        self.report(lease, class, now, chance);
    }

    fn report(&mut self, lease: &Lease, class: &Class, now: Instant, chance: f64) {
        if class.local {
            return;
        }
        self.health
            .on_failure(lease.place(), class, lease.sent, now, chance);
    }

    /// Records that a target rejects a model that another target serves. It is not asked for the
    /// model for a while.
    pub fn on_missing_model(
        &mut self,
        target: usize,
        request: &SpreadRequest,
        class: &Class,
        now: Instant,
        chance: f64,
    ) {
        let class = class.with_reach(Reach::Model);
        let place = self.place(request, target);
        self.health.on_failure(place, &class, now, now, chance);
    }

    /// Records the end of a response. `usage` is absent if it is not known.
    pub fn on_end(&mut self, mut lease: Lease, usage: Option<&Usage>, now: Instant) {
        let read = usage.and_then(|usage| usage.cache_read_input_tokens);
        let written = usage.and_then(|usage| usage.cache_creation_input_tokens);
        let plain = usage.and_then(|usage| usage.input_tokens);
        let output = usage.and_then(|usage| usage.output_tokens);
        let state = &mut self.targets[lease.target];
        if plain.is_some()
            && let Some(reads) = lease.reads.take()
        {
            let (read, written) = (read.unwrap_or(0), written.unwrap_or(0));
            state.prefixes.learn(reads.id, read, written);
        }
        let mut actual = lease.charge;
        if let Some(plain) = plain {
            actual.input = plain.saturating_add(written.unwrap_or(0)) as f64;
        }
        if let Some(output) = output {
            actual.output = output as f64;
            learn_mean(&mut self.output, &lease.model, output as f64);
        }
        actual.all = actual.input + lease.output_weight * actual.output;
        headroom_of(state, &lease.pool, now).settle(&lease.charge, &actual, now);
        self.forget(lease);
    }

    /// Gives back a request that was not sent, or whose fate is not known.
    pub fn release(&mut self, lease: Lease, now: Instant) {
        let state = &mut self.targets[lease.target];
        let headroom = headroom_of(state, &lease.pool, now);
        headroom.settle(&lease.charge, &Charge::default(), now);
        self.forget(lease);
    }

    /// Ends what still belongs to a lease.
    #[expect(clippy::needless_pass_by_value, reason = "a lease ends once")]
    fn forget(&mut self, lease: Lease) {
        if let Some(reads) = lease.reads {
            self.targets[lease.target].prefixes.forget(reads.id);
        }
        if let Some(probe) = lease.probe {
            self.health.end_probe(lease.target, probe);
        }
    }

    /// Returns the state of all targets.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> SpreadSnapshot {
        SpreadSnapshot {
            targets: (0..self.targets.len())
                .map(|index| self.snapshot_of(index, now))
                .collect(),
            bound_prompts: self.accounts.len(),
        }
    }

    fn snapshot_of(&self, index: usize, now: Instant) -> TargetSnapshot {
        let state = &self.targets[index];
        let cool_downs = self.health.cool_downs(now);
        let cool_downs = cool_downs.filter(|(target, ..)| *target == index);
        let mut learned: Vec<(Arc<str>, u64)> = state
            .headroom
            .iter()
            .filter_map(|(pool, headroom)| {
                Some((pool.group.clone(), headroom.learned_limit(now)? as u64))
            })
            .collect();
        learned.sort();
        let mut cool_downs: Vec<_> = cool_downs
            .map(|(_, part, because, left)| CoolDownSnapshot {
                part: part.name(),
                because,
                left,
            })
            .collect();
        cool_downs.sort_by(|a, b| a.part.cmp(&b.part));
        TargetSnapshot {
            name: state.settings.target().name().into(),
            sent: state.sent,
            failed: state.failed,
            cool_downs,
            learned_limits: learned,
        }
    }
}

/// Returns the headroom of a target for a pool. Creates it, and forgets idle ones if there are
/// many.
fn headroom_of<'a>(state: &'a mut TargetState, pool: &LimitPool, now: Instant) -> &'a mut Headroom {
    if state.headroom.len() >= MAX_POOLS && !state.headroom.contains_key(pool) {
        state.headroom.retain(|_, headroom| !headroom.is_idle(now));
        if state.headroom.len() >= MAX_POOLS {
            state.headroom.clear();
        }
    }
    let limits = *state.settings.limits();
    let headroom = state.headroom.entry(pool.clone());
    headroom.or_insert_with(|| Headroom::new(&limits, now))
}

fn learn_mean(means: &mut HashMap<Arc<str>, f64, RandomState>, model: &Arc<str>, value: f64) {
    if means.len() >= MAX_MODELS && !means.contains_key(model) {
        means.clear();
    }
    let mean = means.entry(model.clone()).or_insert(value);
    *mean += NEW * (value - *mean);
}

fn skip_of(unavailable: &Unavailable, now: Instant) -> Skip {
    if unavailable.is_probed {
        return Skip::Probed;
    }
    Skip::CoolDown {
        because: unavailable.kind,
        left: unavailable.until.saturating_duration_since(now),
    }
}
