#!/bin/bash
# Runs in a guest with a real systemd, as root: puts rst-daemon.service to the test and says
# on the second serial line what came of it.
exec > /dev/ttyS1 2>&1
unit=rst-daemon.service
metrics=/run/metrics

# The guest is emulated: everything takes its time.
patience=120

show() { systemctl show --property="$1" --value $unit; }

# check NAME COMMAND...: whether the command succeeds.
check() {
    local name=$1
    shift
    if "$@"; then
        echo "CHECK ok $name"
    else
        echo "CHECK FAILED $name: \`$*\`; $(show StatusText); log: $(tail -n 1 /run/said)"
    fi
}

# until_true COMMAND...: waits until the command succeeds.
until_true() {
    local end=$((SECONDS + patience))
    until "$@"; do
        ((SECONDS < end)) || return 1
        sleep 0.5
    done
}

# get PATH: the answer of the daemon over TCP.
get() {
    exec 5<> /dev/tcp/127.0.0.1/10004 || return
    printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$1" >&5
    cat <&5
    exec 5>&-
}

scrape() { get /metrics > $metrics 2> /run/said; }

# value REGEX: the sum of the series of the last scrape.
value() { awk -v series="$1" '$1 ~ series { sum += $2 } END { printf "%d", sum }' $metrics; }

# at METRIC VALUE: whether a metric has this value now.
at() { scrape && [ "$(value "^$1\$")" = "$2" ]; }

# rises REGEX BEFORE: whether the series have grown.
rises() { scrape && [ "$(value "$1")" -gt "$2" ]; }

received='^rst_resets_total\{direction="received",cause="refused".*port="9"\}'
sent='^rst_resets_total\{direction="sent",cause="refused"'

# Makes five connections that are refused, and checks that each end is counted once.
five() {
    local begin_received begin_sent
    scrape
    begin_received=$(value "$received")
    begin_sent=$(value "$sent")
    for _ in 1 2 3 4 5; do
        (: < /dev/tcp/127.0.0.1/9) 2> /dev/null
    done
    scrape
    [ $(($(value "$received") - begin_received)) = 5 ] &&
        [ $(($(value "$sent") - begin_sent)) = 5 ] &&
        [ "$(value '^rst_unaccounted_resets$')" = 0 ]
}

# keeps COUNT: whether no more are counted than there were, and no fewer.
keeps() { scrape && [ "$(value "$received")" = "$1" ]; }

is_active() { [ "$(show ActiveState)" = active ]; }
is_ready() { is_active && get /readyz | head -n 1 | grep -q ' 200 '; }
# status FIELD VALUE: of the daemon's process.
status() { grep -qx "$1:[[:space:]]*$2" "/proc/$(show MainPID)/status"; }
owned() { [ "$(stat -c '%a %U %G' "$1")" = "$2" ]; }
# logged TEXT: whether the service's journal has it.
logged() { journalctl --sync; journalctl --quiet --unit $unit | grep -qF -- "$1"; }
fails() { ! "$@" > /run/said 2>&1; }
# inside COMMAND...: in the service's file systems.
inside() { nsenter --mount --target "$(show MainPID)" "$@"; }
no_kill() { journalctl --sync; ! journalctl --quiet | grep -E 'type=1326|SIGSYS|status=31|apparmor="DENIED"'; }
restarted() { [ "$(show NRestarts)" = "$1" ] && is_ready; }

echo GUEST-BEGINS
: > /run/said

check "started at boot" until_true is_active
check "ready" until_true is_ready
check "says so to systemd" [ "$(show StatusText)" = running ]
check "resets are counted" five
check "runs as user rst" status Uid "$(id -u rst)[[:space:]0-9]*"
check "has the capabilities that are listed and no more" status CapEff CAPABILITIES
check "they can't grow" status CapBnd CAPABILITIES
check "no new privileges" status NoNewPrivs 1
check "system calls are filtered" status Seccomp 2
check "the socket is the group's" owned /run/rst/rst.sock "660 rst rst"
check "the state directory is its own" owned /var/lib/rst "750 rst rst"
check "the store is written" until_true at rst_store_up 1
check "the system is read-only" fails inside touch /usr/x
check "the configuration is read-only" fails inside touch /etc/rst/rst.toml
check "the kernel's settings are read-only" fails inside touch /proc/sys/kernel/hostname
check "home directories are hidden" [ -z "$(inside ls /root 2> /dev/null)" ]
check "its own directories can be written" inside touch /run/rst/x /var/lib/rst/x
check "rst watch streams" until_true eval 'timeout 20 rst watch --json > /run/watched & sleep 3; five; sleep 3; kill $! 2> /dev/null; grep -q refused /run/watched'
check "rst history shows them" eval 'rst history --since 1h | grep -q refused'
check "what is missing is said" logged "without CAP_SYS_ADMIN: "

pid=$(show MainPID)
sed -i 's/^idle_ms.*/idle_ms = 4000/' /etc/rst/rst.toml
check "a good file is reloaded" systemctl reload $unit
check "and taken over" until_true logged "the settings were read again; changed: idle_ms"
check "and told" until_true at rst_config_last_reload_successful 1
echo 'mystery = 1' >> /etc/rst/rst.toml
check "a bad file fails the reload" fails systemctl reload $unit
check "it is told why" until_true logged "the settings are refused, those from before stay: /etc/rst/rst.toml:"
check "the metrics tell" until_true at rst_config_last_reload_successful 0
check "the daemon goes on" five
sed -i '/mystery/d' /etc/rst/rst.toml
check "a mended file is reloaded" systemctl reload $unit
check "and told" until_true at rst_config_last_reload_successful 1
check "it is the same process" [ "$(show MainPID)" = "$pid" ]
check "never restarted" [ "$(show NRestarts)" = 0 ]

scrape
counted=$(value "$received")
kill -STOP "$pid"
check "a daemon that stands still is killed and started again" until_true restarted 1
check "by the watchdog" logged "Watchdog timeout"
check "its counts go on" keeps "$counted"
check "in a place of its own" owned /sys/fs/bpf/rst "700 rst rst"
check "and counts" five
check "no system call was fatal" no_kill

# Now with every capability, and every call that is not allowed deadly.
mkdir -p /etc/systemd/system/$unit.d
cat > /etc/systemd/system/$unit.d/all.conf << END
[Service]
AmbientCapabilities=CAP_SYS_PTRACE CAP_SYS_ADMIN
CapabilityBoundingSet=CAP_SYS_PTRACE CAP_SYS_ADMIN
SystemCallErrorNumber=kill
END
systemctl daemon-reload
ip netns add quiet
ip -n quiet link set lo up
check "it starts with every capability" systemctl restart $unit
check "ready" until_true is_ready
check "nothing is missing" fails eval "journalctl --quiet _SYSTEMD_INVOCATION_ID=$(show InvocationID) | grep -F 'without CAP_'"
check "counts" five
check "a namespace without a process is accounted for" eval 'before=$(value "^rst_kernel_out_resets_total$"); ip netns exec quiet bash -c ": < /dev/tcp/127.0.0.1/9" 2> /dev/null; until_true rises "^rst_kernel_out_resets_total$" $before && at rst_unaccounted_resets 0'
check "its programs are measured" until_true rises '^rst_probe_runs_total' 0
check "a reload works" systemctl reload $unit
check "still counts" five
check "no system call was fatal" no_kill
check "never restarted" [ "$(show NRestarts)" = 0 ]
check "stops" systemctl stop $unit
check "of itself" [ "$(show Result)" = success ]
check "leaves nothing in /run" fails test -e /run/rst

# The package: all of the above goes, and comes back by it.
rm -r /sys/fs/bpf/rst /usr/bin/rst /usr/lib/systemd/system/$unit /etc/systemd/system/$unit.d /etc/rst /var/lib/rst
rm /etc/systemd/system/multi-user.target.wants/$unit
userdel rst
systemctl daemon-reload

quietly() { "$@" < /dev/null > /run/said 2>&1; }
is_version() { [ "$(dpkg-query --show --showformat='${Version}' rst)" = "$1" ]; }
is_another() { [ "$(show MainPID)" != "$1" ] && is_ready; }
gone() { local path; for path in "$@"; do [ ! -e "$path" ] || return; done; }

check "the package is installed" quietly dpkg --install /now.deb
check "starts the service" until_true is_ready
check "enables it" quietly systemctl is-enabled $unit
check "resets are counted" five
sed -i 's/^max_cpu_percent.*/max_cpu_percent = 100/; s/^idle_ms.*/idle_ms = 20000/' /etc/rst/rst.toml
check "its settings are edited and reloaded" systemctl reload $unit
check "and taken over" until_true logged "the settings were read again; changed: idle_ms, max_cpu_percent"
scrape
counted=$(value "$received")
pid=$(show MainPID)
version=$(dpkg-query --show --showformat='${Version}' rst)
check "the next package is installed over it" quietly dpkg --install /next.deb
check "is another version" fails is_version "$version"
check "starts the service anew" until_true is_another "$pid"
check "counts go on" keeps "$counted"
check "keeps the settings" quietly grep '^idle_ms = 20000' /etc/rst/rst.toml
check "resets are counted" five
check "the package is removed" quietly dpkg --remove rst
check "the service is stopped" fails is_active
check "settings and store stay" quietly ls /etc/rst/rst.toml /var/lib/rst/rst.db
check "the package is purged" quietly dpkg --purge rst
check "nothing stays" gone /usr/bin/rst /etc/rst /var/lib/rst /run/rst /sys/fs/bpf/rst /usr/lib/systemd/system/$unit /etc/systemd/system/$unit
check "nothing is enabled" fails systemctl is-enabled $unit
check "but the user, whose number must not become another's" quietly id rst

echo JOURNAL
journalctl --sync
journalctl --no-pager --output=short-monotonic --unit $unit
echo GUEST-ENDS 0
systemctl poweroff --force --force
