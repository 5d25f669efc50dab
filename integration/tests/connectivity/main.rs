//! `cambricctl connectivity`: on a healthy network it finds nothing, on a broken one it says what is broken and where to look,
//! and whatever happens it leaves nothing behind.

mod bare;
mod cluster;
mod kubelet;
mod resolver;
mod told;
