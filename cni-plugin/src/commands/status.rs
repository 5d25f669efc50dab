//! STATUS: whether ADD can be served now, and whether those that were served are well.

use ipamd_api::{Client, Reply, Request, wire::Status};

use crate::{config::Network, daemon::unexpected, error::CniError};

/// Fails with all that keeps ADD from being served, or containers that run from being reached.
pub fn status(network: &Network) -> Result<(), CniError> {
    let ask = || {
        let mut client = Client::connect(&network.socket)?;
        match client.call(Request::Status)? {
            Reply::Status(status) => Ok(status),
            other => Err(unexpected(&client, "a status request", &other)),
        }
    };
    match ask() {
        Ok(status) => judge(*status),
        Err(error) => Err(CniError::NotAvailable(vec![error.to_string()])),
    }
}

fn judge(status: Status) -> Result<(), CniError> {
    let Status { ready, mut problems, cannot_add, limited, .. } = status;
    if !limited.is_empty() {
        return Err(CniError::LimitedConnectivity(limited.into_iter().chain(cannot_add).collect()));
    }
    if ready && cannot_add.is_empty() {
        return Ok(());
    }
    let mut reasons = cannot_add;
    if !ready {
        problems.retain(|problem| !reasons.contains(problem));
        reasons.append(&mut problems);
    }
    if reasons.is_empty() {
        reasons.push("its daemon is not ready".to_owned());
    }
    Err(CniError::NotAvailable(reasons))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What is told of a daemon whose status has these fields: the code and the reasons.
    fn told(fields: Value) -> Option<(u32, Vec<String>)> {
        let mut status = json!({
            "version": "0", "node_name": "n", "ready": true, "problems": [], "endpoints": 0, "attach_mode": "tcx",
            "uplinks": [], "uptime_seconds": 0, "conntrack": {}, "drops": {},
        });
        let Value::Object(fields) = fields else { panic!("{fields}") };
        status.as_object_mut().unwrap().extend(fields);
        let error = judge(serde_json::from_value(status).unwrap()).err()?;
        match error {
            CniError::NotAvailable(ref reasons) | CniError::LimitedConnectivity(ref reasons) => {
                Some((error.code(), reasons.clone()))
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_daemon_that_serves_has_nothing_told_of_it() {
        assert_eq!(told(json!({})), None);
        assert_eq!(told(json!({"problems": ["the cluster is away"]})), None, "ADD goes on");
    }

    #[test]
    fn what_keeps_add_from_being_served_is_50() {
        let reasons = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(told(json!({"ready": false})), Some((50, reasons(&["its daemon is not ready"]))));
        let full = told(json!({"problems": ["x"], "cannot_add": ["pool p is full"]}));
        assert_eq!(full, Some((50, reasons(&["pool p is full"]))));
        let both = told(json!({"ready": false, "problems": ["disk", "full"], "cannot_add": ["full"]}));
        assert_eq!(both, Some((50, reasons(&["full", "disk"]))));
    }

    #[test]
    fn what_containers_that_run_lack_is_51() {
        let (code, reasons) = told(json!({"limited": ["no program"], "cannot_add": ["full"]})).unwrap();
        assert_eq!((code, reasons), (51, vec!["no program".to_owned(), "full".to_owned()]));
    }
}
