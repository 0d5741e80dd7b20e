//! The counters of the eBPF programs: one name per verdict that steers and per reason to drop or
//! miss. Packets that are none of ours are not counted, so that they cost one comparison.

/// Declares the counters once: the enum, the number of them and their names can't drift apart.
macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal,)+) => {
        /// Index into the per-CPU counter map.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Counter {
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The stable name, as `status` shows it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

counters! {
    /// A connection of an allowed balancer went to a listener.
    DispatchAccepted => "dispatch_accepted",
    /// A SYN from outside the allowlist: the sender gets the RST of a port where nobody listens.
    DispatchRefused => "dispatch_refused",
    /// An allowed SYN found no listener, as the service is starting or draining: RST.
    DispatchNoListener => "dispatch_no_listener",
    /// A packet of an application went back to its spoofed connection.
    ReplySteered => "reply_steered",
    /// A reply could not be given its Ethernet header and was dropped: TCP sends it again.
    ReplyFailed => "reply_failed",
    /// A packet of a spoofed connection was handed to the host.
    InjectSteered => "inject_steered",
    /// A packet of a spoofed connection went to a target beyond this host.
    InjectForwarded => "inject_forwarded",
    /// This host has no route to a target beyond it: the connection times out.
    InjectNoRoute => "inject_no_route",
    /// A packet of the spoof namespace that is for nobody here (router solicitations, late RSTs).
    InjectStray => "inject_stray",
    /// A packet of a spoofed connection could not be given its Ethernet header: TCP sends it again.
    InjectFailed => "inject_failed",
    /// A new connection that the kernel delivers by itself (a wildcard listener, or TIME_WAIT).
    DeliverFound => "deliver_found",
    /// A new connection was assigned to the listener at the target's own address.
    DeliverAssigned => "deliver_assigned",
    /// A new connection to a steer address and port that is no target: the kernel answers RST.
    DeliverNoTarget => "deliver_no_target",
    /// Nothing listens at the target: the kernel answers RST.
    DeliverNoListener => "deliver_no_listener",
    /// The kernel refused to assign the listener: it answers RST.
    DeliverFailed => "deliver_failed",
    /// A packet of a handed-over connection went from the balancer to the application.
    HandedUp => "handed_up",
    /// A packet of a handed-over connection went from the application to the balancer.
    HandedDown => "handed_down",
    /// A packet of a handed-over connection could not be rewritten: TCP sends it again.
    HandedFailed => "handed_failed",
    /// The daemon's own goodbye to a connection that was handed over and has ended: nobody waits
    /// for it.
    HandedLate => "handed_late",
}

#[expect(clippy::cast_possible_truncation, reason = "some dozen counters")]
pub const COUNT: u32 = Counter::ALL.len() as u32;
