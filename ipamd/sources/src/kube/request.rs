//! One request to the API server and its answer. Every wait is bounded, and every refusal is parsed.

use std::{io::Write, time::Duration};

use flate2::write::MultiGzDecoder;
use http::{
    HeaderMap, HeaderValue, Request,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, RETRY_AFTER},
};
use http_body_util::BodyExt;
use hyper::body::Bytes;
use kube::{Client, client::Body};
use tokio::time::timeout;

use super::failure::{Failure, Refusal, message_of};

/// The most of a refusal that is read.
const MOST_WORDS: usize = 64 << 10;
/// The most of one line of a watch. etcd takes objects of 1.5 MiB.
const LONGEST_LINE: usize = 64 << 20;

/// How an answer may be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// A list may be compressed, as the API server does from 128 KiB on: a page of pods becomes a tenth of its size.
    Gzip,
    /// A watch may not: its events are small, and a server would compress each for each node.
    Plain,
}

/// An answer of which the headers have come.
#[derive(Debug)]
pub(super) struct Answer {
    body: Body,
    /// What is between the body and its text, if something is.
    unpacking: Option<MultiGzDecoder<Vec<u8>>>,
}

/// Asks, and waits so long for the headers.
pub(super) async fn get(
    client: &Client,
    mut request: Request<Vec<u8>>,
    packing: Packing,
    patience: Duration,
) -> Result<Answer, Failure> {
    let coding = match packing {
        Packing::Gzip => "gzip",
        Packing::Plain => "identity",
    };
    let headers = request.headers_mut();
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(coding));
    let response = match timeout(patience, client.send(request.map(Body::from))).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(Failure::Broken(message_of(&error))),
        Err(_) => return Err(Failure::Silent(patience)),
    };
    let (head, body) = response.into_parts();
    let mut answer = Answer { body, unpacking: unpacking(&head.headers)? };
    if head.status.is_success() {
        return Ok(answer);
    }
    // The code says enough if nothing more comes.
    let mut said = Vec::new();
    while said.len() < MOST_WORDS
        && let Ok(Some(more)) = answer.next(patience).await
    {
        said.extend_from_slice(&more);
    }
    let retry_after = head.headers.get(RETRY_AFTER).and_then(|it| it.to_str().ok());
    Err(Failure::Refused(Refusal::of(head.status.as_u16(), retry_after, &said)))
}

/// How to read a body. Who compresses without being asked is understood, too.
fn unpacking(headers: &HeaderMap) -> Result<Option<MultiGzDecoder<Vec<u8>>>, Failure> {
    let coding = headers.get(CONTENT_ENCODING).and_then(|it| it.to_str().ok()).unwrap_or("identity").trim();
    match coding.to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(None),
        "gzip" | "x-gzip" => Ok(Some(MultiGzDecoder::new(Vec::new()))),
        _ => Err(Failure::Garbage(format!("its answer is encoded as {coding:?}, which nobody asked for"))),
    }
}

impl Answer {
    /// More of the text, or `None` at its end. Waits so long for each piece that comes.
    async fn next(&mut self, patience: Duration) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = match timeout(patience, self.body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return Err(Failure::Broken(message_of(&error))),
                Ok(None) => return self.unpacked_to_its_end().map(|()| None),
                Err(_) => return Err(Failure::Silent(patience)),
            };
            // Trailers say nothing.
            let Ok(bytes) = frame.into_data() else { continue };
            let Some(unpacking) = &mut self.unpacking else { return Ok(Some(bytes)) };
            let unpacked = unpacking.write_all(&bytes).and_then(|()| unpacking.flush());
            unpacked.map_err(|error| Failure::Garbage(format!("its gzip cannot be read: {error}")))?;
            let text = std::mem::take(unpacking.get_mut());
            if !text.is_empty() {
                return Ok(Some(text.into()));
            }
        }
    }

    /// Half of something compressed is not the whole.
    fn unpacked_to_its_end(&mut self) -> Result<(), Failure> {
        let Some(unpacking) = &mut self.unpacking else { return Ok(()) };
        unpacking.try_finish().map_err(|error| Failure::Broken(format!("its gzip ends early: {error}")))
    }

    /// The whole text.
    pub async fn whole(mut self, patience: Duration) -> Result<Vec<u8>, Failure> {
        let mut text = Vec::new();
        while let Some(more) = self.next(patience).await? {
            text.extend_from_slice(&more);
        }
        Ok(text)
    }

    /// The text line by line.
    pub fn lines(self) -> Lines {
        Lines { answer: self, text: Vec::new(), taken: 0, searched: 0 }
    }
}

/// A text that comes line by line.
#[derive(Debug)]
pub(super) struct Lines {
    answer: Answer,
    text: Vec<u8>,
    /// The text up to here has been given out.
    taken: usize,
    /// The text up to here has been searched for the end of a line.
    searched: usize,
}

impl Lines {
    /// The next line that is not empty; `None` at the end. A line that is cut off does not count. Waits at most `patience` for
    /// each piece of the line.
    pub async fn next(&mut self, patience: Duration) -> Result<Option<&[u8]>, Failure> {
        let end = loop {
            if let Some(length) = self.text[self.searched..].iter().position(|it| *it == b'\n') {
                let end = self.searched + length;
                self.searched = end + 1;
                if self.text[self.taken..end].trim_ascii().is_empty() {
                    self.taken = end + 1;
                    continue;
                }
                break end;
            }
            // What has been given out goes now: not with each line, for a piece may have thousands.
            self.text.drain(..self.taken);
            self.taken = 0;
            self.searched = self.text.len();
            if self.text.len() > LONGEST_LINE {
                return Err(Failure::Garbage(format!("a line has more than {LONGEST_LINE} bytes")));
            }
            match self.answer.next(patience).await? {
                Some(more) => self.text.extend_from_slice(&more),
                None => return Ok(None),
            }
        };
        let line = &self.text[self.taken..end];
        self.taken = end + 1;
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compression, write::GzEncoder};
    use http::{Response, StatusCode};
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;
    use std::convert::Infallible;
    use tower::service_fn;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn asked() -> Request<Vec<u8>> {
        Request::get("/x").body(Vec::new()).unwrap()
    }

    fn zipped(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    /// A client whose server answers with this, in such pieces.
    fn answering(code: u16, headers: &[(&'static str, &'static str)], pieces: Vec<Vec<u8>>) -> Client {
        let headers = headers.to_vec();
        let service = service_fn(move |_: Request<Body>| {
            let frames: Vec<_> =
                pieces.iter().map(|it| Ok::<_, Infallible>(Frame::data(Bytes::from(it.clone())))).collect();
            let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
            *response.status_mut() = StatusCode::from_u16(code).unwrap();
            for (name, value) in &headers {
                response.headers_mut().insert(*name, value.parse().unwrap());
            }
            async move { Ok::<_, Infallible>(response) }
        });
        Client::new(service, "default")
    }

    async fn lines_of(client: &Client) -> Result<Vec<String>, Failure> {
        let mut lines = get(client, asked(), Packing::Plain, PATIENCE).await?.lines();
        let mut all = Vec::new();
        while let Some(line) = lines.next(PATIENCE).await? {
            all.push(String::from_utf8_lossy(line).into_owned());
        }
        Ok(all)
    }

    #[tokio::test]
    async fn lines_come_whole_however_the_text_is_cut() {
        let text = b"{\"a\":1}\n\n {\"b\":2}\r\n{\"c\":3}\n{\"cut";
        for size in [1, 2, 3, 7, 8, 9, 100] {
            let pieces = text.chunks(size).map(<[u8]>::to_vec).collect();
            let lines = lines_of(&answering(200, &[], pieces)).await.unwrap();
            assert_eq!(lines, ["{\"a\":1}", " {\"b\":2}\r", "{\"c\":3}"], "{size}");
        }
    }

    #[tokio::test]
    async fn what_is_compressed_is_read_as_it_comes_in_one_piece_or_many() {
        let each = [zipped("a\n"), zipped("b\nc"), zipped("\n")];
        let whole = [each.concat()];
        let bytes: Vec<_> = whole[0].iter().map(|it| vec![*it]).collect();
        for pieces in [each.to_vec(), whole.to_vec(), bytes] {
            let client = answering(200, &[("content-encoding", "gzip")], pieces);
            assert_eq!(lines_of(&client).await.unwrap(), ["a", "b", "c"]);
        }
    }

    #[tokio::test]
    async fn half_of_what_is_compressed_is_not_taken_for_the_whole() {
        let mut half = zipped(&"some text\n".repeat(1000));
        half.truncate(half.len() - 9);
        let client = answering(200, &[("content-encoding", "gzip")], vec![half]);
        let answer = get(&client, asked(), Packing::Gzip, PATIENCE).await.unwrap();
        assert!(answer.whole(PATIENCE).await.is_err());
        for (coding, body) in [("gzip", b"<html>this is no gzip</html>".to_vec()), ("br", vec![1])] {
            let client = answering(200, &[("content-encoding", coding)], vec![body]);
            assert!(matches!(lines_of(&client).await, Err(Failure::Garbage(_))), "{coding}");
        }
    }

    #[tokio::test]
    async fn a_refusal_is_told_with_its_words_and_when_to_come_back() {
        let headers = [("retry-after", "3"), ("content-encoding", "gzip")];
        let client = answering(429, &headers, vec![zipped("Too many requests\n")]);
        let failure = lines_of(&client).await.unwrap_err();
        assert_eq!(failure.message(), "it says: Too many requests (429)");
        assert_eq!(failure.retry_after(), Some(Duration::from_secs(3)));
    }

    #[tokio::test]
    async fn headers_that_never_come_are_not_waited_for_without_an_end() {
        let service = service_fn(|_: Request<Body>| {
            std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
        });
        let client = Client::new(service, "default");
        let short = Duration::from_millis(30);
        let failure = get(&client, asked(), Packing::Gzip, short).await.unwrap_err();
        assert!(matches!(failure, Failure::Silent(it) if it == short), "{failure:?}");
    }
}
