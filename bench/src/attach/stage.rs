//! A node with masters, and pods, in network namespaces; and the calls on it.

use super::Programs;
use super::call::{self, Cost};
use super::shape::{Network, Shape, Subject, Verb};
use crate::lab::Namespace;
use crate::lab::cgroup::Cgroup;
use crate::lab::undo::{Undo, UndoStack};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

/// All that there is until [`Stage::remove`], a drop or a signal.
pub(super) struct Stage {
    programs: Programs,
    // Namespaces are closed before the stack removes them: fields drop after `Drop`.
    node: Namespace,
    pods: Vec<Namespace>,
    folder: PathBuf,
    undo: UndoStack,
}

impl Stage {
    pub(super) fn new(programs: &Programs, pods: usize) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "network namespaces are made: run it as root");
        let undo = UndoStack::new();
        let made = Self::build(programs, pods, &undo);
        if made.is_err() {
            let _problems = undo.run();
        }
        made
    }

    fn build(programs: &Programs, pods: usize, undo: &UndoStack) -> Result<Self> {
        let prefix = format!("nb{}", std::process::id());
        // A disk, as /var/lib is: records are synced.
        let folder = undo.make(|| {
            let folder = tempfile::Builder::new().prefix("netplane-attach-").tempdir_in("/var/tmp")?.keep();
            Ok((folder.clone(), Undo::Directory(folder)))
        })?;
        let node = Namespace::create(format!("{prefix}-node"), undo)?;
        for master in Network::MASTERS {
            let peer = format!("{master}p");
            node.ip(&format!(
                "link add {master} type veth peer name {peer}\nlink set {master} up\nlink set {peer} up"
            ))?;
        }
        let pod = |number| Namespace::create(format!("{prefix}-pod{number}"), undo);
        let pods = (0..pods).map(pod).collect::<Result<Vec<_>>>()?;
        let stage = Self { programs: programs.clone(), node, pods, folder, undo: undo.clone() };
        stage.write_nads()?;
        Ok(stage)
    }

    fn write_nads(&self) -> Result<()> {
        for subject in [Subject::Netplane, Subject::NetplaneExec] {
            let folder = self.folder.join(subject.word());
            std::fs::create_dir_all(folder.join("nads"))?;
            for network in Shape::ALL.iter().flat_map(|it| it.networks()) {
                let config = network.configuration(subject, &folder.join("ipam")).to_string();
                let nad = json!({
                    "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
                    "metadata": { "name": network.name(), "namespace": "bench" },
                    "spec": { "config": config },
                });
                std::fs::write(
                    folder.join("nads").join(format!("{}.json", network.name())),
                    nad.to_string(),
                )?;
            }
        }
        Ok(())
    }

    /// One call, and what it cost.
    pub(super) fn one(&self, shape: Shape, subject: Subject, verb: Verb) -> Result<Cost> {
        let pod = self.pods.first().context("there is a pod")?;
        // Threads and processes that are started here are on the node, too.
        self.node.run(|| self.call(shape, subject, verb, pod, None))?
    }

    /// Calls for so many pods at the same time, what each cost, and the most memory that all had together, in
    /// bytes.
    pub(super) fn burst(
        &self,
        shape: Shape,
        subject: Subject,
        verb: Verb,
        pods: usize,
    ) -> Result<(Vec<Cost>, u64)> {
        let pods = self.pods.get(..pods).context("there are fewer pods")?;
        let cgroup = Cgroup::new(&format!("netplane-bench-{}", std::process::id()), None)?;
        let procs = cgroup.open_procs()?;
        let call = |pod| self.call(shape, subject, verb, pod, Some(&procs));
        let costs = self.node.run(|| -> Result<Vec<Cost>> {
            std::thread::scope(|scope| {
                let threads: Vec<_> = pods.iter().map(|pod| scope.spawn(move || call(pod))).collect();
                let join = |it: std::thread::ScopedJoinHandle<'_, _>| match it.join() {
                    Ok(cost) => cost,
                    Err(_) => bail!("a call panicked"),
                };
                // All are joined before the first error is returned.
                threads.into_iter().map(join).collect::<Vec<_>>().into_iter().collect()
            })
        })??;
        let peak = cgroup.peak()?;
        Ok((costs, peak))
    }

    fn call(
        &self,
        shape: Shape,
        subject: Subject,
        verb: Verb,
        pod: &Namespace,
        cgroup: Option<&File>,
    ) -> Result<Cost> {
        let names = ["eth0", "net1", "net2"];
        let mut networks: Vec<_> = shape.networks().iter().zip(names).collect();
        if subject != Subject::Reference {
            let configuration = self.configuration(shape, subject).to_string();
            return self.run(&self.programs.netplane, verb, pod, "eth0", &configuration, cgroup);
        }
        if verb == Verb::Del {
            networks.reverse();
        }
        let mut cost = Cost::default();
        for (network, interface) in networks {
            let configuration = network.configuration(subject, &self.folder.join("reference/ipam"));
            let program = self.programs.plugins.join(configuration["type"].as_str().unwrap_or_default());
            cost = cost.and(self.run(&program, verb, pod, interface, &configuration.to_string(), cgroup)?);
        }
        Ok(cost)
    }

    fn run(
        &self,
        program: &PathBuf,
        verb: Verb,
        pod: &Namespace,
        interface: &str,
        stdin: &str,
        cgroup: Option<&File>,
    ) -> Result<Cost> {
        let mut command = Command::new(program);
        command.env_clear().env("CNI_COMMAND", verb.name()).env("CNI_CONTAINERID", pod.name());
        command.env("CNI_NETNS", pod.path()).env("CNI_IFNAME", interface);
        command.env("CNI_PATH", &self.programs.plugins);
        command.env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=pod");
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        call::run(&mut command, stdin, cgroup)
            .with_context(|| format!("{} of {interface} in {}", verb.name(), pod.name()))
    }

    fn configuration(&self, shape: Shape, subject: Subject) -> Value {
        let folder = self.folder.join(subject.word());
        let names: Vec<_> = shape.networks().iter().map(|it| it.name()).collect();
        let selection = names.iter().skip(1).cloned().collect::<Vec<_>>().join(",");
        json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "netplane",
            "nadDir": folder.join("nads"), "cniDir": folder.join("attachments"),
            "clusterNetwork": names.first().map(|it| format!("bench/{it}")),
            "runtimeConfig": {
                "io.kubernetes.cri.pod-annotations": { "k8s.v1.cni.cncf.io/networks": selection },
            },
        })
    }

    /// Removes everything now.
    ///
    /// # Errors
    /// What is left, one line each.
    pub(super) fn remove(self) -> Result<()> {
        let problems = self.undo.run();
        if problems.is_empty() { Ok(()) } else { bail!("not all could be removed:\n{}", problems.join("\n")) }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Whoever wants to know what could not be removed calls `remove`.
        let _problems = self.undo.run();
    }
}
