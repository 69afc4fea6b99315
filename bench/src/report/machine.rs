//! The machine that a report is of.

use serde::{Deserialize, Serialize};

/// What can make figures differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    pub cpu: String,
    pub cpus: usize,
    pub memory_mib: u64,
    pub kernel: String,
    /// Whether the kernel says that it runs under a hypervisor.
    pub is_virtual: bool,
    /// What the CPU's mitigations cost depends on them.
    pub mitigations: Vec<String>,
    pub governor: Option<String>,
    /// Others' work at the start: the load average over a minute.
    pub load: String,
}

impl Machine {
    /// This one; what cannot be read is left empty.
    pub fn this() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let field = |text: &str, key: &str| {
            let line = text.lines().find(|it| it.starts_with(key));
            line.and_then(|it| it.split_once(':')).map(|it| it.1.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let kib: u64 = memory.split_whitespace().next().and_then(|it| it.parse().ok()).unwrap_or_default();
        let flags = field(&info, "flags").unwrap_or_default();
        let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        Self {
            cpu: field(&info, "model name").unwrap_or_default(),
            cpus: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            memory_mib: kib / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            is_virtual: flags.split_whitespace().any(|it| it == "hypervisor"),
            mitigations: mitigations(),
            governor: Some(governor.trim().to_owned()).filter(|it| !it.is_empty()),
            load: read("/proc/loadavg").split_whitespace().next().unwrap_or_default().to_owned(),
        }
    }

    /// In a line, for people.
    pub fn line(&self) -> String {
        let kind = if self.is_virtual { "virtual machine" } else { "machine" };
        format!(
            "{kind} with {} × {}, {} MiB, Linux {}, load {} at the start",
            self.cpus, self.cpu, self.memory_mib, self.kernel, self.load
        )
    }
}

/// Those that are active.
fn mitigations() -> Vec<String> {
    let mut active = Vec::new();
    for entry in std::fs::read_dir("/sys/devices/system/cpu/vulnerabilities").into_iter().flatten().flatten()
    {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        if let Some(what) = text.trim().strip_prefix("Mitigation: ") {
            active.push(format!("{}: {what}", entry.file_name().to_string_lossy()));
        }
    }
    active.sort();
    active
}
