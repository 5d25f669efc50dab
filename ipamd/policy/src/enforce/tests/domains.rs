//! What may be sent to by DNS names.
