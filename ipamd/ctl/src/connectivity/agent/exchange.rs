//! What agents say to each other. Over TCP: a length and so many bytes; back come an [`Answer`] behind its length, and the
//! bytes. Over UDP: any datagram of at least [`LEAST`] bytes; back comes one of the same size that begins with the same
//! eight bytes and an [`Answer`] behind its length.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

/// The smallest datagram that is answered: there is room for an answer in it.
pub(super) const LEAST: usize = 256;
/// The most bytes that are taken over TCP.
const MOST: u32 = 4 << 20;
/// By which an answer is known to be one to this datagram.
const MARK: usize = 8;

/// Who answers, and whom it sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub name: String,
    pub client: SocketAddr,
}

/// An address in the form that both ends see, whatever sort of socket they have.
pub(super) fn plain(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 @ IpAddr::V4(_) => v4,
    };
    SocketAddr::new(ip, address.port())
}

pub(super) fn write_block(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_be_bytes())?;
    to.write_all(bytes)
}

pub(super) fn read_block(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MOST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{length} bytes are announced")));
    }
    let mut bytes = Vec::new();
    let got = from.take(length.into()).read_to_end(&mut bytes)?;
    if got != length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

/// A datagram of a size, with a mark.
pub(super) fn question(size: usize, mark: u64) -> Vec<u8> {
    let mut bytes = vec![b'.'; size.max(LEAST)];
    bytes[..MARK].copy_from_slice(&mark.to_be_bytes());
    bytes
}

/// The answer to a datagram; `None` if it is none of ours.
pub(super) fn answer(question: &[u8], answer: &Answer) -> Option<Vec<u8>> {
    if question.len() < LEAST {
        return None;
    }
    let json = serde_json::to_vec(answer).ok()?;
    let mut bytes = question.to_vec();
    let length = u16::try_from(json.len()).ok()?;
    bytes[MARK..MARK + 2].copy_from_slice(&length.to_be_bytes());
    bytes.get_mut(MARK + 2..MARK + 2 + json.len())?.copy_from_slice(&json);
    Some(bytes)
}

/// Reads the answer to a datagram; `None` if it is not that.
pub(super) fn answered(question: &[u8], bytes: &[u8]) -> Option<Answer> {
    if bytes.len() != question.len() || bytes[..MARK] != question[..MARK] {
        return None;
    }
    let length = u16::from_be_bytes([bytes[MARK], bytes[MARK + 1]]);
    serde_json::from_slice(bytes.get(MARK + 2..MARK + 2 + usize::from(length))?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_as_large_as_its_question_and_belongs_to_it() {
        let who = Answer { name: "server-0".into(), client: ([10, 0, 0, 1], 4000).into() };
        let asked = question(1472, 7);
        let told = answer(&asked, &who).unwrap();
        assert_eq!(told.len(), 1472);
        assert_eq!(answered(&asked, &told), Some(who.clone()));
        assert_eq!(answered(&question(1472, 8), &told), None);
        assert_eq!(answered(&question(1471, 7), &told), None);
        assert_eq!(answer(&[0; 20], &who), None);
    }

    #[test]
    fn blocks_are_whole_or_an_error() {
        let mut bytes = Vec::new();
        write_block(&mut bytes, b"hello").unwrap();
        assert_eq!(read_block(&mut &bytes[..]).unwrap(), b"hello");
        assert!(read_block(&mut &bytes[..7]).is_err());
        assert!(read_block(&mut &[0xff; 8][..]).is_err());
    }

    #[test]
    fn an_ipv4_address_is_one_on_a_socket_of_both_families() {
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:80".parse().unwrap();
        assert_eq!(plain(mapped), "10.0.0.1:80".parse().unwrap());
    }
}
