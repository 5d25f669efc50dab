//! How requests are read. A filter with a field that is not known would be wider than the client means, so the request is refused. A
//! field beside the filters that is not known changes nothing that is told, as with other servers.

use std::marker::PhantomData;

use prost::{Message, bytes::Buf, encoding::decode_varint};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::ProstEncoder;

use crate::proto::{
    flow::FlowFilter,
    health::{HealthCheckRequest, HealthCheckResponse},
    observer::{
        GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse,
        GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse, GetNodesRequest,
        GetNodesResponse, ServerStatusRequest, ServerStatusResponse,
    },
    peer::{ChangeNotification, NotifyRequest},
};

/// Fields of a request for flows that have filters.
const FILTERS: [u64; 2] = [5, 6];

/// What can be read from a connection.
pub trait Readable: Message + Default + 'static {
    /// What of these bytes, which it was read from, is not understood and must be.
    fn not_understood(_: &[u8]) -> Option<&'static str> {
        None
    }
}

macro_rules! readable {
    ($($message:ty),+) => { $(impl Readable for $message {})+ };
}

readable!(
    GetAgentEventsRequest,
    GetAgentEventsResponse,
    GetDebugEventsRequest,
    GetDebugEventsResponse,
    GetFlowsResponse,
    GetNamespacesRequest,
    GetNamespacesResponse,
    GetNodesRequest,
    GetNodesResponse,
    ServerStatusRequest,
    ServerStatusResponse,
    ChangeNotification,
    NotifyRequest,
    HealthCheckRequest,
    HealthCheckResponse
);

impl Readable for GetFlowsRequest {
    fn not_understood(bytes: &[u8]) -> Option<&'static str> {
        // What is not known is gone from a filter that was read, so that it is shorter.
        let is_understood =
            |filter: &[u8]| FlowFilter::decode(filter).is_ok_and(|it| it.encoded_len() == filter.len());
        (!messages(bytes).all(|(field, message)| !FILTERS.contains(&field) || is_understood(message)))
            .then_some("a filter has a field that is not known here; a request without it is served")
    }
}

/// The fields of a message that have bytes, with their numbers. What is not well formed ends it.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    const VARINT: u64 = 0;
    const EIGHT_BYTES: u64 = 1;
    const LENGTH: u64 = 2;
    const FOUR_BYTES: u64 = 5;
    std::iter::from_fn(move || {
        while bytes.has_remaining() {
            let key = decode_varint(&mut bytes).ok()?;
            let skipped = match key & 7 {
                VARINT => decode_varint(&mut bytes).ok().map(|_| 0)?,
                EIGHT_BYTES => 8,
                FOUR_BYTES => 4,
                LENGTH => {
                    let length = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
                    let (message, rest) = bytes.split_at_checked(length)?;
                    bytes = rest;
                    return Some((key >> 3, message));
                }
                _ => return None,
            };
            bytes = bytes.get(skipped..)?;
        }
        None
    })
}

/// Reads and writes messages.
#[derive(Debug)]
pub struct StrictCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for StrictCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + 'static, U: Readable> Codec for StrictCodec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = StrictDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        StrictDecoder(PhantomData)
    }
}

/// Reads messages.
#[derive(Debug)]
pub struct StrictDecoder<U>(PhantomData<U>);

impl<U: Readable> Decoder for StrictDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let bytes = buf.copy_to_bytes(buf.remaining());
        let message = U::decode(&*bytes)
            .map_err(|error| Status::invalid_argument(format!("the request cannot be read: {error}")))?;
        match U::not_understood(&bytes) {
            Some(what) => Err(Status::invalid_argument(what)),
            None => Ok(Some(message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::timestamp;

    #[test]
    fn a_filter_with_an_unknown_field_is_refused_and_one_beside_it_is_not() {
        let filter = FlowFilter {
            source_pod: vec!["shop/web".into(), String::new()],
            verdict: vec![1, 2, 1_000],
            reply: vec![true, false],
            ..FlowFilter::default()
        };
        let request = GetFlowsRequest {
            number: 5,
            follow: true,
            blacklist: vec![FlowFilter::default()],
            whitelist: vec![filter.clone()],
            since: Some(timestamp(5)),
            ..GetFlowsRequest::default()
        };
        let mut bytes = request.encode_to_vec();
        assert_eq!(GetFlowsRequest::not_understood(&bytes), None);
        // Field 77, three bytes.
        let unknown = [0xea, 0x04, 3, b'a', b'b', b'c'];
        bytes.extend(unknown);
        assert_eq!(GetFlowsRequest::not_understood(&bytes), None, "beside the filters");

        let mut wider = filter.encode_to_vec();
        wider.extend(unknown);
        let mut bytes = request.encode_to_vec();
        bytes.extend([6 << 3 | 2, u8::try_from(wider.len()).unwrap()]);
        bytes.extend(wider);
        assert!(GetFlowsRequest::not_understood(&bytes).is_some());
    }
}
