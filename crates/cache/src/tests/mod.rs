mod canonical;
mod frame_buffer;
mod keys;
mod memory;
