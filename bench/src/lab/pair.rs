//! Two network namespaces with a wire between them: the least in which something can be sent and counted.

use super::namespace::Namespace;
use super::undo::UndoStack;
use anyhow::Result;

/// A pair that stands until it is dropped. The interface has one name on both sides.
#[derive(Debug)]
pub struct Pair {
    pub near: Namespace,
    pub far: Namespace,
    undo: UndoStack,
}

/// Name of the interface on both sides.
pub const INTERFACE: &str = "wire";

impl Pair {
    /// Builds it.
    ///
    /// # Errors
    /// Not root, or a tool is missing; nothing is left then.
    pub fn new() -> Result<Self> {
        let undo = UndoStack::new();
        let built = Self::build(&undo);
        if built.is_err() {
            let _problems = undo.run();
        }
        built
    }

    fn build(undo: &UndoStack) -> Result<Self> {
        let prefix = super::prefix();
        let namespace = |role: &str| Namespace::create(format!("{prefix}-{role}"), undo);
        let (near, far) = (namespace("near")?, namespace("far")?);
        near.ip(&format!(
            "link add {INTERFACE} type veth peer name {INTERFACE} netns {}\nlink set {INTERFACE} up",
            far.name()
        ))?;
        far.ip(&format!("link set {INTERFACE} up"))?;
        for end in [&near, &far] {
            super::as_on_a_wire(end, INTERFACE)?;
        }
        Ok(Self { near, far, undo: undo.clone() })
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _problems = self.undo.run();
    }
}
