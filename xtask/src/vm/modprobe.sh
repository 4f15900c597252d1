#!/bin/busybox sh
# What the kernel runs for a module that it lacks (request_module, kernel/module/kmod.c): the first
# rule of netfilter's asks for all of them.
for name; do :; done
case $name in
nft* | nf_* | nfnetlink* | net-pf-16-proto-12)
    for module in /modules-nft/*; do
        /bin/busybox insmod "$module" 2>/dev/null
    done
    ;;
esac
exit 0
