mod backoff;
mod budget;
mod decide;
