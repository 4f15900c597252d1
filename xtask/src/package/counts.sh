#!/bin/bash
# counts.sh ROOT: starts the `rst` of another root directory in a network of its own, meets a
# closed port there, and succeeds once the daemon's metrics show the reset.
# To be run by `unshare --mount --net`: with it all of this ends.
set -e
root=$1
ip link set lo up
mkdir -p "$root"/{proc,sys,run,var/lib}
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs run "$root/run"
chroot "$root" /usr/bin/rst daemon 2> "$root/run/log" &
daemon=$!
trap 'kill $daemon; wait $daemon' EXIT

# get PATH: an answer of the daemon.
get() {
    exec 5<> /dev/tcp/127.0.0.1/10004 || return
    printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$1" >&5
    cat <&5
    exec 5>&-
}

# until_shown PATH REGEX: waits for an answer that has this.
until_shown() {
    end=$((SECONDS + 60))
    until get "$1" 2> /dev/null | grep -q "$2"; do
        if ((SECONDS >= end)) || ! kill -0 $daemon; then
            echo "no $2 in $1" >&2
            cat "$root/run/log" >&2
            exit 1
        fi
        sleep 0.1
    done
}

until_shown /readyz ' 200 '
if (: < /dev/tcp/127.0.0.1/9) 2> /dev/null; then
    echo "port 9 is open" >&2
    exit 1
fi
until_shown /metrics '^rst_resets_total{direction="received",cause="refused".*port="9"} 1'
