//! Clients of the other family than their balancer's: the app of their own hears them, as if they had sent to it.

use anyhow::Result;

use super::site::Plan;
use super::{apps, rows, sizes, sums, unreached};

rows! {
    of_an_app_on_loopback;
    of_all_sizes;
}

/// What the daemon does is no other than of one family.
macro_rules! direct {
    ($($name:ident;)*) => { $(
        mod $name {
            crate::datagrams::families!($name direct Direct);
        }
    )* };
}

direct! {
    of_an_app_on_a_wildcard_address;
    of_an_app_with_a_socket_for_each;
    behind_long_headers;
    without_offloads;
    summed_by_a_tunnel;
    many_at_once;
    many_answers_at_once;
    of_nobody;
    of_a_firewall;
}

fn of_an_app_on_loopback(plan: Plan<'_>) -> Result<()> {
    apps::on_loopback(plan.clients_of_other())
}

fn of_all_sizes(plan: Plan<'_>) -> Result<()> {
    sizes::each_framing(plan.clients_of_other())
}

fn of_an_app_on_a_wildcard_address(plan: Plan<'_>) -> Result<()> {
    apps::on_a_wildcard_address_by_the_host_s(plan.clients_of_other())
}

fn of_an_app_with_a_socket_for_each(plan: Plan<'_>) -> Result<()> {
    apps::with_a_socket_for_each_client(plan.clients_of_other())
}

fn behind_long_headers(plan: Plan<'_>) -> Result<()> {
    sizes::header_lengths(plan.clients_of_other())
}

fn without_offloads(plan: Plan<'_>) -> Result<()> {
    let set_up = &sizes::switch_offloads_off;
    behind_long_headers(Plan { set_up, ..plan })
}

fn summed_by_a_tunnel(plan: Plan<'_>) -> Result<()> {
    sums::summed_by_a_tunnel(plan.clients_of_other())
}

fn many_at_once(plan: Plan<'_>) -> Result<()> {
    sizes::many_at_once(plan.clients_of_other())
}

fn many_answers_at_once(plan: Plan<'_>) -> Result<()> {
    sizes::many_answers_at_once(plan.clients_of_other())
}

fn of_nobody(plan: Plan<'_>) -> Result<()> {
    unreached::nobody_hears(plan.clients_of_other())
}

fn of_a_firewall(plan: Plan<'_>) -> Result<()> {
    unreached::a_firewall_says_no(plan.clients_of_other())
}
