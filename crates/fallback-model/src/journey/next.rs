//! Choosing whom to ask next, and making the request for it.

use bytes::Bytes;
use http::Request;
use tokio::time::Instant;
use tower_claude_core::{Call, Class, RequestBody, event::Event};

use super::{Detour, Journey};
use crate::{
    LAYER, Loss, Unportable,
    chains::Target,
    outage::Leave,
    policy::{Choice, choose},
    route::{CallTargets, View},
};

impl Journey {
    /// Chooses and makes the next request. `failed` is how the last one failed.
    pub(super) fn pick(&mut self, failed: Option<&Class>) -> Option<Request<RequestBody>> {
        self.look_up();
        let now = Instant::now();
        let remaining = self.context.deadline();
        let remaining = remaining.map(|deadline| deadline.saturating_duration_since(now));
        loop {
            let detour = self.detour.as_mut()?;
            let mut view = View {
                config: &self.config,
                route: &detour.route,
                now,
                back: detour.back,
            };
            let choice = choose(&mut view, &self.trail, remaining);
            detour.back = view.back;
            let (number, leave, shut) = match choice {
                Choice::Ask(number, leave, shut) => (number, leave, shut),
                Choice::Force(number, shut) => (number, Leave::default(), Some(shut)),
                Choice::Nobody => return None,
            };
            let ticket = self.ticket_for(number, leave);
            let request = if number == 0 {
                Ok((self.original(), Vec::new()))
            } else {
                self.rewritten(number)
            };
            let Ok((request, losses)) = request else {
                self.trail.rules_out(number);
                continue;
            };
            if number > 0 {
                let class = failed.copied().or(shut.map(|shut| shut.why));
                let class = class.unwrap_or(Class::SUCCESS);
                self.detour_mut().why.get_or_insert(class);
                self.say_fell_back(number, class, failed.is_some());
            }
            ticket.say_probe();
            // Who waits behind a probe waits for one attempt, not for all that a retry layer may make.
            self.context
                .set_probe(ticket.is_probe() && self.has_others(number));
            let detour = self.detour_mut();
            detour.losses = losses;
            detour.ticket = Some(ticket);
            self.at = number;
            return Some(request);
        }
    }

    /// A copy of the request as it came.
    pub(super) fn original(&self) -> Request<RequestBody> {
        self.original.copy()
    }

    /// The request for another model.
    fn rewritten(&self, number: usize) -> Result<(Request<RequestBody>, Vec<Loss>), Unportable> {
        let config = &self.config;
        let counted = self.context.counted_input();
        let options = config.rewrite.clone();
        let options = match counted {
            None => options,
            counted => options.with_input_tokens(counted),
        };
        let original = self.original.get();
        let rewritten = options.rewrite(
            original.headers(),
            original.body().bytes().unwrap_or(&Bytes::new()),
            original.body().model().unwrap_or_default(),
            &self.target(number).model,
            config.catalog.get(),
        )?;
        let mut request = Request::new(RequestBody::from(rewritten.body));
        *request.method_mut() = original.method().clone();
        *request.uri_mut() = original.uri().clone();
        *request.version_mut() = original.version();
        *request.headers_mut() = rewritten.headers;
        *request.extensions_mut() = original.extensions().clone();
        if let Some(context) = Call::of(original) {
            context.attach(&mut request);
        }
        Ok((request, rewritten.losses))
    }

    /// No target that draws on the same limits is asked.
    pub(super) fn rule_out_pool(&mut self) {
        let group = self.target(self.at).group.clone();
        self.rule_out(|target| target.group == group, 0);
    }

    /// Finds out what only matters when something is amiss.
    pub(super) fn look_up(&mut self) {
        if self.detour.is_some() {
            return;
        }
        let route = CallTargets::of(&self.config, self.chain, self.original.get());
        let asked = route.target(&self.config, 0).id.clone();
        self.detour = Some(Box::new(Detour {
            route,
            ticket: None,
            not_found: Vec::new(),
            why: None,
            losses: Vec::new(),
            sent: None,
            back: None,
        }));
        self.rule_out(|target| target.id == asked, 1);
    }

    fn rule_out(&mut self, out: impl Fn(&Target) -> bool, from: usize) {
        for number in from..self.route().count(&self.config) {
            if out(self.target(number)) {
                self.trail.rules_out(number);
            }
        }
    }

    /// Whether anybody could take over from this target.
    fn has_others(&self, number: usize) -> bool {
        let takes = |other| other == 0 || self.rewritten(other).is_ok();
        (0..self.route().count(&self.config))
            .any(|other| other != number && self.trail.is_open_to(other) && takes(other))
    }

    fn say_fell_back(&self, number: usize, class: Class, asked: bool) {
        let from = if asked { self.at } else { 0 };
        self.say(&Event::FellBack {
            layer: LAYER,
            from: &self.target(from).model,
            to: &self.target(number).model,
            class,
            asked,
        });
    }
}
