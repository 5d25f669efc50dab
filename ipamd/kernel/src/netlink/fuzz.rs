//! Fuzzing of netlink messages: parsing any bytes ends. The kernel sends valid messages, but it may be newer than this
//! parser.

use ::fuzz::{Form, Target, one_sentence};
use ipamd_netlink::{Message, Messages};
use netlink_packet_route::RouteNetlinkMessage;

use super::{
    Address, Filter, Found, Hook, Link, Neighbour, Protocol, Route,
    concerned_flows::{self, Links},
    netfilter,
    vxlan::Forwarding,
};
use ipamd_model::concerned::Concerned;

fn holds(bytes: &[u8]) -> Result<(), String> {
    let mut links = Links::default();
    for message in Messages(bytes) {
        let Ok(message) = message else { break };
        let Message { header, payload: body } = message;
        links.learn(body);
        let concerned = concerned_flows::concerned(header.message_type, header.flags, body, &mut links);
        if body.is_empty() && header.message_type == 24 && concerned != Concerned::everything() {
            return Err("a route that cannot be read concerns nobody".into());
        }
        match message.parse() {
            Err(error) => one_sentence(&error.to_string())?,
            Ok(RouteNetlinkMessage::NewLink(message)) => drop(Link::from_message(message)),
            Ok(RouteNetlinkMessage::NewAddress(message)) => {
                let _ = Address::from_message(&message);
            }
            Ok(RouteNetlinkMessage::NewRoute(message)) => drop(Route::from_message(message)),
            Ok(RouteNetlinkMessage::NewNeighbour(message)) => {
                let _ = Neighbour::from_message(message.clone());
                let _ = Forwarding::from_message(message);
            }
            Ok(RouteNetlinkMessage::NewTrafficFilter(message)) => {
                let _ = Filter::from_message(&message, Hook::Ingress);
            }
            Ok(_) => {}
        }
        if let Err(error) = Found::read(message, Protocol::Tcp) {
            one_sentence(&error.to_string())?;
        }
        let _ = netfilter::text(body, 1);
    }
    Ok(())
}

#[test]
fn whatever_the_kernel_says_is_read_to_its_end() {
    Target::new("netlink", Form::Binary).holds(holds);
}
