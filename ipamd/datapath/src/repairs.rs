//! What was put back in the kernel.

/// What was put back, a sentence each.
pub type Repairs = Vec<String>;
