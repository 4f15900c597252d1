//! Real paths of each runtime, and paths that nobody should make.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

const A: &str = "4d1f6b3a9c0e4d1f6b3a9c0e4d1f6b3a9c0e4d1f6b3a9c0e4d1f6b3a9c0e1234";
const B: &str = "bb02d8a1c5f7bb02d8a1c5f7bb02d8a1c5f7bb02d8a1c5f7bb02d8a1c5f70987";
const SHORT_A: &str = "4d1f6b3a9c0e";
const SHORT_B: &str = "bb02d8a1c5f7";
const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";
const STATIC_UID: &str = "99dcb84d2a34f7e338778606703258c4";

/// `{A}`, `{B}`, `{UID}`, `{_UID}` and `{STATIC}` stand for the constants above.
fn expand(path: &str) -> String {
    path.replace("{A}", A)
        .replace("{B}", B)
        .replace("{UID}", UID)
        .replace("{_UID}", &UID.replace('-', "_"))
        .replace("{STATIC}", STATIC_UID)
}

#[track_caller]
fn check(path: &str, kind: &str, name: &str) {
    let found = of_cgroup(&expand(path));
    assert_eq!(found, Some(workload(kind, &expand(name))), "{path}");
}

#[track_caller]
fn check_pod(path: &str, name: &str, uid: &str) {
    let expected = Workload {
        pod_uid: Some(uid.into()),
        ..workload("kubernetes", name)
    };
    assert_eq!(of_cgroup(&expand(path)), Some(expected), "{path}");
}

#[test]
fn the_root_is_a_cgroup_like_any_other() {
    assert_eq!(of_cgroup("/"), Some(workload("cgroup", "/")));
    for hidden in ["", "//", "/..", "/../..", "/."] {
        assert_eq!(of_cgroup(hidden), None, "{hidden}");
    }
}

#[test]
fn system_units() {
    for (path, unit) in [
        ("/system.slice/nginx.service", "nginx.service"),
        ("system.slice/nginx.service/", "nginx.service"),
        ("/system.slice/nginx.service (deleted)", "nginx.service"),
        (
            "/system.slice/system-getty.slice/getty@tty1.service",
            "getty@tty1.service",
        ),
        (
            r"/system.slice/system-postgresql.slice/postgresql@15\x2dmain.service",
            r"postgresql@15\x2dmain.service",
        ),
        ("/a.slice/a-b.slice/a-b-c.slice/d.service", "d.service"),
        ("/system.slice/cups.socket", "cups.socket"),
        (
            r"/system.slice/mnt-my\x2ddisk.mount",
            r"mnt-my\x2ddisk.mount",
        ),
        ("/init.scope", "init.scope"),
        ("/system.slice/containerd.service", "containerd.service"),
        // Delegated (`Delegate=yes`), or with the scripts apart
        // (`DelegateSubgroup=`, `ExecStartPost=`).
        (
            "/system.slice/systemd-udevd.service/udev",
            "systemd-udevd.service",
        ),
        ("/system.slice/app.service/.control", "app.service"),
        (
            "/system.slice/app.service/workers.slice/w.service",
            "app.service",
        ),
        // Machines: libvirt and systemd-nspawn.
        (
            r"/machine.slice/machine-qemu\x2d1\x2dweb.scope/libvirt/emulator",
            r"machine-qemu\x2d1\x2dweb.scope",
        ),
        (
            "/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service",
            "systemd-nspawn@web.service",
        ),
        // `cpu.` is how files of a controller start (systemd cg_escape()).
        ("/system.slice/_cpu.service", "cpu.service"),
        // Nothing below the slice.
        ("/system.slice", "system.slice"),
        ("/user.slice/user-1000.slice", "user-1000.slice"),
        (
            "/kubepods.slice/kubepods-burstable.slice",
            "kubepods-burstable.slice",
        ),
    ] {
        check(path, "systemd", unit);
    }
}

#[test]
fn user_units() {
    for (path, unit) in [
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service",
            "foo.service",
        ),
        (
            r"/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-3a.scope",
            "vte-spawn-3a.scope",
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service/sub/x.service",
            "foo.service",
        ),
        // Before systemd 247 there were no slices below the manager.
        (
            "/user.slice/user-1000.slice/user@1000.service/dbus.service",
            "dbus.service",
        ),
        (
            "/user.slice/user-1000.slice/session-3.scope",
            "session-3.scope",
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service",
            "user@1000.service",
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/init.scope",
            "user@1000.service",
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice",
            "user@1000.service",
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/mine/foo.service",
            "user@1000.service",
        ),
    ] {
        check(path, "systemd", unit);
    }
}

#[test]
fn docker() {
    for (path, name) in [
        // moby daemon/oci_linux.go: cgroupfs driver, systemd driver.
        ("/docker/{A}", SHORT_A),
        ("/system.slice/docker-{A}.scope", SHORT_A),
        // Rootless.
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope",
            SHORT_A,
        ),
        // `--cgroup-parent`, as Amazon ECS sets it.
        ("/batch.slice/docker-{A}.scope", SHORT_A),
        (
            "/ecs/test-cluster/5a0d5ceddf6c44c1928d367a815d890f/{A}",
            SHORT_A,
        ),
        // Docker in docker, and a sub-cgroup made so that it works.
        ("/docker/{A}/docker/{B}", SHORT_B),
        ("/system.slice/docker-{A}.scope/docker/{B}", SHORT_B),
        ("/docker/{A}/init", SHORT_A),
        // systemd inside of it.
        (
            "/system.slice/docker-{A}.scope/system.slice/nginx.service",
            SHORT_A,
        ),
        ("/docker/{A}/init.scope", SHORT_A),
        // What the path names in a cgroup namespace beside it.
        ("/../{A}/docker/{B}", SHORT_B),
    ] {
        check(path, "docker", name);
    }
}

#[test]
fn podman() {
    for (path, name) in [
        // libpod/container_internal_linux.go, oci_conmon_linux.go.
        ("/machine.slice/libpod-{A}.scope", SHORT_A),
        ("/machine.slice/libpod-{A}.scope/container", SHORT_A),
        ("/machine.slice/libpod-conmon-{A}.scope", SHORT_A),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope/container",
            SHORT_A,
        ),
        ("/libpod_parent/libpod-{A}", SHORT_A),
        // Pods.
        ("/machine.slice/machine-libpod_pod_{B}.slice", SHORT_B),
        (
            "/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope",
            SHORT_A,
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_{B}.slice/libpod-{A}.scope/container",
            SHORT_A,
        ),
        ("/libpod_parent/libpod_pod_{B}/libpod-{A}", SHORT_A),
        // A unit of systemd that runs podman (quadlet: `--cgroups=split`).
        ("/system.slice/web.service/libpod-payload-{A}", SHORT_A),
    ] {
        check(path, "podman", name);
    }
    // Its conmon.
    check(
        "/system.slice/web.service/runtime",
        "systemd",
        "web.service",
    );
}

#[test]
fn containerd_and_crio() {
    for (path, kind, name) in [
        (
            "/system.slice/cri-containerd-{A}.scope",
            "containerd",
            SHORT_A,
        ),
        // A path for the systemd driver that the cgroupfs driver got
        // (containerd getCgroupsPath(), runc libcontainer/specconv).
        ("/system.slice:cri-containerd:{A}", "containerd", SHORT_A),
        (
            "/system.slice/containerd.service/system.slice:cri-containerd:{A}",
            "containerd",
            SHORT_A,
        ),
        ("/system.slice:docker:{A}", "docker", SHORT_A),
        ("/k8s.io/{A}", "containerd", SHORT_A),
        // `ctr run`, whose user chooses the id, and nerdctl.
        ("/default/{A}", "containerd", SHORT_A),
        ("/default/redis-1", "containerd", "redis-1"),
        ("/system.slice/nerdctl-{A}.scope", "containerd", SHORT_A),
        // CRI-O internal/config/cgmgr.
        ("/system.slice/crio-{A}.scope", "crio", SHORT_A),
        ("/../crio-{A}", "crio", SHORT_A),
        ("/system.slice/crio-conmon-{A}.scope", "crio", SHORT_A),
    ] {
        check(path, kind, name);
    }
}

#[test]
fn pods() {
    for path in [
        // cgroupfs driver (kubernetes pkg/kubelet/cm); the second is guaranteed.
        "/kubepods/burstable/pod{UID}/{A}",
        "/kubepods/pod{UID}/{A}",
        "/kubepods/besteffort/pod{UID}/crio-{A}",
        "/kubelet/kubepods/burstable/pod{UID}/{A}",
        // systemd driver; the second is guaranteed.
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{_UID}.slice/cri-containerd-{A}.scope",
        "/kubepods.slice/kubepods-pod{_UID}.slice/crio-{A}.scope",
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{_UID}.slice/docker-{A}.scope",
        // Older kubelets with docker kept the dashes.
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID}.slice/docker-{A}.scope",
        // crun's and systemd's own sub-cgroups; conmon.
        "/kubepods.slice/kubepods-pod{_UID}.slice/crio-{A}.scope/container",
        "/kubepods.slice/kubepods-pod{_UID}.slice/cri-containerd-{A}.scope/system.slice/nginx.service",
        "/kubepods.slice/kubepods-pod{_UID}.slice/crio-conmon-{A}.scope",
        // Drivers of kubelet and containerd that differ.
        "/system.slice/containerd.service/kubepods-burstable-pod{_UID}.slice:cri-containerd:{A}",
        "/kubepods-besteffort-pod{_UID}.slice:cri-containerd:{A}",
        // kind, on the host and seen from inside its node.
        "/system.slice/docker-{B}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{_UID}.slice/cri-containerd-{A}.scope",
        "/docker/{B}/kubelet/kubepods/besteffort/pod{UID}/{A}",
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{_UID}.slice/cri-containerd-{A}.scope",
        // Seen from the cgroup namespace of another pod.
        "/../../pod{UID}/{A}",
        "/../../../kubepods-besteffort.slice/kubepods-besteffort-pod{_UID}.slice/cri-containerd-{A}.scope",
        // Docker in a pod: the cluster knows the outer one.
        "/kubepods/burstable/pod{UID}/{A}/docker/{B}",
    ] {
        check_pod(path, SHORT_A, UID);
    }
    for path in [
        "/kubepods/burstable/pod{STATIC}/{A}",
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{STATIC}.slice/cri-containerd-{A}.scope",
    ] {
        check_pod(path, SHORT_A, STATIC_UID);
    }
}

#[test]
fn a_pod_without_a_known_container_goes_by_its_uid() {
    check_pod("/kubepods/besteffort/pod{UID}", UID, UID);
    check_pod("/kubepods/besteffort/pod{UID}/sandbox", UID, UID);
    check_pod("/kubepods.slice/kubepods-pod{_UID}.slice", UID, UID);
    check_pod("/docker/{A}/kubepods/pod{STATIC}", STATIC_UID, STATIC_UID);
}

#[test]
fn system_containers() {
    for (path, name) in [
        ("/lxc.payload.web", "/lxc.payload.web"),
        (
            "/lxc.payload.web/system.slice/nginx.service",
            "/lxc.payload.web",
        ),
        ("/lxc.monitor.web", "/lxc.monitor.web"),
        ("/lxc.payload/web/init.scope", "/lxc.payload/web"),
        ("/lxc/101/ns/system.slice/nginx.service", "/lxc/101"),
        (
            "/lxc.payload.a/lxc.payload.b/x",
            "/lxc.payload.a/lxc.payload.b",
        ),
    ] {
        check(path, "cgroup", name);
    }
    check("/lxc/101/docker/{A}", "docker", SHORT_A);
}

#[test]
fn anything_else_is_its_path() {
    for (path, name) in [
        ("/openrc.nginx", "/openrc.nginx"),
        ("batch//jobs/7/", "/batch/jobs/7"),
        ("/../../batch", "/batch"),
        ("/docker/buildkit/x1y2", "/docker/buildkit/x1y2"),
        ("/docker", "/docker"),
        ("/{A}", "/{A}"),
        ("/default", "/default"),
        ("/lxc", "/lxc"),
        ("/kubepods/besteffort", "/kubepods/besteffort"),
        ("/system.slice/odd", "/system.slice/odd"),
        ("/.service", "/.service"),
        ("/a b.service", "/a b.service"),
        ("/a\u{1b}[2J.service", "/a\u{1b}[2J.service"),
        ("/podruntime/kubelet", "/podruntime/kubelet"),
    ] {
        check(path, "cgroup", name);
    }
}

#[test]
fn what_only_looks_like_a_container_is_a_unit() {
    for unit in [
        "docker-.scope",
        "docker-abc.scope",
        "docker-4D1F6B3A9C0E4D1F6B3A9C0E4D1F6B3A9C0E4D1F6B3A9C0E4D1F6B3A9C0E1234.scope",
        "other-{A}.scope",
        "kubepods-podx.service",
    ] {
        check(&format!("/system.slice/{unit}"), "systemd", unit);
    }
}

#[test]
fn names_are_bounded() {
    let name = |path: String| of_cgroup(&path).unwrap().name;
    assert_eq!(
        name(format!("/{}", "\u{65e5}".repeat(400))).chars().count(),
        MAX_NAME
    );
    assert_eq!(
        name(format!("/{}.service", "x".repeat(247))),
        "x".repeat(MAX_NAME)
    );
    assert_eq!(
        name(format!("/default/{}", "x".repeat(255))),
        "x".repeat(MAX_NAME)
    );
}

#[test]
fn the_uid_is_that_of_a_pod_only() {
    let json = |path: &str| serde_json::to_string(&of_cgroup(&expand(path))).unwrap();
    assert_eq!(
        json("/system.slice/nginx.service"),
        r#"{"kind":"systemd","name":"nginx.service"}"#
    );
    assert_eq!(
        json("/kubepods/pod{UID}/{A}"),
        format!(r#"{{"kind":"kubernetes","name":"{SHORT_A}","pod_uid":"{UID}"}}"#)
    );
}

/// What paths are made of, and what breaks parsers.
fn piece() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "/",
        "/",
        "/",
        "..",
        "-",
        "_",
        ":",
        ".",
        " (deleted)",
        "\\x2d",
        "\0",
        "\n",
        "\u{65e5}",
        "docker",
        "libpod",
        "libpod_pod_",
        "crio",
        "cri-containerd",
        "conmon",
        "default",
        "ecs",
        "k8s.io",
        "kubepods",
        "-pod",
        "pod",
        "lxc",
        "lxc.payload.",
        "user@",
        "init",
        ".scope",
        ".slice",
        ".service",
        ".socket",
        A,
        B,
        UID,
        STATIC_UID,
    ]);
    prop_oneof![
        8 => known.prop_map(str::to_owned),
        1 => any::<String>(),
        1 => any::<char>().prop_map(|character| character.to_string().repeat(200)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 8192,
        rng_seed: RngSeed::Fixed(7),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_path_gives_a_bounded_name(
        pieces in prop::collection::vec(piece(), 0..16),
    ) {
        let path = pieces.concat();
        if let Some(workload) = of_cgroup(&path) {
            let Workload { kind, name, pod_uid } = workload;
            prop_assert!(!name.is_empty(), "{path:?}");
            prop_assert!(name.chars().count() <= MAX_NAME, "{path:?}");
            prop_assert_eq!(pod_uid.is_some(), kind == "kubernetes", "{:?}", path);
            prop_assert!(pod_uid.is_none_or(|uid| uid.len() <= 36), "{path:?}");
        }
    }
}
