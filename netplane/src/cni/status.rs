//! STATUS: whether an ADD would succeed as far as that can be known without one.

use super::config::Config;
use super::error::CniError;
use super::known;
use super::readiness;
use super::request::Request;
use crate::attach::plan::Delegate;
use crate::cluster::Cluster;
use crate::plugins::version::Version;
use crate::plugins::{self, Verb, builtin};

/// Asks for the default network and its plugins.
///
/// # Errors
/// 50 where no ADD would succeed, 51 where attached containers may be cut off as well; a plugin's own code.
pub(super) fn status(request: &Request, config: &Config, cluster: &Cluster) -> Result<(), CniError> {
    config.allow("STATUS", Version::V1_1_0)?;
    ready(config, cluster)?;
    let delegates = known::of_every_pod(config, cluster).map_err(CniError::not_available)?;
    delegates.iter().try_for_each(|it| ask(request, config, it))
}

/// What there is to be on the node beside the networks.
fn ready(config: &Config, cluster: &Cluster) -> Result<(), CniError> {
    config.readiness_file.as_deref().map_or(Ok(()), readiness::check)?;
    match (cluster.agent_is_up()?, &config.agent_socket) {
        (Some(false), Some(socket)) => Err(CniError::no_agent(socket)),
        _ => Ok(()),
    }
}

fn ask(request: &Request, config: &Config, delegate: &Delegate) -> Result<(), CniError> {
    let call = super::container(request, config).call;
    for plugin in &delegate.plugins {
        let named = |error| CniError::plugin(&delegate.label, error);
        plugins::look_up(&call, plugin).map_err(|error| CniError::not_available(named(error)))?;
        // Older programs do not know STATUS.
        if builtin::is_builtin(plugin) || Version::of_config(plugin).has_status() {
            plugins::run(Verb::Status, &call, plugin, None).map_err(named)?;
        }
    }
    Ok(())
}
