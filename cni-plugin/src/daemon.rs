//! The daemon as the plugin meets it: there, or away.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ipamd_api::{AttachmentKey, Client, ClientError, ErrorKind, Reply, Request};

use crate::{error::CniError, text::cut};

/// The most of an answer that an error quotes, in bytes.
const MAX_QUOTE: usize = 200;

/// Where keys wait that were released while the daemon was away: it works them off when it is back.
pub fn released_path(socket: &Path, key: &AttachmentKey) -> PathBuf {
    let folder = socket.parent().unwrap_or(Path::new("/"));
    folder.join("released").join(format!("{}.json", key.host_ifname()))
}

/// Leaves the key for the daemon to release.
pub fn leave_released(socket: &Path, key: &AttachmentKey) -> Result<(), CniError> {
    let path = released_path(socket, key);
    let write = || -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        // The daemon must never read half a key.
        let unfinished = path.with_extension(format!("{}.tmp", std::process::id()));
        fs::write(&unfinished, serde_json::to_vec(key)?)?;
        fs::rename(&unfinished, &path)
    };
    write().map_err(CniError::io(format!("leave {} for the daemon to release", path.display())))
}

/// Takes back what an earlier release left, because the attachment is made again.
pub fn forget_released(socket: &Path, key: &AttachmentKey) {
    // Mostly there is none; if it cannot be removed, neither could it be made.
    let _ = fs::remove_file(released_path(socket, key));
}

/// Has the daemon release the attachment. One that it does not know is released.
pub fn release(client: &mut Client, key: &AttachmentKey) -> Result<(), ClientError> {
    match client.call(Request::Release { key: key.clone() }) {
        Ok(Reply::Done) => Ok(()),
        Ok(other) => Err(unexpected(client, "a release", &other)),
        Err(ClientError::Refused(error)) if error.kind == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The error for an answer that does not belong to the request.
pub fn unexpected(client: &Client, request: &str, reply: &Reply) -> ClientError {
    let mut detail = format!("to {request} it answered {reply:?}");
    cut(&mut detail, MAX_QUOTE);
    client.confused(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_key_waits_beside_the_socket_until_it_is_taken_back() {
        let folder = std::env::temp_dir().join(format!("cambric-released-{}", std::process::id()));
        let socket = folder.join("run/ipamd.sock");
        let key = AttachmentKey { network: "net".into(), container_id: "c".into(), ifname: "eth0".into() };
        leave_released(&socket, &key).unwrap();
        leave_released(&socket, &key).unwrap();
        let path = folder.join("run/released").join(format!("{}.json", key.host_ifname()));
        assert_eq!(serde_json::from_slice::<AttachmentKey>(&fs::read(&path).unwrap()).unwrap(), key);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        forget_released(&socket, &key);
        assert!(!path.exists());
        fs::remove_dir_all(&folder).unwrap();
    }
}
