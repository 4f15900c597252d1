//! The service that owns a socket, by the name its operators know it by: the
//! systemd unit, container or pod that a cgroup path stands for.
//!
//! Nothing here does I/O but [`cgroups`]. A path is text from outside: whoever
//! may make a cgroup chooses its name, also one that looks like a container's.
//! So every name is bounded, and a path only tells what it is called.

pub mod cgroups;
pub(crate) mod mount;
mod recent;
pub mod resolver;

use crate::reset::Workload;

/// Longest name, in characters.
const MAX_NAME: usize = 128;

/// Hex digits of a container's id.
const ID: usize = 64;

/// Hex digits of it that `docker ps` and its kin show.
const SHORT_ID: usize = 12;

/// Kinds of units that have a cgroup of their own (systemd.unit(5)).
const UNIT_TYPES: [&str; 6] = ["service", "scope", "slice", "socket", "mount", "swap"];

/// The workload that a cgroup path stands for: a path as `/proc/PID/cgroup`
/// has it, or one relative to the cgroup2 mount. `None` for one that a cgroup namespace
/// hides.
///
/// What is nearer to the operator wins: the pod over its containers, the
/// innermost container over the units inside and around it, a unit over what
/// it delegates.
#[must_use]
pub fn of_cgroup(path: &str) -> Option<Workload> {
    // The kernel marks cgroups that are gone (proc_cgroup_show(),
    // kernel/cgroup/cgroup.c).
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    // Seen from inside a cgroup namespace, paths of the others start with `/..`.
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !matches!(*part, "" | "." | ".."))
        .collect();
    if parts.is_empty() {
        return (path == "/").then(|| cgroup(&parts));
    }
    let workload = pod(&parts)
        .or_else(|| container(&parts))
        .or_else(|| system_container(&parts))
        .or_else(|| unit(&parts).map(|name| workload("systemd", name)))
        .unwrap_or_else(|| cgroup(&parts));
    Some(workload)
}

fn workload(kind: &str, name: &str) -> Workload {
    Workload {
        kind: kind.to_owned(),
        name: name.chars().take(MAX_NAME).collect(),
        pod_uid: None,
    }
}

/// A cgroup that nothing is known of but its path.
fn cgroup(parts: &[&str]) -> Workload {
    workload("cgroup", &format!("/{}", parts.join("/")))
}

/// The innermost pod, by the container of it: not by one that the container
/// runs in turn, which the cluster doesn't know.
fn pod(parts: &[&str]) -> Option<Workload> {
    let (at, uid) = parts
        .iter()
        .enumerate()
        .rev()
        .find_map(|(at, part)| Some((at, pod_uid(part)?)))?;
    let id = parts[at..].iter().find_map(|part| {
        named_container(part)
            .map(|(_, id)| id)
            .or_else(|| is_id(part).then_some(*part))
    });
    Some(Workload {
        pod_uid: Some(uid.clone()),
        ..workload("kubernetes", id.map_or(uid.as_str(), short))
    })
}

/// `pod<uid>` (cgroupfs driver) or `kubepods-burstable-pod<uid>.slice` (systemd
/// driver, dashes of the uid as underscores), with any prefix that the
/// kubelet's cgroup root brings (kubernetes
/// pkg/kubelet/cm/pod_container_manager_linux.go, cgroup_manager_linux.go).
fn pod_uid(part: &str) -> Option<String> {
    let slice = part.split(':').next()?;
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    let uid = match stem.rsplit_once("-pod") {
        Some((_, uid)) => uid,
        None => stem.strip_prefix("pod")?,
    };
    let is_uuid = uid.len() == 36
        && uid.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => matches!(byte, b'-' | b'_'),
            _ => is_hex(byte),
        });
    // The uid of a static pod is the hash of its manifest.
    let is_hash = uid.len() == 32 && uid.bytes().all(is_hex);
    (is_uuid || is_hash).then(|| uid.replace('_', "-"))
}

/// The innermost container.
fn container(parts: &[&str]) -> Option<Workload> {
    let innermost = (0..parts.len()).rev().find_map(|at| {
        named_container(parts[at]).or_else(|| Some((plain_container(parts, at)?, parts[at])))
    });
    if let Some((kind, id)) = innermost {
        return Some(workload(kind, short(id)));
    }
    // The user of `ctr` chooses the id.
    match parts {
        ["default", name, ..] => Some(workload("containerd", name)),
        _ => None,
    }
}

/// Runtime and id of a cgroup that names both: `docker-<id>.scope`,
/// `crio-<id>`, `system.slice:cri-containerd:<id>`.
///
/// The last is a path for the systemd driver that the cgroupfs driver took
/// literally (containerd internal/cri/server/podsandbox/helpers_linux.go
/// getCgroupsPath()).
fn named_container(part: &str) -> Option<(&'static str, &str)> {
    let stem = part
        .strip_suffix(".scope")
        .or_else(|| part.strip_suffix(".slice"))
        .unwrap_or(part);
    let (prefix, id) = stem.rsplit_once(['-', ':', '_'])?;
    let prefix = prefix.rsplit(':').next()?;
    let kind = match prefix {
        "docker" => "docker",
        // podman libpod/oci_conmon_linux.go, container_internal_linux.go;
        // `payload` is that of a unit run with `--cgroups=split`.
        "libpod" | "libpod-conmon" | "libpod-payload" => "podman",
        // podman libpod/runtime_pod_linux.go, with the parent slice before it.
        pod if pod.ends_with("libpod_pod") => "podman",
        "cri-containerd" | "nerdctl" => "containerd",
        // CRI-O internal/config/cgmgr.
        "crio" | "crio-conmon" => "crio",
        _ => return None,
    };
    is_id(id).then_some((kind, id))
}

/// Runtime of a cgroup that is named by the id alone, from where it lies.
fn plain_container(parts: &[&str], at: usize) -> Option<&'static str> {
    if !is_id(parts[at]) {
        return None;
    }
    match (*parts.first()?, *parts.get(at.checked_sub(1)?)?) {
        // `ecs` is the parent that the agent of Amazon ECS gives to docker.
        ("ecs", _) | (_, "docker") => Some("docker"),
        // Namespaces of containerd (its oci.WithNamespacedCgroup()).
        (_, "default" | "k8s.io") => Some("containerd"),
        _ => None,
    }
}

/// The innermost LXC container, by the path up to it (lxc
/// src/lxc/cgroups/cgfsng.c; `/lxc/NAME` of releases before 4.0 and of Proxmox).
fn system_container(parts: &[&str]) -> Option<Workload> {
    let innermost = (0..parts.len()).rev().find(|&at| {
        let parent = at.checked_sub(1).map(|parent| parts[parent]);
        matches!(parent, Some("lxc" | "lxc.payload" | "lxc.monitor"))
            || parts[at].starts_with("lxc.payload.")
            || parts[at].starts_with("lxc.monitor.")
    })?;
    Some(cgroup(&parts[..=innermost]))
}

/// The outermost unit that is no slice, as `systemctl` names it; the innermost
/// slice where nothing is below it. Units of a user's manager come before the
/// manager itself.
fn unit<'a>(parts: &[&'a str]) -> Option<&'a str> {
    let mut slice = None;
    let mut manager = None;
    for part in parts {
        // A name that the kernel might take for one of its files is escaped
        // (systemd src/basic/cgroup-util.c cg_escape()).
        let name = part.strip_prefix('_').unwrap_or(part);
        match unit_type(name) {
            Some("slice") => slice = Some(name),
            Some("service") if name.starts_with("user@") => manager = Some(name),
            // Each manager's own process; the name alone would mean PID 1.
            Some("scope") if name == "init.scope" => return manager.or(Some(name)),
            Some(_) => return Some(name),
            None => return manager,
        }
    }
    manager.or(slice)
}

/// The type of a unit, where the name is a valid one (systemd
/// src/basic/unit-name.c unit_name_is_valid()).
fn unit_type(name: &str) -> Option<&str> {
    let (stem, unit_type) = name.rsplit_once('.')?;
    let is_valid = !stem.is_empty()
        && stem
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte));
    (is_valid && UNIT_TYPES.contains(&unit_type)).then_some(unit_type)
}

fn is_id(text: &str) -> bool {
    text.len() == ID && text.bytes().all(is_hex)
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// The part of an id that tools show.
fn short(id: &str) -> &str {
    id.get(..SHORT_ID).unwrap_or(id)
}

#[cfg(test)]
mod tests;
