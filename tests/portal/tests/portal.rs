//! The portal from outside, on both databases: what a person does, what a mail scanner does, what an attacker tries.

use std::time::Duration;

use anyhow::Context as _;
use phasegate_portal_tests::{Browser, Page, World, on_both};
use reqwest::Method;
use serde_json::json;

/// Hands the notes in, and opens the editor's mail.
async fn editor(world: &World) -> anyhow::Result<(Browser, String, Page)> {
    world.work(&json!({ "title": "2.4", "points": ["faster", "calmer"] })).await?;
    let (link, _) = world.mailed_link("ed@example.com", 0).await?;
    let mut browser = Browser::new(&world.address)?;
    let (base, home) = browser.enter(&link).await?;
    Ok((browser, base, home))
}

async fn review(world: &World, browser: &mut Browser, base: &str) -> anyhow::Result<(String, Page)> {
    let request = world.open_request("editor").await?;
    let path = format!("{base}/approvals/{}", request["id"].as_str().context("an id")?);
    let page = browser.get(&path).await?;
    Ok((path, page))
}

#[tokio::test]
async fn a_person_looks_chooses_confirms_and_has_a_receipt() -> anyhow::Result<()> {
    on_both(async |world| {
        let (mut browser, base, home) = editor(&world).await?;
        for expected in [
            "Notes for 2.4",
            "Release notes",
            "Waiting for you",
            "Progress",
            "Artifacts",
            "Comments",
            "Decisions",
            "Ed Ito",
        ] {
            assert!(home.html.contains(expected), "{expected} is on the first page");
        }
        let (path, page) = review(&world, &mut browser, &base).await?;
        assert!(page.html.contains("faster"), "the artifact is shown");
        assert!(!page.html.contains("checked"), "no answer is chosen beforehand");
        let confirm = browser.submit(&page.form("/review")?, &[("decision", "approve")]).await?;
        assert_eq!(confirm.status, 200);
        assert_eq!(world.open_request("editor").await?["status"], "pending", "nothing is recorded yet");
        let done = browser.submit(&confirm.form("/confirm")?, &[]).await?;
        assert_eq!(done.status, 303);
        let receipt = browser.get(done.header("location")).await?;
        assert!(receipt.html.contains("Thank you, that is recorded"));
        let again = browser.get(&path).await?;
        assert!(again.html.contains("You approved this on "), "{}", again.html);
        let late =
            browser.submit(&page.form("/review")?, &[("decision", "reject"), ("comment", "no")]).await?;
        assert_eq!(late.status, 409, "nobody is asked to confirm what is settled");
        assert!(late.form("/confirm").is_err() && late.html.contains("You approved this on "));
        let approval =
            world.get(&format!("/api/approvals/{}", path.rsplit('/').next().unwrap_or_default())).await?;
        assert_eq!(approval["status"], "approved");
        assert_eq!(approval["approvers"][0]["assurance"], "link");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_mail_scanner_decides_nothing() -> anyhow::Result<()> {
    on_both(async |world| {
        world.work(&json!({ "title": "2.4" })).await?;
        let (link, _) = world.mailed_link("ed@example.com", 0).await?;
        let before = world.decisions().await?;
        for method in [Method::HEAD, Method::OPTIONS, Method::GET, Method::GET, Method::POST, Method::PUT] {
            let mut scanner = Browser::new(&world.address)?;
            scanner.send(method, &link, &[], &[]).await?;
        }
        // One that follows links and presses every button.
        let mut scanner = Browser::new(&world.address)?;
        let (base, _) = scanner.enter(&link).await?;
        let (_, page) = review(&world, &mut scanner, &base).await?;
        let pressed = scanner.submit(&page.form("/review")?, &[("comment", "")]).await?;
        assert_eq!(pressed.status, 422);
        assert_eq!(
            pressed.html.matches("Choose one of the three answers").count(),
            2,
            "on top and at the field"
        );
        assert_eq!(world.decisions().await?, before);
        // The person is not locked out by it.
        let mut person = Browser::new(&world.address)?;
        let (_, home) = person.enter(&link).await?;
        assert_eq!(home.status, 200);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_link_leads_to_a_clean_url_and_keeps_to_itself() -> anyhow::Result<()> {
    on_both(async |world| {
        world.work(&json!({ "title": "2.4" })).await?;
        let (link, _) = world.mailed_link("ed@example.com", 0).await?;
        let token = link.split("token=").nth(1).context("a token")?;
        assert!(token.starts_with("eyJ"), "a JWT, as on the page");
        let mut browser = Browser::new(&world.address)?;
        let opened = browser.get(&link).await?;
        assert_eq!(opened.status, 303);
        assert!(!opened.header("location").contains("token"));
        let cookie = opened.header("set-cookie");
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
        assert!(!cookie.contains("Secure") && !cookie.contains("__Host-"), "no TLS in dev: {cookie}");
        let home = browser.get(opened.header("location")).await?;
        assert!(!home.html.contains(token));
        for page in [&opened, &home] {
            assert_eq!(page.header("referrer-policy"), "no-referrer");
            assert_eq!(page.header("x-content-type-options"), "nosniff");
            assert_eq!(page.header("cache-control"), "no-store");
            assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
        }
        assert!(!home.html.contains("<script"), "no page needs JavaScript");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_decision_needs_a_nonce_that_was_made_for_it() -> anyhow::Result<()> {
    on_both(async |world| {
        let (mut browser, base, _) = editor(&world).await?;
        let (path, page) = review(&world, &mut browser, &base).await?;
        let before = world.decisions().await?;
        let choose = page.form("/review")?;
        let approve = browser.submit(&choose, &[("decision", "approve")]).await?.form("/confirm")?;
        let mut other = approve.clone();
        for (key, value) in &mut other.fields {
            if key == "decision" {
                "reject".clone_into(value);
            }
        }
        let turned = browser.submit(&other, &[("comment", "no")]).await?;
        assert_eq!(turned.status, 403, "a nonce is for one answer");
        let mut without_nonce = approve.clone();
        without_nonce.fields.retain(|(key, _)| key != "nonce");
        assert_eq!(browser.submit(&without_nonce, &[]).await?.status, 403);
        for headers in [[("origin", "https://evil.example")], [("sec-fetch-site", "cross-site")]] {
            let foreign = browser.send(Method::POST, &approve.action, &approve.fields, &headers).await?;
            assert_eq!(foreign.status, 403);
        }
        let mut stranger = Browser::new(&world.address)?;
        assert_eq!(stranger.submit(&approve, &[]).await?.status, 401, "no cookie, no decision");
        assert_eq!(stranger.get(&path).await?.status, 401);
        assert_eq!(world.decisions().await?, before);

        let approve = browser.submit(&choose, &[("decision", "approve")]).await?.form("/confirm")?;
        assert_eq!(browser.submit(&approve, &[]).await?.status, 303);
        let decided = world.decisions().await?;
        assert_eq!(browser.submit(&approve, &[]).await?.status, 403, "a nonce is good once");
        assert_eq!(world.decisions().await?, decided);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_changed_while_somebody_read_is_not_decided() -> anyhow::Result<()> {
    on_both(async |world| {
        let (mut browser, base, _) = editor(&world).await?;
        let (path, page) = review(&world, &mut browser, &base).await?;
        let more = [("decision", "reject"), ("comment", "The tone is off")];
        let confirm = browser.submit(&page.form("/review")?, &more).await?.form("/confirm")?;
        let store = json!({ "key": "notes", "type": "document", "content": { "title": "2.4.1" } });
        world.post(&format!("{}/artifacts", world.base()), &store).await?;
        let late = browser.submit(&confirm, &[]).await?;
        assert_eq!(late.status, 409);
        assert!(late.html.contains("The content changed while you were reading"));
        assert!(late.html.contains("The tone is off"), "what was written is kept");
        // Asked again, the difference is shown, and the answer is taken.
        let page = world
            .eventually("the request with the new content", async || {
                let mut other = Browser::new(&world.address)?;
                let (link, _) = world.mailed_link("ed@example.com", 0).await?;
                let (base, _) = other.enter(&link).await?;
                let (_, page) = review(&world, &mut other, &base).await?;
                Ok(page.html.contains("2.4.1").then_some(page))
            })
            .await?;
        assert!(
            page.html.contains("What has changed") && page.html.contains("<ins>2.4.1</ins>"),
            "{}",
            page.html
        );
        let page = browser.get(&path).await?;
        let confirm = browser.submit(&page.form("/review")?, &more).await?.form("/confirm")?;
        assert_eq!(browser.submit(&confirm, &[]).await?.status, 303);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_link_that_has_ended_says_so_and_offers_a_fresh_one() -> anyhow::Result<()> {
    on_both(async |world| {
        let (mut browser, base, _) = editor(&world).await?;
        let (link, seen) = world.mailed_link("ed@example.com", 0).await?;
        let link_id = base.rsplit('/').next().context("an id")?;
        world.post(&format!("/api/links/{link_id}/revoke"), &json!({ "reason": "lost phone" })).await?;
        assert_eq!(browser.get(&base).await?.status, 410, "sessions end with their link, at once");
        let ended = browser.get(&link).await?;
        assert_eq!(ended.status, 410);
        assert!(ended.html.contains("This link was withdrawn"));
        let asked = browser.submit(&ended.form("/links/request")?, &[]).await?;
        assert_eq!(asked.status, 202);
        let (fresh, _) = world.mailed_link("ed@example.com", seen).await?;
        assert_ne!(fresh, link);
        let (_, home) = browser.enter(&fresh).await?;
        assert_eq!(home.status, 200);

        world.pass(Duration::from_hours(15 * 24));
        let ended = browser.get(&fresh).await?;
        assert_eq!(ended.status, 410);
        assert!(ended.html.contains("This link has ended"));

        // Whoever has no genuine token learns nothing.
        let mut answers = Vec::new();
        for token in ["", "x", "eyJhbGciOiJub25lIn0.e30.", &flipped(&link)] {
            let page = browser.get(&format!("/external/approve?token={token}")).await?;
            answers.push((page.status, page.html));
            let mut form = ended.form("/links/request")?;
            form.fields = vec![("token".to_owned(), token.to_owned())];
            let asked_again = browser.submit(&form, &[]).await?;
            assert_eq!((asked_again.status, &asked_again.html), (202, &asked.html));
        }
        assert!(answers.iter().all(|answer| answer == &answers[0] && answer.0 == 401), "{answers:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_link_that_was_used_in_too_many_places_offers_a_fresh_one() -> anyhow::Result<()> {
    on_both(async |world| {
        world.work(&json!({ "title": "2.4" })).await?;
        let (link, seen) = world.mailed_link("ed@example.com", 0).await?;
        let mut answers = Vec::new();
        let mut last = None;
        for _ in 0..11 {
            let mut browser = Browser::new(&world.address)?;
            let (base, _) = browser.enter(&link).await?;
            let (_, page) = review(&world, &mut browser, &base).await?;
            let answer = browser.submit(&page.form("/review")?, &[("decision", "approve")]).await?;
            answers.push(answer.status);
            last = Some((browser, answer));
        }
        assert_eq!(answers, [&[200; 10][..], &[429]].concat(), "ten may write");
        let (mut browser, refusal) = last.context("eleven")?;
        assert!(refusal.html.contains("used in too many places"), "{}", refusal.html);
        let form = refusal.form("/renew")?;
        let asked = browser.submit(&form, &[]).await?;
        assert_eq!(asked.status, 202, "{}", asked.html);
        let (fresh, _) = world.mailed_link("ed@example.com", seen).await?;
        assert_ne!(fresh, link);
        let (base, home) = browser.enter(&fresh).await?;
        assert_eq!(home.status, 200);
        let (_, page) = review(&world, &mut browser, &base).await?;
        let confirm = browser.submit(&page.form("/review")?, &[("decision", "approve")]).await?;
        assert_eq!(browser.submit(&confirm.form("/confirm")?, &[]).await?.status, 303);
        // Who never came in by the link asks for nothing.
        let mut stranger = Browser::new(&world.address)?;
        assert_eq!(stranger.submit(&form, &[]).await?.status, 401);
        Ok(())
    })
    .await
}

/// A link's token with its last character changed.
fn flipped(link: &str) -> String {
    let token = link.split("token=").nth(1).unwrap_or_default();
    let (rest, last) = token.split_at(token.len() - 1);
    // The last character of base64url may carry padding bits only; the one before does not.
    let (rest, before) = rest.split_at(rest.len() - 1);
    format!("{rest}{}{last}", if before == "A" { "B" } else { "A" })
}

#[tokio::test]
async fn a_link_lets_its_holder_do_what_it_says() -> anyhow::Result<()> {
    on_both(async |world| {
        world.work(&json!({ "title": "2.4" })).await?;
        let made = json!({ "permissions": ["view"], "expiresIn": "7d", "email": "ed@example.com" });
        let made = world.post(&format!("{}/participants/editor/links", world.base()), &made).await?;
        let mut browser = Browser::new(&world.address)?;
        let (base, home) = browser.enter(made["url"].as_str().context("a URL")?).await?;
        assert!(!home.html.contains("Write a comment"));
        let (path, page) = review(&world, &mut browser, &base).await?;
        assert!(page.form("/review").is_err(), "no form to decide with");
        assert!(page.html.contains("your link does not allow it"));
        let before = world.decisions().await?;
        let fields = vec![("decision".to_owned(), "approve".to_owned())];
        for step in ["review", "confirm"] {
            let forced = browser.send(Method::POST, &format!("{path}/{step}"), &fields, &[]).await?;
            assert_eq!(forced.status, 403, "{step}");
        }

        // Somebody else's request, through a link that may decide.
        let made = world.post(&format!("{}/participants/owner/links", world.base()), &json!({})).await?;
        let mut owner = Browser::new(&world.address)?;
        let (own_base, _) = owner.enter(made["url"].as_str().context("a URL")?).await?;
        let foreign = owner.get(&path.replace(&base, &own_base)).await?;
        assert!(foreign.form("/review").is_err(), "nobody decides for somebody else");
        assert_eq!(owner.get(&base).await?.status, 401, "a session is for its own link");
        assert_eq!(world.decisions().await?, before);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_agents_and_people_write_is_never_live() -> anyhow::Result<()> {
    on_both(async |world| {
        let hostile = "<script>alert(1)</script><img src=x onerror=alert(1)>";
        world.work(&json!({ hostile: hostile, "list": [{ "a": hostile }, { "a": hostile }] })).await?;
        let (link, _) = world.mailed_link("ed@example.com", 0).await?;
        let mut browser = Browser::new(&world.address)?;
        let (base, home) = browser.enter(&link).await?;
        let said = browser.submit(&home.form("/comments")?, &[("body", hostile)]).await?;
        assert_eq!(said.status, 303);
        let (_, page) = review(&world, &mut browser, &base).await?;
        let home = browser.get(&base).await?;
        let artifact = browser.get(&format!("{base}/artifacts/notes")).await?;
        for page in [&page, &home, &artifact] {
            assert!(!page.html.contains("<script") && !page.html.contains("<img"), "{}", page.html);
            assert!(page.html.contains("alert(1)"), "it is shown as text");
        }
        let file = browser.get(&format!("{base}/artifacts/notes/download")).await?;
        assert!(file.header("content-disposition").starts_with("attachment"));
        assert!(file.header("content-security-policy").contains("sandbox"));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_to_be_decided_reads_as_it_is_written() -> anyhow::Result<()> {
    on_both(async |world| {
        let turned = "pay \u{202e}lanif\u{202c}\u{2066}x\u{2069}";
        world.work_saying(&json!({ "title": turned }), turned).await?;
        let (link, _) = world.mailed_link("ed@example.com", 0).await?;
        let mut browser = Browser::new(&world.address)?;
        let (base, home) = browser.enter(&link).await?;
        let (_, page) = review(&world, &mut browser, &base).await?;
        assert!(page.html.matches("lanif").count() >= 2, "the summary and the artifact: {}", page.html);
        for page in [&home, &page] {
            let turning =
                page.html.chars().find(|c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'));
            assert_eq!(turning, None, "{}", page.html);
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_page_says_when_the_process_is_on_hold_or_over() -> anyhow::Result<()> {
    on_both(async |world| {
        let (mut browser, base, _) = editor(&world).await?;
        world.post(&format!("{}/pause", world.base()), &json!({ "reason": "audit" })).await?;
        let home = browser.get(&base).await?;
        assert!(home.html.contains("on hold"), "{}", home.html);
        let (_, page) = review(&world, &mut browser, &base).await?;
        let confirm = browser.submit(&page.form("/review")?, &[("decision", "approve")]).await?;
        assert_eq!(browser.submit(&confirm.form("/confirm")?, &[]).await?.status, 303, "deciding goes on");
        world.post(&format!("{}/cancel", world.base()), &json!({ "reason": "no release" })).await?;
        world
            .eventually("the end of the link", async || {
                let page = browser_get(&world, &base, &browser).await?;
                Ok((page == 410).then_some(()))
            })
            .await
    })
    .await
}

/// The status of a page for the same person, without keeping what it sets.
async fn browser_get(world: &World, path: &str, browser: &Browser) -> anyhow::Result<u16> {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
    let request = client.get(format!("{}{path}", world.address)).header("cookie", browser.cookies());
    Ok(request.send().await?.status().as_u16())
}

#[tokio::test]
async fn whatever_is_refused_is_a_page() -> anyhow::Result<()> {
    on_both(async |world| {
        let (mut browser, base, _) = editor(&world).await?;
        let (path, _) = review(&world, &mut browser, &base).await?;
        let long = vec![("comment".to_owned(), "x".repeat(600 * 1024))];
        let none: Vec<(String, String)> = Vec::new();
        let foreign = [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")];
        let host = [("host", "evil.example")];
        for (method, path, fields, headers, status) in [
            (Method::GET, "/external".to_owned(), &none, &[][..], 404),
            (Method::GET, format!("{base}/nothing/here"), &none, &[][..], 404),
            (Method::GET, format!("{base}/approvals/%ff"), &none, &[][..], 400),
            (Method::GET, format!("{path}/confirm"), &none, &[][..], 405),
            (Method::GET, base.clone(), &none, &host[..], 403),
            (Method::POST, format!("{path}/review"), &long, &[][..], 413),
            (Method::POST, format!("{path}/review"), &none, &foreign[..], 403),
        ] {
            let page = browser.send(method.clone(), &path, fields, headers).await?;
            assert_eq!(page.status, status, "{method} {path}");
            assert!(page.header("content-type").starts_with("text/html"), "{method} {path}: {}", page.html);
            assert!(page.html.contains("<h1>") && page.html.contains("Questions?"), "{}", page.html);
            assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
            assert_eq!(page.header("cache-control"), "no-store");
        }
        let form = vec![("content-type", "application/json")];
        let page = browser.send(Method::POST, &format!("{path}/review"), &none, &form).await?;
        assert!(page.status == 415 && page.html.contains("That form could not be read"), "{page:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn who_settled_it_is_named() -> anyhow::Result<()> {
    on_both(async |world| {
        let (mut browser, base, _) = editor(&world).await?;
        let (path, page) = review(&world, &mut browser, &base).await?;
        let made = world.post(&format!("{}/participants/owner/links", world.base()), &json!({})).await?;
        let mut owner = Browser::new(&world.address)?;
        let (own_base, _) = owner.enter(made["url"].as_str().context("a URL")?).await?;
        let foreign = path.replace(&base, &own_base);
        let more = [("decision", "reject"), ("comment", "The tone is off")];
        let confirm = browser.submit(&page.form("/review")?, &more).await?.form("/confirm")?;
        assert_eq!(browser.submit(&confirm, &[]).await?.status, 303);
        let seen = owner.get(&foreign).await?;
        assert!(seen.html.contains("Ed Ito rejected this just now."), "{}", seen.html);
        assert!(!seen.html.contains("Decide by"), "what is settled has no deadline");
        Ok(())
    })
    .await
}
