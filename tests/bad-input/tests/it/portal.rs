//! The portal: links, sessions and forms, as scanners, strangers and other sites try them.

use anyhow::{Context as _, ensure};
use phasegate_bad_input::{Check, Scene, World, on_both};
use phasegate_portal_tests::{Browser, Form};
use reqwest::Method;
use serde_json::{Value, json};

/// A good link that is opened makes a session, and a page with a form makes its nonce: whoever looks leaves no other trace.
/// The time of its last use stands on the link.
const VISITS: [&str; 3] = ["participant.session", "participant.nonce", "participant.link"];

/// Remembers how everything stands, but for the traces of visits.
struct Visits<'a> {
    world: &'a World,
    before: phasegate_bad_input::Standing,
}

impl<'a> Visits<'a> {
    async fn new(world: &'a World) -> anyhow::Result<Self> {
        Ok(Self { world, before: world.settled().await?.without(&VISITS) })
    }

    async fn left_no_trace(&self, row: &str) -> anyhow::Result<()> {
        let changes = self.world.rows.read().await?.without(&VISITS).changes_since(&self.before);
        ensure!(changes.is_empty(), "{row}: {}", changes.join(", "));
        Ok(())
    }
}

fn token(url: &str) -> anyhow::Result<&str> {
    url.split("token=").nth(1).context("a link has a token")
}

/// A token with one character in its middle changed.
fn flipped(token: &str) -> String {
    let middle = token.len() / 2;
    let other = if token.as_bytes().get(middle) == Some(&b'A') { "B" } else { "A" };
    format!("{}{other}{}", &token[..middle], &token[middle + 1..])
}

#[test]
fn looking_changes_nothing() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        let visits = Visits::new(world).await?;
        for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::POST, Method::PUT, Method::GET] {
            let mut scanner = Browser::new(&world.doors.address)?;
            let page = scanner.send(method.clone(), &scene.link_url, &[], &[]).await?;
            let is_fine =
                page.status == 303 || (method != Method::GET && page.status == 405) || page.status == 204;
            ensure!(is_fine, "B120: {method} {}", page.status);
            ensure!(!page.html.contains("Launch") && !page.html.contains("Ed"), "B120: {}", page.html);
            visits.left_no_trace("B120").await?;
        }
        // One that follows the link and opens all that it leads to.
        let mut scanner = Browser::new(&world.doors.address)?;
        let (base, home) = scanner.enter(&scene.link_url).await?;
        ensure!(home.status == 200, "B120: {}", home.status);
        scanner.get(&format!("{base}/approvals/{}", scene.open)).await?;
        scanner.get(&format!("{base}/artifacts/plan")).await?;
        visits.left_no_trace("B120").await
    })
}

#[test]
fn forged_links_open_nothing() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        let good = token(&scene.link_url)?;
        let (head, rest) = good.split_once('.').context("a token has three parts")?;
        let (claims, _) = rest.split_once('.').context("a token has three parts")?;
        // The same claims, signed by nobody.
        let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.");
        let mut pages = Vec::new();
        for wrong in [
            "",
            "x",
            "%00",
            "' or 1=1 --",
            &flipped(good),
            &good[..good.len() - 4],
            &format!("{head}.{claims}."),
            &unsigned,
            &"x".repeat(5000),
        ] {
            let mut browser = Browser::new(&world.doors.address)?;
            let page = browser.get(&format!("/external/approve?token={wrong}")).await?;
            let outcome = if page.status == 401 && page.header("set-cookie").is_empty() {
                Ok(())
            } else {
                Err(anyhow::anyhow!("{} {}", page.status, page.header("set-cookie")))
            };
            pages.push(page.html);
            check.note("B121", &format!("{:?}", &wrong[..wrong.len().min(40)]), outcome).await?;
        }
        let same = pages.iter().all(|page| *page == pages[0]);
        let outcome = if same { Ok(()) } else { Err(anyhow::anyhow!("the pages differ")) };
        check.note("B121", "every page", outcome).await?;
        check.done()
    })
}

#[test]
fn ended_links_say_so() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        for (row, url, words) in [
            ("B122", &scene.expired_url, "This link has ended"),
            ("B123", &scene.revoked_url, "This link was withdrawn"),
        ] {
            let mut browser = Browser::new(&world.doors.address)?;
            let page = browser.get(url).await?;
            let is_right =
                page.status == 410 && page.html.contains(words) && page.form("/links/request").is_ok();
            let is_mute = !page.html.contains("editor@") && page.header("set-cookie").is_empty();
            let outcome = if is_right && is_mute {
                Ok(())
            } else {
                Err(anyhow::anyhow!("{} {}", page.status, page.html))
            };
            check.note(row, "opened", outcome).await?;
        }
        check.done()
    })
}

/// Opens the review of the open request: the path of the request, and the form that chooses.
async fn review(browser: &mut Browser, scene: &Scene) -> anyhow::Result<(String, Form)> {
    let (base, _) = browser.enter(&scene.link_url).await?;
    let path = format!("{base}/approvals/{}", scene.open);
    let page = browser.get(&path).await?;
    Ok((path, page.form("/review")?))
}

#[test]
fn forms_come_from_our_pages() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        let mut browser = Browser::new(&world.doors.address)?;
        let (_, choose) = review(&mut browser, scene).await?;
        let confirm = browser.submit(&choose, &[("decision", "approve")]).await?.form("/confirm")?;
        let visits = Visits::new(world).await?;
        // B034: a cookie alone does not say who pressed the button.
        for headers in [
            [("origin", "https://evil.example")].as_slice(),
            &[("origin", "null")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
        ] {
            let page = browser.send(Method::POST, &confirm.action, &confirm.fields, headers).await?;
            ensure!(page.status == 403, "B034: {headers:?} {}", page.status);
            visits.left_no_trace("B034").await?;
        }
        let mut bare = confirm.clone();
        bare.fields.retain(|(name, _)| name != "nonce");
        let mut invented = bare.clone();
        invented.fields.push(("nonce".to_owned(), "AAAAAAAAAAAAAAAAAAAAAA".to_owned()));
        let mut turned = confirm.clone();
        for (name, value) in &mut turned.fields {
            if name == "decision" {
                "reject".clone_into(value);
            }
        }
        for (what, form) in
            [("no nonce", &bare), ("an invented one", &invented), ("one for another answer", &turned)]
        {
            let page = browser.submit(form, &[("comment", "No")]).await?;
            ensure!(page.status == 403, "B034: {what}: {}", page.status);
            visits.left_no_trace("B034").await?;
        }
        let mut stranger = Browser::new(&world.doors.address)?;
        let page = stranger.submit(&confirm, &[]).await?;
        ensure!(page.status == 401, "B124: without a cookie: {}", page.status);
        // B124: a session is asked for by opening the link, and by nothing else.
        for headers in [[("origin", "https://evil.example")], [("sec-fetch-site", "cross-site")]] {
            let page = stranger.send(Method::POST, &scene.link_url, &[], &headers).await?;
            ensure!([403, 405].contains(&page.status), "B124: {}", page.status);
            ensure!(page.header("set-cookie").is_empty(), "B124: {}", page.header("set-cookie"));
        }
        visits.left_no_trace("B124").await
    })
}

#[test]
fn sessions_are_made_by_us() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        let name = format!("phasegate_{}", scene.link);
        let visits = Visits::new(world).await?;
        for planted in ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "x", ""] {
            let cookie = format!("{name}={planted}");
            let mut browser = Browser::new(&world.doors.address)?;
            let page = browser.send(Method::GET, &scene.link_url, &[], &[("cookie", &cookie)]).await?;
            let made = page.header("set-cookie");
            ensure!(page.status == 303 && made.starts_with(&name), "B127: {} {made}", page.status);
            ensure!(!made.contains("AAAA") && !made.contains("=x;"), "B127: {made}");
            // And what was planted opens nothing.
            let mut other = Browser::new(&world.doors.address)?;
            let home = format!("/external/{}", scene.link);
            let page = other.send(Method::GET, &home, &[], &[("cookie", &cookie)]).await?;
            ensure!(page.status == 401, "B127: {}", page.status);
        }
        visits.left_no_trace("B127").await
    })
}

#[test]
fn a_link_has_room_for_ten_that_write() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        let link = json!({"instanceId": scene.instance, "participantId": "editor"});
        let url = world.call("CreateLink", link).await?["url"].as_str().context("a URL")?.to_owned();
        // B125: as many sessions as one likes may look, and ten may write.
        let mut said = Vec::new();
        for number in 0..12 {
            let mut browser = Browser::new(&world.doors.address)?;
            let (_, home) = browser.enter(&url).await?;
            let form = home.form("/comments")?;
            let visits = Visits::new(world).await?;
            let page = browser.submit(&form, &[("body", &format!("comment {number}"))]).await?;
            said.push(page.status);
            if page.status != 303 {
                visits.left_no_trace("B125").await?;
            }
        }
        let expected: Vec<u16> = (0..12).map(|number| if number < 10 { 303 } else { 429 }).collect();
        ensure!(said == expected, "B125: {said:?}");
        Ok(())
    })
}

#[test]
fn asking_for_a_link_tells_nothing() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        let good = token(&scene.link_url)?;
        let mut check = Check::new(world).await?;
        // B129: a link that works, and everything that is none, are answered like one that has ended.
        for asked in ["", "x", &flipped(token(&scene.expired_url)?), good, &"x".repeat(5000)] {
            let message = json!({"token": asked});
            let by_grpc = world.doors.grpc("RequestNewLink", &message).await?;
            let by_rest = world.doors.rest("RequestNewLink", &message).await?;
            let is_same = by_grpc.as_ref().is_ok_and(|answer| *answer == json!({}))
                && (by_rest.status, &by_rest.body) == (202, &json!({}));
            let outcome = if is_same { Ok(()) } else { Err(anyhow::anyhow!("{by_grpc:?} {by_rest:?}")) };
            check.note("B129", "a token that asks for nothing", outcome).await?;
        }
        check.done()?;
        // B130: of many requests by one person, three an hour are heard.
        let message = json!({"token": token(&scene.expired_url)?});
        let before = world.settled().await?;
        for _ in 0..5 {
            let answer = world.doors.rest("RequestNewLink", &message).await?;
            ensure!((answer.status, &answer.body) == (202, &json!({})), "B130: {answer:?}");
        }
        let after = world.settled().await?;
        let heard = after.rows("participant.fresh_link") - before.rows("participant.fresh_link");
        ensure!(heard <= 3 && after.rows("participant.fresh_link") > 0, "B130: {heard} were heard");
        let mut check = Check::new(world).await?;
        let answer = world.doors.rest("RequestNewLink", &message).await?;
        let outcome = if answer.status == 202 { Ok(()) } else { Err(anyhow::anyhow!("{answer:?}")) };
        check.note("B130", "one more", outcome).await?;
        check.done()
    })
}

#[test]
fn a_link_does_what_it_says_and_no_more() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        // B098 and B112, behind a link: it may view only, and it is somebody else's request.
        let made = |person: &str, permissions: Value| json!({"instanceId": scene.instance, "participantId": person, "permissions": permissions});
        let view = world.call("CreateLink", made("editor", json!(["view"]))).await?;
        let other = world.call("CreateLink", made("owner", json!(["view", "approve", "comment"]))).await?;
        for (link, said) in [(view, 403), (other, 303)] {
            let mut browser = Browser::new(&world.doors.address)?;
            let (base, home) = browser.enter(link["url"].as_str().context("a URL")?).await?;
            let path = format!("{base}/approvals/{}", scene.open);
            let fields = vec![("decision".to_owned(), "approve".to_owned())];
            // The first form that a session sends is noted with its link, whatever becomes of it.
            browser.send(Method::POST, &format!("{path}/confirm"), &fields, &[]).await?;
            let visits = Visits::new(world).await?;
            let page = browser.send(Method::POST, &format!("{path}/confirm"), &fields, &[]).await?;
            ensure!(page.status == 403, "B098: {}", page.status);
            visits.left_no_trace("B098").await?;
            if said == 403 {
                ensure!(home.form("/comments").is_err(), "B112: no form to comment with");
                let fields = vec![("body".to_owned(), "hello".to_owned())];
                let page = browser.send(Method::POST, &format!("{base}/comments"), &fields, &[]).await?;
                ensure!(page.status == 403, "B112: {}", page.status);
                visits.left_no_trace("B112").await?;
            }
        }
        Ok(())
    })
}
