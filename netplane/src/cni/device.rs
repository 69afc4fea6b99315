//! Devices for networks with a resource name: the next one of the pod's for each network, in their order.

use super::config::Config;
use super::request::{Command, Request};
use crate::attach::AttachError;
use crate::attach::plan::{Device, Wanted, Warning};
use crate::cluster::Cluster;
use crate::devices::info_file::InfoFiles;
use crate::devices::{self, Devices, Kubelet, Next};

/// What is needed to give networks their devices.
pub(super) struct Giver<'a> {
    /// Absent outside Kubernetes: there is no kubelet that could have given anything.
    devices: Option<Devices<'a>>,
    info_files: InfoFiles,
    /// DEL must not fail because kubelet does not answer.
    may_fail: bool,
}

impl<'a> Giver<'a> {
    pub(super) fn new(request: &Request, config: &Config, cluster: &'a Cluster) -> Self {
        let arg = |name: &str| request.args.get(name).cloned();
        let pod = arg("K8S_POD_NAMESPACE").zip(arg("K8S_POD_NAME"));
        let devices = pod.map(|(namespace, name)| {
            let pod = devices::Pod { namespace, name, uid: arg("K8S_POD_UID") };
            Devices::new(Kubelet::new(&config.kubelet_dir, devices::DEADLINE), cluster, pod)
        });
        let container_id = request.container_id.clone();
        let info_files = InfoFiles { dir: config.device_info_dir.clone(), container_id };
        Self { devices, info_files, may_fail: request.command == Command::Add }
    }

    /// Gives a network its device, if it has a resource name. As with Multus it may get none: resource names
    /// are also used to say on which nodes a network can be had, without any devices.
    ///
    /// # Errors
    /// Kubelet could not be asked.
    pub(super) fn give(&mut self, mut wanted: Wanted) -> Result<Wanted, AttachError> {
        wanted.overrides.info_files = Some(self.info_files.clone());
        let Some(resource) = wanted.source.resource.clone() else { return Ok(wanted) };
        let network = wanted.source.label.clone();
        let looked = match self.devices.as_mut().map(|it| it.next(&resource)) {
            Some(Ok(Next::Device(id))) => {
                wanted.overrides.device = Some(Device { resource, id });
                return Ok(wanted);
            }
            Some(Ok(Next::None(looked))) => format!("looked in {looked}"),
            Some(Err(error)) if self.may_fail => {
                return Err(AttachError::Device { network, resource, error });
            }
            Some(Err(error)) => error.to_string(),
            None => "K8S_POD_NAMESPACE and K8S_POD_NAME are not in CNI_ARGS".to_owned(),
        };
        wanted.overrides.warnings.push(Warning::NoDevice { network, resource, looked });
        Ok(wanted)
    }
}
