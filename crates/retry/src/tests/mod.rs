mod backoff;
mod budget;
mod policy;
