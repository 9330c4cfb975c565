mod canonical;
mod keys;
mod memory;
mod recording;
