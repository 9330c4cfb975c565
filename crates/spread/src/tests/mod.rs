mod conversation;
mod headroom;
mod health;
