//! People and their links.

use phasegate_bad_input::{Case, Check, on_both};
use serde_json::{Value, json};

#[test]
fn links_are_checked() -> anyhow::Result<()> {
    let person = "INVALID_ARGUMENT 400 PARTICIPANT_INVALID";
    let expiry = "INVALID_ARGUMENT 400 EXPIRY_INVALID";
    let permissions = "INVALID_ARGUMENT 400 PERMISSIONS_INVALID";
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        let link = |field: &str, value: Value| {
            let mut link = json!({"instanceId": scene.instance, "participantId": "editor"});
            link[field] = value;
            link
        };
        for (row, message, refusal, at) in [
            ("B114", link("participantId", json!("boss")), "NOT_FOUND 404 PARTICIPANT_NOT_FOUND", ""),
            ("B114", link("participantId", json!("writer")), "NOT_FOUND 404 PARTICIPANT_NOT_FOUND", ""),
            ("B114", link("participantId", json!("a b")), "NOT_FOUND 404 PARTICIPANT_NOT_FOUND", ""),
            ("B114", link("participantId", json!("reader")), person, "participant_id"),
            ("B114", link("email", json!("eve@example.com")), "INVALID_ARGUMENT 400 EMAIL_MISMATCH", "email"),
            ("B117", link("expiresIn", json!("15d")), expiry, "expires_in"),
            ("B117", link("expiresIn", json!("4m")), expiry, "expires_in"),
            ("B117", link("expiresIn", json!("0")), expiry, "expires_in"),
            ("B117", link("expiresIn", json!("-7d")), expiry, "expires_in"),
            ("B117", link("expiresIn", json!("99999999999d")), expiry, "expires_in"),
            ("B114", link("permissions", json!(["view", "delegate"])), permissions, "permissions"),
        ] {
            check.refused(Case::new(row, &message, "CreateLink", message.clone(), refusal, at)).await?;
        }
        for id in ["lnk-0", scene.open.as_str(), "' or 1=1 --"] {
            let message = json!({"linkId": id, "reason": "r"});
            let refusal = "NOT_FOUND 404 LINK_NOT_FOUND";
            check.refused(Case::new("B114", id, "RevokeLink", message, refusal, "")).await?;
        }
        let message = json!({"instanceId": scene.instance, "participantId": "boss"});
        let refusal = "NOT_FOUND 404 PARTICIPANT_NOT_FOUND";
        check.refused(Case::new("B114", "nobody", "GetParticipant", message, refusal, "")).await?;
        let message = json!({"notificationId": "ntf-0"});
        let refusal = "NOT_FOUND 404 NOTIFICATION_NOT_FOUND";
        check.refused(Case::new("B114", "nothing", "GetNotification", message, refusal, "")).await?;
        check.done()
    })
}

#[test]
fn a_sixth_link_ends_the_first() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        // B118: nothing is refused, but the oldest one ends. Links of mails are not counted.
        let owner = json!({"instanceId": scene.instance, "participantId": "owner"});
        let mut made = Vec::new();
        for _ in 0..6 {
            made.push(world.call("CreateLink", owner.clone()).await?["link"]["id"].clone());
        }
        let list = world.call("ListLinks", owner).await?;
        let live: Vec<&Value> = list["links"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|link| link["status"] == "active")
            .map(|link| &link["id"])
            .collect();
        anyhow::ensure!(!live.contains(&&made[0]), "B118: the oldest of six has ended");
        anyhow::ensure!(made[1..].iter().all(|id| live.contains(&id)), "B118: the newest five are live");
        Ok(())
    })
}
