use super::{CacheOptions, cache_table};

#[test]
fn placeholder_compiles() {
    let mut options = CacheOptions::default();
    options.quick = true;
    assert!(cache_table(&options).is_ok());
}
