//! Shared pages of the console and of xenstore (`io/console.h`, `io/xs_wire.h`).

constants! {
    XENSTORE_RING_SIZE: u32 = 1024, "Bytes of each xenstore ring.";
    XENSTORE_PAYLOAD_MAX: u32 = 4096, "Longest payload of a message.";
    XENSTORE_ABS_PATH_MAX: u32 = 3072, "Longest absolute path.";
    XENSTORE_REL_PATH_MAX: u32 = 2048, "Longest relative path.";
    XENSTORE_SERVER_FEATURE_RECONNECTION: u32 = 1, "The daemon supports reconnection.";
    XENSTORE_SERVER_FEATURE_ERROR: u32 = 2, "The daemon reports ring errors.";
    XENSTORE_CONNECTED: u32 = 0, "Ring in use.";
    XENSTORE_RECONNECT: u32 = 1, "Reconnection in progress.";
    XENSTORE_ERROR_NONE: u32 = 0, "No error.";
    XENSTORE_ERROR_COMM: u32 = 1, "Communication problem.";
    XENSTORE_ERROR_RINGIDX: u32 = 2, "Invalid ring index.";
    XENSTORE_ERROR_PROTO: u32 = 3, "Protocol violation.";
}

wire! {
    /// The console's page.
    pub struct XenconsInterface: "struct xencons_interface" {
        /// To the guest.
        pub input("in"): [u8; 1024],
        /// From the guest.
        pub output("out"): [u8; 2048],
        /// What the guest has read.
        pub in_cons: u32,
        /// What was written for the guest.
        pub in_prod: u32,
        /// What was read from the guest.
        pub out_cons: u32,
        /// What the guest has written.
        pub out_prod: u32,
    }
    /// Xenstore's page.
    pub struct XenstoreDomainInterface: "struct xenstore_domain_interface" {
        /// Requests.
        pub req: [u8; 1024],
        /// Replies and watch events.
        pub rsp: [u8; 1024],
        /// What the daemon has read.
        pub req_cons: u32,
        /// What the guest has written.
        pub req_prod: u32,
        /// What the guest has read.
        pub rsp_cons: u32,
        /// What the daemon has written.
        pub rsp_prod: u32,
        /// `XENSTORE_SERVER_FEATURE_*`.
        pub server_features: u32,
        /// `XENSTORE_CONNECTED` or `XENSTORE_RECONNECT`.
        pub connection: u32,
        /// `XENSTORE_ERROR_*`.
        pub error: u32,
    }
    /// Head of a xenstore message.
    pub struct XsdSockmsg: "struct xsd_sockmsg" {
        /// What is asked.
        pub kind("type"): u32,
        /// Echoed in the reply.
        pub req_id: u32,
        /// Transaction; 0: none.
        pub tx_id: u32,
        /// Bytes that follow.
        pub len: u32,
    }
}
