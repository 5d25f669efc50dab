//! Types that are read from and written to maps as they are.

use std::slice;

/// A type whose every bit pattern is a value and which has no padding: it may be read from and written to a map.
///
/// # Safety
/// The implementor promises just that.
pub unsafe trait Plain: Copy + Default {
    /// The value as the map holds it.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: the type has no padding, so each of its bytes is initialised.
        unsafe { slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }

    /// The value that a map holds; `None` if the length is another.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == size_of::<Self>())
            // SAFETY: the length is right and every bit pattern is a value; the read need not be aligned.
            .then(|| unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }
}

macro_rules! plain {
    ($($type:ty),* $(,)?) => {
        // SAFETY: integers and arrays of them, padded by hand in intf.h; a test adds the fields up.
        $(unsafe impl $crate::layout::plain::Plain for $type {})*
    };
}
pub(super) use plain;
