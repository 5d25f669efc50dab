//! Length-prefixed frames: 4 bytes of big-endian length, then that many bytes of JSON.

use std::io::{self, Read, Write};

/// The largest frame that either side takes, in bytes. The largest honest message is a GC request that lists every
/// attachment of a node (about 150 bytes each); lists of unbounded length (conntrack) are cut into many frames.
pub const MAX_FRAME: u32 = 1 << 20;

/// Puts the length in front of `body`.
///
/// # Errors
/// `InvalidInput` if the body is larger than [`MAX_FRAME`].
pub fn encode(body: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= MAX_FRAME).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a frame of {} bytes is over the limit of {MAX_FRAME}", body.len()),
        )
    })?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(body);
    Ok(frame)
}

/// Reads the length out of a frame's first 4 bytes.
///
/// # Errors
/// `InvalidData` if the length is over [`MAX_FRAME`].
pub fn decode_length(prefix: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(prefix);
    if length > MAX_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes is over the limit of {MAX_FRAME}"),
        ));
    }
    Ok(length as usize)
}

/// Writes one frame.
///
/// # Errors
/// As [`encode`], and those of the writer.
pub fn write(mut to: impl Write, body: &[u8]) -> io::Result<()> {
    to.write_all(&encode(body)?)
}

/// Reads one frame's body.
///
/// # Errors
/// `UnexpectedEof` if the stream ends before the frame does, `InvalidData` if the frame is too large.
pub fn read(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut prefix = [0; 4];
    from.read_exact(&mut prefix)?;
    let mut body = vec![0; decode_length(prefix)?];
    from.read_exact(&mut body)?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..5)) {
            let mut stream = Vec::new();
            for body in &bodies {
                write(&mut stream, body).unwrap();
            }
            let mut rest = stream.as_slice();
            for body in &bodies {
                prop_assert_eq!(&read(&mut rest).unwrap(), body);
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn arbitrary_bytes_never_panic_or_allocate_beyond_the_limit(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(bytes.as_slice());
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_by_its_length() {
        assert_eq!(read(&u32::MAX.to_be_bytes()[..]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
