//! What the layer does, one module per behaviour, over scripted services and paused time.
#![forbid(unsafe_code)]

mod api;
mod detached;
mod fake;
mod flights;
mod isolation;
mod limits;
mod marks;
mod replay;
mod storing;
mod stress;
mod times;
