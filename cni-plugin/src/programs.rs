//! Cambric's programs on the host's end: attaching them, and seeing whether they are there.

use std::{fs, io, os::fd::AsFd, path::Path};

use bpf::attach::{
    AttachError, Direction, attach_clsact, attach_tcx, attach_tcx_program, clsact_program, link_info,
    open_pinned, pin, program_id, tcx_attachments, unlinked_tcx_programs,
};
use ipamd_api::wire::{AttachMode, Reservation};

/// Each hook of the host's end with the pinned program that belongs there and the place where its link is pinned.
fn hooks(reservation: &Reservation) -> [(Direction, &Path, &Path); 2] {
    [
        (Direction::Ingress, &reservation.from_endpoint, &reservation.from_endpoint_link),
        (Direction::Egress, &reservation.to_endpoint, &reservation.to_endpoint_link),
    ]
}

/// Attaches both programs to the host's end, before it comes up.
pub fn attach(reservation: &Reservation, host_ifindex: u32) -> Result<(), AttachError> {
    for (direction, program_path, link_path) in hooks(reservation) {
        let program = open_pinned(program_path)?;
        match reservation.attach_mode {
            // With the interface it goes, and not before.
            AttachMode::Tcx if reservation.without_link => {
                let id = program_id(program.as_fd())?;
                // On another plugin's interface what a former ADD attached stays.
                let name = program_path.file_name().unwrap_or_default().to_string_lossy();
                let former = if reservation.chained {
                    unlinked_tcx_programs(&name, host_ifindex, direction)?
                } else {
                    Vec::new()
                };
                if !former.contains(&id) {
                    attach_tcx_program(program.as_fd(), host_ifindex, direction, former.first().copied())?;
                }
            }
            AttachMode::Tcx => {
                let link = attach_tcx(program.as_fd(), host_ifindex, direction)?;
                pin_anew(link.as_fd(), link_path)?;
            }
            AttachMode::Clsact => attach_clsact(program.as_fd(), host_ifindex, direction)?,
        }
    }
    Ok(())
}

/// Pins a link, in the place of what an ADD that was broken off pinned there.
fn pin_anew(link: std::os::fd::BorrowedFd<'_>, path: &Path) -> Result<(), AttachError> {
    match pin(link, path) {
        Err(error)
            if error.source().kind() == io::ErrorKind::AlreadyExists && fs::remove_file(path).is_ok() =>
        {
            pin(link, path)
        }
        pinned => pinned,
    }
}

/// Removes the links' pins; none is fine.
pub fn unpin(reservation: &Reservation) -> Vec<String> {
    hooks(reservation)
        .iter()
        .filter_map(|(_, _, link_path)| match fs::remove_file(link_path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Some(format!("cannot remove the pin {}: {error}", link_path.display()))
            }
            _ => None,
        })
        .collect()
}

/// What is wrong with the programs of the host's end, a sentence each.
pub fn faults(reservation: &Reservation, host_ifindex: u32) -> Vec<String> {
    hooks(reservation)
        .into_iter()
        .filter_map(|(direction, program_path, link_path)| {
            let name = &reservation.host_ifname;
            let by_link = || tcx_fault(host_ifindex, direction, program_path, link_path);
            let by_filter = || clsact_fault(host_ifindex, direction, program_path);
            // What one configuration of the network attached by a filter, and another would by a link, is attached.
            let fault = match reservation.attach_mode {
                AttachMode::Tcx => unless_either(by_link(), by_filter),
                AttachMode::Clsact => unless_either(by_filter(), by_link),
            };
            fault
                .unwrap_or_else(|error| Some(error.to_string()))
                .map(|fault| format!("{direction:?} of {name}: {fault}"))
        })
        .collect()
}

/// The first fault, unless there is none in the other way.
fn unless_either<E>(
    first: Result<Option<String>, E>,
    other: impl FnOnce() -> Result<Option<String>, E>,
) -> Result<Option<String>, E> {
    match first {
        Ok(None) => Ok(None),
        fault => {
            if matches!(other(), Ok(None)) {
                Ok(None)
            } else {
                fault
            }
        }
    }
}

fn tcx_fault(
    ifindex: u32,
    direction: Direction,
    program_path: &Path,
    link_path: &Path,
) -> Result<Option<String>, AttachError> {
    let id = program_id(open_pinned(program_path)?.as_fd())?;
    match tcx_attachments(ifindex, direction)?.into_iter().find(|(program, _)| *program == id) {
        None => return Ok(Some(format!("the program pinned at {} is not attached", program_path.display()))),
        Some((_, 0)) => return Ok(None),
        Some(_) => {}
    }
    let link = match open_pinned(link_path) {
        Err(error) if error.source().kind() == io::ErrorKind::NotFound => {
            return Ok(Some(format!("its link is no longer pinned at {}", link_path.display())));
        }
        opened => opened?,
    };
    let info = link_info(link.as_fd())?;
    Ok((info.ifindex != ifindex || info.program_id != id).then(|| {
        format!(
            "the link pinned at {} is that of program {} on interface {}",
            link_path.display(),
            info.program_id,
            info.ifindex
        )
    }))
}

fn clsact_fault(
    ifindex: u32,
    direction: Direction,
    program_path: &Path,
) -> Result<Option<String>, AttachError> {
    let id = program_id(open_pinned(program_path)?.as_fd())?;
    Ok(match clsact_program(ifindex, direction)? {
        Some(attached) if attached == id => None,
        Some(attached) => Some(format!("program {attached} is in the filter instead of {id}")),
        None => Some(format!("the filter with the program pinned at {} is missing", program_path.display())),
    })
}
