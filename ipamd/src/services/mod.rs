//! Services: where connections to them go. What decides is here; [`crate::datapath`] performs.
