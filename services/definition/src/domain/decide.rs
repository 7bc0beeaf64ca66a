//! What storing or publishing comes to, given what is there.

use super::{Status, Version};

/// What has to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing: it is so already.
    Nothing,
    /// A version that was not there.
    Add,
    /// Other content for a draft.
    Replace,
    /// The draft goes into use as it stands.
    Publish,
}

/// A published version never changes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("version {version} of {process_id} is published with other content; choose another version")]
pub struct Immutable {
    /// Process.
    pub process_id: String,
    /// Version.
    pub version: String,
    /// What is published.
    pub published: String,
    /// What was given.
    pub given: String,
}

/// What storing content with this digest under the id and version of `current` comes to.
pub fn store(current: Option<&Version>, digest: &str, is_draft: bool) -> Result<Change, Immutable> {
    let Some(current) = current else { return Ok(Change::Add) };
    let is_same = current.digest == digest;
    match current.status {
        // Holding back what is in use is not possible, and asking for what is there is no contradiction.
        Status::Published if is_same => Ok(Change::Nothing),
        Status::Published => Err(Immutable {
            process_id: current.process_id.clone(),
            version: current.version.clone(),
            published: current.digest.clone(),
            given: digest.to_owned(),
        }),
        Status::Draft if !is_same => Ok(Change::Replace),
        Status::Draft if is_draft => Ok(Change::Nothing),
        Status::Draft => Ok(Change::Publish),
    }
}

/// What publishing a version that is there comes to.
pub fn publish(current: &Version) -> Change {
    match current.status {
        Status::Published => Change::Nothing,
        Status::Draft => Change::Publish,
    }
}

#[cfg(test)]
mod tests {
    use phasegate_clock::Timestamp;

    use super::super::Author;
    use super::*;

    fn version(status: Status) -> Version {
        Version {
            process_id: "p".to_owned(),
            version: "1.0.0".to_owned(),
            status,
            content: Vec::new(),
            digest: "same".to_owned(),
            warnings: Vec::new(),
            created_by: Author(Vec::new()),
            created_at: Timestamp::from_micros(0),
            published_at: None,
        }
    }

    #[test]
    fn storing() {
        use Change::{Add, Nothing, Publish, Replace};
        for (current, digest, is_draft, expected) in [
            (None, "same", false, Ok(Add)),
            (None, "same", true, Ok(Add)),
            (Some(Status::Draft), "same", true, Ok(Nothing)),
            (Some(Status::Draft), "same", false, Ok(Publish)),
            (Some(Status::Draft), "other", true, Ok(Replace)),
            (Some(Status::Draft), "other", false, Ok(Replace)),
            (Some(Status::Published), "same", true, Ok(Nothing)),
            (Some(Status::Published), "same", false, Ok(Nothing)),
            (Some(Status::Published), "other", true, Err(())),
            (Some(Status::Published), "other", false, Err(())),
        ] {
            let change = store(current.map(version).as_ref(), digest, is_draft).map_err(|_| ());
            assert_eq!(change, expected, "{current:?} {digest} {is_draft}");
        }
    }

    #[test]
    fn publishing() {
        assert_eq!(publish(&version(Status::Draft)), Change::Publish);
        assert_eq!(publish(&version(Status::Published)), Change::Nothing);
    }
}
