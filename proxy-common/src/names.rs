//! What things are called in the object file.

/// Names of the programs in the object file.
pub mod program {
    pub const DISPATCH: &str = "dispatch";
    pub const REPLY: &str = "reply";
    pub const REPLY_OWN: &str = "reply_own";
    pub const REPLY_REMOTE: &str = "reply_remote";
    pub const INJECT: &str = "inject";
    pub const DELIVER: &str = "deliver";
    pub const DIRECT: &str = "direct";
    pub const REFUSE: &str = "refuse";
    pub const BEAT: &str = "beat";
    pub const SWEEP: &str = "sweep";
    pub const ACCEPTED: &str = "accepted";
    pub const UNSTEERED: &str = "unsteered";
    pub const CONNECT4: &str = "connect4";
    pub const CONNECT6: &str = "connect6";
    pub const SENDMSG4: &str = "sendmsg4";
    pub const SENDMSG6: &str = "sendmsg6";
    pub const DATAGRAMS_IN: &str = "datagrams_in";
    pub const DATAGRAMS_OUT: &str = "datagrams_out";
    pub const DATAGRAMS_OUT_OWN: &str = "datagrams_out_own";
    pub const PLACE: &str = "place";
    pub const TALLY: &str = "tally";
    pub const CATCH: &str = "catch";
    pub const HEARD: &str = "heard";
    pub const GUARD: &str = "guard";
}

/// Names of the maps in the object file; those of the lists also name the pins.
pub mod map {
    pub const SERVICES: &str = "services";
    pub const ALLOW4: &str = "allow4";
    pub const ALLOW6: &str = "allow6";
    pub const DENY4: &str = "deny4";
    pub const DENY6: &str = "deny6";
    pub const LIST_CHANGES: &str = "list_changes";
    pub const LISTENERS: &str = "listeners";
    pub const GUARDED: &str = "guarded";
    pub const SOCKETS: &str = "sockets";
    pub const TARGETS: &str = "targets";
    pub const BOUND: &str = "bound";
    pub const COUNTERS: &str = "counters";
    pub const PORTS: &str = "ports";
    pub const LEAST_MTUS: &str = "least_mtus";
    pub const LOCALS: &str = "locals";
    pub const LOCAL_NETS: &str = "local_nets";
    pub const HOST: &str = "host";
    pub const SECRET: &str = "secret";
    pub const LIFE: &str = "life";
    pub const PENDING: &str = "pending";
    pub const SHARES: &str = "shares";
    pub const FLOWS_UP: &str = "flows_up";
    pub const FLOWS_DOWN: &str = "flows_down";
    pub const HEADERS: &str = "headers";
    pub const TOLD: &str = "told";
    pub const GIVEN: &str = "given";
    pub const SPENT: &str = "spent";
    pub const STEERED: &str = "steered";
    pub const BARE_DEVICES: &str = "bare_devices";
    pub const LINKS: &str = "links";
    pub const ROUTES4: &str = "routes4";
    pub const ROUTES6: &str = "routes6";
    pub const LAST_RESORT: &str = "last_resort";
    pub const RECEIVERS: &str = "receivers";
    pub const DATAGRAM_FLOWS: &str = "datagram_flows";
    pub const DATAGRAM_SLOTS: &str = "datagram_slots";
    pub const DATAGRAM_SHARES: &str = "datagram_shares";
    pub const LIMITS: &str = "limits";
    pub const TALLIES: &str = "tallies";
    pub const LOCKS: &str = "locks";
    pub const FIRSTS: &str = "firsts";
    pub const SPOKEN: &str = "spoken";
    pub const AIMS: &str = "aims";
    pub const CATCHERS: &str = "catchers";
    pub const REPLY_PIECES: &str = "reply_pieces";
    pub const REVERSE_PATHS: &str = "reverse_paths";
}

/// Names of the constants that the daemon sets before it loads the object.
pub mod global {
    pub const STEER4: &str = "STEER4";
    pub const STEER6: &str = "STEER6";
    pub const DEVICE: &str = "DEVICE";
    pub const SPOOF_NETNS: &str = "SPOOF_NETNS";
    pub const VIA_LO: &str = "VIA_LO";
    pub const HOST_NETNS: &str = "HOST_NETNS";
    pub const OFFSETS: &str = "OFFSETS";
    pub const STAYS: &str = "STAYS";
    pub const OWNER: &str = "OWNER";
    pub const RECEIVERS_HAVE: &str = "RECEIVERS_HAVE";
}

/// Calls of kernel functions, by a number that no helper has: the daemon puts their ids in before it
/// loads the object.
pub mod kfunc {
    pub struct Kfunc {
        pub number: u32,
        pub name: &'static str,
    }

    pub const ASSIGN_TCP_REQSK: Kfunc = Kfunc {
        number: 0x7f4b_4601,
        name: "bpf_sk_assign_tcp_reqsk",
    };
    pub const CAST_TO_KERN_CTX: Kfunc = Kfunc {
        number: 0x7f4b_4602,
        name: "bpf_cast_to_kern_ctx",
    };
}
