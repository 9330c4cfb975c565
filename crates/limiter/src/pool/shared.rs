//! The exchange of a pool with a store that several processes share.

use std::time::Duration;

use tower_claude_core::{RejectReason, Rejection, Scope};

use crate::{
    config::{LimiterConfig, Sharing},
    limits::PoolLimits,
    pool::{
        Pool,
        admission::NAME,
        bucket::{Bucket, Charge, DIMENSIONS, INPUT, nanos},
        external_use::ExternalUse,
        lease::Lease,
        queue::flow::{Waiter, WaiterId},
        share_message::{ShareMessage, SharePolicy, ShareReply},
    },
};

/// The `retry-after` of a rejection because the store does not answer.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The limits per minute before a response head.
pub(super) type LimitList = [Option<u64>; DIMENSIONS.len()];

impl Pool {
    /// Returns a pool whose levels are those of a store. It asks the store by its
    /// [messages](Self::take_message).
    #[must_use]
    pub fn shared(
        scope: Scope,
        limits: &PoolLimits,
        config: LimiterConfig,
        policy: &SharePolicy,
        now: u64,
    ) -> Self {
        let are_hints = config.limits_as_hint;
        let mut pool = Self::new(scope, limits, config, now);
        // The use by other processes is in the levels of the store.
        pool.external_use = ExternalUse::new(Sharing::Exclusive);
        pool.lease = Some(Box::new(Lease::new(
            policy,
            limits,
            are_hints,
            &pool.buckets,
        )));
        pool
    }

    /// Returns true if the pool has a message to the store. At most one is outstanding.
    #[must_use]
    pub fn has_message(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.has_message())
    }

    /// Takes the message to the store. The caller reports its answer with
    /// [`on_reply`](Self::on_reply), or its failure with [`on_no_reply`](Self::on_no_reply).
    pub fn take_message(&mut self, now: u64) -> Option<ShareMessage> {
        let now = self.advance(now);
        let gives_back = self.queued() == 0;
        let lease = self.lease.as_mut()?;
        lease.take_message(now, &self.buckets, gives_back)
    }

    /// Applies the answer to message `id`. Poll afterwards.
    pub fn on_reply(&mut self, now: u64, id: u64, reply: &ShareReply) {
        let now = self.advance(now);
        let Some(lease) = &mut self.lease else { return };
        let refused = lease.on_reply(now, id, reply, &mut self.buckets);
        lease.advance(now, &self.buckets);
        let pause = nanos(reply.pause.min(LimiterConfig::MAX_EXPLICIT_PAUSE));
        if pause > 0 {
            self.pacing.pause_until(now.saturating_add(pause));
        }
        if let Some((id, wait)) = refused {
            self.on_refused(now, id, wait);
        }
        self.review_lease();
    }

    /// Records that message `id` was not answered. Requests are admitted by the local share until
    /// the next answer. Poll afterwards.
    pub fn on_no_reply(&mut self, now: u64, id: u64) {
        let now = self.advance(now);
        if let Some(lease) = &mut self.lease {
            lease.on_failed(now, id, &self.buckets);
        }
    }

    /// Sets the reachability of the store. While it is down, the pool has no messages. Poll
    /// afterwards.
    pub fn set_store_down(&mut self, now: u64, down: bool) {
        let now = self.advance(now);
        if let Some(lease) = &mut self.lease {
            lease.set_down(now, down, &self.buckets);
        }
    }

    /// Returns true if the store decides about this request, so that it must not give up yet.
    pub(crate) fn is_asking_for(&self, id: WaiterId) -> bool {
        let lease = self.lease.as_ref();
        lease.is_some_and(|lease| lease.is_asking_for(id))
    }

    /// Returns true if the store does not answer, so that the local share holds.
    pub(super) fn is_local(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.is_local())
    }

    pub(super) fn is_refusing(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.is_refusing())
    }

    /// Rejects all requests while the store does not answer, if that is configured.
    pub(super) fn check_store(&self) -> Result<(), Rejection> {
        if self.is_refusing() {
            return Err(unavailable());
        }
        Ok(())
    }

    pub(super) fn refuse(&mut self, id: WaiterId) {
        self.queue.remove(id);
        self.shed.push((id, unavailable()));
    }

    /// Returns the time from which on the lease covers the charge, or `None` without a lease.
    pub(super) fn leased_from(
        &self,
        now: u64,
        charge: &Charge,
        id: Option<WaiterId>,
    ) -> Option<u64> {
        let lease = self.lease.as_ref()?;
        let charge = self.buckets.without_long_debt(*charge);
        Some(lease.earliest(now, &charge, id))
    }

    /// Asks the store for a block for the head of the queue. Returns true if it does.
    pub(super) fn ask_store(
        &mut self,
        now: u64,
        id: WaiterId,
        waiter: &Waiter,
        charge: &Charge,
    ) -> bool {
        if self.in_flight.is_full() {
            return false;
        }
        let margins = self.margins(charge[INPUT]);
        let total = self.queue.total();
        let behind = std::array::from_fn(|index| {
            let behind = total[index].saturating_sub(u128::from(waiter.charge[index]));
            u64::try_from(behind).unwrap_or(u64::MAX)
        });
        let charge = self.buckets.without_long_debt(*charge);
        let head = (id, &charge, waiter.expiry);
        let Some(lease) = &mut self.lease else {
            return false;
        };
        lease.ask(now, head, &behind, &self.buckets, margins)
    }

    /// Rejects a request whose wait in the store passes its longest wait.
    fn on_refused(&mut self, now: u64, id: WaiterId, wait: u64) {
        let Some(waiter) = self.queue.get(id).copied() else {
            return;
        };
        if waiter.expiry > now.saturating_add(wait) {
            return;
        }
        self.queue.remove(id);
        let estimated = Duration::from_nanos(wait);
        let remaining = Duration::from_nanos(waiter.expiry.saturating_sub(now));
        let reason = if waiter.has_deadline {
            RejectReason::DeadlineWouldPass {
                estimated,
                remaining,
            }
        } else {
            RejectReason::WaitTooLong {
                estimated,
                max_wait: remaining,
            }
        };
        let rejection = Rejection::new(NAME, reason).with_retry_after(Some(estimated));
        self.shed.push((id, rejection));
        if let Some(lease) = &mut self.lease {
            lease.retry_now();
        }
    }

    /// Returns the charges ahead, slowed down by the other processes.
    pub(super) fn slowed(&self, ahead: Charge) -> Charge {
        let Some(lease) = &self.lease else {
            return ahead;
        };
        let slowdown = lease.slowdown();
        ahead.map(|ahead| (ahead as f64 * slowdown) as u64)
    }

    /// Returns the wait for the local share, or 0.
    pub(super) fn local_wait(&self, now: u64, ahead: &Charge, charge: &Charge) -> u64 {
        let lease = self.lease.as_ref();
        lease.map_or(0, |lease| lease.wait_behind(now, ahead, charge))
    }

    pub(super) fn after_change(&mut self, sent_at: u64, old: &Charge, new: &Charge) {
        if let Some(lease) = &mut self.lease {
            lease.after_change(self.now, &self.buckets, sent_at, old, new);
        }
    }

    pub(super) fn before_head(&mut self) -> Option<LimitList> {
        let lease = self.lease.as_mut()?;
        lease.before_change(&self.buckets);
        Some(self.main_limits())
    }

    pub(super) fn after_head(&mut self, now: u64, before: Option<LimitList>) {
        let (Some(before), after) = (before, self.main_limits()) else {
            return;
        };
        let Some(lease) = &mut self.lease else { return };
        lease.after_head(now, &self.buckets);
        for (index, (before, after)) in before.into_iter().zip(after).enumerate() {
            if let Some(limit) = after.filter(|_| after != before) {
                lease.on_limit_changed(index, limit);
            }
        }
    }

    fn main_limits(&self) -> LimitList {
        std::array::from_fn(|index| self.buckets.bucket(index).map(Bucket::limit))
    }

    pub(super) fn review_lease(&mut self) {
        let is_idle = self.queued() == 0 && self.in_flight() == 0;
        if let Some(lease) = &mut self.lease {
            lease.review(&self.buckets, is_idle);
        }
    }
}

fn unavailable() -> Rejection {
    Rejection::new(NAME, RejectReason::LimiterUnavailable).with_retry_after(Some(RETRY_AFTER))
}
