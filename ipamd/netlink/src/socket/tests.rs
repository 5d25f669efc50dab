use std::{
    os::{
        fd::{FromRawFd, IntoRawFd},
        unix::net::UnixDatagram,
    },
    time::{Duration, Instant},
};

use netlink_packet_core::{NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NLM_F_REQUEST};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};
use nix::{errno::Errno, libc};

use super::*;
use crate::message::Messages;

/// Of the entries that the double of a kernel lists.
const ENTRY: u16 = 16;

fn named(name: &str) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    RouteNetlinkMessage::GetLink(link)
}

fn all() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(LinkMessage::default())
}

#[test]
fn loopback_is_found_and_nonsense_is_refused_by_name() {
    let mut netlink = Socket::open(Family::Route).unwrap();
    assert!(matches!(netlink.get("look at lo", &named("lo")), Ok(Some(RouteNetlinkMessage::NewLink(_)))));
    let error = netlink.get("look at nothing0", &named("nothing0")).unwrap_err();
    assert_eq!(error.errno(), Errno::ENODEV);
    assert!(error.is_not_found());
    assert!(error.to_string().starts_with("cannot look at nothing0: No such device"), "{error}");
    // The socket is good for more after a refusal.
    assert!(netlink.get("look at lo", &named("lo")).unwrap().is_some());
}

#[test]
fn the_first_refusal_of_a_batch_is_told_and_the_others_are_counted() {
    let mut netlink = Socket::open(Family::Route).unwrap();
    let mut batch = Batch::default();
    batch.ask("look at lo", 0, &named("lo"));
    batch.ask("look at nothing0", 0, &named("nothing0"));
    batch.ask("look at nothing1", 0, &named("nothing1"));
    let text = netlink.run(&mut batch).unwrap_err().to_string();
    assert!(
        text.starts_with("cannot look at nothing0: ") && text.ends_with("; 1 more requests failed with it"),
        "{text}"
    );
    assert!(netlink.run(&mut Batch::default()).is_ok());
}

#[test]
fn a_dump_lists_all() {
    let mut netlink = Socket::open(Family::Route).unwrap();
    let links = netlink.dump("list the links", &all(), |message| message.parse().map(Some)).unwrap();
    assert!(
        links
            .entries
            .iter()
            .any(|link: &RouteNetlinkMessage| matches!(link, RouteNetlinkMessage::NewLink(_)))
    );
    let none = netlink.dump("list the links", &all(), |_| Ok(None::<()>)).unwrap();
    assert!(none.entries.is_empty(), "what is not wanted is passed over");
}

/// A socket whose kernel the test is. What that has said is there before it is asked: the first request has the number 1.
fn doubled() -> (Socket, UnixDatagram) {
    let (ours, kernel) = UnixDatagram::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    // SAFETY: nobody else has the descriptor.
    let raw = unsafe { RawSocket::from_raw_fd(ours.into_raw_fd()) };
    (Socket::over(raw), kernel)
}

fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + payload.len()).unwrap();
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(payload);
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

fn entry(sequence: u32, name: u8) -> Vec<u8> {
    message(ENTRY, NLM_F_MULTIPART, sequence, &[name])
}

fn done(sequence: u32) -> Vec<u8> {
    message(NLMSG_DONE, NLM_F_MULTIPART, sequence, &[0; 4])
}

fn code(sequence: u32, code: i32) -> Vec<u8> {
    message(NLMSG_ERROR, 0, sequence, &code.to_ne_bytes())
}

fn names(netlink: &mut Socket) -> Result<Dump<u8>, NetlinkError> {
    netlink.dump("list the names", &all(), |message| Ok(message.payload.first().copied()))
}

/// Number, flags of each message that the kernel was sent, by datagrams.
fn sent(kernel: &UnixDatagram) -> Vec<Vec<(u32, u16)>> {
    kernel.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    let datagrams =
        std::iter::from_fn(|| kernel.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec()));
    let told = |message: Message<'_>| (message.header.sequence_number, message.header.flags);
    datagrams.map(|bytes| Messages(&bytes).map(|message| told(message.unwrap())).collect()).collect()
}

#[test]
fn a_list_comes_in_several_datagrams_and_ends_where_the_kernel_says_so() {
    let (mut netlink, kernel) = doubled();
    kernel.send(&[entry(1, b'a'), entry(1, b'b')].concat()).unwrap();
    kernel.send(&[entry(1, b'c'), done(1), entry(1, b'd')].concat()).unwrap();
    let dump = names(&mut netlink).unwrap();
    assert_eq!((dump.entries, dump.settled), (b"abc".to_vec(), true));
    assert_eq!(sent(&kernel), [[(1, NLM_F_REQUEST | NLM_F_DUMP)]]);
}

#[test]
fn what_answers_another_request_is_passed_over() {
    let (mut netlink, kernel) = doubled();
    kernel.send(&[code(0, -libc::EPERM), entry(7, b'x'), done(0), entry(1, b'a')].concat()).unwrap();
    kernel.send(&done(1)).unwrap();
    assert_eq!(names(&mut netlink).unwrap().entries, b"a");
    // So is what comes late.
    kernel.send(&[code(1, -libc::EPERM), code(2, 0)].concat()).unwrap();
    netlink.run(&mut Batch::of("set it up", 0, &all())).unwrap();
}

#[test]
fn a_list_that_changed_meanwhile_is_asked_for_again() {
    let (mut netlink, kernel) = doubled();
    let disturbed = message(ENTRY, NLM_F_MULTIPART | NLM_F_DUMP_INTR, 1, b"a");
    kernel.send(&[disturbed, entry(1, b'b'), done(1)].concat()).unwrap();
    // The kernel may say that something was lost in a message of its own, too.
    kernel.send(&[entry(2, b'a'), message(4, 0, 2, &[]), done(2)].concat()).unwrap();
    kernel.send(&[entry(3, b'c'), done(3)].concat()).unwrap();
    let dump = names(&mut netlink).unwrap();
    assert_eq!((dump.entries, dump.settled), (b"c".to_vec(), true));
    assert_eq!(sent(&kernel).len(), 3);
}

#[test]
fn a_list_that_never_settles_is_the_last_one_and_says_so() {
    let (mut netlink, kernel) = doubled();
    for (sequence, name) in (1..).zip(b"abcde") {
        let end = message(NLMSG_DONE, NLM_F_MULTIPART | NLM_F_DUMP_INTR, sequence, &[0; 4]);
        kernel.send(&[entry(sequence, *name), end].concat()).unwrap();
    }
    let dump = names(&mut netlink).unwrap();
    assert_eq!((dump.entries, dump.settled), (b"e".to_vec(), false));
    assert_eq!(sent(&kernel).len(), DUMP_ATTEMPTS);
}

#[test]
fn a_list_is_heard_out_when_one_of_it_cannot_be_read() {
    let (mut netlink, kernel) = doubled();
    kernel.send(&[entry(1, b'a'), entry(1, b'b'), done(1)].concat()).unwrap();
    kernel.send(&[entry(2, b'c'), done(2)].concat()).unwrap();
    let error = netlink
        .dump("list the links", &all(), |message| message.parse::<RouteNetlinkMessage>().map(Some))
        .unwrap_err();
    assert!(
        error.to_string().starts_with("cannot list the links: the kernel's answer cannot be read: "),
        "{error}"
    );
    assert_eq!(names(&mut netlink).unwrap().entries, b"c");
}

#[test]
fn a_refused_list_is_an_error_at_its_begin_and_at_its_end() {
    let (mut netlink, kernel) = doubled();
    kernel.send(&code(1, -libc::EOPNOTSUPP)).unwrap();
    assert_eq!(names(&mut netlink).unwrap_err().errno(), Errno::EOPNOTSUPP);
    let end = message(NLMSG_DONE, NLM_F_MULTIPART, 2, &(-libc::ENOENT).to_ne_bytes());
    kernel.send(&[entry(2, b'a'), end].concat()).unwrap();
    let error = names(&mut netlink).unwrap_err();
    assert_eq!(error.to_string(), "cannot list the names: No such file or directory");
    assert!(error.is_not_found());
}

#[test]
fn a_refusal_in_the_midst_of_a_batch_has_the_kernels_words() {
    let (mut netlink, kernel) = doubled();
    let request = message(ENTRY, 0, 2, &[]);
    let words = [&[13, 0, 1, 0][..], b"Not now.\0\0\0\0"].concat();
    let refusal = [&(-libc::EBUSY).to_ne_bytes()[..], &request, &words].concat();
    kernel.send(&message(NLMSG_ERROR, NLM_F_CAPPED | NLM_F_ACK_TLVS, 2, &refusal)).unwrap();
    kernel.send(&code(3, 0)).unwrap();
    let mut batch = Batch::default();
    for what in ["make it", "set it up", "rename it"] {
        batch.ask(what, 0, &all());
    }
    let error = netlink.run(&mut batch).unwrap_err();
    assert_eq!(error.to_string(), "cannot set it up: Device or resource busy (Not now)");
    let plain = NLM_F_REQUEST;
    assert_eq!(sent(&kernel), [[(1, plain), (2, plain), (3, plain | NLM_F_ACK)]], "in one call");
    // Sent again it has other numbers.
    kernel.send(&code(6, 0)).unwrap();
    netlink.run(&mut batch).unwrap();
    assert_eq!(sent(&kernel)[0][0].0, 4);
}

#[test]
fn of_messages_that_are_one_request_the_first_that_is_answered_ends_it() {
    let (mut netlink, kernel) = doubled();
    let mut batch = Batch::default();
    batch.ask("remove the table", 0, &all());
    batch.ask("", NLM_F_ACK, &all());
    batch.ask("", 0, &all());
    kernel.send(&code(1, 0)).unwrap();
    netlink.run_as_one(&mut batch).unwrap();
    kernel.send(&code(2, -libc::ENOENT)).unwrap();
    let error = netlink.run_as_one(&mut batch).unwrap_err();
    assert_eq!(error.to_string(), "cannot remove the table: No such file or directory");
    let flags = [NLM_F_REQUEST, NLM_F_REQUEST | NLM_F_ACK, NLM_F_REQUEST];
    assert_eq!(sent(&kernel), [1, 2].map(|number| flags.map(|flags| (number, flags)).to_vec()));
}

#[test]
fn what_is_cut_short_is_an_error() {
    let (mut netlink, kernel) = doubled();
    kernel.send(&vec![0; 200 << 10]).unwrap();
    let text = names(&mut netlink).unwrap_err().to_string();
    assert_eq!(
        text,
        "cannot list the names: the kernel's answer cannot be read: 204800 bytes were cut short"
    );
    kernel.send(&[entry(2, b'a'), done(2)[..19].to_vec()].concat()).unwrap();
    let text = names(&mut netlink).unwrap_err().to_string();
    assert_eq!(text, "cannot list the names: the kernel's answer cannot be read: a message is cut short");
}

#[test]
fn a_kernel_that_keeps_silent_is_an_error() {
    let (mut netlink, kernel) = doubled();
    let began = Instant::now();
    let error = netlink.run(&mut Batch::of("make it", 0, &all())).unwrap_err();
    assert_eq!(error.to_string(), "cannot make it: the kernel does not answer");
    assert!(!error.is_not_found());
    kernel.send(&entry(2, b'a')).unwrap();
    let error = names(&mut netlink).unwrap_err();
    assert_eq!(error.to_string(), "cannot list the names: the kernel does not answer");
    assert!(began.elapsed() < Duration::from_secs(5));
}
