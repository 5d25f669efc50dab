//! A cluster by the Kubernetes API: what the server says is in force, and stays so whatever becomes of the server.

mod answers;
mod outages;
mod pods;
mod protocol;
mod ready;
mod rights;
mod scene;
mod servers;
mod starts;
