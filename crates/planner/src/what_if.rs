//! Edits of the demand, for what-ifs.

use std::{str::FromStr, time::Duration};

use tower_claude_wire::ModelCatalog;

use crate::{
    demand::{Demand, PoolDemand},
    search::parse_duration,
    traffic::Names,
};

/// A change of the traffic, whose effect is to be known.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum WhatIf {
    /// `cache=0.6`: at least this share of each prompt is read from the cache.
    Cache(f64),
    /// `batch=tag:T`: the requests with this tag go through the Batches API.
    Batch(String),
    /// `spread=10m:tag:T`: the requests with this tag are spread over this time after they arrive.
    Spread(Duration, String),
    /// `model=A:B`: the requests for model A are sent to model B.
    Model(String, String),
    /// `keys=3`: the requests use several keys.
    Keys(u64),
    /// `workspaces=3`: the requests use several workspaces.
    Workspaces(u64),
    /// `max_tokens=1000`: requests have a lower `max_tokens` that does not cut their answers.
    MaxTokens(u64),
}

impl FromStr for WhatIf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || {
            format!(
                "{text:?} is no what-if: cache=0.6, batch=tag:T, spread=10m:tag:T, model=A:B, \
                 keys=N, workspaces=N, max_tokens=N"
            )
        };
        let (kind, value) = text.split_once('=').ok_or_else(error)?;
        let count = || value.parse::<u64>().map_err(|_| error());
        let tag = |text: &str| {
            let tag = text.strip_prefix("tag:").filter(|tag| !tag.is_empty());
            tag.map(str::to_owned).ok_or_else(error)
        };
        match kind {
            "cache" => {
                let share: f64 = value.parse().map_err(|_| error())?;
                let is_share = (0.0..=1.0).contains(&share);
                is_share.then_some(Self::Cache(share)).ok_or_else(error)
            }
            "batch" => Ok(Self::Batch(tag(value)?)),
            "spread" => {
                let (time, rest) = value.split_once(':').ok_or_else(error)?;
                let time = parse_duration(time)
                    .filter(|time| !time.is_zero())
                    .ok_or_else(error)?;
                Ok(Self::Spread(time, tag(rest)?))
            }
            "model" => {
                let (from, to) = value.split_once(':').ok_or_else(error)?;
                let is_empty = from.is_empty() || to.is_empty();
                (!is_empty)
                    .then(|| Self::Model(from.to_owned(), to.to_owned()))
                    .ok_or_else(error)
            }
            "keys" => Ok(Self::Keys(count()?)),
            "workspaces" => Ok(Self::Workspaces(count()?)),
            "max_tokens" => Ok(Self::MaxTokens(count()?)),
            _ => Err(error()),
        }
    }
}

impl std::fmt::Display for WhatIf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cache(share) => write!(f, "cache={share}"),
            Self::Batch(tag) => write!(f, "batch=tag:{tag}"),
            Self::Spread(time, tag) => write!(f, "spread={}s:tag:{tag}", time.as_secs_f64()),
            Self::Model(from, to) => write!(f, "model={from}:{to}"),
            Self::Keys(count) => write!(f, "keys={count}"),
            Self::Workspaces(count) => write!(f, "workspaces={count}"),
            Self::MaxTokens(count) => write!(f, "max_tokens={count}"),
        }
    }
}

/// The edited demand of a pool.
pub(crate) struct Edited {
    /// The requests that stay in the limits of Messages.
    pub(crate) demand: Vec<Demand>,
    /// The requests that go through the Batches API.
    pub(crate) batched: Vec<Demand>,
    /// The requests that another model answers.
    pub(crate) moved: Vec<Demand>,
}

impl WhatIf {
    /// Returns the reason for which the limits stay as tight as they are, or `None` if the what-if
    /// changes the demand.
    #[must_use]
    pub const fn no_effect(&self) -> Option<&'static str> {
        match self {
            Self::Keys(_) => {
                Some("no gain: limits are those of the organization, whatever the key")
            }
            Self::Workspaces(_) => {
                Some("no gain: a workspace's limit applies beside that of the organization")
            }
            Self::MaxTokens(_) => {
                Some("no effect: output is counted as it is produced, max_tokens is not counted")
            }
            _ => None,
        }
    }

    /// Returns the number of requests that the what-if concerns.
    pub(crate) fn count(&self, pools: &[PoolDemand], names: &Names) -> usize {
        let all = pools.iter().flat_map(|pool| &pool.demand);
        match self {
            Self::Batch(tag) | Self::Spread(_, tag) => {
                let tag = names.find(tag);
                all.filter(|request| Some(request.tag) == tag).count()
            }
            Self::Model(from, _) => all
                .filter(|request| is_model(names.get(request.model), from))
                .count(),
            _ => all.count(),
        }
    }

    /// Returns the demand of a pool after the change.
    pub(crate) fn edit(&self, demand: &[Demand], names: &Names) -> Edited {
        let mut edited = Edited {
            demand: Vec::with_capacity(demand.len()),
            batched: Vec::new(),
            moved: Vec::new(),
        };
        for (index, request) in demand.iter().enumerate() {
            match self {
                Self::Cache(share) => edited.demand.push(cached(request, *share)),
                Self::Batch(tag) if names.get(request.tag) == tag => edited.batched.push(*request),
                Self::Spread(time, tag) if names.get(request.tag) == tag => {
                    // The golden ratio spreads consecutive numbers evenly.
                    let place = (index as f64 * 0.618_033_988_75).fract();
                    let shift = (time.as_micros() as f64 * place) as i64;
                    edited.demand.push(Demand {
                        at: request.at + shift,
                        ..*request
                    });
                }
                Self::Model(from, _) if is_model(names.get(request.model), from) => {
                    edited.moved.push(*request);
                }
                _ => edited.demand.push(*request),
            }
        }
        edited.demand.sort_by_key(|request| request.at);
        edited
    }
}

/// Returns true if a model has this name, in any spelling.
fn is_model(model: &str, name: &str) -> bool {
    let catalog = ModelCatalog::builtin();
    model == name || (!model.is_empty() && catalog.lookup(model).id == catalog.lookup(name).id)
}

/// Returns a request of whose prompt at least this share is read from the cache.
fn cached(request: &Demand, share: f64) -> Demand {
    let prompt = request.input + request.cache_read + request.cache_write;
    let wanted = (prompt as f64 * share) as u64;
    let more = wanted.saturating_sub(request.cache_read);
    let from_input = more.min(request.input);
    let from_write = (more - from_input).min(request.cache_write);
    Demand {
        input: request.input - from_input,
        cache_write: request.cache_write - from_write,
        cache_read: request.cache_read + from_input + from_write,
        ..*request
    }
}
