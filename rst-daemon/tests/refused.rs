//! A program that the kernel's verifier really refuses: what is said of it is short and
//! names it.

use aya::programs::{BtfTracePoint, ProgramError};
use aya::{Btf, EbpfLoader};
use rst_common::layout::Field;
use rst_daemon::kernel::btf;
use rst_daemon::kernel::layout::{resolve, wanted};
use rst_daemon::kernel::preflight::Host;
use rst_daemon::kernel::verdict::Verdict;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/rst-ebpf-object"));

#[test]
fn a_broken_layout_is_told_with_the_verifiers_last_lines() {
    let host = Host::read();
    if let Err(error) = host.check() {
        println!("SKIPPED: a_broken_layout_is_told_with_the_verifiers_last_lines: {error}");
        return;
    }
    let bytes = std::fs::read(btf::VMLINUX).unwrap();
    let mut layout = resolve(&btf::Btf::parse(&bytes, &wanted()).unwrap())
        .unwrap()
        .layout;
    // Beyond any socket.
    layout[Field::SkState as usize] = 1 << 20;
    let kernel_btf = Btf::from_sys_fs().unwrap();
    let mut ebpf = EbpfLoader::new()
        .btf(Some(&kernel_btf))
        .override_global("LAYOUT", &layout[..], true)
        .load(OBJECT)
        .unwrap();
    let name = "tcp_receive_reset";
    let program: &mut BtfTracePoint = ebpf.program_mut(name).unwrap().try_into().unwrap();
    let error = program.load(name, &kernel_btf).unwrap_err();
    let ProgramError::LoadError { verifier_log, .. } = &error else {
        panic!("{error:?}");
    };
    let whole = verifier_log.to_string().lines().count();
    let verdict = Verdict::of(name, &error, &host);
    let Verdict::Failed(why) = &verdict else {
        panic!("{verdict:?}");
    };
    assert!(whole > 20, "{whole} lines of log:\n{verifier_log}");
    assert!(why.starts_with("program tcp_receive_reset: "), "{why}");
    assert_eq!(why.lines().count(), 6, "of {whole} lines:\n{why}");
    // The verifier names the offset.
    assert!(why.contains("1048576"), "{why}");
}
