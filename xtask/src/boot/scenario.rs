//! What happens in the container, from the first drop to the last look.

use super::{
    container::{Container, until},
    drops, journal,
    root::Root,
};
use crate::appliance::say;
use anyhow::{Result, bail, ensure};
use std::{
    fs,
    time::{Duration, Instant},
};

/// Images that are dropped in the first part.
const IMAGES: usize = 60;
/// Images that are being described when the service is stopped.
const AT_STOP: usize = 12;
const KILLS: usize = 5;
const UNIT: &str = "mmlnb-appliance.service";
/// Folders of a site that are not below /srv.
const ELSEWHERE: &str = "/data/pathology";
/// The longest that a whole part may take.
const LONG: Duration = Duration::from_secs(240);

/// Plays everything; fails at the first thing that is not as it should be.
pub fn play(root: &Root) -> Result<()> {
    let prepared = prepare(root)?;
    let container = Container::boot(root.path())?;
    let played = drop_and_kill(&container, &prepared)
        .and_then(|()| strangers(&container))
        .and_then(|()| no_network(&container))
        .and_then(|()| starve(&container))
        .and_then(|()| stop_in_the_middle(&container, &prepared))
        .and_then(|()| elsewhere(&container, &prepared))
        .and_then(|()| journal::check(&container));
    if let Err(problem) = played {
        let log = container.run(&["journalctl", "--no-pager", "--lines=60", "--unit", UNIT])?;
        bail!("{problem:#}\nthe service's last words:\n{}", log.out);
    }
    container.power_off()
}

/// What is dropped, as names in the user's home.
struct Prepared {
    images: Vec<String>,
}

fn prepare(root: &Root) -> Result<Prepared> {
    say("preparing users and images");
    let home = root.path().join("srv/scanner/export");
    fs::create_dir_all(&home)?;
    let images = drops::tiles(&home, IMAGES + AT_STOP + 1)?;
    let first = fs::read(home.join(&images[0]))?;
    fs::write(home.join("broken.png"), &first[..first.len() * 2 / 3])?;
    fs::write(home.join("slide.svs"), drops::slide())?;
    Ok(Prepared { images })
}

fn drop_and_kill(container: &Container, prepared: &Prepared) -> Result<()> {
    for (user, groups) in [("scanner", "mmlnb-drop"), ("stranger", "users")] {
        container.ok(&["useradd", "--no-create-home", "--groups", groups, "--shell", "/bin/sh", user])?;
    }
    container.ok(&["chown", "-R", "scanner:scanner", "/srv/scanner"])?;
    wait_until_active(container)?;
    say(&format!("{IMAGES} images, a broken one, a duplicate and a slide are dropped while the service is killed {KILLS} times"));
    let (top, rest) = prepared.images[..IMAGES].split_at(IMAGES / 3);
    let (in_case, in_subfolder) = rest.split_at(IMAGES / 3);
    let inbox = "/srv/mmlnb/inbox";
    container.user_ok("scanner", &format!("mkdir -p {inbox}/S26-01/left '{inbox}/S26-02 b'"))?;
    let mut kills = 0;
    let all = [(top, String::new()), (in_case, "S26-01/".to_owned()), (in_subfolder, "S26-01/left/".to_owned())];
    let total: usize = all.iter().map(|(names, _)| names.len()).sum();
    let mut dropped = 0;
    for (names, place) in all {
        for pair in names.chunks(4) {
            let copies: Vec<String> = pair.iter().map(|name| format!("cp {name} {inbox}/{place}")).collect();
            container.user_ok("scanner", &format!("cd /srv/scanner/export; {}", copies.join(" && ")))?;
            dropped += pair.len();
            if kills < KILLS && dropped * (KILLS + 1) >= total * (kills + 1) {
                std::thread::sleep(Duration::from_millis(700));
                kill(container)?;
                kills += 1;
            }
        }
    }
    ensure!(kills == KILLS, "killed {kills} times only");
    let rest = format!(
        "cd /srv/scanner/export; cp broken.png {inbox}/S26-01/ && cp {} '{inbox}/S26-02 b/twin.png' && cp slide.svs {inbox}/S26-01/",
        top[0]
    );
    container.user_ok("scanner", &rest)?;
    let mut expected: Vec<String> = top.to_vec();
    expected.extend(in_case.iter().map(|name| format!("S26-01/{name}")));
    expected.extend(in_subfolder.iter().map(|name| format!("S26-01/left/{name}")));
    expected.push("S26-02 b/twin.png".into());
    filed(container, "/srv/mmlnb", &expected)?;
    until(LONG, "note of the broken image", || {
        Ok(container
            .user_ok("scanner", "cat /srv/mmlnb/failed/S26-01/broken.png.note.html /srv/mmlnb/failed/S26-01/broken.png.note.json")
            .ok())
    })?;
    until(LONG, "note beside the slide", || {
        Ok(container
            .user_ok("scanner", &format!("test -f {inbox}/S26-01/slide.svs && cat {inbox}/S26-01/slide.svs.note.html"))
            .ok())
    })?;
    let left =
        container.user_ok("scanner", &format!("find {inbox} -type f ! -name 'STATUS.*' ! -name '.*' ! -name 'slide.svs*'"))?;
    ensure!(left.is_empty(), "left in the inbox:\n{left}");
    let reports = container.ok(&["mmlnb-appliance", "reports", "--json"])?;
    let count = reports.lines().filter(|line| line.starts_with('{')).count();
    ensure!(count == IMAGES, "{count} reports of {IMAGES} different images");
    container.ok(&["mmlnb-appliance", "verify"])?;
    // The page is written every ten seconds at least.
    let status = until(Duration::from_secs(30), "READY in STATUS.txt after everything is filed", || {
        let status = container.user_ok("scanner", &format!("cat {inbox}/STATUS.txt"))?;
        Ok(status.contains("READY").then_some(status))
    })?;
    ensure!(!status.to_lowercase().contains("sandbox"), "the decoder runs without its sandbox:\n{status}");
    Ok(())
}

/// Every image lies in done with page and JSON, and the user who dropped it can read all three.
fn filed(container: &Container, base: &str, expected: &[String]) -> Result<()> {
    let mut missing = String::new();
    let all = until(LONG, "end of the filing", || {
        let list: Vec<String> =
            expected.iter().flat_map(|name| ["", ".report.html", ".report.json"].map(|end| format!("{name}{end}"))).collect();
        let line = list
            .iter()
            .map(|name| format!("test -s '{base}/done/{name}' -a -r '{base}/done/{name}' || echo '{name}'"))
            .collect::<Vec<_>>();
        missing = container.as_user("scanner", &line.join("; "))?.out;
        Ok(missing.trim().is_empty().then_some(()))
    });
    all.map_err(|error| error.context(format!("not filed, or not readable for the user who dropped them:\n{missing}")))
}

fn kill(container: &Container) -> Result<()> {
    let before = main_process(container)?;
    container.ok(&["sh", "-c", &format!("kill -KILL {before}")])?;
    until(Duration::from_secs(60), "restart after kill -9", || {
        let now = main_process(container)?;
        Ok((now != "0" && now != before && is_active(container)?).then_some(()))
    })
}

fn main_process(container: &Container) -> Result<String> {
    Ok(container.ok(&["systemctl", "show", "--property=MainPID", "--value", UNIT])?.trim().to_owned())
}

fn is_active(container: &Container) -> Result<bool> {
    Ok(container.run(&["systemctl", "is-active", UNIT])?.out.trim() == "active")
}

fn wait_until_active(container: &Container) -> Result<()> {
    until(Duration::from_secs(120), "start of the service", || Ok(is_active(container)?.then_some(())))
}

fn strangers(container: &Container) -> Result<()> {
    say("a user without the group neither reads nor writes");
    for line in [
        "ls /srv/mmlnb/inbox",
        "cat /srv/mmlnb/done/*.report.html",
        "touch /srv/mmlnb/inbox/x.png",
        "cat /var/lib/mmlnb/ledger.sqlite",
        "ls /var/lib/mmlnb",
        "cat /srv/mmlnb/inbox/STATUS.txt",
    ] {
        ensure!(container.as_user("stranger", line)?.code != 0, "`{line}` succeeded for a stranger");
    }
    for line in ["cat /var/lib/mmlnb/ledger.sqlite", "touch /var/lib/mmlnb/x"] {
        ensure!(container.as_user("scanner", line)?.code != 0, "`{line}` succeeded for a user who only drops files");
    }
    Ok(())
}

fn no_network(container: &Container) -> Result<()> {
    let devices = container.ok(&["cat", &format!("/proc/{}/net/dev", main_process(container)?)])?;
    let names: Vec<&str> = devices.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    ensure!(names == ["lo"], "the service sees the network devices {names:?}");
    Ok(())
}

fn starve(container: &Container) -> Result<()> {
    say("a stopped process is noticed by the watchdog");
    let before = main_process(container)?;
    container.ok(&["sh", "-c", &format!("kill -STOP {before}")])?;
    until(Duration::from_secs(60), "restart by the watchdog", || {
        let now = main_process(container)?;
        Ok((now != "0" && now != before && is_active(container)?).then_some(()))
    })
}

fn stop_in_the_middle(container: &Container, prepared: &Prepared) -> Result<()> {
    say("a stop in the middle of the work gives it back");
    let names = &prepared.images[IMAGES..IMAGES + AT_STOP];
    container.user_ok("scanner", "mkdir -p /srv/mmlnb/inbox/S26-03")?;
    container.user_ok("scanner", &format!("cd /srv/scanner/export; cp {} /srv/mmlnb/inbox/S26-03/", names.join(" ")))?;
    until(Duration::from_secs(60), "begin of the work", || {
        let done = container.run(&["sh", "-c", "ls /srv/mmlnb/done/S26-03 2>/dev/null | wc -l"])?.out;
        Ok((done.trim() != "0").then_some(()))
    })?;
    let begun = Instant::now();
    container.ok(&["systemctl", "stop", UNIT])?;
    ensure!(begun.elapsed() < Duration::from_secs(35), "the stop took {} s", begun.elapsed().as_secs());
    let result = container.ok(&["systemctl", "show", "--property=Result", "--value", UNIT])?;
    ensure!(result.trim() == "success", "the service ended with {}", result.trim());
    container.ok(&["systemctl", "start", UNIT])?;
    let expected: Vec<String> = names.iter().map(|name| format!("S26-03/{name}")).collect();
    filed(container, "/srv/mmlnb", &expected)
}

fn elsewhere(container: &Container, prepared: &Prepared) -> Result<()> {
    say("folders elsewhere than below /srv");
    container.ok(&["systemctl", "stop", UNIT])?;
    container.ok(&["mkdir", "-p", "/data"])?;
    container.ok(&["mmlnb-appliance", "init", ELSEWHERE, "--service"])?;
    let bundle = "s|^bundle = .*|bundle = \"/usr/share/mmlnb/bundle\"|; s|^#settle_ms = .*|settle_ms = 500|; s|^#min_free_mb = .*|min_free_mb = 1|";
    container.ok(&["sed", "-i", bundle, &format!("{ELSEWHERE}/appliance.toml")])?;
    container.ok(&["systemctl", "daemon-reload"])?;
    container.ok(&["systemctl", "start", UNIT])?;
    wait_until_active(container)?;
    let name = &prepared.images[IMAGES + AT_STOP];
    container
        .user_ok("scanner", &format!("mkdir {ELSEWHERE}/inbox/K1 && cp /srv/scanner/export/{name} {ELSEWHERE}/inbox/K1/"))?;
    filed(container, ELSEWHERE, &[format!("K1/{name}")])
}
