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
    /// A listener was found for an allowed balancer: for a connection, or as the programs asked whether
    /// there is one.
    DispatchAccepted => "dispatch_accepted",
    /// A SYN from outside the allowlist: the sender gets the RST of a port where nobody listens.
    DispatchRefused => "dispatch_refused",
    /// A SYN from outside the allowlist went to what listens at the service's own address, as its outsiders may.
    DispatchOutsider => "dispatch_outsider",
    /// A SYN from outside the allowlist was dropped at the driver of a guarded device.
    GuardSyn => "guard_syn",
    /// The same of a datagram.
    GuardDatagram => "guard_datagram",
    /// An allowed SYN found no listener, as the service is starting or draining: RST.
    DispatchNoListener => "dispatch_no_listener",
    /// A packet of an application went back to its spoofed connection.
    ReplySteered => "reply_steered",
    /// A reply could not be given its Ethernet header and was dropped: TCP sends it again.
    ReplyFailed => "reply_failed",
    /// A packet of an application was dropped, as nat had given it another source than its steer address:
    /// it would have left for the real client.
    ReplyRenamed => "reply_renamed",
    /// The host asked for a neighbour in the name of a steer address: it asks in its own.
    ReplyArp => "reply_arp",
    /// A packet of a spoofed connection was handed to the host.
    InjectSteered => "inject_steered",
    /// A packet of a spoofed connection went to a target beyond this host.
    InjectForwarded => "inject_forwarded",
    /// This host has no route to a target beyond it: the connection times out, or the datagram is lost.
    InjectNoRoute => "inject_no_route",
    /// A packet of the spoof namespace that is for nobody here (router solicitations, late RSTs).
    InjectStray => "inject_stray",
    /// A packet of a spoofed connection could not be given its Ethernet header: TCP sends it again.
    InjectFailed => "inject_failed",
    /// A new connection to an application that another one has been to.
    DeliverFound => "deliver_found",
    /// A new connection had the listener at the target looked up.
    DeliverAssigned => "deliver_assigned",
    /// A new connection to a steer address and port that is no target: the kernel answers RST.
    DeliverNoTarget => "deliver_no_target",
    /// Nothing listens at the target: the kernel answers RST.
    DeliverNoListener => "deliver_no_listener",
    /// A new connection from where the client has just got a direct one: dropped.
    DeliverTaken => "deliver_taken",
    /// The kernel refused to assign the listener: it answers RST.
    DeliverFailed => "deliver_failed",
    /// A SYN was answered for a direct connection.
    DirectSyn => "direct_syn",
    /// The last segment of a handshake that a direct connection may follow.
    DirectHandshake => "direct_handshake",
    /// The balancer broke the connection off before its header, as a health check does.
    DirectSilent => "direct_silent",
    /// A segment that came before the one with the header, which is to come again.
    DirectAhead => "direct_ahead",
    /// A header became a direct connection.
    DirectOpened => "direct_opened",
    /// A header came again, as the application's socket had not been made of the first one.
    DirectAgain => "direct_again",
    /// A segment of a direct connection went from the balancer to the application.
    DirectUp => "direct_up",
    /// A segment of a direct connection went from the application to the balancer.
    DirectDown => "direct_down",
    /// A router's word on a segment of a direct connection was passed on.
    DirectIcmp => "direct_icmp",
    /// A segment of a direct connection could not be rewritten: TCP sends it again.
    DirectFailed => "direct_failed",
    /// An answer of the stack to a segment that overtook the first one: not the application's.
    DirectEarly => "direct_early",
    /// The header came later than the header timeout: the stack answers RST.
    DirectLate => "direct_late",
    /// A header came again after the end of the connection that it was of: the stack answers RST.
    DirectSpent => "direct_spent",
    /// A SYN was refused, as nobody listens at any target: RST.
    AppDown => "app_down",
    /// A SYN was refused, as the daemon is gone or hangs, or is closing: RST.
    DaemonDown => "daemon_down",
    /// A SYN was refused, as the service is drained: RST.
    Drained => "drained",
    /// To the daemon: the service isn't direct for this family.
    ToDaemonService => "to_daemon_service",
    /// To the daemon: a SYN with options that the programs don't know, with data, or with IP options.
    ToDaemonSyn => "to_daemon_syn",
    /// To the daemon: the way back to the balancer isn't the way that its SYN came.
    ToDaemonRoute => "to_daemon_route",
    /// To the daemon: its end of the last connection from this port of the balancer is still there.
    ToDaemonTaken => "to_daemon_taken",
    /// To the daemon: no room in the pending table, or in this balancer's share of it.
    ToDaemonPending => "to_daemon_pending",
    /// To the daemon: as many connections as there may be.
    ToDaemonFull => "to_daemon_full",
    /// To the daemon, which refuses it: its balancer or its client has as many as it may, or comes too fast.
    ToDaemonLimit => "to_daemon_limit",
    /// To the daemon: the header isn't whole in the first segment, or that is too long.
    ToDaemonSplit => "to_daemon_split",
    /// To the daemon: no header that the programs know: LOCAL, UNKNOWN, another family, longer than
    /// they read, or not right.
    ToDaemonHeader => "to_daemon_header",
    /// To the daemon: a client of the other family than its balancer, or without a target.
    ToDaemonFamily => "to_daemon_family",
    /// To the daemon: a client that policy has to judge: a martian, or this host.
    ToDaemonClient => "to_daemon_client",
    /// To the daemon, which refuses it: the client is denied.
    ToDaemonDenied => "to_daemon_denied",
    /// To the daemon: the last first segment of this balancer's that the programs saw came in fragments,
    /// which the stack alone puts together.
    ToDaemonFragments => "to_daemon_fragments",
    /// To the daemon: this client has a connection to this application from this port.
    ToDaemonBusy => "to_daemon_busy",
    /// To the daemon: the balancer closed without a header, as a health check does.
    ToDaemonSilent => "to_daemon_silent",
    /// To the daemon: the application's listener is gone, or can't be given a connection (MPTCP).
    ToDaemonListener => "to_daemon_listener",
    /// A datagram went from the balancer to the application.
    DatagramUp => "datagram_up",
    /// A reply went from the application to the balancer.
    DatagramDown => "datagram_down",
    /// A datagram was the first one of a flow.
    DatagramOpened => "datagram_opened",
    /// An idle flow made room for a new one, as there were as many as there may be.
    DatagramEvicted => "datagram_evicted",
    /// A datagram of a new flow was dropped: as many as there may be, and none that was looked at is idle.
    DatagramFull => "datagram_full",
    /// A datagram of a new flow was dropped: its client has as many as he may, and none that was looked at is idle.
    DatagramClientFull => "datagram_client_full",
    /// A datagram of a new flow was dropped: its balancer or its client begins too many in a second.
    DatagramTooFast => "datagram_too_fast",
    /// A datagram of a new flow was dropped, as the service is drained.
    DatagramDrained => "datagram_drained",
    /// A datagram from outside the allowlist was dropped.
    DatagramRefused => "datagram_refused",
    /// A datagram of a client that is denied, or an answer to one, was dropped.
    DatagramDenied => "datagram_denied",
    /// A datagram was dropped, as another balancer speaks for its client.
    DatagramTaken => "datagram_taken",
    /// One from elsewhere was for a steer address.
    DatagramSteerAddress => "datagram_steer_address",
    /// A datagram was dropped, as no route to its sender goes by the device that it came by.
    DatagramReversePath => "datagram_reverse_path",
    /// Several datagrams that the kernel handled as one were taken apart, as each has a header, or gets one.
    DatagramSegmented => "datagram_segmented",
    /// One of them.
    DatagramSegment => "datagram_segment",
    /// A datagram was dropped, as whom its balancer's socket speaks for has been forgotten for others' sake.
    DatagramForgotten => "datagram_forgotten",
    /// A datagram could not be rewritten and was dropped.
    DatagramFailed => "datagram_failed",
    /// What an application sent from a steer address, and no flow is there for, was dropped.
    DatagramOrphan => "datagram_orphan",
    /// This host's word on a datagram was passed on to its balancer.
    DatagramIcmp => "datagram_icmp",
    /// The same, dropped: there are too many.
    DatagramIcmpLimited => "datagram_icmp_limited",
    /// A word on a piece of a client's datagram, or that its time has run out, was dropped.
    DatagramIcmpLost => "datagram_icmp_lost",
    /// A datagram to the daemon: its service isn't direct.
    DatagramToDaemonService => "datagram_to_daemon_service",
    /// A datagram to the daemon: the way back to the balancer isn't the way that it came.
    DatagramToDaemonRoute => "datagram_to_daemon_route",
    /// A datagram to the daemon: several that the kernel handles as one, each with a header.
    DatagramToDaemonMany => "datagram_to_daemon_many",
    /// A datagram to the daemon: no header that the programs know.
    DatagramToDaemonHeader => "datagram_to_daemon_header",
    /// A datagram to the daemon: a client without a target of its family, or of the other one than its balancer where
    /// the datagram has no checksum.
    DatagramToDaemonFamily => "datagram_to_daemon_family",
    /// A datagram to the daemon: a client that policy has to judge.
    DatagramToDaemonClient => "datagram_to_daemon_client",
    /// A datagram to the daemon, which has just been given one of its flow that the programs can't send on.
    DatagramToDaemonOrder => "datagram_to_daemon_order",
    /// A datagram to the daemon: with IP options, or too long for the programs or for the way to its
    /// application.
    DatagramToDaemonLong => "datagram_to_daemon_long",
    /// A reply to the daemon: its service isn't direct, or it has no checksum, as its balancer's family wants one.
    DatagramReplyService => "datagram_reply_service",
    /// A reply to the daemon: several that the kernel handles as one, each of which gets a header of its own or one of
    /// the other version of IP, where the kernel can't take them apart.
    DatagramReplyMany => "datagram_reply_many",
    /// A reply to the daemon: larger than the way to the balancer takes in one piece.
    DatagramReplyLong => "datagram_reply_long",
    /// A reply to the daemon, which has just been given one of its flow that the programs can't send on.
    DatagramReplyOrder => "datagram_reply_order",
    /// A piece of a reply to the daemon, which puts it together.
    DatagramReplyPiece => "datagram_reply_piece",
}

#[expect(clippy::cast_possible_truncation, reason = "some dozen counters")]
pub const COUNT: u32 = Counter::ALL.len() as u32;
