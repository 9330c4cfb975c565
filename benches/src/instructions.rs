//! Instructions per call by callgrind: they repeat to the digit where times do not.

use std::process::Command;

use crate::harness::Case;

/// Counts instructions by running this program under valgrind, one case at a time.
pub(crate) struct Counter {
    program: std::path::PathBuf,
}

impl Counter {
    /// None when valgrind is not at hand.
    pub(crate) fn find() -> Option<Self> {
        let there = Command::new("valgrind").arg("--version").output();
        if !there.is_ok_and(|output| output.status.success()) {
            return None;
        }
        Some(Self {
            program: std::env::current_exe().ok()?,
        })
    }

    /// Instructions per item: the difference of two runs, so that start and warm-up cancel out.
    pub(crate) fn count(&self, case: &Case) -> Option<f64> {
        if case.probe == 0 {
            return None;
        }
        let once = self.run(&case.name, case.probe)?;
        let twice = self.run(&case.name, case.probe * 2)?;
        Some(twice.saturating_sub(once) as f64 / (case.probe * case.items) as f64)
    }

    fn run(&self, name: &str, calls: u64) -> Option<u64> {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(&self.program)
            .args(["--case", name, "--calls", &calls.to_string()])
            .output()
            .ok()?;
        String::from_utf8_lossy(&output.stderr)
            .lines()
            .find_map(|line| line.split_once("Collected :"))
            .and_then(|(_, count)| count.trim().parse().ok())
    }
}
