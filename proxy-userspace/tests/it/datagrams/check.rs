//! What `check -p udp` says of an app, and of what is in its way.

use anyhow::Result;

use super::rows;
use super::site::Plan;
use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, HOST, LOOPBACK, TRUEPEER_PORT};
use crate::lab::datagram::{self, Echo};
use crate::lab::truepeer::Said;

rows! {
    an_app_that_answers;
    an_app_at_the_host_s_address;
    no_app;
    a_firewall_before_the_app;
    an_app_that_is_silent;
    a_listen_address_that_is_taken;
}

fn checked(plan: &Plan<'_>, lab: &Lab) -> Result<Said> {
    let target = (plan.family)(plan.target, APP_PORT);
    let flag = if target.is_ipv4() {
        "--target4"
    } else {
        "--target6"
    };
    lab.truepeer()
        .listen([(plan.family)(HOST, TRUEPEER_PORT)])
        .no_targets()
        .args([flag, &target.to_string()])
        .args(plan.path.args())
        .args(plan.framing.args())
        .check()
}

fn app(plan: &Plan<'_>, lab: &Lab) -> Result<Echo> {
    Echo::listen(&lab.host, (plan.family)(plan.target, APP_PORT), plan.kind)
}

fn an_app_that_answers(plan: Plan<'_>) -> Result<()> {
    let lab = Lab::new()?;
    let app = app(&plan, &lab)?;
    let said = checked(&plan, &lab)?;
    said.expect(
        0,
        &[
            "the application has a UDP socket there",
            "reached its socket",
            "its answer came back",
            "is free",
        ],
    )?;
    app.next()?;
    Ok(())
}

fn an_app_at_the_host_s_address(plan: Plan<'_>) -> Result<()> {
    an_app_that_answers(Plan {
        target: HOST,
        ..plan
    })
}

fn no_app(plan: Plan<'_>) -> Result<()> {
    let lab = Lab::new()?;
    let said = checked(&plan, &lab)?;
    said.expect(
        1,
        &["no UDP socket hears anybody there", "start the application"],
    )
}

fn a_firewall_before_the_app(plan: Plan<'_>) -> Result<()> {
    let lab = Lab::new()?;
    let _app = app(&plan, &lab)?;
    lab.host.run("nft add table inet filter")?;
    lab.host
        .run("nft add chain inet filter input { type filter hook input priority 0; }")?;
    lab.host.run(&format!(
        "nft add rule inet filter input udp dport {APP_PORT} drop"
    ))?;
    let said = checked(&plan, &lab)?;
    said.expect(
        1,
        &["didn't reach its socket", "let the firewall accept UDP"],
    )
}

fn an_app_that_is_silent(plan: Plan<'_>) -> Result<()> {
    let lab = Lab::new()?;
    let _app = datagram::socket(&lab.host, (plan.family)(LOOPBACK, APP_PORT))?;
    let said = checked(&plan, &lab)?;
    said.expect(
        0,
        &[
            "reached its socket",
            "none came to a datagram without a byte",
        ],
    )
}

fn a_listen_address_that_is_taken(plan: Plan<'_>) -> Result<()> {
    let lab = Lab::new()?;
    let _app = app(&plan, &lab)?;
    let _other = datagram::socket(&lab.host, (plan.family)(HOST, TRUEPEER_PORT))?;
    let said = checked(&plan, &lab)?;
    said.expect(1, &["is taken by "])
}
