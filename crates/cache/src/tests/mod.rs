mod canonical;
mod entry;
mod frame_buffer;
mod keys;
mod memory;
