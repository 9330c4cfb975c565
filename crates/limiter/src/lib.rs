//! An exact vector bucket with a fair queue that paces requests and tokens for tower-claude layers.
