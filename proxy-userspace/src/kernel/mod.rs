//! The eBPF programs and their maps: the only user of aya.

mod adopt;
mod aims;
mod attach;
mod bare;
mod btf;
mod cgroup;
mod claims;
mod clsact;
mod counters;
mod datagrams;
mod devices;
mod direct;
mod features;
mod firsts;
mod guards;
mod heart;
mod kfunc;
mod last_resort;
mod life;
mod link;
mod load;
mod log;
mod low;
mod names;
mod pins;
mod placer;
mod prefixes;
mod share;
mod tallies;
mod types;

pub use adopt::{Adopted, MapShape};
pub use aims::AimedAt;
pub use claims::Claim;
pub use counters::Counters;
pub use datagrams::{DatagramFlow, Datagrams, FlowEnds, FlowSums, Noted};
pub use direct::{Direct, Flow, Flows, Heard, Known};
pub use features::{Feature, has_sk_lookup, has_tcx};
pub use firsts::{Firsts, Forgotten, Said};
pub use heart::Heart;
pub use kfunc::are_there as has_reqsk_kfunc;
pub use life::say;
pub use link::LinkPlace;
pub use load::{Kernel, Placement, Protocols};
pub use low::LowFds;
pub use names::{
    assign as assign_services, assigned as service_ids, drained as drained_services,
    forget as forget_services, set_drained,
};
pub use pins::{
    Unmounted, directory as pins, is_mounted as is_bpffs_mounted,
    is_read_only as is_bpffs_read_only,
};
pub use prefixes::{
    Entries, List, Origin, Prefixes, covering, forget_lists, list_ids, listing_instances,
};
pub use share::{Change, Inheritance, LINK, map_name, shared_map};
pub use tallies::Tallies;
