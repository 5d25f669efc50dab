//! The cluster of a run, in the directory of manifests that the daemon follows: one file.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::super::{objects, plan, run_name};

/// Cluster addresses of a run: `198.18.0.0/15` is for measuring networks, and an address of it leads nowhere else.
const CLUSTER4: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 0);
/// As [`CLUSTER4`], of addresses for one site.
const CLUSTER6: Ipv6Addr = Ipv6Addr::new(0xfdca, 0x3b1c, 0xc099, 0, 0, 0, 0, 0);

/// What services and policies need to know of a run.
#[derive(Debug)]
pub(super) struct Cluster<'a> {
    pub run: &'a str,
    pub server: &'a [IpAddr],
    pub client: &'a [IpAddr],
    pub node_port: u16,
}

/// Addresses of the service of that number, of the families that its backends have.
pub(super) fn cluster_addresses(number: u8, backends: &[IpAddr]) -> Vec<IpAddr> {
    let [a, b, c, _] = CLUSTER4.octets();
    let mut six = CLUSTER6.segments();
    six[7] = number.into();
    let both: [IpAddr; 2] = [Ipv4Addr::new(a, b, c, number).into(), Ipv6Addr::from(six).into()];
    both.into_iter().filter(|it| backends.iter().any(|own| own.is_ipv4() == it.is_ipv4())).collect()
}

impl Cluster<'_> {
    /// Addresses of the service of the server, and of that of the client.
    pub fn addresses(&self) -> (Vec<IpAddr>, Vec<IpAddr>) {
        (cluster_addresses(1, self.server), cluster_addresses(2, self.client))
    }

    /// As a manifest.
    fn text(&self) -> String {
        let (servers, client) = self.addresses();
        let own = plan::client(0);
        let mut documents = vec![objects::namespace(self.run)];
        let mut service = |mut service: Value, name: &str, addresses: &[IpAddr], backends: &[IpAddr]| {
            let spec = &mut service["spec"];
            spec["clusterIP"] = json!(addresses.first());
            spec["clusterIPs"] = json!(addresses);
            if spec["type"] == "NodePort" {
                for port in spec["ports"].as_array_mut().into_iter().flatten() {
                    port["nodePort"] = json!(self.node_port);
                }
            }
            documents.push(service);
            for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
                let of: Vec<_> = backends.iter().copied().filter(|it| it.is_ipv4() == is_v4).collect();
                if !of.is_empty() {
                    documents.push(objects::slice(self.run, name, family, &of));
                }
            }
        };
        service(objects::service_of_servers(self.run), "servers", &servers, self.server);
        service(objects::service_of_client(self.run, &own), &own, &client, self.client);
        documents.extend(objects::policies(self.run));
        objects::text(&documents)
    }

    /// Puts the manifest into a directory, whole at once.
    pub fn put(&self, directory: &Path) -> io::Result<()> {
        // Names that begin with a dot are not read.
        let written = directory.join(format!(".{}", self.run));
        let put =
            fs::write(&written, self.text()).and_then(|()| fs::rename(&written, file(directory, self.run)));
        if put.is_err() {
            let _ = fs::remove_file(&written);
        }
        put
    }
}

fn file(directory: &Path, run: &str) -> PathBuf {
    directory.join(format!("{run}.yaml"))
}

/// Removes the manifest of a run; one that is not there is removed.
pub(super) fn remove(directory: &Path, run: &str) -> io::Result<()> {
    for path in [file(directory, run), directory.join(format!(".{run}"))] {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    Ok(())
}

/// The runs that have a manifest there.
pub(super) fn of_runs(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| run_name::of(name.trim_start_matches('.')).map(ToOwned::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipamd_sources::manifest;

    #[test]
    fn the_daemon_understands_all_of_it_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let run = run_name::new().unwrap();
        let [four, six]: [IpAddr; 2] = [[10, 88, 0, 2].into(), "fd00:88::2".parse().unwrap()];
        let cluster = Cluster { run: &run, server: &[four, six], client: &[four], node_port: 30123 };
        assert_eq!(cluster.addresses().0.len(), 2);
        assert_eq!(cluster.addresses().1.len(), 1);
        cluster.put(folder.path()).unwrap();
        let path = file(folder.path(), &run);
        let read = manifest::read(&path, &fs::read_to_string(&path).unwrap());
        assert!(read.refusals.is_empty(), "{:?}", read.refusals);
        // The namespace, two services, three slices, two policies.
        assert_eq!(read.objects.len(), 8);
        assert_eq!(of_runs(folder.path()), std::slice::from_ref(&run));
        remove(folder.path(), &run).unwrap();
        remove(folder.path(), &run).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
