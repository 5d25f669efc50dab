//! Policy at scale, on the kernel's maps: how long a full start takes, how long it takes from a manifest's change to what
//! it says being enforced, what the policy maps weigh, and what a packet costs with few and with many policies.
//!
//! With `--write FOLDER` it only writes the manifests of the cluster, for a daemon to be measured on.

mod answers;
mod arguments;
mod bench_datapath;
mod changes;
mod figures;
mod packets;
mod scene;
mod tenant;

use anyhow::Result;
use clap::Parser;

use self::arguments::Arguments;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(folder) = &arguments.write {
        return scene::write(folder, arguments.policies, arguments.pods);
    }
    if arguments.answers {
        return answers::measure();
    }
    tenant::measure()?;
    if arguments.tenant {
        return Ok(());
    }
    println!();
    changes::measure(&arguments)?;
    println!();
    // The namespace of a bench ends with its thread.
    let ran = std::thread::spawn(move || packets::measure(&arguments)).join();
    ran.map_err(|_| anyhow::anyhow!("measuring packets has failed"))?
}
