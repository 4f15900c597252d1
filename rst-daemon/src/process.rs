//! Processes that run, from `/proc`.

use std::fs;

use rst_common::owner::born_ticks;

use crate::text::until_zero;

/// The command name of a process, where it still runs: one of the same id that began
/// at another time ([`rst_common::owner::born`]) is another one.
#[must_use]
pub fn running(pid: u32, born: u32) -> Option<String> {
    name_in(&fs::read(format!("/proc/{pid}/stat")).ok()?, born)
}

/// The name in a line of `proc_pid_stat(5)`: in parentheses, which it may hold itself.
fn name_in(line: &[u8], born: u32) -> Option<String> {
    let begin = line.iter().position(|byte| *byte == b'(')? + 1;
    let end = line.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(line.get(end + 1..)?).ok()?;
    // The 22nd field; the name is the second.
    let ticks: u64 = rest.split_ascii_whitespace().nth(19)?.parse().ok()?;
    (born_ticks(ticks) == born).then(|| until_zero(&line[begin..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let line = |name: &str| {
            format!("812 ({name}) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21\n")
        };
        for name in ["nginx", "a) S 1 (b", "", ") ("] {
            assert_eq!(name_in(line(name).as_bytes(), 4711).as_deref(), Some(name));
        }
        assert_eq!(name_in(line("nginx").as_bytes(), 4712), None, "another one");
        assert_eq!(name_in(b"812 (nginx) S 1", 4711), None);
        assert_eq!(name_in(b"", 0), None);
    }

    #[test]
    fn this_process_runs() {
        let line = fs::read_to_string("/proc/self/stat").unwrap();
        let rest = line.rsplit_once(')').unwrap().1;
        let ticks: u64 = rest.split_whitespace().nth(19).unwrap().parse().unwrap();
        let pid = std::process::id();
        assert!(running(pid, born_ticks(ticks)).is_some());
        assert_eq!(running(pid, born_ticks(ticks + 1)), None);
    }
}
