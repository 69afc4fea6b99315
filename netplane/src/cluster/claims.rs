//! Devices of dynamic resource allocation (`resource.k8s.io/v1`): a pod's ResourceClaims, what they were
//! given, and the attributes by which a DRA driver says which device that is for a CNI plugin.

use super::api::Api;
use super::error::ClusterError;
use super::{Cluster, PodName};
use kube::api::{DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;

/// The attribute with the device's ID, and the one with the resource name that NADs have. Multus's.
const DEVICE_ID: &str = "k8s.cni.cncf.io/deviceID";
const RESOURCE_NAME: &str = "k8s.cni.cncf.io/resourceName";

/// A ResourceClaim of a pod, in the pod's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    pub name: String,
    /// Resource names by request, for the claim that stands for a pod's extended resources.
    pub resources: BTreeMap<String, String>,
}

/// A device that a claim was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedDevice {
    pub resource: String,
    pub id: String,
}

/// `Pod.status`, as far as it is about claims.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    #[serde(default)]
    resource_claim_statuses: Option<Vec<ClaimStatus>>,
    #[serde(default)]
    extended_resource_claim_status: Option<ExtendedStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClaimStatus {
    #[serde(default)]
    resource_claim_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExtendedStatus {
    resource_claim_name: String,
    #[serde(default)]
    request_mappings: Vec<RequestMapping>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestMapping {
    resource_name: String,
    request_name: String,
}

/// `ResourceClaim.status`, as far as it is about devices.
#[derive(Default, Deserialize)]
struct ClaimAllocation {
    #[serde(default)]
    allocation: Option<Allocation>,
}

#[derive(Deserialize)]
struct Allocation {
    #[serde(default)]
    devices: Results,
}

#[derive(Default, Deserialize)]
struct Results {
    #[serde(default)]
    results: Vec<Given>,
}

/// One device: a driver's, of a pool.
#[derive(Deserialize)]
struct Given {
    request: String,
    driver: String,
    pool: String,
    device: String,
}

/// `ResourceSlice.spec`.
#[derive(Deserialize)]
struct Slice {
    pool: Pool,
    #[serde(default)]
    devices: Vec<Device>,
}

#[derive(Deserialize)]
struct Pool {
    name: String,
    #[serde(default)]
    generation: i64,
}

#[derive(Deserialize)]
struct Device {
    name: String,
    #[serde(default)]
    attributes: BTreeMap<String, Attribute>,
}

/// Of the kinds of values only strings are of use here.
#[derive(Deserialize)]
struct Attribute {
    #[serde(default)]
    string: Option<String>,
}

impl Cluster {
    /// The claims in a pod's status, in its order, and the one for extended resources last, as with Multus.
    ///
    /// # Errors
    /// The server cannot be asked, or has another pod of the name.
    pub fn claims_of(&self, pod: &PodName) -> Result<Vec<Claim>, ClusterError> {
        super::check_name(pod)?;
        let Some(path) = &self.kubeconfig else { return Ok(Vec::new()) };
        self.runtime()?.block_on(async { self.api(path)?.claims_of(pod).await })
    }

    /// The devices of claims in a namespace, in their order. A device whose driver has no attributes for CNI
    /// plugins is some other device; Multus fails at it, even if no network is about it.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub fn claimed_devices(
        &self,
        namespace: &str,
        claims: &[Claim],
    ) -> Result<Vec<ClaimedDevice>, ClusterError> {
        let Some(path) = self.kubeconfig.as_ref().filter(|_| !claims.is_empty()) else {
            return Ok(Vec::new());
        };
        self.runtime()?.block_on(async {
            let api = self.api(path)?;
            let mut slices = BTreeMap::new();
            let mut devices = Vec::new();
            for claim in claims {
                for given in api.given(namespace, &claim.name).await? {
                    if !slices.contains_key(&given.driver) {
                        slices.insert(given.driver.clone(), api.slices(&given.driver).await?);
                    }
                    let slices = slices.get(&given.driver).map(Vec::as_slice).unwrap_or_default();
                    devices.extend(device(claim, &given, slices));
                }
            }
            Ok(devices)
        })
    }
}

impl Api {
    async fn claims_of(&self, pod: &PodName) -> Result<Vec<Claim>, ClusterError> {
        let what = format!("GET pod {pod}");
        let pods = self.pods(&pod.namespace);
        let Some(found) = self.call(&what, || pods.get_opt(&pod.name)).await? else { return Ok(Vec::new()) };
        let known = super::Pod {
            annotations: found.metadata.annotations.clone().unwrap_or_default(),
            uid: found.metadata.uid.clone().unwrap_or_default(),
        };
        self.same_pod(pod, pod.uid.as_deref(), &known)?;
        Ok(claims_in(self.part(&what, &found, "/status")?))
    }

    async fn given(&self, namespace: &str, claim: &str) -> Result<Vec<Given>, ClusterError> {
        let kind = GroupVersionKind::gvk("resource.k8s.io", "v1", "ResourceClaim");
        let kind = ApiResource::from_gvk_with_plural(&kind, "resourceclaims");
        let claims: kube::Api<DynamicObject> =
            kube::Api::namespaced_with(self.client.clone(), namespace, &kind);
        let what = format!("GET resourceclaim {namespace}/{claim}");
        let Some(found) = self.call(&what, || claims.get_opt(claim)).await? else { return Ok(Vec::new()) };
        let status: ClaimAllocation = self.part(&what, &found, "/status")?;
        Ok(status.allocation.map(|it| it.devices.results).unwrap_or_default())
    }

    async fn slices(&self, driver: &str) -> Result<Vec<Slice>, ClusterError> {
        let kind = GroupVersionKind::gvk("resource.k8s.io", "v1", "ResourceSlice");
        let kind = ApiResource::from_gvk_with_plural(&kind, "resourceslices");
        let slices: kube::Api<DynamicObject> = kube::Api::all_with(self.client.clone(), &kind);
        let what = format!("LIST resourceslices of {driver}");
        let parameters = ListParams::default().fields(&format!("spec.driver={driver}"));
        let found = self.call(&what, || slices.list(&parameters)).await?;
        found.items.iter().map(|it| self.part(&what, it, "/spec")).collect()
    }

    /// A part of an object as a type.
    fn part<T: DeserializeOwned>(
        &self,
        what: &str,
        object: &DynamicObject,
        at: &str,
    ) -> Result<T, ClusterError> {
        let part = object.data.pointer(at).cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        serde_json::from_value(part).map_err(|error| ClusterError::Answer {
            server: self.server(),
            what: what.to_owned(),
            problem: format!("{}: {at}: {error}", object.metadata.name.as_deref().unwrap_or_default()),
        })
    }
}

fn claims_in(status: PodStatus) -> Vec<Claim> {
    let plain = status.resource_claim_statuses.unwrap_or_default().into_iter();
    // A claim that was not needed has no name.
    let plain = plain.filter_map(|it| it.resource_claim_name);
    let mut claims: Vec<_> = plain.map(|name| Claim { name, ..Claim::default() }).collect();
    claims.extend(status.extended_resource_claim_status.map(|it| Claim {
        name: it.resource_claim_name,
        resources: it.request_mappings.into_iter().map(|it| (it.request_name, it.resource_name)).collect(),
    }));
    claims
}

/// The device by the attributes that its driver publishes, of the pool's newest generation that has it.
fn device(claim: &Claim, given: &Given, slices: &[Slice]) -> Option<ClaimedDevice> {
    let of_pool = slices.iter().filter(|it| it.pool.name == given.pool);
    let found = of_pool.filter_map(|slice| {
        let device = slice.devices.iter().find(|it| it.name == given.device)?;
        Some((slice.pool.generation, device))
    });
    let (_, device) = found.max_by_key(|(generation, _)| *generation)?;
    let attribute = |name: &str| device.attributes.get(name).and_then(|it| it.string.clone());
    // `subrequest`: "gpu/large" is a choice that request "gpu" left open.
    let request = given.request.split('/').next().unwrap_or_default();
    let resource = claim.resources.get(request).cloned().or_else(|| attribute(RESOURCE_NAME));
    let found = resource.zip(attribute(DEVICE_ID)).map(|(resource, id)| ClaimedDevice { resource, id });
    if found.is_none() {
        let (driver, device) = (&given.driver, &given.device);
        tracing::debug!(driver, device, "no attributes {DEVICE_ID} and {RESOURCE_NAME}: not for CNI plugins");
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("as the API has it")
    }

    #[test]
    fn claims_of_a_pod_in_order() {
        let status = json!({
            "phase": "Pending",
            "resourceClaimStatuses": [{"name": "b", "resourceClaimName": "upf-0-b-x7"}, {"name": "unneeded"},
                                      {"name": "a", "resourceClaimName": "shared"}],
            "extendedResourceClaimStatus": {"resourceClaimName": "upf-0-extended", "requestMappings": [
                {"containerName": "c", "resourceName": "intel.com/vf", "requestName": "container-0-request-0"}]},
        });
        let claims = claims_in(read(status));
        let names: Vec<_> = claims.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["upf-0-b-x7", "shared", "upf-0-extended"]);
        let mapping = ("container-0-request-0".to_owned(), "intel.com/vf".to_owned());
        assert_eq!(claims[2].resources, BTreeMap::from([mapping]));
        assert!(claims_in(read(json!({}))).is_empty());
        assert!(claims_in(read(json!({"resourceClaimStatuses": null}))).is_empty());
    }

    #[test]
    fn devices_are_known_by_the_attributes_of_the_newest_generation() {
        let slice = |pool: &str, generation: i64, devices: Value| -> Slice {
            read(json!({"driver": "d", "pool": {"name": pool, "generation": generation,
                        "resourceSliceCount": 1}, "nodeName": "n", "devices": devices}))
        };
        let vf = |name: &str, id: &str| {
            json!({"name": name, "attributes": {
                DEVICE_ID: {"string": id}, RESOURCE_NAME: {"string": "intel.com/vf"}, "d/numa": {"int": 1}}})
        };
        let slices = [
            slice("one", 1, json!([vf("vf-0", "old"), vf("vf-1", "0000:03:02.1")])),
            slice("one", 2, json!([vf("vf-0", "0000:03:02.0")])),
            slice(
                "two",
                7,
                json!([vf("vf-0", "0000:04:02.0"), {"name": "gpu-0"},
                                   {"name": "bare", "attributes": {DEVICE_ID: {"string": "0000:05:00.1"}}}]),
            ),
        ];
        let given = |pool: &str, device: &str| -> Given {
            read(json!({"request": "r/sub", "driver": "d", "pool": pool, "device": device}))
        };
        let plain = Claim::default();
        let mapping = ("r".to_owned(), "intel.com/mapped".to_owned());
        let extended = Claim { resources: BTreeMap::from([mapping]), ..Claim::default() };
        for (claim, pool, name, expected) in [
            (&plain, "one", "vf-0", Some(("intel.com/vf", "0000:03:02.0"))),
            (&plain, "one", "vf-1", Some(("intel.com/vf", "0000:03:02.1"))),
            (&plain, "two", "vf-0", Some(("intel.com/vf", "0000:04:02.0"))),
            (&plain, "two", "gpu-0", None),
            (&plain, "two", "bare", None),
            (&plain, "two", "unknown", None),
            (&extended, "two", "bare", Some(("intel.com/mapped", "0000:05:00.1"))),
        ] {
            let found = device(claim, &given(pool, name), &slices);
            let found = found.as_ref().map(|it| (it.resource.as_str(), it.id.as_str()));
            assert_eq!(found, expected, "{pool}/{name}");
        }
    }
}
