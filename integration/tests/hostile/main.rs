//! Raw frames of hostile pods and of a hostile wire: nobody is somebody else, and nothing gets past policy by its form.

mod checksums;
mod discovery;
mod flows;
mod forms;
mod icmp;
mod pieces;
mod pressure;
mod scene;
mod senders;
mod table;
